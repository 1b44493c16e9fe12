"""The purchases of a real shop: what is played, and what is held back to look at afterwards."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from streams.imports import import_online_retail
from tests.bench.shoppers import Click
from tests.bench.stage import Tell

HELD_BACK = 0.02  # of the purchases, the last ones


@dataclass(frozen=True)
class Shop:
    """Products and purchases in the order of time."""

    catalog: list[dict[str, Any]]  # `catalog-updates` values
    played: list[Click]
    held_back: list[Click]

    def histories(self) -> dict[str, list[str]]:
        """Each user's products in what is played, oldest first."""
        return _by_user(self.played)

    def bought_next(self) -> dict[str, list[str]]:
        """Each user's products in what is held back, if she had not bought them before, each once."""
        had = {user: set(products) for user, products in self.histories().items()}
        later = _by_user(self.held_back)
        new = {user: [p for p in dict.fromkeys(later[user]) if p not in had.get(user, ())] for user in later}
        return {user: products for user, products in new.items() if products}


def load_shop(folder: Path, tell: Tell, *, products: int | None, clicks: int | None) -> Shop:
    """The shop of an online-retail folder; of so many products and purchases only where a number is given."""
    with TemporaryDirectory(prefix="freshet-bench-shop-") as out:
        import_online_retail(folder, Path(out), lambda name, lines: tell(f"imports {name}: {lines:,}"))
        catalog = [orjson.loads(line) for line in (Path(out) / "catalog.jsonl").read_bytes().splitlines()[:products]]
        purchases = _purchases(Path(out) / "clicks.jsonl", {product["product_id"] for product in catalog}, clicks)
    played = len(purchases) - int(len(purchases) * HELD_BACK)
    return Shop(catalog, purchases[:played], purchases[played:])


def _purchases(path: Path, known: set[str], most: int | None) -> list[Click]:
    purchases: list[Click] = []
    with path.open("rb") as file:
        for line in file:
            if len(purchases) == most:
                break
            event = orjson.loads(line)
            if event["product_id"] in known:
                purchases.append(Click(event["event_id"], event["user_id"], event["product_id"], line.strip()))
    return purchases


def _by_user(clicks: list[Click]) -> dict[str, list[str]]:
    products = defaultdict(list)
    for click in clicks:
        products[click.user_id].append(click.product_id)
    return dict(products)
