"""What is told of a run of real purchases: over time, memory, sizes, checks, lists beside what was bought next."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from store.database import open_database
from store.users import UserStore
from streams.evaluation.report import table
from tests.bench.report import shown
from tests.bench.retail_shop import Shop
from tests.bench.shoppers import Shoppers
from tests.bench.stage import Stage

SAMPLES_SHOWN = 15
SIZE_SHOWN_BYTES = 100_000
USERS_SHOWN, ITEMS_SHOWN, BOUGHT_AT_LEAST = 5, 8, 4


@dataclass(frozen=True)
class Sample:
    """The roles at one moment."""

    at_s: float  # since shortly before the first click
    answered: int  # clicks
    lists: int
    learned: int  # examples
    learner_lag: int
    replays: int  # R
    memory_mb: dict[str, float]  # by process


def summary(shop: Shop, shoppers: Shoppers, rest: int, took_s: float, last: Sample) -> str:
    """rest: clicks after the paced ones, which took so long."""
    return (
        f"{len(shop.played):,} clicks of {len(shop.histories()):,} users; after the paced ones the other {rest:,} as "
        f"fast as the roles take them: {shown(took_s, 's')}, {shown(rest / took_s)} clicks/s. {shoppers.lists:,} "
        f"lists. The learner was through {shown(last.at_s, 's')} after the first click, R = {last.replays} by then."
    )


def over_time(samples: Sequence[Sample]) -> str:
    """SAMPLES_SHOWN rows at most."""
    places = np.unique(np.linspace(0, len(samples) - 1, SAMPLES_SHOWN).astype(int))
    columns = ("s since the first click", "clicks answered", "lists", "examples learned", "learner's lag", "R")
    rows = [
        (f"{s.at_s:.0f}", f"{s.answered:,}", f"{s.lists:,}", f"{s.learned:,}", f"{s.learner_lag:,}", s.replays)
        for s in (samples[place] for place in places)
    ]
    return table(columns, rows)


def memory(samples: Sequence[Sample]) -> str:
    """Of each process."""
    end = samples[-1].memory_mb
    most = {name: max(sample.memory_mb.get(name, 0.0) for sample in samples) for name in end}
    rows = [(name, shown(most[name], "MB"), shown(end[name], "MB")) for name in end]
    return table(("process", "memory (RSS), most", "at the end"), rows)


def sizes(on: Stage, kafka_data: Path) -> str:
    """On disk: what the roles keep, and each topic's log."""
    prefix = f"{on.settings.namespace}."
    stores: Counter[str] = Counter()
    for path in [*on.settings.home.iterdir(), *(on.settings.home / on.settings.namespace).iterdir()]:
        if path.name != on.settings.namespace:
            stores[path.name.removesuffix("-wal").removesuffix("-shm")] += _bytes(path)
    logs: Counter[str] = Counter()
    for log in kafka_data.glob(f"{prefix}*/*.log"):
        logs[log.parent.name.removeprefix(prefix).rpartition("-")[0]] += log.stat().st_size
    rows = [
        (kind, name, shown(size / 1e6, "MB"))
        for kind, sized in (("store", stores), ("topic", logs))
        for name, size in sized.most_common()
        if size >= SIZE_SHOWN_BYTES
    ]
    return table(("kind", "name", "on disk"), rows)


def _bytes(path: Path) -> int:
    """On disk, holes not counted."""
    return sum(part.stat().st_blocks * 512 for part in (path, *path.rglob("*")) if part.is_file())


def checks(on: Stage, shop: Shop, shoppers: Shoppers, status: dict[str, Any]) -> str:
    """What came of the clicks against the file: each row must say yes."""
    played, roles = len(shop.played), status["roles"]
    rows = [
        ("clicks that a list names", shoppers.answered, played),
        ("examples in the model", roles["learner"]["details"]["examples"], played),
        ("clicks not learned", roles["clicks"]["details"]["not_learned"], 0),
        ("users whose history is not their last purchases in order", _wrong_histories(on, shop), 0),
        ("dead letters", status["dead_letters"], 0),
        ("processes that died", on.restarts, 0),
    ]
    cells = [(what, f"{found:,}", f"{right:,}", "yes" if found == right else "NO") for what, found, right in rows]
    return table(("what", "is", "should be", "right"), cells)


def _wrong_histories(on: Stage, shop: Shop) -> int:
    """Users whose row differs from the file, or who have a row and should not."""
    truth = shop.histories()
    engine = open_database(None, on.settings.home, "users", on.settings.namespace)
    store = UserStore(engine)
    rows = store.read(truth)
    surplus = store.counts()["users"] - len(rows)
    engine.dispose()
    stored = {user: [click.product_id for click in row.clicks] for user, row in rows.items()}
    kept = on.settings.history_clicks
    return surplus + sum(stored.get(user) != bought[::-1][:kept] for user, bought in truth.items())


async def lists_and_purchases(on: Stage, shop: Shop, shoppers: Shoppers) -> str:
    """How often a list held what its user bought next, and five users' lists."""
    bought = {user: products for user, products in shop.bought_next().items() if user in shoppers.newest}
    last = {user: [item["product_id"] for item in shoppers.newest[user]["items"]] for user in bought}
    asked = {user: await _asked(on, user) for user in bought}
    several = sorted(user for user in bought if len(bought[user]) >= BOUGHT_AT_LEAST)
    chosen = [several[place] for place in np.random.default_rng(0).permutation(len(several))[:USERS_SHOWN]]
    rows = [(user, _titles(last[user], bought[user]), _titles(bought[user], last[user])) for user in chosen]
    return (
        f"Of {len(bought):,} users who came back for something that they had not bought before, so many found one of "
        f"those products in a list of {on.settings.list_length}: {_found(last, bought)} in their last list (made at "
        f"their last click, however far the learner was then), {_found(asked, bought)} in the list that the api gave "
        "at the end.\n\n"
    ) + table(("user", f"last list, its first {ITEMS_SHOWN}", "bought next (bold: in both)"), rows)


async def _asked(on: Stage, user: str) -> list[str]:
    answer = await on.http.get(f"/v1/users/{quote(user, safe='')}/recommendations")
    return [item["product_id"] for item in answer.json()["items"]]


def _found(lists: dict[str, list[str]], bought: dict[str, list[str]]) -> str:
    found = sum(not set(items).isdisjoint(bought[user]) for user, items in lists.items())
    return f"{found:,} ({100 * found / len(lists):.0f} %)" if lists else "none"


def _titles(product_ids: Iterable[str], others: Sequence[str]) -> str:
    """In this shop a product's id is its title."""
    known = set(others)
    return "; ".join(f"**{title}**" if title in known else title for title in islice(product_ids, ITEMS_SHOWN))
