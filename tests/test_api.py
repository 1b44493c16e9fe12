"""The api over real stores: SQLite, and the vector store embedded."""

import asyncio
import socket
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from asked_shop import BALL, AskedShop, ReplicasAtHand
from shelves import offer

from store.records import StoreUnavailable, UserRow
from store.user_vectors import UserPoint
from streams.broker import Broker
from streams.events import WorkerStatus
from streams.health import Backlog
from streams.ports import PortTaken, listen
from streams.settings import Settings
from streams.status import ROLES, StatusBoard

pytestmark = pytest.mark.anyio
OFFER_OF_NONE = {"brand": None, "category": [], "price": None, "availability": "in_stock", "image_link": None}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def status_of(role: str, at: float, **more: Any) -> WorkerStatus:
    facts: dict[str, Any] = {
        "worker_id": "w",
        "role": role,
        "pid": 1,
        "state": "running",
        "reason": None,
        "started_at": 0.0,
        "at": at,
        "events": 10,
        "events_per_s": 2.0,
        "lag": 3,
        "oldest_unprocessed_s": 0.5,
        "dead_letters": 1,
        "details": {},
    }
    return WorkerStatus(**(facts | more))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[AskedShop]:
    shop = AskedShop(tmp_path, ReplicasAtHand())
    shop.fill()
    yield shop
    shop.vectors.close()


async def ask(shop: AskedShop, path: str, **query: Any) -> tuple[int, Any]:
    await shop.api.views.fill()
    async with shop.client() as client:
        response = await client.get(path, params=query)
    return response.status_code, response.json()


def problem(code: int, detail: str) -> dict[str, Any]:
    return {"title": HTTPStatus(code).phrase, "status": code, "detail": detail}


# --- lists -------------------------------------------------------------------------------------------------------


