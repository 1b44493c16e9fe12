"""What just happened, as whoever looks on is told it; on a real broker, over real HTTP."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from asked_shop import BALL, AskedShop, ReplicasAtHand
from shelves import factors, offer, vectors
from test_api import status_of

from store.keys import KeyStore
from streams import happenings
from streams.api import access, server_sent_events
from streams.broker import Broker, Outgoing
from streams.embedded_broker import EmbeddedBroker
from streams.first_clicks import FirstClicks
from streams.happenings import KEPT, Happenings
from streams.queued_stream import TooManyStreams
from streams.settings import Settings
from streams.shelf import Shelf
from streams.status import ALIVE_S, StatusBoard
from streams.tail import Tail
from streams.topics import create_topics

pytestmark = pytest.mark.anyio
NOW = 1_000.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Looked:
    """Happenings whose topics nobody reads; the test puts the records."""

    def __init__(self) -> None:
        broker = Broker(Settings())
        self.shelf, self.board = Shelf(), StatusBoard(broker, "worker-status")
        self.happenings = Happenings(self.shelf, self.board, Tail(broker), clicks="clicks", lists="lists")

    def put(self, product_id: str, revision: int, state: str = "listable", created_at: float = NOW - 0.5) -> None:
        title = f"The {product_id}"
        self.shelf.put_offer(product_id.encode(), offer(revision, title=title, state=state, created_at=created_at), ())

    def look(self, now: float = NOW) -> list[dict[str, Any]]:
        return self.happenings.look(self.happenings.taken(), now, is_news=True)


def record(value: Any, at_ms: int = 0) -> Any:
    return SimpleNamespace(value=value if value is None else orjson.dumps(value), timestamp=at_ms)


def test_a_product_is_told_when_it_is_found_sells_out_and_is_back() -> None:
    looked = Looked()
    looked.put("cup", 1)
    assert looked.look() == [], "it has no vectors yet: it is not found"
    looked.shelf.put_vectors(b"cup", vectors([1.0, 0.0]), ())
    about = {"at": NOW, "product_id": "cup", "title": "The cup"}
    assert looked.look() == [{"kind": "indexed", **about, "after_s": 0.5}]
    looked.put("cup", 2, "sold_out")
    assert looked.look() == [{"kind": "sold_out", **about}]
    looked.put("cup", 3, "sold_out")
    assert looked.look() == []
    looked.put("cup", 4)
    assert looked.look() == [{"kind": "restored", **about}]
    looked.shelf.put_offer(b"cup", None, (("revision", b"5"),))
    assert looked.look() == [], "a deleted product is no longer spoken of"
    looked.put("old", 1, created_at=NOW - happenings.NEW_WITHIN_S)
    looked.shelf.put_vectors(b"old", vectors([1.0, 0.0]), ())
    assert looked.look() == [], "it was encoded again"
    looked.put("pot", 1, "sold_out")
    looked.shelf.put_vectors(b"pot", vectors([1.0, 0.0]), ())
    assert looked.look() == [], "nobody can find what is sold out"


def test_a_new_product_that_a_rule_blocks_is_not_said_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = Looked()
    monkeypatch.setattr(looked.shelf.rules, "is_blocked", lambda row: looked.shelf.product_ids[row] == "cup")
    for product_id in ("cup", "pot"):
        looked.put(product_id, 1)
        looked.shelf.put_vectors(product_id.encode(), vectors([1.0, 0.0]), ())
    assert [one["product_id"] for one in looked.look()] == ["pot"]


def test_what_was_on_the_shelf_at_the_start_is_nobodys_news() -> None:
    looked = Looked()
    looked.put("cup", 1)
    looked.shelf.put_vectors(b"cup", vectors([1.0, 0.0]), ())
    assert looked.happenings.look([], NOW, is_news=False) == []
    assert looked.look() == []


def test_a_click_and_its_list_are_told_with_title_and_time_in_whichever_order_they_are_read() -> None:
    looked = Looked()
    looked.put("cup", 1)
    click = {"event_id": "e1", "user_id": "ann", "product_id": "cup", "event": "view_item"}
    made = {"user_id": "ann", "cause": "click", "event_ids": ["e0", "e1"], "items": []}
    looked.happenings.put_click(record(click, 2_000))
    assert looked.look() == [], "nobody looks on"
    with looked.happenings.open(None, sees_all=True, names_users=True):
        looked.happenings.put_list(record(made, 2_012))
        looked.happenings.put_click(record(click, 2_000))
        looked.happenings.put_click(record({**click, "product_id": "never seen", "event_id": "e2"}, 2_020))
        for nothing in (None, "text", {"event": "identify"}):
            looked.happenings.put_click(record(nothing))
        looked.happenings.put_list(record({**made, "cause": "push", "event_ids": []}, 2_030))
        told = looked.look()
    of_ann = {"user": "ann", "product_id": "cup", "event": "view_item"}
    assert told[0] == {"kind": "click", "at": 2.0, **of_ann, "title": "The cup"}
    assert told[1] == {"kind": "list", "at": 2.012, "user": "ann", "cause": "click", "took_ms": 12}
    assert told[2]["title"] == "never seen"
    assert (told[3]["cause"], told[3]["took_ms"]) == ("push", None)


def test_what_is_malformed_is_passed_over() -> None:
    looked = Looked()
    click = {"event_id": "e1", "user_id": "ann", "product_id": "cup", "event": "view_item"}
    made = {"user_id": "ann", "cause": "click", "event_ids": ["e1"]}
    wrong: tuple[Any, ...] = (["x"], {"x": 1}, 7, None)
    with looked.happenings.open("ann", sees_all=True, names_users=True):
        for value in wrong:
            for name in click:
                looked.happenings.put_click(record(click | {name: value}))
            for name in ("user_id", "cause"):
                looked.happenings.put_list(record(made | {name: value}))
        assert looked.look() == []
        looked.happenings.put_click(record(click, 2_000))
        for value in (*wrong[1:], [*wrong, "e1"]):
            looked.happenings.put_list(record(made | {"event_ids": value}, 2_012))
        assert [one.get("took_ms") for one in looked.look()] == [None, None, None, None, 12]


def test_what_nobody_may_see_is_not_kept_and_of_too_much_the_oldest_goes_but_nobodys_own() -> None:
    looked = Looked()

    def click(user: str, at_ms: int) -> None:
        told = {"event_id": f"e{at_ms}", "user_id": user, "product_id": "cup", "event": "view_item"}
        looked.happenings.put_click(record(told, at_ms))

    with looked.happenings.open("ann", sees_all=False, names_users=False):
        click("bob", 1_000)
        click("ann", 2_000)
        assert [one["user"] for one in looked.look()] == ["ann"]
        assert list(looked.happenings._clicked_at) == ["e2000"]
        with looked.happenings.open(None, sees_all=True, names_users=True):
            click("ann", 1_000)
            for at_ms in range(2_000, 2_000 + KEPT + 2):
                click("bob", at_ms)
            told = looked.look()
    assert [one["user"] for one in told] == ["ann"] + ["bob"] * KEPT
    assert [told[1]["at"], told[-1]["at"]] == [2.002, 2.001 + KEPT / 1_000]


def test_a_worker_that_stops_and_one_that_is_started_again_are_told_once() -> None:
    looked = Looked()

    def told(at: float, **more: Any) -> list[str]:
        looked.board.put(status_of("clicks", at, **more))
        return [one["what"] for one in looked.look(at)]

    assert told(NOW) == [], "that it was there is no news"
    assert told(NOW + 1, pid=2) == ["restarted"]
    assert told(NOW + 2, pid=2, state="stopping") == ["stopped"]
    assert told(NOW + 3, pid=2, state="stopping") == []
    assert told(NOW + 4, pid=3, state="starting") == ["started"]
    assert told(NOW + 5, pid=3) == []
    assert [one["what"] for one in looked.look(NOW + 5 + ALIVE_S + 0.1)] == ["stopped"], "it was silent for long"
    looked.board.put(status_of("learner", NOW + 12))
    (new,) = looked.look(NOW + 12)
    assert (new["kind"], new["role"], new["what"]) == ("worker", "learner", "started")


async def test_nobody_is_named_but_to_who_may_know_and_a_visitor_sees_her_own() -> None:
    looked = Looked()
    click = {"kind": "click", "at": NOW, "user": "ann@example.org", "product_id": "cup"}
    worker, sold_out = {"kind": "worker", "at": NOW}, {"kind": "sold_out", "at": NOW}
    open_stream = looked.happenings.open
    with (
        open_stream(None, sees_all=True, names_users=True) as operator,
        open_stream("bob", sees_all=True, names_users=False) as looker_on,
        open_stream("ann@example.org", sees_all=False, names_users=False) as ann,
        open_stream("bob", sees_all=False, names_users=False) as bob,
    ):
        for stream in (operator, looker_on, ann, bob):
            for happening in (click, worker, sold_out):
                stream.put(happening)
        seen = [[await stream.next(0.01) for _ in range(4)] for stream in (operator, looker_on, ann, bob)]
        short = looked.happenings.shortened("ann@example.org")
        assert seen[0] == [click, worker, sold_out, None]
        assert seen[1] == [click | {"user": short}, worker, sold_out, None]
        assert (len(short), short) == (4, looked.happenings.shortened("ann@example.org"))
        assert seen[2] == [click, sold_out, None, None]
        assert seen[3] == [sold_out, None, None, None]


async def test_who_reads_slowly_misses_the_oldest_and_beyond_the_most_nobody_looks_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(happenings, "STREAMS_MAX", 1)
    looked = Looked()
    with looked.happenings.open(None, sees_all=True, names_users=True) as slow:
        for number in range(KEPT + 2):
            slow.put({"kind": "sold_out", "at": float(number)})
        assert (await slow.next(0.01) or {})["at"] == 2.0
        with pytest.raises(TooManyStreams, match="1 look on already: close another page"):
            looked.happenings.open(None, sees_all=True, names_users=True)
        waiting = asyncio.create_task(slow.next(60))
        looked.happenings.close()
        assert (await waiting, slow.is_closed) == (None, True)
    looked.happenings.open(None, sees_all=True, names_users=True).close()


def test_a_key_that_many_share_leaves_some_to_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(happenings, "STREAMS_OF_KEY_MAX", 1)
    look_on = partial(Looked().happenings.open, None, sees_all=False, names_users=False)
    refused = pytest.raises(TooManyStreams, match="this key holds 1 streams already: close some, or ask with a key of")
    with look_on("shop"), look_on("operator"), look_on(), look_on(), refused:
        look_on("shop")
    look_on("shop").close()


def test_of_a_new_product_it_is_known_when_it_was_clicked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, day = Shelf(), 86_400.0
    first = FirstClicks(shelf, Tail(Broker(Settings())), clicks="clicks")
    for product_id, created_at in (("old", 1.0), ("cup", day), ("pot", day + 2), ("jug", day + 1), ("gone", day + 3)):
        shelf.put_offer(product_id.encode(), offer(title=product_id.upper(), created_at=created_at), ())
    shelf.put_offer(b"gone", None, (("revision", b"2"),))
    shelf.put_factors(b"jug", factors([1.0, 0.0], clicks=3), ())
    monkeypatch.setattr("streams.first_clicks.KEPT_MAX", 2)
    for product_id, at_ms in (("cup", 90_000_000), ("cup", 90_001_000), ("old", 90_000_000), ("later", 90_000_000)):
        first.put(record({"product_id": product_id}, at_ms))
    for nothing in (None, [1], {"product_id": 7}):
        first.put(record(nothing, 90_000_000))
    told = first.newcomers(2, day + 10)
    assert (told["products"], told["clicked"]) == (3, 2)
    assert [(one["product_id"], one["first_click_at"], one["is_clicked"]) for one in told["items"]] == [
        ("pot", None, False),
        ("jug", None, True),  # clicked before anybody read the clicks
    ]
    assert first.newcomers(9, day + 10)["items"][2]["first_click_at"] == 90_000.0
    first.put(record({"product_id": "another"}, 90_000_000))
    assert list(first._clicked_at) == ["later", "another"], "the oldest goes"


# --- over HTTP ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def asked(tmp_path: Path, tansu: EmbeddedBroker) -> AsyncIterator[tuple[AskedShop, httpx.AsyncClient]]:
    told = {"kafka_bootstrap": f"127.0.0.1:{tansu.port}", "embedded_broker": True, "partitions": 2}
    shop = AskedShop(tmp_path, ReplicasAtHand(), namespace=f"test-{uuid.uuid4().hex[:12]}", **told)
    shop.fill()
    await asyncio.to_thread(create_topics, shop.settings, shop.names)
    running = asyncio.create_task(shop.api.run())
    url = f"http://127.0.0.1:{shop.settings.api_port}"
    try:
        async with asyncio.timeout(120), httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
            await shop.feed.is_following.wait()
            while not shop.api.views.are_full:
                await asyncio.sleep(0.01)
            yield shop, client
    finally:
        shop.api.stop()
        await asyncio.wait_for(running, 10)
        await shop.publisher.stop()
        shop.vectors.close()


async def told_next(lines: AsyncIterator[str]) -> dict[str, Any]:
    """The next event; nothing at the end of the stream."""
    async with asyncio.timeout(20):
        async for line in lines:
            if line.startswith("data: "):
                told: dict[str, Any] = orjson.loads(line[6:])
                return told
    return {}


async def test_what_happens_is_streamed_by_scope_and_an_operator_sees_what_became_of_new_products(
    asked: tuple[AskedShop, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, client = asked
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    monkeypatch.setattr(server_sent_events, "HEARTBEAT_S", 0.05)
    keys = KeyStore(shop.products.engine)
    (admin, opens), (reader, reads), (_, writes) = (keys.make(scope, [scope]) for scope in ("admin", "read", "write"))
    bearer = {"Authorization": f"Bearer {opens}"}
    path = "/v1/events/stream"
    refused = await client.get(path, headers={"Authorization": f"Bearer {writes}"})
    assert refused.status_code == 403
    async with (
        client.stream("GET", path, headers=bearer) as all_of_it,
        client.stream("GET", path, params={"user": "bob"}, headers={"Authorization": f"Bearer {reads}"}) as of_bob,
    ):
        assert all_of_it.headers["content-type"].startswith("text/event-stream")
        lines, lines_of_bob = all_of_it.aiter_lines(), of_bob.aiter_lines()
        assert {stream.key_id for stream in shop.happenings._streams} == {admin.key_id, reader.key_id}
        click = {"event_id": "e1", "user_id": "ann", "product_id": BALL, "event": "view_item"}
        await shop.publisher.publish([Outgoing(shop.names.user_clicks, b"ann", orjson.dumps(click))])
        seen = await told_next(lines)
        assert (seen["kind"], seen["user"], seen["title"]) == ("click", "ann", "Glass ball")
        made = {"user_id": "ann", "cause": "click", "event_ids": ["e1"], "items": []}
        await shop.publisher.publish([Outgoing(shop.names.recommendations, b"ann", orjson.dumps(made))])
        seen = await told_next(lines)
        assert (seen["kind"], seen["cause"], seen["user"]) == ("list", "click", "ann")
        assert seen["took_ms"] >= 0
        with shop.shelf.lock:
            shop.shelf.put_offer(b"c", offer(2, title="Cup", state="sold_out"), ())
        for stream in (lines, lines_of_bob):
            seen = await told_next(stream)
            assert (seen["kind"], seen["product_id"], seen["title"]) == ("sold_out", "c", "Cup")
        with shop.shelf.lock:
            shop.shelf.put_offer(b"d", offer(title="Dish", created_at=seen["at"]), ())
        new = (await client.get("/v1/newcomers", headers=bearer)).json()
        assert (new["products"], new["clicked"], new["items"][0]["title"]) == (1, 0, "Dish")
        keys.remove(admin.key_id)
        assert await told_next(lines) == {}, "its key was removed: it ends"
    assert (await client.get("/v1/newcomers", headers={"Authorization": f"Bearer {reads}"})).status_code == 403
