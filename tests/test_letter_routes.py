"""The dead letters over HTTP, on a real broker, and the board that counts them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from asked_shop import AskedShop, ReplicasAtHand
from brokers import settings_on
from kafka.errors import KafkaTimeoutError

from store.keys import KeyStore
from store.letters import Place, Settled
from streams import letter_board
from streams.api import access, letter_routes
from streams.broker import Broker, Outgoing, end
from streams.dead_letters import dead_letter, topics_with_letters
from streams.embedded_broker import EmbeddedBroker
from streams.letter_board import EXAMPLES, LetterBoard
from streams.settings import Settings
from streams.topics import create_topics, topic_names

UNKNOWN = "unknown product '{}': publish an upsert first"
PATH = "/v1/dead-letters"


@pytest.fixture(scope="module")
def shop(tansu: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskedShop]:
    """A shop whose broker has letters: of two patches, a click and something that is none."""
    home = tmp_path_factory.mktemp("letters")
    on = settings_on(tansu, home)
    shop = AskedShop(
        home, ReplicasAtHand(), namespace=on.namespace, kafka_bootstrap=on.kafka_bootstrap, embedded_broker=True
    )
    names = topic_names(shop.settings, "ab12")
    create_topics(shop.settings, names)
    click = {"event_id": "e", "user_id": "ann", "product_id": "p", "event": "view_item"}
    click["occurred_at"] = "2026-01-02T03:04:05Z"
    foreign = letter(names.user_clicks, 9, "foreign", b"v", key=b"k")
    publish(
        shop.settings,
        letter(names.catalog_updates, 7, UNKNOWN.format("a"), b'{"op": "patch", "product_id": "a"}', key=b"a"),
        letter(names.catalog_updates, 8, UNKNOWN.format("b"), b"\xff", key=b"b"),
        letter(names.user_clicks, 5, "the process died", orjson.dumps(click), key=b"ann"),
        Outgoing(f"{names.user_clicks}.dead-letters", b"k", b"no letter"),
        foreign._replace(headers=[*foreign.headers, ("time", b"yesterday")]),
    )
    yield shop
    shop.vectors.close()


def letter(topic: str, offset: int, reason: str, value: bytes, key: bytes) -> Outgoing:
    return dead_letter(topic, 0, offset, key=key, value=value, headers=(), reason=reason)


def publish(settings: Settings, *messages: Outgoing) -> None:
    producer = Broker(settings).sync_producer()
    for message in messages:
        producer.send(message.topic, key=message.key, value=message.value, headers=list(message.headers)).get(10)
    producer.close()


@asynccontextmanager
async def followed(board: LetterBoard, letters: int) -> AsyncIterator[None]:
    """The board follows the broker, and has counted so many letters."""
    board._begin()  # it has counted nothing: so it is past its start, which leaves connections if it is cancelled
    following = asyncio.create_task(board.follow())
    deadline = time.monotonic() + 20
    while sum(one.count for one in board.open({}, time.time())) < letters:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following}, timeout=20)  # cancelled once: again while it closes would leave connections
        await end(following)


def asked(shop: AskedShop, *requests: tuple[str, str, dict[str, Any] | None], key: str = "") -> list[httpx.Response]:
    async def ask_all() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with followed(shop.api.letters, 3), shop.client() as client:
            return [
                await client.request(method, PATH + path, json=body, headers=headers) for method, path, body in requests
            ]

    return asyncio.run(ask_all())


def test_letters_are_told_by_reason_and_replayed_or_dropped(shop: AskedShop) -> None:
    names = topic_names(shop.settings, "ab12")
    one, other = f"{names.catalog_updates}/0/7", f"{names.catalog_updates}/0/8"
    kind = UNKNOWN.replace("{}", "…")
    before, replayed, refused, dropped, of_place, again, after = asked(
        shop,
        ("GET", "", None),
        ("POST", "/replay", {"reason": "the process"}),
        ("POST", "/replay", {"reason": kind, "topic": names.catalog_updates}),
        ("POST", "/drop", {"place": one}),
        ("POST", "/replay", {"place": one, "anyway": True}),
        ("POST", "/replay", {"all": True}),
        ("GET", "", None),
    )
    told = before.json()
    assert told["open"] == 3
    assert [(one["topic"], one["reason"], one["open"]) for one in told["reasons"]] == [
        (names.catalog_updates, kind, 2),
        (names.user_clicks, "the process died", 1),
    ]
    newest = told["reasons"][0]["newest"]
    assert [(example["place"], example["key"]) for example in newest] == [(other, "b"), (one, "a")]
    assert set(newest[0]) == {"place", "at", "key", "reason"}, "no value: it may be personal"
    assert replayed.json() == {"replayed": [f"{names.user_clicks}/0/5"], "refused": [], "left": 0}
    assert refused.json()["replayed"] == []
    assert [letter["place"] for letter in refused.json()["refused"]] == [one, other]
    assert "product 'a' is still unknown" in refused.json()["refused"][0]["why"]
    assert dropped.json() == {"dropped": [one], "left": 0}
    assert of_place.json()["replayed"] == [one]
    assert [letter["place"] for letter in again.json()["refused"]] == [other]
    assert after.json()["open"] == 1


@pytest.mark.parametrize("name", ["place", "topic"])
def test_a_text_that_is_none_is_refused_because_no_answer_could_name_it(shop: AskedShop, name: str) -> None:
    async def drop() -> httpx.Response:
        async with shop.client() as client:
            body = json.dumps({"all": name == "topic", name: "\ud800/0/1"})
            return await client.post(f"{PATH}/drop", content=body, headers={"Content-Type": "application/json"})

    assert asyncio.run(drop()).status_code == 422


def test_a_request_says_which_letters_and_of_a_place_without_any_it_is_told(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letter_routes, "AT_ONCE_MAX", 0)
    place = f"{topic_names(shop.settings, '').user_clicks}/0/999"
    nothing, both, short, misspelled, unknown, foreign, elsewhere, later = asked(
        shop,
        ("POST", "/drop", {}),
        ("POST", "/drop", {"all": True, "reason": "unknown"}),
        ("POST", "/drop", {"place": "user-clicks"}),
        ("POST", "/drop", {"every": True}),
        ("POST", "/replay", {"place": place}),
        ("POST", "/replay", {"place": "elsewhere/0/1"}),
        ("POST", "/replay", {"all": True, "topic": "elsewhere"}),
        ("POST", "/drop", {"all": True}),
    )
    for answer in (nothing, both):
        assert answer.status_code == 422
        assert "say which: a `place`, a `reason`, or `all`: true" in answer.json()["detail"]
    assert "'user-clicks' names no place" in short.json()["detail"]
    assert misspelled.status_code == 422
    assert (unknown.status_code, foreign.status_code, elsewhere.status_code) == (404, 404, 404)
    assert elsewhere.json()["detail"].startswith("no dead letters are kept of 'elsewhere': there are those of ")
    assert unknown.json()["detail"].startswith(f"no dead letter is kept of {place}")
    assert (later.json()["dropped"], later.json()["left"] >= 1) == ([], True)


class Away:
    """In place of an admin client whose broker is gone."""

    def __enter__(self) -> "Away":
        return self

    def __exit__(self, *_: object) -> None: ...

    def list_topics(self) -> list[str]:
        raise KafkaTimeoutError("no answer")


def test_while_the_broker_is_away_letters_cannot_be_settled_and_that_is_told(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broker, "admin", lambda _: Away())
    (answer,) = asked(shop, ("POST", "/drop", {"all": True}))
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the broker does not answer: no topics can be listed")


def test_only_an_admin_settles_letters(shop: AskedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    keys = KeyStore(shop.products.engine)
    told = {scope: keys.make(scope, [scope]) for scope in ("read", "write", "admin")}
    requests = [("GET", "", None), ("POST", "/replay", {"reason": "nothing"}), ("POST", "/drop", {"reason": "nothing"})]
    for scope, code in (("read", 403), ("write", 403), ("admin", 200)):
        assert {answer.status_code for answer in asked(shop, *requests, key=told[scope][1])} == {code}
    for key, _ in told.values():
        keys.remove(key.key_id)


# --- the board ---------------------------------------------------------------------------------------------------


def put(board: LetterBoard, offset: int, reason: str, *, topic: str = "t") -> float:
    """Put a letter; returns when it was given up."""
    made = letter(topic, offset, reason, b"v", b"k")
    board.put(SimpleNamespace(topic=made.topic, offset=0, headers=made.headers, key=made.key, value=made.value))
    return time.time()


def test_the_board_counts_each_place_once_without_settled_and_expired_ones(tmp_path: Path) -> None:
    board = LetterBoard(Settings(home=tmp_path, topic_retention_days=1.0))
    for offset in range(EXAMPLES + 2):
        at = put(board, offset, f"unknown '{offset}'")
    put(board, 0, "unknown 'again'")
    settled = {Place("t", 0, EXAMPLES + 1): Settled(at, "dropped", at)}
    (found,) = board.open(settled, at)
    assert (found.topic, found.kind, found.count) == ("t", "unknown '…'", EXAMPLES + 1)
    assert [example.place.offset for example in found.newest] == [0, EXAMPLES, EXAMPLES - 1]
    assert board.open(settled, at + 86_400) == []
    for offset in range(EXAMPLES + 1):  # as if the client had found a new topic, and read all of them again
        put(board, offset, f"unknown '{offset}'")
    assert board.open(settled, at)[0].count == EXAMPLES + 1
    assert [one.place.offset for one in board.open(settled, at)[0].newest] == [EXAMPLES, EXAMPLES - 1, EXAMPLES - 2]


def test_the_board_counts_the_newest_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_board, "COUNTED_MAX", 3)
    board = LetterBoard(Settings(home=tmp_path))
    for offset in range(5):
        put(board, offset, "so")
    assert board.open({}, time.time())[0].count == 3


def test_beyond_so_many_kinds_letters_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_board, "KINDS_MAX", 2)
    board = LetterBoard(Settings(home=tmp_path))
    for offset, reason in enumerate(("field a", "field b", "field c", "field d", "field a")):
        put(board, offset, reason)
    counts = {one.kind: one.count for one in board.open({}, time.time())}
    assert counts == {"field a": 2, "field b": 1, letter_board.OTHER: 2}


def test_what_is_no_letter_is_not_counted(tmp_path: Path) -> None:
    board = LetterBoard(Settings(home=tmp_path))
    board.put(SimpleNamespace(topic="t.dead-letters", offset=3, headers=(), key=None, value=None))
    for name, foreign in (("time", b"yesterday"), ("time", b"0001-01-01T00:00:00+14:00"), ("source-offset", None)):
        headers = [*letter("t", 0, "r", b"v", b"k").headers, (name, foreign)]
        board.put(SimpleNamespace(topic="t.dead-letters", offset=4, headers=headers, key=None, value=None))
    assert board.open({}, time.time()) == []


def test_a_board_sees_the_letters_of_its_own_namespace_alone(shop: AskedShop, tmp_path: Path) -> None:
    own = {"kafka_bootstrap": shop.settings.kafka_bootstrap, "embedded_broker": True, "home": tmp_path}
    other = LetterBoard(Settings(namespace=shop.settings.namespace[:-1], **own))  # type: ignore[arg-type]
    nameless = LetterBoard(Settings(**own))  # type: ignore[arg-type]

    async def look() -> None:
        async with followed(other, 0), followed(nameless, 0), followed(LetterBoard(shop.settings), 3):
            await asyncio.sleep(0.5)

    asyncio.run(look())
    assert other.open({}, time.time()) == []
    assert nameless.open({}, time.time()) == []
    assert topics_with_letters(Broker(shop.settings), shop.settings.namespace[:-1]) == []
    assert len(topics_with_letters(Broker(shop.settings), shop.settings.namespace)) == 6