async def test_similar_products_come_nearest_first_without_the_product_itself_or_what_sold_out(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (f"/v1/products/{BALL}/similar", f"/v1/products/{BALL.replace('/', '%2F')}/similar"):
        code, made = await ask(shop, path, limit=2)
        assert code == 200
        assert [item["product_id"] for item in made["items"]] == ["b", "c"]
        assert made["items"][0]["score"] == pytest.approx(0.9 / np.hypot(0.9, 0.1), abs=1e-4)
        assert made["items"][0]["title"] == "Bauble"
        assert made["items"][0]["offer"] == OFFER_OF_NONE
    shop.shelf.put_offer(b"b", offer(2, state="sold_out"), ())
    _, made = await ask(shop, f"/v1/products/{BALL}/similar", limit=1)
    assert [item["product_id"] for item in made["items"]] == ["c"], "the vector store does not know yet"
    monkeypatch.setattr(shop.api.views, "_lack_at_start", "still being read")
    async with shop.client() as client:
        items = (await client.get(f"/v1/products/{BALL}/similar")).json()["items"]
    assert [(item["title"], item["offer"]) for item in items] == [("Bauble", OFFER_OF_NONE), ("Cup", OFFER_OF_NONE)]


async def test_a_modality_without_vectors_has_nothing_similar(shop: AskedShop) -> None:
    code, made = await ask(shop, "/v1/products/b/similar", by="text")
    assert (code, made["items"]) == (200, [])


async def test_what_goes_with_a_product_comes_by_share_with_titles_if_it_can_be_had(shop: AskedShop) -> None:
    path = f"/v1/products/{BALL}/similar"
    bauble, cup = (
        {"product_id": i, "title": t, "score": s, "offer": OFFER_OF_NONE}
        for i, t, s in (("b", "Bauble", 0.5), ("c", "Cup", 0.25))
    )
    assert await ask(shop, path, by="together") == (
        200,
        {"product_id": BALL, "by": "together", "items": [bauble, cup], "duplicates": []},
    )
    assert (await ask(shop, path, by="together", limit=1))[1]["items"] == [bauble]
    assert (await ask(shop, path, by="next"))[1]["items"] == [cup | {"score": 0.125}]
    shop.shelf.put_offer(b"b", offer(2, state="sold_out"), ())
    assert (await ask(shop, path, by="together"))[1]["items"] == [cup]
    assert (await ask(shop, "/v1/products/b/similar", by="together"))[1]["items"] == [], "one that is sold out is known"


async def test_look_alikes_come_nearest_first_with_what_they_clicked_last_that_she_has_not(shop: AskedShop) -> None:
    # Ann's last click was the ball, the one before it the bauble: her embedding is (1, 0) + .5 (.9, .1).
    shop.have("bob", [0.0, 2.0], "c", "b", "c", "gone")
    shop.have("cat", [3.0, 0.0], "b", BALL)
    shop.have("old", [1.0, 0.0], "c", epoch=0)
    shop.vectors.put_users([UserPoint("row is gone", 1, 1, np.array([1, 0], np.float32), 1e12)])
    code, made = await ask(shop, "/v1/users/ann%2F1/look-alikes")
    assert (code, made["user_id"], made["epoch"]) == (200, "ann/1", 1)
    cat, bob = made["users"]
    assert (cat["user_id"], cat["clicked"]) == ("cat", [])
    assert (bob["user_id"], bob["clicked"]) == ("bob", [{"product_id": "c", "title": "Cup"}])
    length = np.hypot(1.45, 0.05)
    assert [cat["score"], bob["score"]] == pytest.approx([1.45 / length, 0.05 / length], abs=1e-5)
    assert [one["user_id"] for one in (await ask(shop, "/v1/users/ann/1/look-alikes", limit=1))[1]["users"]] == ["cat"]


async def test_who_clicked_nothing_that_the_model_knows_has_no_look_alikes(shop: AskedShop) -> None:
    shop.have("cat", [1.0, 0.0], BALL)
    shop.have("new", None, "gone")
    assert await ask(shop, "/v1/users/new/look-alikes") == (200, {"user_id": "new", "epoch": 1, "users": []})


# --- what is held ------------------------------------------------------------------------------------------------


async def test_all_that_is_held_of_a_user_is_shown(shop: AskedShop) -> None:
    code, held = await ask(shop, "/v1/users/ann/1")
    assert code == 200
    assert held["revision"] == 1
    assert held["offsets"] == {"topic/0": 7}
    assert [click["product_id"] for click in held["clicks"]] == [BALL, "b"]
    assert held["recent_event_ids"] == ["e2", "e1"]
    assert (held["embedding_version"], held["embedding_bytes"]) == ("1.2", 8)


async def test_all_that_is_held_of_a_product_is_shown(shop: AskedShop) -> None:
    code, held = await ask(shop, f"/v1/products/{BALL}")
    assert code == 200
    assert held["row"]["fields"] == {"title": "Glass ball"}
    assert held["row"]["offsets"] == {"topic/3": 41}
    assert held["point"]["payload"]["title"] == "Glass ball"
    assert held["point"]["widths"] == {"fused": 2}


# --- errors say what to do next ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code", "detail"),
    [
        (
            "/v1/users/bob",
            404,
            "nothing is held of a user 'bob': she has no click yet, was forgotten, or the id is missp",
        ),
        (
            "/v1/products/x/y",
            404,
            "there is no product 'x/y': it was not published yet, was deleted, or the id is misspe",
        ),
        ("/v1/products/x/similar", 404, "there is no product 'x': it was not published yet"),
        ("/v1/products/x/similar?by=together", 404, "there is no product 'x': it was not published yet"),
        ("/v1/products/gone/similar?by=next", 404, "there is no product 'gone': it was not published yet"),
        ("/v1/users/bob/look-alikes", 404, "nothing is held of a user 'bob': she has no click yet, was forgotten"),
        ("/v1/products/b/similar?limit=0", 422, "limit: Input should be greater than or equal to 1"),
        ("/v1/products/b/similar?by=smell", 422, "by: Input should be 'fused', 'image', 'text', 'together' or 'next'"),
        (f"/v1/users/bob/recommendations?segment={65 * 'x'}", 422, "segment: String should have at most 64 characters"),
        ("/v1/users/%00", 422, "user_id: String should match pattern"),
        ("/v1/users/%00/look-alikes", 422, "user_id: String should match pattern"),
        ("/v1/products/%00", 422, "product_id: String should match pattern"),
        ("/nothing", 404, "there is nothing at /nothing: see /openapi.json"),
    ],
)
async def test_errors_say_what_to_do_next(shop: AskedShop, path: str, code: int, detail: str) -> None:
    await shop.api.views.fill()
    async with shop.client() as client:
        response = await client.get(path)
    assert response.status_code == code
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.json()["status"], response.json()["title"]) == (code, HTTPStatus(code).phrase)
    assert detail in response.json()["detail"]


async def test_while_the_products_are_published_again_lists_are_refused_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.api.views.AGAIN_AFTER_S", 0.01)
    shop = AskedShop(tmp_path, ReplicasAtHand())
    shop.fill()
    offers, shop.shelf.product_ids = shop.shelf.product_ids, []  # a broker that has forgotten all has no topic full
    filling = asyncio.create_task(shop.api.views.fill())
    async with shop.client() as client:
        while (
            "published again: is the role catalog up?"
            not in (refused := await client.get("/v1/users/ann/recommendations")).json()["detail"]
        ):
            await asyncio.sleep(0.01)
        assert refused.status_code == 503
        assert not filling.done()
        shop.shelf.product_ids = offers
        await asyncio.wait_for(filling, 10)
        assert (await client.get("/v1/users/ann/recommendations")).json()["items"]
    shop.vectors.close()


