"""`freshet demo`: everything embedded, a shop that is played for a minute, and what was seen.

The plot: products are published as fast as they are encoded, simulated shoppers click, one shopper's list is looked
at before and after three clicks, a product is published and one sells out, each timed from the broker's confirmation.
"""

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from aiokafka import AIOKafkaConsumer

from encoders.weights import fingerprint_of
from streams.broker import Broker, Outgoing, Publisher
from streams.imports import import_shop
from streams.ports import free_port
from streams.settings import Settings
from streams.shop import draw_shop
from streams.simulate import Simulator
from streams.topics import TopicNames, topic_names
from streams.up import GROUPS, make_supervisor

DRAWN_PRODUCTS = 300
SHOPPERS = 200
CLICKS_PER_S = 25.0
WAITING_PRODUCTS_MAX = 48  # published and not yet retrievable: a new product does not queue behind a whole catalogue
NO_MORE_PRODUCTS_AT = 0.55  # of the play
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
    indexing_s: float = 0.0  # from the first publication to the last product that became retrievable
    clicks: int = 0
    lists: int = 0
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
    titles: dict[str, str] = field(default_factory=dict)


class Play:
    """One play of a shop; `seen` fills while it runs."""

    def __init__(self, settings: Settings, catalog: list[dict[str, Any]], *, seconds: float, seed: int = 0) -> None:
        self.seen = Seen(products_known=len(catalog))
        self._settings = settings
        self._catalog = catalog[:-1]
        self._held_back = catalog[-1]  # the product that appears while we watch
        self._seconds = seconds
        self._seed = seed
        self._names = names_of(settings)
        self._broker = Broker(settings)
        self._publisher = Publisher(self._broker)
        self._http = httpx.AsyncClient(base_url=f"http://{settings.api_host}:{settings.api_port}", timeout=5.0)
        self._sent_at: dict[str, float] = {}  # event id -> s since 1970
        self._newest: dict[str, dict[str, Any]] = {}  # user -> list
        self._heard = asyncio.Condition()

    async def run(self) -> None:
        """Play until the time is over. Raises what a part raises, BrokerUnavailable among them."""
        seen = self.seen
        await self._ready()
        seen.state, seen.began = "playing", time.monotonic()
        consumer = await self._list_reader()
        try:
            async with asyncio.timeout(self._seconds), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(consumer))
                tasks.create_task(self._count_retrievable())
                tasks.create_task(self._publish_catalog())
                tasks.create_task(self._shop_around())
                tasks.create_task(self._look_closer())
        except TimeoutError:
            seen.state = "over"
        finally:
            await consumer.stop()
            await self._publisher.stop()
            await self._http.aclose()

    async def _ready(self) -> None:
        while (answer := await self._ask("/readyz")).status_code != 200:
            self.seen.state = "; ".join(answer.json().get("missing", []))[:100] or "starting"
            await asyncio.sleep(0.2)

    # --- the shop ------------------------------------------------------------------------------------------------

    async def _publish_catalog(self) -> None:
        """Products, as fast as they become retrievable."""
        seen, chunk = self.seen, 8
        for begin in range(0, len(self._catalog), chunk):
            while seen.published - seen.retrievable > WAITING_PRODUCTS_MAX:
                await asyncio.sleep(0.02)
            if self._played() > NO_MORE_PRODUCTS_AT:
                return
            products = self._catalog[begin : begin + chunk]
            await self._publish(self._names.catalog_updates, products, "product_id")
            seen.titles.update({product["product_id"]: product["title"] for product in products})
            seen.published += len(products)

    async def _count_retrievable(self) -> None:
        began = time.monotonic()
        while True:
            status = (await self._ask("/status")).json()
            retrievable = int(status["stores"]["vectors"].get("fused", 0))
            if retrievable > self.seen.retrievable:
                self.seen.retrievable = retrievable
                self.seen.indexing_s = time.monotonic() - began
            await asyncio.sleep(0.25)

    async def _shop_around(self) -> None:
        """Simulated shoppers click evenly, on what is retrievable by now."""
        await self._until(lambda: self.seen.retrievable >= min(CLICKS_BEGIN_AT_PRODUCTS, len(self._catalog) // 2))
        shoppers = Simulator(self._catalog, SHOPPERS, self._seed)
        due = time.monotonic()
        while True:
            click = shoppers.next_click(datetime.now(UTC))
            if click["product_id"] not in self.seen.titles:
                continue
            await self._click(click)
            due += 1 / CLICKS_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    # --- what is looked at closely -------------------------------------------------------------------------------

    async def _look_closer(self) -> None:
        await self._until(lambda: self._played() > 0.4 and self.seen.lists > 0)
        await self._before_and_after()
        await self._until(lambda: self._played() > NO_MORE_PRODUCTS_AT and self.seen.retrievable >= self.seen.published)
        await self._new_product()
        await self._sell_out()

    async def _before_and_after(self) -> None:
        """One shopper's list before and after three clicks on products of one kind."""
        seen = self.seen
        seen.before = (await self._ask(f"/users/{GUEST}/recommendations", limit=5)).json()["items"]
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
        await self._publish(self._names.catalog_updates, [self._held_back], "product_id")
        published = time.time()
        seen.new_product = self._held_back["title"]
        seen.titles[product_id] = seen.new_product

        async def becomes_retrievable() -> None:
            while not await self._is_retrievable(product_id):
                await asyncio.sleep(0.01)
            seen.new_retrievable_s = time.time() - published

        async def is_listed() -> None:
            await self._hear(lambda: any(product_id in _ids(made) for made in self._newest.values()))
            seen.new_in_list_s = time.time() - published

        await asyncio.gather(becomes_retrievable(), is_listed())

    async def _sell_out(self) -> None:
        """The product that stands in most lists sells out: until the last new list that holds it."""
        seen = self.seen
        counts: dict[str, int] = {}
        for made in self._newest.values():
            for product_id in _ids(made):
                counts[product_id] = counts.get(product_id, 0) + 1
        product_id = max(counts, key=counts.__getitem__)
        patch = {"op": "patch", "product_id": product_id, "availability": "out_of_stock"}
        await self._publish(self._names.catalog_updates, [patch], "product_id")
        sold_out = time.time()
        lists_before = seen.lists
        seen.sold_out, seen.sold_out_gone_s = seen.titles[product_id], 0.0
        while time.time() - sold_out < WATCH_AFTER_SOLD_OUT_S:
            async with self._heard:
                await self._heard.wait()
            late = [made for made in self._newest.values() if product_id in _ids(made) and _made_at(made) > sold_out]
            if late:
                last = max(_made_at(made) for made in late)
                seen.sold_out_gone_s = max(seen.sold_out_gone_s or 0.0, last - sold_out)
                seen.sold_out_lists = max(seen.sold_out_lists, len(late))
            seen.lists_after_sold_out = seen.lists - lists_before

    # --- topics and time -----------------------------------------------------------------------------------------

    async def _list_reader(self) -> AIOKafkaConsumer:
        consumer = self._broker.consumer(urgent=True)
        consumer.subscribe([self._names.recommendations])
        await consumer.start()
        return consumer

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            heard_at = time.time()
            made = orjson.loads(record.value)
            self.seen.lists += 1
            sent = [self._sent_at.pop(event_id) for event_id in made["event_ids"] if event_id in self._sent_at]
            self.seen.latencies_s += [heard_at - sent_at for sent_at in sent]
            self._newest[made["user_id"]] = made
            async with self._heard:
                self._heard.notify_all()

    async def _click(self, click: dict[str, Any]) -> None:
        self._sent_at[click["event_id"]] = time.time()
        await self._publish(self._names.user_clicks, [click], "user_id")
        self.seen.clicks += 1

    async def _publish(self, topic: str, values: list[dict[str, Any]], key: str) -> None:
        await self._publisher.publish([Outgoing(topic, value[key].encode(), orjson.dumps(value)) for value in values])

    async def _is_retrievable(self, product_id: str) -> bool:
        answer = await self._ask(f"/products/{quote(product_id)}/similar", limit=1)
        return answer.status_code == 200 and bool(answer.json()["items"])

    async def _ask(self, path: str, **params: int) -> httpx.Response:
        """The api's answer, also if it takes a busy machine some tries."""
        while True:
            with contextlib.suppress(httpx.TransportError):
                return await self._http.get(path, params=params)
            await asyncio.sleep(0.2)

    async def _hear(self, told: Any) -> None:
        async with self._heard:
            await self._heard.wait_for(told)

    async def _until(self, true: Any) -> None:
        while not true():
            await asyncio.sleep(0.05)

    def _played(self) -> float:
        """The share of the play that is over."""
        return (time.monotonic() - self.seen.began) / self._seconds


def names_of(settings: Settings) -> TopicNames:
    """The topics under the settings' encoders."""
    return topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))


