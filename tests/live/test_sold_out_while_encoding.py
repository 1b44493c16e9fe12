"""While thousands of new products are encoded, one that sells out leaves the lists within a second."""

import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from brokers import LocalKafka, settings_on
from system import System, running

from streams.drawings import COLOURS, PATTERNS

pytestmark = [pytest.mark.kafka, pytest.mark.alone, pytest.mark.timeout(400)]

OLD, NEW = 60, 5_000
CLICKS_PER_S = 50
SELL_OUTS = 5
GONE_WITHIN_S = 1.0


class Shop:
    """Products of words only, and shoppers who click on the old ones."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._chance = random.Random(3)
        self._clicks = 0

    def publish(self, first: int, beyond: int) -> None:
        """New products, whose long descriptions keep the encoder busy."""
        for number in range(first, beyond):
            colour, pattern = self._chance.choice(list(COLOURS)), self._chance.choice(PATTERNS)
            words = " ".join(self._chance.choices([*COLOURS, *PATTERNS, "lamp", "linen", "for", "the"], k=150))
            self._update(
                {
                    "op": "upsert",
                    "product_id": f"lamp-{number}",
                    "title": f"{pattern} {colour} lamp no. {number}",
                    "description": words,
                }
            )
        self._system.confirm()

    def sell_out(self, product_id: str) -> float:
        """When the broker had the update, s since 1970."""
        patch = {"op": "patch", "product_id": product_id, "availability": "out_of_stock"}
        return float(self._update(patch).get(timeout=10).timestamp) / 1000

    def open_for(self, seconds: float) -> None:
        """Shoppers click at CLICKS_PER_S."""
        began, sent = time.monotonic(), 0

        def is_over() -> bool:
            nonlocal sent
            passed_s = time.monotonic() - began
            for _ in range(sent, int(passed_s * CLICKS_PER_S)):
                self._click()
                sent += 1
            return passed_s >= seconds

        self._system.until(is_over, seconds + 30, f"{seconds:g} s of clicks")
        self._system.confirm()

    def _click(self) -> None:
        self._clicks += 1
        user_id = f"user-{self._clicks % 20}"
        click = {
            "event_id": f"click-{self._clicks}",
            "user_id": user_id,
            "product_id": f"lamp-{self._chance.randrange(OLD)}",
            "event": "view_item",
            "occurred_at": datetime.now(UTC).isoformat(),
        }
        self._system.send(self._system.names.user_clicks, user_id.encode(), orjson.dumps(click))

    def _update(self, update: dict[str, Any]) -> Any:
        key = update["product_id"].encode()
        return self._system.send(self._system.names.catalog_updates, key, orjson.dumps(update))


def test_a_product_that_sells_out_leaves_the_lists_within_a_second_while_5000_new_ones_are_encoded(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    with running(settings_on(kafka, tmp_path)) as system:
        shop = Shop(system)
        shop.publish(0, OLD)
        system.start("catalog", "encode", "index", "clicks", "learner")
        system.until_at_work("clicks", "learner")
        system.until_quiet(60)
        shop.open_for(3)
        shop.publish(OLD, OLD + NEW)
        system.until(lambda: system.lag("encode") > NEW / 2, 60, "the encoder has its work")
        system.until(lambda: system.lag("catalog") < 100, 60, "the catalogue has taken the new products in")

        sold_out: dict[str, float] = {}
        for _ in range(SELL_OUTS):
            shop.open_for(1)
            product_id = next(
                item["product_id"] for item in system.lists()[-1]["items"] if item["product_id"] not in sold_out
            )
            sold_out[product_id] = shop.sell_out(product_id)
            shop.open_for(GONE_WITHIN_S + 1)
        assert system.lag("encode") > 0, "the encoder was done too early to say anything: publish more"
        assert system.unasked_ends() == {}

        lists = system.lists()
        for product_id, at in sold_out.items():
            before = [made for made in lists if at - 3 < made["at"] <= at]
            after = [made for made in lists if made["at"] > at + GONE_WITHIN_S]
            assert any(product_id in products_of(made) for made in before)
            assert len(after) >= CLICKS_PER_S / 2
            late_s = [made["at"] - at for made in after if product_id in products_of(made)]
            assert late_s == [], f"{product_id} was listed until {max(late_s, default=0):.2f} s after it sold out"


def products_of(made: dict[str, Any]) -> set[str]:
    return {item["product_id"] for item in made["items"]}