async def test_a_shop_without_products_answers_with_empty_lists(tmp_path: Path) -> None:
    shop = AskedShop(tmp_path, ReplicasAtHand())
    await asyncio.wait_for(shop.api.views.fill(), 30)
    async with shop.client() as client:
        answer = await client.get("/v1/users/ann/recommendations")
    assert (answer.status_code, answer.json()["items"]) == (200, [])
    shop.vectors.close()


async def test_before_the_replicas_are_full_there_is_nothing_of_the_shelf(shop: AskedShop) -> None:
    needed = {
        "/v1/users/ann/recommendations": "lists",
        "/v1/users/ann/recommendations/stream": "lists",
        "/v1/users/ann/recently-viewed": "lists",
        "/v1/users/ann/buy-again": "lists",
        "/v1/users/ann/look-alikes": "look-alikes",
        "/v1/trending": "lists",
        "/v1/new": "lists",
        f"/v1/products/{BALL}/similar?by=next": "neighbours",
        f"/v1/products/{BALL}/across-brands": "neighbours",
        "/v1/brands/Lux/related": "brands",
    }
    async with shop.client() as client:
        for path, what in needed.items():
            response = await client.get(path)
            assert response.status_code == 503, path
            told = f"no {what} yet: the offers and factors are still being read; try again"
            assert response.json()["detail"].startswith(told)
        assert (await client.post("/v1/recommendations", json={})).status_code == 503
    assert shop.feed.open_streams == 0


async def test_once_the_reader_of_the_replicas_has_ended_there_are_no_lists_and_everybody_is_told_what_to_do(
    shop: AskedShop,
) -> None:
    assert (await ask(shop, "/v1/users/ann/recommendations"))[0] == 200
    shop.api._started = True
    assert shop.api.status()["state"] == "running"
    shop.replicas.ended_by = MemoryError("no room")
    remedy = (
        "the reader of product-index has ended: MemoryError('no room'); its log says why: "
        "end the api's process, and `freshet up` or your supervisor starts it again"
    )
    assert await ask(shop, "/v1/users/ann/recommendations") == (503, problem(503, f"no lists: {remedy}"))
    code, ready = await ask(shop, "/readyz")
    assert (code, ready["missing"][-1]) == (503, f"api: {remedy}")
    assert (shop.api.status()["state"], shop.api.status()["reason"]) == ("waiting", remedy)
    assert (await ask(shop, "/v1/products/b/similar"))[0] == 200, "which needs no replica"


async def test_a_store_that_is_away_is_told_and_a_defect_shows_no_traceback(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_: object) -> dict[str, UserRow]:
        raise StoreUnavailable("the database is locked")

    monkeypatch.setattr(shop.users, "read", away)
    code, answer = await ask(shop, "/v1/users/ann")
    assert (code, answer["detail"]) == (503, "a store does not answer: the database is locked; try again in a moment")

    def defect(_: object) -> dict[str, UserRow]:
        raise KeyError("secret")

    monkeypatch.setattr(shop.users, "read", defect)
    code, answer = await ask(shop, "/v1/users/ann")
    assert (code, answer) == (500, problem(500, "the api failed at this request: its log says why"))
    assert "request failed" in caplog.text


