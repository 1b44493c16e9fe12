"""Lists that are published, as streams of whoever listens: on a real broker, over real HTTP."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from asked_shop import AskedShop, ReplicasAtHand

from store.keys import KeyStore
from streams import list_feed
from streams.api import access, list_events, server_sent_events
from streams.broker import Broker, Outgoing, Publisher
from streams.embedded_broker import EmbeddedBroker
from streams.list_feed import LISTS_KEPT, ListFeed
from streams.queued_stream import TooManyStreams
from streams.settings import Settings
from streams.topics import create_topics, topic_names

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def feed(most: int = 9) -> ListFeed:
    return ListFeed(Broker(Settings()), "recommendations", most=most)


async def test_a_list_reaches_every_stream_of_its_user_and_no_other() -> None:
    lists = feed()
    with lists.open("ann") as one, lists.open("ann") as other, lists.open("bob") as stranger:
        lists._put(b"ann", b"1")
        lists._put(b"ann", None)
        assert [await one.next(1), await other.next(1)] == [b"1", b"1"]
        assert await stranger.next(0.01) is None
    assert lists.open_streams == 0


async def test_a_client_that_reads_slowly_loses_the_oldest_lists() -> None:
    lists = feed()
    with lists.open("ann") as slow:
        for number in range(LISTS_KEPT + 2):
            lists._put(b"ann", b"%d" % number)
        assert [await slow.next(0.01) for _ in range(LISTS_KEPT + 1)] == [*(b"2", b"3", b"4", b"5"), None]
        assert lists.lost == 2


async def test_who_waits_is_told_at_once_of_a_list_and_of_the_end() -> None:
    lists = feed()
    with lists.open("ann") as stream:
        waiting = asyncio.create_task(stream.next(60))
        await asyncio.sleep(0)
        lists._put(b"ann", b"1")
        assert await waiting == b"1"
        waiting = asyncio.create_task(stream.next(60))
        await asyncio.sleep(0)
        lists.close()
        assert (await waiting, stream.is_closed) == (None, True)
    with pytest.raises(TooManyStreams, match="the api is stopping"):
        lists.open("ann")


async def test_beyond_the_most_no_stream_is_opened(tmp_path: Path) -> None:
    lists = feed(1)
    with lists.open("ann"), pytest.raises(TooManyStreams, match="this api holds 1 streams already: try again later"):
        lists.open("bob")
    lists.open("bob").close()
    shop = AskedShop(tmp_path, ReplicasAtHand())
    shop.feed._most = 0
    await shop.api.views.fill()
    async with shop.client() as client:
        response = await client.get("/v1/users/ann/recommendations/stream")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "holds 0 streams already" in response.json()["detail"]
    shop.vectors.close()


async def test_a_key_holds_no_more_streams_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_feed, "STREAMS_OF_KEY_MAX", 1)
    lists = feed()
    refused = pytest.raises(TooManyStreams, match="this key holds 1 streams already: close some, or ask with a key of")
    with lists.open("ann", "k1"), lists.open("ann", "k2"), lists.open("ann"), lists.open("ann"), refused:
        lists.open("bob", "k1")
    lists.open("bob", "k1").close()


# --- over HTTP ---------------------------------------------------------------------------------------------------


class Events:
    """Server-sent events as a browser reads them."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str]:
        """The next event or comment, as its fields; nothing at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(20):
            async for line in self._lines:
                if not line:
                    return fields
                name, _, value = line.partition(": ")
                fields[name or "comment"] = value
        return fields

    async def made(self) -> tuple[str, dict[str, Any]]:
        """The id and the list of the next event."""
        while "data" not in (event := await self.next()):
            assert event, "the stream has ended"
        assert event["event"] == "list"
        return event["id"], orjson.loads(event["data"])


class Running:
    """The api of a shop, and a publisher beside it."""

    def __init__(self, shop: AskedShop) -> None:
        self.shop = shop
        self.publisher = Publisher(Broker(shop.settings))
        self.task = asyncio.create_task(shop.api.run())
        url = f"http://127.0.0.1:{shop.settings.api_port}"
        self.client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=20)

    async def publish(self, user_id: str, revision: int, product_id: str, made_at: str = "2100-01-01") -> None:
        item = {"product_id": product_id, "score": 1.0, "rank": 1, "source": "next-click", "reason": "because"}
        made = {"list_id": "l", "user_id": user_id, "revision": revision, "made_at": f"{made_at}T00:00:00+00:00"}
        topic = topic_names(self.shop.settings, "f").recommendations
        await self.publisher.publish([Outgoing(topic, user_id.encode(), orjson.dumps({**made, "items": [item]}))])


@pytest.fixture
async def running(tmp_path: Path, tansu: EmbeddedBroker) -> AsyncIterator[Running]:
    told = {"kafka_bootstrap": f"127.0.0.1:{tansu.port}", "embedded_broker": True, "partitions": 2}
    shop = AskedShop(tmp_path, ReplicasAtHand(), namespace=f"test-{uuid.uuid4().hex[:12]}", **told)
    shop.fill()
    await asyncio.to_thread(create_topics, shop.settings, topic_names(shop.settings, "f"))
    running = Running(shop)
    try:
        await running.publish("ann/1", 99, "c")  # before the api began to read: nobody's news
        async with asyncio.timeout(120):  # the first time, what ranks is compiled
            await shop.feed.is_following.wait()
            while not shop.api.views.are_full:
                await asyncio.sleep(0.01)
        yield running
    finally:
        shop.api.stop()
        await asyncio.wait_for(running.task, 10)
        await running.client.aclose()
        await running.publisher.stop()
        shop.vectors.close()


async def test_a_stream_begins_with_the_list_of_this_moment_and_goes_on_with_each_newer_one(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_sent_events, "HEARTBEAT_S", 0.05)
    path = "/v1/users/ann%2F1/recommendations/stream"
    async with running.client.stream("GET", path) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = Events(response)
        assert await events.next() == {"retry": "2000"}
        first_id, first = await events.made()
        assert (first_id.split(".")[0], first["revision"], first["user_id"]) == ("1", 1, "ann/1")
        assert {item["title"] for item in first["items"]} == {"Cup"}, "she has bought the ball and looked at the bauble"
        assert await events.next() == {"comment": "alive"}
        await running.publish("bob", 5, "b")
        await running.publish("ann/1", 1, "b", "1999-01-01")  # made before the one that was sent
        await running.publish("ann/1", 2, "b")
        second_id, second = await events.made()
        assert (second_id, second["revision"]) == ("2.4102444800000", 2)
        (item,) = second["items"]
        assert (item["title"], item["offer"]["availability"], item["reason"]) == ("Bauble", "in_stock", "because")
    for _ in range(100):
        if running.shop.feed.open_streams == 0:
            break
        await asyncio.sleep(0.05)
    assert running.shop.feed.open_streams == 0, "the client has gone"
    async with running.client.stream("GET", path, headers={"Last-Event-ID": second_id}) as response:
        events = Events(response)
        assert await events.next() == {"retry": "2000"}
        await running.publish("ann/1", 3, "c")
        assert (await events.made())[1]["revision"] == 3, "the list of this moment is still of revision 1"
        running.shop.api.stop()
        while await events.next():
            pass  # what comes before the end, which is a clean one: httpx would raise


async def test_a_stream_ends_when_its_key_is_removed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_sent_events, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    keys = KeyStore(running.shop.products.engine)
    (mine, told), _ = keys.make("mine", ["read"]), keys.make("another", ["read"])
    bearer = {"Authorization": f"Bearer {told}"}
    async with running.client.stream("GET", "/v1/users/ann%2F1/recommendations/stream", headers=bearer) as response:
        events = Events(response)
        await events.made()
        assert await events.next() == {"comment": "alive"}
        assert [one.key_id for one in running.shop.feed._streams["ann/1"]] == [mine.key_id]
        keys.remove(mine.key_id)
        while await events.next():
            pass
    async with asyncio.timeout(5):
        while running.shop.feed.open_streams:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("told", [None, "", "x", "1.", "1.2.3", "9" * 400 + ".1", "-1.0", "१.२"])
def test_what_is_no_id_of_an_event_counts_as_before_all(told: str | None) -> None:
    assert list_events._place_in(told) == list_events.BEFORE_ALL
    assert list_events._place_in("17.1772366400000") == (17, 1772366400000)