@contextlib.asynccontextmanager
async def stage(shop: Path | None, *, seconds: float) -> AsyncIterator[Play]:
    """A shop, drawn or imported, and everything embedded running in a folder that is removed in the end."""
    home = Path(tempfile.mkdtemp(prefix="freshet-demo-"))
    try:
        pictures, catalog = await asyncio.to_thread(_prepare, shop, home)
        settings = Settings(
            home=home,
            worker_id="demo",
            embedded_port=free_port(),
            api_port=free_port(),
            pictures_root=pictures,
            encode_batch=8,
            partitions=2,
            **dict.fromkeys(("kafka_bootstrap", "database_url", "qdrant_url")),
        )
        supervisor = await make_supervisor(settings, GROUPS, names_of(settings))
        try:
            await supervisor.start()
            yield Play(settings, catalog, seconds=seconds)
        finally:
            await supervisor.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _prepare(shop: Path | None, home: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of the pictures, and the products."""
    if shop is None:
        catalog = draw_shop(home / "shop", DRAWN_PRODUCTS + 1)
        pictures = home / "shop"
    else:
        import_shop(shop, home / "shop")
        catalog, pictures = home / "shop" / "catalog.jsonl", shop
    products = [orjson.loads(line) for line in catalog.read_bytes().splitlines()]
    return pictures, [product for product in products if product.get("op", "upsert") == "upsert"]


def _click(event_id: str, user: str, product_id: str, event: str) -> dict[str, Any]:
    at = datetime.now(UTC).isoformat()
    return {"event_id": event_id, "user_id": user, "product_id": product_id, "event": event, "occurred_at": at}


def _ids(made: dict[str, Any]) -> set[str]:
    return {item["product_id"] for item in made["items"]}


def _made_at(made: dict[str, Any]) -> float:
    return datetime.fromisoformat(made["made_at"]).timestamp()