async def test_a_product_is_shown_also_while_the_vector_store_is_away(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise StoreUnavailable("no collection yet")

    monkeypatch.setattr(shop.vectors, "fetch", away)
    code, held = await ask(shop, "/v1/products/b")
    assert (code, held["row"]["revision"], held["point"]) == (200, 1, {"error": "no collection yet"})


async def test_whoever_may_come_again_is_told_when(shop: AskedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """503 of views that are still being read, of an ended reader, and of a store that is away."""

    def away(_: object) -> dict[str, UserRow]:
        raise StoreUnavailable("the database of 10.0.0.7 is locked", "the database is locked")

    async with shop.client() as client:
        unread = [await client.get(f"/v1/{path}") for path in ("trending", "users/ann/recommendations")]
        await shop.api.views.fill()
        monkeypatch.setattr(shop.users, "read", away)
        locked = await client.get("/v1/users/ann/recommendations")
        visitor = await client.post("/v1/recommendations", json={"recently_viewed": ["b"]})
        shop.replicas.ended_by = MemoryError("no room")
        stale = await client.get("/v1/users/ann/recommendations")
    for answer in (*unread, locked, stale):
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5"), answer.text
    assert "10.0.0.7" not in locked.text
    assert visitor.status_code == 200, "of whom nothing is read"


# --- how it runs -------------------------------------------------------------------------------------------------


async def test_ready_names_what_is_missing_until_nothing_is(shop: AskedShop) -> None:
    code, answer = await ask(shop, "/readyz")
    assert code == 503
    assert "clicks: not heard of; start it with `freshet up` or `freshet worker clicks`" in answer["missing"]
    assert len(answer["missing"]) == 4, "the learner is not waited for: lists come from the last factors"
    now = time.time()
    for role in ROLES:
        shop.board.put(status_of(role, now))
    shop.board.put(status_of("encode", now + 1, state="waiting", reason="no answer from Kafka"))
    assert (await ask(shop, "/readyz"))[1]["missing"] == ["encode: waiting, no answer from Kafka"]
    shop.board.put(status_of("encode", now + 2))
    assert await ask(shop, "/readyz") == (200, {"ready": True, "missing": []})
    assert await ask(shop, "/healthz") == (200, {"alive": True})


async def test_status_adds_up_the_workers_of_a_role_and_counts_the_stores(shop: AskedShop) -> None:
    now = time.time()
    shop.board.put(status_of("clicks", now, worker_id="one"))
    shop.board.put(status_of("clicks", now, worker_id="two", state="waiting", reason="no broker", lag=4))
    shop.board.put(status_of("learner", now, details={"newest_example_age_s": 2.0}))
    code, found = await ask(shop, "/v1/status")
    clicks = found["roles"]["clicks"]
    assert code == 200
    assert (clicks["alive"], clicks["workers"], clicks["lag"], clicks["events_per_s"]) == (True, 2, 7, 4.0)
    assert (clicks["state"], clicks["reason"]) == ("waiting", "no broker")
    assert found["roles"]["index"]["alive"] is False
    assert 2.0 <= found["factors_age_s"] < 10.0
    assert found["dead_letters"] == 3
    assert found["stores"]["products"]["products"] == 3
    assert found["stores"]["users"] == {"users": 1, "forgotten": 0}
    assert found["stores"]["vectors"]["points"] == 3


async def test_of_a_role_that_waits_the_status_counts_from_what_it_has_acknowledged(shop: AskedShop) -> None:
    now = time.time()
    shop.board.put(status_of("clicks", now, state="waiting", reason="no store", lag=0, oldest_unprocessed_s=0.0))
    shop.backlogs = {"clicks": Backlog(70_000, now - 600.0), "encode": Backlog(40, now - 30.0)}
    roles = (await ask(shop, "/v1/status"))[1]["roles"]
    assert (roles["clicks"]["state"], roles["clicks"]["lag"]) == ("waiting", 70_000)
    assert roles["clicks"]["oldest_unprocessed_s"] == pytest.approx(600, abs=5)
    assert (roles["encode"]["state"], roles["encode"]["lag"]) == ("not heard of", 40)
    assert roles["encode"]["oldest_unprocessed_s"] == pytest.approx(30, abs=5)


@pytest.mark.parametrize(
    ("state", "heard_s_ago", "backlog", "behind"),
    [
        ("running", 1.0, None, (3, 0.5)),
        ("running", 1.0, Backlog(900, 1_000.0 - 2.0), (3, 0.5)),  # may be done, and only not committed yet
        ("running", 1.0, Backlog(900, 1_000.0 - 2.1), (900, 2.1)),
        ("running", 1.0, Backlog(900, None), (3, 0.5)),
        ("running", 1.0, Backlog(0, None), (0, 0.0)),
        ("waiting", 1.0, Backlog(900, 1_000.0 - 1.0), (900, 1.0)),
        ("waiting", 1.0, Backlog(900, 1_000.0 + 1.0), (900, 0.0)),  # by another clock
        ("waiting", 1.0, Backlog(900, None), (900, 0.5)),
        ("running", 5.1, Backlog(900, 1_000.0 - 1.0), (900, 1.0)),
        ("running", 5.1, None, (3, 0.5)),
    ],
)
def test_a_role_s_own_word_on_its_lag_counts_only_while_it_keeps_up(
    state: str, heard_s_ago: float, backlog: Backlog | None, behind: tuple[int, float]
) -> None:
    board = StatusBoard(Broker(Settings()), "worker-status")
    board.put(status_of("index", 1_000.0 - heard_s_ago, state=state))
    index = board.summary(1_000.0, {"index": backlog} if backlog else {})["roles"]["index"]
    assert (index["lag"], index["oldest_unprocessed_s"]) == behind


def test_what_was_left_out_is_counted_over_all_workers_and_noted() -> None:
    board = StatusBoard(Broker(Settings()), "worker-status")
    for role in ROLES:
        board.put(status_of(role, 100.0))
    assert board.summary(100.0)["notes"] == []
    board.put(status_of("clicks", 100.0, worker_id="one", details={"not_learned": 5, "replica_malformed": 1}))
    board.put(status_of("clicks", 101.0, worker_id="two", details={"not_learned": 2, "replica_malformed": 0}))
    board.put(status_of("learner", 100.0, details={"malformed": 3, "replica_malformed": 4}))
    found = board.summary(101.0)
    assert found["roles"]["learner"]["not_learned"] == 7
    assert {role: found["roles"][role]["malformed"] for role in ("clicks", "learner", "api")} == {
        "clicks": 1,
        "learner": 7,
        "api": 0,
    }
    assert found["notes"] == [
        "clicks: 1 records skipped as malformed: its log names topic, partition, offset and reason",
        "learner: 7 records skipped as malformed: its log names topic, partition, offset and reason",
        "learner: 7 accepted clicks were not learned: their users clicked faster than FRESHET_LEARN_CLICKS_PER_MINUTE",
    ]


async def test_the_api_tells_how_many_records_its_own_replicas_skipped(shop: AskedShop) -> None:
    shop.replicas.malformed = 2
    assert shop.api.status()["details"] == {"replica_malformed": 2, "streams": 0, "lists_unread": 0}


def test_a_role_is_alive_for_five_seconds_after_it_was_heard_and_known_for_ten_minutes() -> None:
    board = StatusBoard(Broker(Settings()), "worker-status")
    board.put(status_of("clicks", 100.0))
    board.put(status_of("clicks", 99.0, lag=99))  # an older one that comes late
    alive, silent, forgotten = (board.summary(at)["roles"]["clicks"] for at in (105.0, 105.1, 701.0))
    assert (alive["alive"], alive["state"], alive["lag"]) == (True, "running", 3)
    assert (silent["alive"], silent["state"], silent["heard_s_ago"]) == (False, "silent", 5.1)
    assert (forgotten["alive"], forgotten["state"]) == (False, "not heard of")
    assert board.summary(105.0)["factors_age_s"] is None


# --- as a role of a worker ---------------------------------------------------------------------------------------


async def test_it_runs_until_it_is_stopped_and_tells_its_state(tmp_path: Path) -> None:
    replicas = ReplicasAtHand(away=1)
    shop = AskedShop(tmp_path, replicas)
    shop.fill()
    api = shop.api
    assert api.status()["state"] == "starting"
    running = asyncio.create_task(api.run())
    url = f"http://127.0.0.1:{shop.settings.api_port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for _ in range(200):
            try:
                found = (await client.get("/readyz")).json()
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
        assert "api: no answer from Kafka at 127.0.0.1:1" in found["missing"]
        assert api.status()["state"] == "waiting"
        for _ in range(2_400):  # the first time, what ranks is compiled
            if (await client.get("/v1/users/u/recommendations")).status_code == 200:
                break
            await asyncio.sleep(0.05)
        assert api.status()["state"] == "running"
        assert api.status()["events"] >= 2
    api.stop()
    assert api.status()["state"] == "stopping"
    await asyncio.wait_for(running, 10)
    assert replicas.stopped
    shop.vectors.close()


async def test_it_ends_with_a_reader_that_fails_and_not_with_views_that_are_full(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop.api.views, "_prepare", lambda: None)

    async def fails() -> None:
        while not shop.api.views.are_full:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert shop.api.status()["state"] == "running"
        raise LookupError("of a record")

    monkeypatch.setattr(shop.api.letters, "follow", fails)
    with pytest.raises(LookupError, match="of a record"):
        await asyncio.wait_for(shop.api.run(), 10)
    assert shop.replicas.stopped


async def test_a_taken_port_says_what_to_do(shop: AskedShop) -> None:
    with (
        listen("127.0.0.1", shop.settings.api_port, setting=""),
        pytest.raises(PortTaken, match=r"cannot listen on 127.0.0.1:\d+ .* else set FRESHET_API_PORT to a free port"),
    ):
        await shop.api.run()


def test_the_second_part_of_an_answer_does_not_wait_for_the_first_to_be_acknowledged() -> None:
    with listen("127.0.0.1", 0, setting="") as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
