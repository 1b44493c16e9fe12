"""A product in thousands of lists is withdrawn: how soon everybody has a record without it, and then a whole list."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from brokers import LocalKafka

from streams.broker import Outgoing
from tests.bench.report import Figure, percentiles_ms
from tests.bench.shelf import publish_shelf
from tests.bench.shoppers import Shoppers, random_clicks
from tests.bench.stage import Sizes, Stage, Tell, hearing, stage

CLICKS_PER_S = 100
CLICKS_CHUNK = 1_000
WATCH_S = 15.0  # how long the clicks are sent that come meanwhile
RECORD_WITHIN_S, LIST_WITHIN_S = 1.0, 15.0


async def retraction(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:
    """From the confirmed withdrawal to the last user's record and list, with clicks and beside it without any."""
    users = sizes.backlog // 3
    async with stage(kafka) as on:
        product_ids = await publish_shelf(on, sizes.products, tell, factors=True)
        await on.start(["clicks"])
        lists = Lists()
        async with hearing(on.broker, on.names.recommendations, lists.hear):
            await _everybody_clicks(on, product_ids[0], users, tell)
            await on.until(lambda: len(lists.last) == users, f"{users:,} lists")
            tell("a product is withdrawn while nothing else happens")
            alone = await _withdraw(on, lists)
        shop = Shoppers(on, on.names.user_clicks)
        async with shop.answered_on(on.names.recommendations):
            await on.until(lambda: shop.lists == lists.heard, "the lists are heard once more")
            drawn = random_clicks(product_ids[1:], seed=1)
            clicks = int(CLICKS_PER_S * WATCH_S)
            quiet_ms = percentiles_ms(await shop.latencies_s(islice(drawn, clicks), per_s=CLICKS_PER_S))
            again = Lists()
            async with hearing(on.broker, on.names.recommendations, again.hear):
                await on.until(lambda: again.heard >= shop.lists, "and once more")
                tell(f"a product is withdrawn while {CLICKS_PER_S} clicks/s come")
                clicking = asyncio.create_task(shop.latencies_s(islice(drawn, clicks), per_s=CLICKS_PER_S))
                busy = await _withdraw(on, again)
                busy_ms = percentiles_ms(await clicking)
    what = f"withdrawn to the last of {busy.users:,} users'"
    meanwhile = f"{CLICKS_PER_S} clicks/s meanwhile, {sizes.products:,} products"
    quiet = f"no clicks, {alone.users:,} users"
    return [
        Figure(f"{what} retraction record, {meanwhile}", busy.records_s, "s", alone.records_s, quiet, RECORD_WITHIN_S),
        Figure(f"{what} whole list, {meanwhile}", busy.lists_s, "s", alone.lists_s, quiet, LIST_WITHIN_S),
        Figure(f"click to list, {CLICKS_PER_S}/s, those {WATCH_S:.0f} s, p99", busy_ms[1], "ms", quiet_ms[1], "before"),
    ]


class Lists:
    """The last list of each user, and when it was heard first that a product is out of it."""

    def __init__(self) -> None:
        self.heard = 0
        self.last: dict[str, dict[str, Any]] = {}
        self.told_at: dict[str, float] = {}  # user -> when she first had a list without the product, s since 1970
        self.whole_at: dict[str, float] = {}  # user -> when she first had a whole one
        self._withdrawn: str | None = None

    def hear(self, value: dict[str, Any], heard_at: float) -> None:
        """A list."""
        user_id = value["user_id"]
        self.heard += 1
        self.last[user_id] = value
        if self._withdrawn is not None and self._withdrawn not in ids(value):
            self.told_at.setdefault(user_id, heard_at)
            if not value.get("withdrawn"):
                self.whole_at.setdefault(user_id, heard_at)

    def most_listed(self) -> str:
        """The product in most last lists."""
        counts = Counter(product_id for made in self.last.values() for product_id in ids(made))
        return max(counts, key=counts.__getitem__)

    def watch(self, product_id: str) -> set[str]:
        """From now on this product is the one; returns the users whose last list holds it."""
        self._withdrawn = product_id
        self.told_at.clear()
        self.whole_at.clear()
        return {user_id for user_id, made in self.last.items() if product_id in ids(made)}


class Withdrawal(NamedTuple):
    users: int  # that had the product
    records_s: float
    lists_s: float


def ids(made: dict[str, Any]) -> set[str]:
    return {item["product_id"] for item in made["items"]}


async def _everybody_clicks(on: Stage, product_id: str, users: int, tell: Tell) -> None:
    """On the same product, so that all have the same list."""
    for begin in range(0, users, CLICKS_CHUNK):
        tell(f"{begin:,} of {users:,} users have clicked")
        numbers = range(begin, min(begin + CLICKS_CHUNK, users))
        at = datetime.now(UTC).isoformat()
        more = {"product_id": product_id, "event": "view_item", "occurred_at": at}
        values = [{"event_id": f"first-{n}", "user_id": f"user-{n}", **more} for n in numbers]
        await on.publish(on.names.user_clicks, values, key="user_id")


async def _withdraw(on: Stage, lists: Lists) -> Withdrawal:
    """The product in most lists is deleted."""
    product_id = lists.most_listed()
    holders = lists.watch(product_id)
    await on.publisher.publish([Outgoing(on.names.product_index, product_id.encode(), None, (("revision", b"2"),))])
    confirmed_at = time.time()
    await on.until(lambda: holders <= lists.whole_at.keys(), f"{len(holders):,} lists without {product_id}")
    last_s = [max(heard_at[user_id] for user_id in holders) for heard_at in (lists.told_at, lists.whole_at)]
    return Withdrawal(len(holders), *(at - confirmed_at for at in last_s))
