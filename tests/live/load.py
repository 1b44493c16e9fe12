"""A shop's events at a steady rate, for tests that break things meanwhile."""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson
from system import System
from truth import Json, Truth

PRODUCTS, STAYING = 40, 30  # the others are deleted and come back; clicks are on those that stay
USERS = 60
CLICKS_PER_S, UPDATES_PER_S = 40.0, 2.0
EVENTS = ("view_item", "view_item", "select_item", "add_to_cart", "purchase")


class Load:
    """A shop's events at a steady rate, with bad and odd ones among them; the truth is told of each."""

    def __init__(self, system: System, catalog: Path, *, seed: int) -> None:
        """The catalogue is published."""
        self.system = system
        self.truth = Truth()
        self._chance = random.Random(seed)
        self._catalog = [orjson.loads(line) for line in catalog.read_bytes().splitlines()]
        self._clicks = 0
        self._newest: dict[str, Json] = {}  # click of each user
        for product in self._catalog:
            self._update(product)
        system.confirm()

    def run(self, until: Callable[[], bool], within_s: float, *, clicks: bool = True, updates: bool = True) -> None:
        """Events come while the condition is false; then the broker has them. Fails after within_s."""
        began, clicked, changed = time.monotonic(), 0, 0

        def goes_on() -> bool:
            nonlocal clicked, changed
            passed_s = time.monotonic() - began
            for _ in range(clicked, int(passed_s * CLICKS_PER_S) if clicks else 0):
                self._some_click()
                clicked += 1
            for _ in range(changed, int(passed_s * UPDATES_PER_S) if updates else 0):
                self._some_update()
                changed += 1
            return until()

        self.system.until(goes_on, within_s, "what the load runs for")
        self.system.confirm()

    def run_for(self, seconds: float, *, clicks: bool = True, updates: bool = True) -> None:
        ends_at = time.monotonic() + seconds
        self.run(lambda: time.monotonic() >= ends_at, seconds + 30, clicks=clicks, updates=updates)

    def end(self, within_s: float = 120.0) -> None:
        """Each user has clicked once more, everything is done, and every worker has ended in good order."""
        system = self.system
        for user_id in [user_id for user_id in self.truth.clicks if user_id.startswith("user-")]:
            self._click(user_id, "view_item")
        system.confirm()
        system.until_quiet(within_s)
        system.until_learned(self.truth.learned, within_s)
        assert system.unasked_ends() == {}
        assert set(system.end_all().values()) == {0}

    # --- clicks ------------------------------------------------------------------------------------------------------

    def _some_click(self) -> None:
        user_id = f"user-{self._chance.randrange(USERS)}"
        match self._chance.randrange(200):
            case 0:
                self._bad(self.system.names.user_clicks, user_id, b'{"event_id": "cut of')
            case 1:
                self._bad(self.system.names.user_clicks, user_id, orjson.dumps(self._made(user_id, "teleport")))
            case 2 | 3 if user_id in self._newest:  # its publisher was not sure that it had come
                self._send_click(user_id, self._newest[user_id])
            case 4:
                stray = self._made(f"stray-{self._clicks}", "view_item")
                self._send_click(user_id, stray)  # under the key of another user
                self.truth.redirected.add(stray["user_id"])
            case 5:
                leaver = f"leaver-{self._clicks}"
                self._click(leaver, "purchase")
                self._click(leaver, "view_item")
                self.system.send(self.system.names.user_clicks, leaver.encode(), None)
                self.truth.forget(leaver)
            case _:
                self._click(user_id, self._chance.choice(EVENTS))

    def _click(self, user_id: str, event: str) -> None:
        self._newest[user_id] = click = self._made(user_id, event)
        self._send_click(user_id, click)

    def _made(self, user_id: str, event: str) -> Json:
        self._clicks += 1
        return {
            "event_id": f"click-{self._clicks}",
            "user_id": user_id,
            "product_id": self._chance.choice(self._catalog[:STAYING])["product_id"],
            "event": event,
            "occurred_at": datetime.now(UTC).isoformat(),
        }

    def _send_click(self, key: str, click: Json) -> None:
        self.truth.click(click)
        self.system.send(self.system.names.user_clicks, key.encode(), orjson.dumps(click))

    # --- the catalogue -----------------------------------------------------------------------------------------------

    def _some_update(self) -> None:
        place = self._chance.randrange(PRODUCTS)
        product = self._catalog[place]
        product_id = product["product_id"]
        if self.truth.products[product_id] is None:
            self._update(product)
        elif place >= STAYING and self._chance.random() < 0.5:
            self._update({"op": "delete", "product_id": product_id})
        else:
            self._update({"op": "patch", "product_id": product_id, **self._change(product)})
        if self._chance.random() < 0.05:
            patch = {"op": "patch", "product_id": "never-sold", "availability": "in_stock", "title": f"{place}"}
            self._bad(self.system.names.catalog_updates, "never-sold", orjson.dumps(patch))

    def _change(self, product: Json) -> Json:
        """Of the price, the stock, or of words or pictures, which are encoded again."""
        other = self._chance.choice(self._catalog)
        return self._chance.choice(
            [
                {"price": {"amount": round(self._chance.uniform(1, 99), 2), "currency": "EUR"}},
                {"availability": self._chance.choice(["in_stock", "out_of_stock"])},
                {"title": f"{product['title']}, edition {self._chance.randrange(1000)}"},
                {"image_links": other["image_links"], "description": other["description"]},
            ]
        )

    def _update(self, update: Json) -> None:
        self.truth.update(update)
        self.system.send(self.system.names.catalog_updates, update["product_id"].encode(), orjson.dumps(update))

    def _bad(self, topic: str, key: str, value: bytes) -> None:
        self.truth.bad[topic].append(value)
        self.system.send(topic, key.encode(), value)
