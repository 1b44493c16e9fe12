"""What `freshet demo` plays in a shop, and what is seen of it. streams.demo_stage starts everything around it.

The plot: products are published as fast as they are encoded, simulated shoppers click, one shopper's list is looked
at before and after three clicks, a product is published and one sells out, each timed from the broker's confirmation.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from streams.broker import Broker, Outgoing, Publisher
from streams.settings import Settings
from streams.simulate import Simulator
from streams.topics import TopicNames

SHOPPERS = 200
CLICKS_PER_S = 25.0
CLICKS_PER_S_AFTER = 2.0  # the play: whoever looks at the page still has company
WAITING_PRODUCTS_MAX = 48  # published and not yet retrievable: a new product does not queue behind a whole catalogue
STALLED_S = 10.0  # without a product becoming retrievable: those that wait are not waited for any more
NO_MORE_PRODUCTS_AT = 0.55  # of the play
SELL_OUT_AT = 0.75  # of the play, at the latest: in a large shop the new product may be in no list for long
CLICKS_BEGIN_AT_PRODUCTS = 30
GUEST = "simulated-guest"
WATCH_AFTER_SOLD_OUT_S = 4.0


@dataclass
class Seen:
    """What the play has shown so far."""

    state: str = "starting"
    began: float = 0.0  # monotonic, when the play began
    products_known: int = 0  # of the shop
    published: int = 0
    retrievable: int = 0
    indexed: int = 0  # of those, the ones before the new product
    indexing_s: float = 0.0  # from the first publication to the last of `indexed`
    clicks: int = 0
    lists: int = 0  # that answer clicks
    unasked: int = 0  # pushes and retractions
    latencies_s: list[float] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)
    clicked: list[str] = field(default_factory=list)  # titles
    after: list[dict[str, Any]] = field(default_factory=list)
    new_product: str | None = None
    new_retrievable_s: float | None = None
    new_in_list_s: float | None = None
    sold_out: str | None = None
    sold_out_lists: int = 0  # lists made after it that still held it
    sold_out_gone_s: float | None = None  # the last of those
    lists_after_sold_out: int = 0
    restarts: dict[str, int] = field(default_factory=dict)  # of the processes that ended and were started again
    titles: dict[str, str] = field(default_factory=dict)


class Play:
    """One play of a shop; `seen` fills while it runs."""

    def __init__(
        self, settings: Settings, names: TopicNames, catalog: list[dict[str, Any]], *, seconds: float, seed: int = 0
    ) -> None:
        """Nothing is asked or published yet.

        catalog  upserts of different products, 2 or more; the last one appears while we watch
        """
        self.seen = Seen(products_known=len(catalog))
        *self._catalog, self._held_back = catalog
        self._seconds = seconds
        self._seed = seed
        self._shoppers: Simulator | None = None
        self._names = names
        self._broker = Broker(settings)
        self._publisher = Publisher(self._broker)
        # trust_env: a proxy of the environment must not come between us and the loopback address.
        url = f"http://{settings.api_host}:{settings.api_port}"
        self._http = httpx.AsyncClient(base_url=url, timeout=5.0, trust_env=False)
        self._sent_at: dict[str, float] = {}  # event id -> s since 1970
        self._newest: dict[str, dict[str, Any]] = {}  # user -> list
        self._heard = asyncio.Condition()
        self._progressed_at = 0.0  # monotonic, when a product became retrievable last
        self._lost = 0  # products that are not waited for any more

    async def run(self) -> None:
        """Play until the time is over; every role is ready. Raises what a part raises, BrokerUnavailable among them."""
        seen = self.seen
        try:
            consumer = await self._list_reader()
            seen.state, seen.began = "playing", time.monotonic()
            self._progressed_at = seen.began
            try:
                async with asyncio.timeout(self._seconds), asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._listen(consumer))
                    tasks.create_task(self._count_retrievable())
                    tasks.create_task(self._publish_catalog())
                    tasks.create_task(self._shop_around(CLICKS_PER_S))
                    tasks.create_task(self._look_closer())
            except TimeoutError:
                seen.state = "over"
            finally:
                await consumer.stop()
        finally:
            await self._publisher.stop()

    async def go_on(self) -> None:
        """Shoppers click on, now and then, until cancelled. Raises BrokerUnavailable, in a group."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen_on())
                tasks.create_task(self._shop_around(CLICKS_PER_S_AFTER))
        finally:
            await self._publisher.stop()

    async def ask(self, path: str, **params: int) -> httpx.Response:
        """The api's answer, also if it takes a busy machine some tries."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                return await self._http.get(path, params=params)
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Nothing can be asked any more."""
        await self._http.aclose()

    # --- the shop ------------------------------------------------------------------------------------------------

    async def _publish_catalog(self) -> None:
        """Products, as fast as they become retrievable."""
        seen, chunk = self.seen, 8
        for begin in range(0, len(self._catalog), chunk):
            await self._until_waiting(WAITING_PRODUCTS_MAX)
            if self._played() > NO_MORE_PRODUCTS_AT:
                return
            products = self._catalog[begin : begin + chunk]
            await self._publish(self._names.catalog_updates, products, "product_id")
            seen.titles.update({product["product_id"]: product["title"] for product in products})
            seen.published += len(products)

    async def _until_waiting(self, most: int) -> None:
        """At most so many of the published products wait to become retrievable; a product that never does is given up.

        Otherwise one that the encoder refuses would keep all later ones from being published.
        """
        seen = self.seen
        while seen.published - self._lost - seen.retrievable > most:
            if time.monotonic() - self._progressed_at > STALLED_S:
                self._lost = seen.published - seen.retrievable
            await asyncio.sleep(0.02)

    async def _count_retrievable(self) -> None:
        while True:
            status = (await self.ask("/v1/status")).json()
            self._count(int(status.get("stores", {}).get("vectors", {}).get("fused", 0)), time.monotonic())
            await asyncio.sleep(0.25)

    def _count(self, retrievable: int, now: float) -> None:
        """So many products are retrievable now (monotonic)."""
        seen = self.seen
        if retrievable <= seen.retrievable:
            return
        seen.retrievable, self._progressed_at = retrievable, now
        if seen.new_product is None:  # which comes long after the others, so it would spoil the rate
            seen.indexed, seen.indexing_s = retrievable, now - seen.began

    async def _shop_around(self, clicks_per_s: float) -> None:
        """Simulated shoppers click evenly, on what is retrievable by now."""
        await self._until(lambda: self.seen.retrievable >= min(CLICKS_BEGIN_AT_PRODUCTS, len(self._catalog) // 2))
        if self._shoppers is None:  # one for all: the ids of another's clicks would be the same
            self._shoppers = Simulator(self._catalog, SHOPPERS, self._seed)
        due = time.monotonic()
        while True:
            click = self._shoppers.next_click(datetime.now(UTC))
            if click["product_id"] not in self.seen.titles:
                await asyncio.sleep(0)  # in a large shop this may go on for a while
                continue
            await self._click(self._from_list(click))
            due += 1 / clicks_per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _from_list(self, click: dict[str, Any]) -> dict[str, Any]:
        """The click; of a product in her newest list it tells the list and the place, as a shop's page does."""
        made = self._newest.get(click["user_id"])
        listed = [] if made is None else [item["product_id"] for item in made["items"]]
        if made is None or click["product_id"] not in listed:
            return click
        return click | {"list_id": made["list_id"], "position": listed.index(click["product_id"])}

    # --- what is looked at closely -------------------------------------------------------------------------------

    async def _look_closer(self) -> None:
        await self._until(lambda: self._played() > 0.4 and self.seen.lists > 0)
        await self._before_and_after()
        await self._until(lambda: self._played() > NO_MORE_PRODUCTS_AT)
        await self._until_waiting(0)
        async with asyncio.TaskGroup() as tasks:
            appearing = tasks.create_task(self._new_product())
            await asyncio.wait({appearing}, timeout=(SELL_OUT_AT - self._played()) * self._seconds)
            await self._sell_out()

    async def _before_and_after(self) -> None:
        """One shopper's list before and after three clicks on products of one kind."""
        seen = self.seen
        seen.before = (await self.ask(f"/v1/users/{GUEST}/recommendations", limit=5)).json().get("items", [])
        kind = self._catalog[0].get("category")
        alike = [p for p in self._catalog if p.get("category") == kind and p["product_id"] in seen.titles][:3]
        for number, product in enumerate(alike):
            event_id = f"guest-{number}"
            await self._click(_click(event_id, GUEST, product["product_id"], "view_item"))
            seen.clicked.append(product["title"])
            await self._hear(lambda event_id=event_id: event_id in self._newest.get(GUEST, {}).get("event_ids", ()))
        seen.after = self._newest[GUEST]["items"][:5]

    async def _new_product(self) -> None:
        """A product that appears now: until it is retrievable, and until it stands in somebody's list."""
        seen, product_id = self.seen, self._held_back["product_id"]
        seen.new_product = seen.titles[product_id] = self._held_back["title"]
        await self._publish(self._names.catalog_updates, [self._held_back], "product_id")
        published = time.time()

        async def becomes_retrievable() -> None:
            while not await self._is_retrievable(product_id):
                await asyncio.sleep(0.01)
            seen.new_retrievable_s = time.time() - published

        async def is_listed() -> None:
            await self._hear(lambda: any(product_id in _ids(made) for made in self._newest.values()))
            seen.new_in_list_s = time.time() - published

        await asyncio.gather(becomes_retrievable(), is_listed())

    async def _sell_out(self) -> None:
        """The product that stands in most lists, if there is one, sells out: until the last new list that holds it."""
        seen = self.seen
        counts: dict[str, int] = {}
        for made in self._newest.values():
            for product_id in _ids(made):
                counts[product_id] = counts.get(product_id, 0) + 1
        if not counts:
            return
        product_id = max(counts, key=counts.__getitem__)
        patch = {"op": "patch", "product_id": product_id, "availability": "out_of_stock"}
        await self._publish(self._names.catalog_updates, [patch], "product_id")
        sold_out = time.time()
        lists_before = seen.lists + seen.unasked
        seen.sold_out, seen.sold_out_gone_s = seen.titles[product_id], 0.0
        while time.time() - sold_out < WATCH_AFTER_SOLD_OUT_S:
            async with self._heard:
                await self._heard.wait()
            late = [made for made in self._newest.values() if product_id in _ids(made) and _made_at(made) > sold_out]
            if late:
                last = max(_made_at(made) for made in late)
                seen.sold_out_gone_s = max(seen.sold_out_gone_s or 0.0, last - sold_out)
                seen.sold_out_lists = max(seen.sold_out_lists, len(late))
            seen.lists_after_sold_out = seen.lists + seen.unasked - lists_before

    # --- topics and time -----------------------------------------------------------------------------------------

    async def _list_reader(self) -> AIOKafkaConsumer:
        consumer = self._broker.consumer(urgent=True)
        consumer.subscribe([self._names.recommendations])
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        return consumer

    async def _listen_on(self) -> None:
        """Lists are heard after the play; if the broker ends that, clicks tell of those before."""
        with contextlib.suppress(KafkaError):
            consumer = await self._list_reader()
            try:
                await self._listen(consumer)
            finally:
                await consumer.stop()

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            heard_at = time.time()
            made = orjson.loads(record.value)
            if self.seen.state != "over":
                self.seen.lists += made["cause"] == "click"
                self.seen.unasked += made["cause"] != "click"
            sent = [self._sent_at.pop(event_id) for event_id in made["event_ids"] if event_id in self._sent_at]
            self.seen.latencies_s += [heard_at - sent_at for sent_at in sent]
            self._newest[made["user_id"]] = made
            async with self._heard:
                self._heard.notify_all()

    async def _click(self, click: dict[str, Any]) -> None:
        if self.seen.state != "over":  # afterwards nobody waits for the lists
            self._sent_at[click["event_id"]] = time.time()
        await self._publish(self._names.user_clicks, [click], "user_id")
        self.seen.clicks += 1

    async def _publish(self, topic: str, values: list[dict[str, Any]], key: str) -> None:
        await self._publisher.publish([Outgoing(topic, value[key].encode(), orjson.dumps(value)) for value in values])

    async def _is_retrievable(self, product_id: str) -> bool:
        answer = await self.ask(f"/v1/products/{quote(product_id)}/similar", limit=1)
        return answer.status_code == 200 and bool(answer.json()["items"])

    async def _hear(self, told: Any) -> None:
        async with self._heard:
            await self._heard.wait_for(told)

    async def _until(self, true: Any) -> None:
        while not true():
            await asyncio.sleep(0.05)

    def _played(self) -> float:
        """The share of the play that is over."""
        return (time.monotonic() - self.seen.began) / self._seconds


def _click(event_id: str, user: str, product_id: str, event: str) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {"event_id": event_id, "user_id": user, "product_id": product_id, "event": event, "occurred_at": at}


def _ids(made: dict[str, Any]) -> set[str]:
    return {item["product_id"] for item in made["items"]}


def _made_at(made: dict[str, Any]) -> float:
    return datetime.fromisoformat(made["made_at"]).timestamp()
