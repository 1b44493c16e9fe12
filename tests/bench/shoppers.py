"""Clicks on their way, evenly paced or all at once, and the answers that come back."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import orjson

from streams.publish import Line
from tests.bench.stage import Stage, hearing

USERS = 1_000
POPULARITY_EXPONENT = 0.8  # Zipf: the n-th most popular product draws n^-.8 as much
DRAWN_AT_ONCE = 1_000


class Click(NamedTuple):
    """A value of `user-clicks`."""

    event_id: str
    user_id: str
    product_id: str
    value: bytes

    @property
    def line(self) -> Line:
        """Under the key that the topic wants."""
        return Line(self.user_id.encode(), self.value)


def random_clicks(product_ids: Sequence[str], *, users: int = USERS, seed: int = 0) -> Iterator[Click]:
    """Clicks for ever, each dated when it is asked for; some products draw more than others."""
    chance = np.random.default_rng(seed)
    shares = np.arange(1, len(product_ids) + 1) ** -POPULARITY_EXPONENT
    shares /= shares.sum()
    numbers = itertools.count()
    while True:
        products = chance.choice(len(product_ids), DRAWN_AT_ONCE, p=shares)
        for product, user in zip(products.tolist(), chance.integers(users, size=DRAWN_AT_ONCE).tolist(), strict=True):
            event_id, user_id = f"click-{seed}-{next(numbers)}", f"user-{user}"
            value = {
                "event_id": event_id,
                "user_id": user_id,
                "product_id": product_ids[product],
                "event": "view_item",
                "occurred_at": datetime.now(UTC).isoformat(),
            }
            yield Click(event_id, user_id, product_ids[product], orjson.dumps(value))


class Shoppers:
    """Clicks to one topic, and what is heard of them on another. A click is answered once, by its first answer."""

    def __init__(self, on: Stage, topic: str) -> None:
        self.sent = 0
        self.sent_per_s = 0.0  # of the last paced ones: below their rate where this process could not keep it
        self.lists = 0
        self.newest: dict[str, dict[str, Any]] = {}  # user -> her last list
        self.newest_at: dict[str, float] = {}  # user -> when it was heard, s since 1970
        self._answered: set[str] = set()
        self._sent_at: dict[str, float] = {}
        self._latencies_s: list[float] = []
        self._stage = on
        self._topic = topic
        self._producer = on.broker.producer()

    @property
    def answered(self) -> int:
        """Clicks that a list has named, each once."""
        return len(self._answered)

    @contextlib.asynccontextmanager
    async def answered_on(self, topic: str, *, in_bulk: bool = False) -> AsyncIterator["Shoppers"]:
        """Clicks can be sent, and the topic is heard; in_bulk as in `hearing`."""
        await self._producer.start()
        try:
            async with hearing(self._stage.broker, topic, self._hear, in_bulk=in_bulk):
                yield self
        finally:
            await self._producer.stop()

    async def send(self, clicks: Iterable[Click], *, per_s: float | None = None) -> None:
        """Each click is handed to the producer, in this order; the broker confirms them meanwhile."""
        began = time.monotonic()
        for number, click in enumerate(clicks):
            if per_s is not None:
                await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
            self._sent_at[click.event_id] = time.time()
            await self._producer.send(self._topic, value=click.value, key=click.user_id.encode())
            self.sent += 1
            self.sent_per_s = (number + 1) / (time.monotonic() - began + 1 / per_s) if per_s else 0.0
        await self._producer.flush()

    async def latencies_s(self, clicks: Iterable[Click], *, per_s: float) -> list[float]:
        """How long each of these clicks took to its answer, when all have one. Raises NotInTime."""
        self._latencies_s.clear()
        await self.send(clicks, per_s=per_s)
        await self.until_answered(self.sent)
        return list(self._latencies_s)

    async def until_answered(self, clicks: int) -> None:
        """So many clicks are answered. Raises NotInTime."""
        await self._stage.until(lambda: self.answered >= clicks, f"{clicks:,} clicks answered on {self._topic}")

    def _hear(self, value: dict[str, Any], heard_at: float) -> None:
        """A list, or the click itself from the echo."""
        self.lists += 1
        self.newest[value["user_id"]] = value
        self.newest_at[value["user_id"]] = heard_at
        for event_id in value["event_ids"] if "event_ids" in value else [value["event_id"]]:
            self._answered.add(event_id)
            sent_at = self._sent_at.pop(event_id, None)
            if sent_at is not None:
                self._latencies_s.append(heard_at - sent_at)
