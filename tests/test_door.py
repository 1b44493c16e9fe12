"""The door for shops without a Kafka client, and the rights of a person: over HTTP, real broker, real stores."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import orjson
import pytest
from aiokafka.errors import MessageSizeTooLargeError
from asked_shop import AskedShop, ReplicasAtHand
from brokers import environment_of, settings_on
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata
from shelves import FullReplica
from tiny_encoders import untrained_version

from encoders.weights import fingerprint_of
from store.keys import KeyStore
from store.records import Click, StoreUnavailable, UserRow
from streams import door
from streams.api import access
from streams.broker import Broker, Outgoing, Publisher
from streams.clicks import ClicksRole
from streams.door import Door, WrongEvents, identify_event
from streams.embedded_broker import EmbeddedBroker
from streams.events import BadEvent
from streams.health import group_id
from streams.parsing import parse_click
from streams.role import Delivery, Message, Outcome
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import create_topics, topic_names
from streams.unread import last_unread

Json = dict[str, Any]
Steps = Callable[[httpx.AsyncClient], Awaitable[Any]]
PARTITIONS = 4
SCRIPT = Path(__file__).parent / "crashing_worker.py"
CLICK: Json = {
    "event_id": "e1",
    "user_id": "ann",
    "product_id": "tea",
    "event": "view_item",
    "occurred_at": "2026-01-31T12:00:00.250Z",
}
TEA: Json = {"op": "upsert", "product_id": "tea", "title": "Green tea"}


@pytest.fixture(scope="module")
def shop(tansu: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AskedShop]:
    """One for the whole file: its topics are never emptied, so each test has users and products of its own."""
    home = tmp_path_factory.mktemp("door")
    on_tansu = settings_on(tansu, home).model_dump(exclude_unset=True, exclude={"home"})
    shop = AskedShop(home, ReplicasAtHand(), partitions=PARTITIONS, **on_tansu)
    create_topics(shop.settings, shop.names)
    yield shop
    shop.vectors.close()


def run(shop: AskedShop, steps: Steps) -> Any:
    """In one loop, as in the process of the api."""

    async def ask() -> Any:
        try:
            async with shop.client() as client:
                return await steps(client)
        finally:
            await shop.publisher.stop()

    return asyncio.run(ask())


def send(shop: AskedShop, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
    """body: as JSON, unless it is bytes."""
    if isinstance(body, bytes):
        more = {"content": body, "headers": {"Content-Type": "application/json"}} | more
    elif body is not None:
        more |= {"json": body}
    told: httpx.Response = run(shop, lambda client: client.request(method, path, **more))
    return told


def post_clicks(shop: AskedShop, body: Any, **more: Any) -> httpx.Response:
    return send(shop, "POST", "/v1/events/clicks", body, **more)


def clicked(shop: AskedShop, user_id: str, *product_ids: str) -> None:
    """The user clicks these products, the first one a minute ago and the others a second later each."""
    at = time.time() - 60
    times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at + place)) for place in range(len(product_ids))]
    both = zip(product_ids, times, strict=True)
    events = [
        {**CLICK, "event_id": f"{user_id}-{p}", "user_id": user_id, "product_id": p, "occurred_at": t} for p, t in both
    ]
    assert post_clicks(shop, events).status_code == 202


def read(shop: AskedShop, topic: str, done: Callable[[list[Any]], bool], within_s: float = 10.0) -> list[Any]:
    """All records of a topic, once they are as they should be."""
    found: list[Any] = []
    consumer: KafkaConsumer = shop.broker.sync_consumer()
    with closing(consumer):
        consumer.assign([TopicPartition(topic, number) for number in range(shop.settings.partitions)])
        deadline = time.monotonic() + within_s
        while not done(found):
            assert time.monotonic() < deadline, f"{topic} has only {[(one.key, one.value) for one in found]}"
            for records in consumer.poll(timeout_ms=20).values():
                found += records
    return found


def values(shop: AskedShop, topic: str, key: str, count: int) -> list[Any]:
    """The first values under a key, of which there must be so many."""

    def of_key(found: list[Any]) -> list[Any]:
        return [one for one in found if one.key == key.encode()]

    records = of_key(read(shop, topic, lambda found: len(of_key(found)) >= count))
    return [None if one.value is None else orjson.loads(one.value) for one in records]


# --- events ------------------------------------------------------------------------------------------------------


def test_a_click_is_on_the_topic_as_it_was_sent_under_its_users_key(shop: AskedShop) -> None:
    ann = {**CLICK, "user_id": "ann-1", "position": 3, "colour of the button": "red"}
    told = post_clicks(shop, ann)
    assert (told.status_code, told.json()) == (202, {"accepted": 1, "event_ids": ["e1"]})
    with closing(shop.broker.sync_producer()) as shops_own:
        where = shops_own.send(shop.names.user_clicks, key=b"ann-1", value=b"{}").get(timeout=20)
    first, second = read(shop, shop.names.user_clicks, lambda found: sum(one.key == b"ann-1" for one in found) == 2)[
        -2:
    ]
    assert orjson.loads(first.value) == ann
    assert first.partition == second.partition == where.partition


def test_clicks_of_a_list_keep_their_order_and_get_the_ids_and_times_that_they_lack(shop: AskedShop) -> None:
    bare = {"user_id": "bob", "product_id": "tea", "event": "purchase"}
    began = time.time()
    told = post_clicks(shop, [bare, {**CLICK, "user_id": "bob"}, bare]).json()
    assert told["accepted"] == 3
    assert told["event_ids"][1] == "e1"
    assert len(set(told["event_ids"])) == 3
    sent = values(shop, shop.names.user_clicks, "bob", 3)
    assert [one["event_id"] for one in sent] == told["event_ids"]
    parsed = parse_click(b"bob", orjson.dumps(sent[0]), future_limit_s=1.0)
    assert parsed is not None
    assert began - 0.001 <= parsed.occurred_at.timestamp() <= time.time()


def test_products_are_told_changed_and_deleted_as_they_were_sent(shop: AskedShop) -> None:
    sold_out = {"op": "patch", "product_id": "tea", "availability": "out_of_stock"}
    gone = {"op": "delete", "product_id": "tea"}
    for events in ([TEA, sold_out], gone, []):
        told = send(shop, "POST", "/v1/events/catalog", events)
        assert (told.status_code, told.json()) == (202, {"accepted": len(events) if isinstance(events, list) else 1})
    assert values(shop, shop.names.catalog_updates, "tea", 3) == [TEA, sold_out, gone]


def test_one_wrong_event_keeps_all_of_them_from_the_topic_and_each_is_named(shop: AskedShop) -> None:
    good = {**CLICK, "user_id": "eve"}
    told = post_clicks(shop, [good, {**good, "event": "glance"}, good, 7, {**good, "position": True}])
    problem = told.json()
    assert (told.status_code, told.headers["content-type"]) == (422, "application/problem+json")
    assert [one["at"] for one in problem["errors"]] == ["body.1", "body.3", "body.4"]
    reasons = [one["detail"] for one in problem["errors"]]
    assert "event: Input should be 'view_item', 'select_item', 'add_to_cart' or 'purchase' (got 'glance')" in reasons[0]
    assert "value: " in reasons[1]
    assert "position: Input should be a valid integer (got True)" in reasons[2]
    assert problem["detail"].startswith("3 of 5 are wrong, and nothing was published: event 1: event: ")
    last = {**good, "event_id": "the only one"}
    assert post_clicks(shop, last).status_code == 202
    assert values(shop, shop.names.user_clicks, "eve", 1) == [last]


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        (b"", 422, "the body is not JSON in UTF-8 ("),
        (b'{"user_id": "\xff"}', 422, "the body is not JSON in UTF-8 ("),
        (b'{"position": NaN}', 422, "the body is not JSON in UTF-8 ("),
        (orjson.dumps([CLICK] * 1_001), 422, "1001 events at once, the limit is 1000: send them in several requests"),
        (b"null", 422, "event 0: value: "),
        (orjson.dumps({**CLICK, "more": "x" * 4_200_000}), 422, "event 0: it has 4200123 bytes, the limit is 4190208"),
        (orjson.dumps(CLICK)[:-1] + b', "more": ' + b"[" * 400 + b"]" * 400 + b"}", 422, "it cannot be passed on"),
        (orjson.dumps({**CLICK, "user_id": ""}), 422, "event 0: user_id: String should have at least 1 character"),
        (orjson.dumps({**CLICK, "product_id": "te\0a"}), 422, "event 0: a text contains the NUL character"),
        (orjson.dumps({**CLICK, "occurred_at": "2999-01-01T00:00:00Z"}), 422, "ahead, the limit is 300 s: check the"),
        (b" " * 14_000_000, 413, "the body has more than 13433333 bytes: send less at once"),
    ],
)  # fmt: skip
def test_what_is_no_event_says_what_to_do(shop: AskedShop, body: bytes, code: int, detail: str) -> None:
    told = post_clicks(shop, body)
    assert told.status_code == code
    assert detail in told.json()["detail"]


def test_a_body_that_does_not_call_itself_json_is_refused_or_any_web_page_could_send_one(shop: AskedShop) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        told = post_clicks(shop, orjson.dumps(CLICK), headers={"Content-Type": kind})
        assert told.status_code == 415
        assert told.json()["detail"].endswith("send `Content-Type: application/json`")
    assert post_clicks(shop, orjson.dumps([]), headers={"Content-Type": "Application/JSON; charset=utf-8"}).is_success


json_values = (
    st.none() | st.booleans() | st.integers(-1, 1) | st.text(max_size=3) | st.just("identify") | st.lists(st.none())
)
one_change = st.tuples(st.sampled_from(sorted(CLICK)), json_values)


@given(changes=st.lists(st.none() | one_change, max_size=5))
def test_all_events_pass_as_their_reader_takes_them_or_exactly_the_wrong_ones_are_named(
    changes: list[tuple[str, Any] | None],
) -> None:
    events = [CLICK if change is None else CLICK | {change[0]: change[1]} for change in changes]

    def is_taken(event: Json) -> bool:
        try:
            return parse_click(str(event["user_id"]).encode(), orjson.dumps(event), future_limit_s=300.0) is not None
        except BadEvent:
            return False

    settings = Settings()
    names = topic_names(settings, "f")
    broker = Broker(settings)
    desk = Door(settings, names, broker, Publisher(broker), None)  # type: ignore[arg-type]
    if wrong := [place for place, event in enumerate(events) if not is_taken(event)]:
        with pytest.raises(WrongEvents, match=f"{len(wrong)} of {len(events)} are wrong") as refused:
            desk.clicks_of(orjson.dumps(events))
        assert list(refused.value.reasons) == wrong
    else:
        posted = desk.clicks_of(orjson.dumps(events))
        assert [orjson.loads(message.value or b"") for message in posted.messages] == events
        assert [message.key for message in posted.messages] == [event["user_id"].encode() for event in events]


def test_the_openapi_document_holds_the_contracts_in_full_and_examples_that_pass(shop: AskedShop) -> None:
    paths = send(shop, "GET", "/openapi.json").json()["paths"]
    for path in ("/v1/events/clicks", "/v1/events/catalog"):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        jsonschema.Draft202012Validator.check_schema(content["schema"])
        assert "$ref" not in str(content["schema"])
        for example in content["examples"].values():
            jsonschema.validate(example["value"], content["schema"])
            assert send(shop, "POST", path, example["value"]).status_code == 202
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"op": "insert", "event": "glance"}, content["schema"])


def test_who_may_publish_may_not_forget_and_who_reads_may_do_neither(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "KNOWN_FOR_S", 0.0)
    keys = KeyStore(shop.products.engine)
    asked = [
        ("POST", "/v1/events/clicks", []),
        ("POST", "/v1/events/catalog", []),
        ("POST", "/v1/users/u/identify", {"anonymous_id": "nobody"}),
        ("POST", "/v1/users/u/identify", {"anonymous_id": "nobody", "forget": True}),
    ]
    codes: dict[str, list[int]] = {}
    for scope in ("read", "write"):
        made, key = keys.make(scope, [scope])
        bearer = {"Authorization": f"Bearer {key}"}
        codes[scope] = [send(shop, *one, headers=bearer).status_code for one in asked]
        codes[scope].append(send(shop, "DELETE", "/v1/users/u", headers=bearer).status_code)
        keys.remove(made.key_id)
    assert post_clicks(shop, []).status_code == 202, "without keys everybody on this machine may"
    assert codes == {"read": [403, 403, 403, 403, 403], "write": [202, 202, 202, 403, 403]}


# --- the broker is away ------------------------------------------------------------------------------------------


def test_without_the_broker_the_answer_says_what_to_send_again(tmp_path: Path) -> None:
    away = AskedShop(tmp_path, ReplicasAtHand(), kafka_bootstrap="127.0.0.1:1")
    bare = {"user_id": "u", "product_id": "tea", "event": "purchase"}
    told = post_clicks(away, [CLICK, bare])
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    ids = told.json()["event_ids"]
    assert ids[0] == "e1"
    assert len(ids[1]) == 32
    assert "some may have been published all the same, so send the request again with these ev" in told.json()["detail"]
    products = send(away, "POST", "/v1/events/catalog", TEA)
    assert products.status_code == 503
    assert "a product that is told twice stays as it is" in products.json()["detail"]
    away.users.write([UserRow("cookie", 1, (Click("tea", "view_item", 1e9),), (), {})])
    identify = send(away, "POST", "/v1/users/ann/identify", {"anonymous_id": "cookie"})
    assert identify.status_code == 503
    assert "send the request again: what came before counts once" in identify.json()["detail"]
    forget = send(away, "DELETE", "/v1/users/ann")
    assert (forget.status_code, forget.headers["retry-after"]) == (503, "5")
    away.vectors.close()


def test_while_a_publication_is_overdue_nobody_waits_behind_it(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "CONFIRM_WITHIN_S", 0.05)
    asked: list[int] = []

    async def steps(client: httpx.AsyncClient) -> list[str]:
        broker_answers = asyncio.Event()

        async def publish(messages: list[Outgoing]) -> list[Any]:
            asked.append(len(messages))
            await broker_answers.wait()
            return []

        monkeypatch.setattr(shop.publisher, "publish", publish)
        said = [(await client.post("/v1/events/clicks", json=CLICK)).json()["detail"] for _ in range(2)]
        broker_answers.set()
        await asyncio.sleep(0.01)
        assert (await client.post("/v1/events/clicks", json=CLICK)).status_code == 202
        return said

    first, second = run(shop, steps)
    assert "it has not confirmed 1 messages within 0.05 s" in first
    assert "it has not confirmed for more than 0.05 s what came before" in second
    assert asked == [1, 1]


def test_an_event_that_only_the_topic_finds_too_large_is_told(shop: AskedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def publish(_: list[Outgoing]) -> list[Any]:
        raise MessageSizeTooLargeError

    monkeypatch.setattr(shop.publisher, "publish", publish)
    told = post_clicks(shop, CLICK)
    assert told.status_code == 413
    assert told.json()["detail"].startswith("an event is larger than its topic takes; the others may have been publi")


# --- a person ----------------------------------------------------------------------------------------------------


class ByHand:
    """The clicks role, given what stands on the topic, once or again."""

    def __init__(self, shop: AskedShop) -> None:
        s = shop.settings
        self._shop = shop
        self._role = ClicksRole(s, shop.names, shop.broker, shop.users, shop.shelf, FullReplica())  # type: ignore[arg-type]
        self._topic_id = shop.broker.topic_ids([shop.names.user_clicks])[shop.names.user_clicks]

    def handle(self, *user_ids: str, count: int, commits: bool = True) -> Outcome:
        """All records of these users, of which there must be so many."""
        keys = {user_id.encode() for user_id in user_ids}

        def theirs(found: list[Any]) -> list[Any]:
            return [one for one in found if one.key in keys]

        topic = self._shop.names.user_clicks
        found = theirs(read(self._shop, topic, lambda found: len(theirs(found)) >= count))
        messages = [
            Message(topic, self._topic_id, one.partition, one.offset, one.key, one.value, (), one.timestamp / 1000)
            for one in found
        ]
        outcome = self._role.compute([Delivery(message, self._role.parse(message)) for message in messages], None)
        if commits:
            outcome.commit()
        return outcome


@pytest.fixture(scope="module")
def by_hand(shop: AskedShop) -> ByHand:
    return ByHand(shop)


def held(shop: AskedShop, user_id: str) -> list[str] | None:
    row = shop.users.read([user_id]).get(user_id)
    return [click.product_id for click in row.clicks] if row else None


def forget(shop: AskedShop, user_id: str, meanwhile: Callable[[], Any] = lambda: None) -> httpx.Response:
    async def steps(client: httpx.AsyncClient) -> httpx.Response:
        asking = asyncio.create_task(client.delete(f"/v1/users/{user_id}"))
        await asyncio.to_thread(meanwhile)
        return await asking

    told: httpx.Response = run(shop, steps)
    return told


def test_to_forget_a_user_is_answered_when_nothing_is_held_of_her(shop: AskedShop, by_hand: ByHand) -> None:
    clicked(shop, "old/friend", "tea")
    by_hand.handle("old/friend", count=1)
    assert held(shop, "old/friend") == ["tea"]
    made: list[Outcome] = []
    told = forget(shop, "old/friend", lambda: made.append(by_hand.handle("old/friend", count=2)))
    assert (told.status_code, told.json()) == (200, {"user_id": "old/friend", "forgotten": True})
    assert held(shop, "old/friend") is None
    (gone,) = [one for one in made[0].publish if one.topic == shop.names.user_embeddings]
    assert (gone.key, gone.value) == (b"old/friend", None)


def test_who_was_forgotten_before_is_forgotten_again_only_when_this_wish_is_through(
    shop: AskedShop, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FORGOTTEN_WITHIN_S", 0.1)
    for count in (1, 2):
        told = forget(shop, "nobody")
        assert (told.status_code, told.json()["forgotten"]) == (202, False)
        assert "the wish is published and will be carried out, but was not yet: is the clicks role" in told.text
        by_hand.handle("nobody", count=count)
    monkeypatch.setattr(door, "FORGOTTEN_WITHIN_S", 10.0)
    assert forget(shop, "nobody", lambda: by_hand.handle("nobody", count=3)).status_code == 200
    assert values(shop, shop.names.user_clicks, "nobody", 3) == [None, None, None]


def test_while_the_store_is_away_a_wish_counts_as_not_through(shop: AskedShop, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> dict[str, UserRow]:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(door, "FORGOTTEN_WITHIN_S", 0.1)
    monkeypatch.setattr(shop.users, "read", away)
    assert forget(shop, "somebody").status_code == 202


def test_a_visitors_clicks_become_the_users_once_by_their_time_and_teach_nothing_again(
    shop: AskedShop, by_hand: ByHand
) -> None:
    at = float(int(time.time()) - 1_000)
    cookie = [Click("pot", "view_item", at + 3), Click("cup", "add_to_cart", at + 1.25)]
    mia = [Click("axe", "purchase", at + 2), Click("tea", "view_item", at)]
    shop.users.write([UserRow("cookie", 1, cookie, ("c2", "c1"), {}), UserRow("mia", 1, mia, ("m1",), {})])
    told = send(shop, "POST", "/v1/users/mia/identify", {"anonymous_id": "cookie", "forget": True})
    event_id = told.json().pop("event_id")
    assert told.status_code == 202
    assert told.json() == {"user_id": "mia", "event_id": event_id, "clicks": 2, "forget": True}
    (event,) = values(shop, shop.names.user_clicks, "mia", 1)
    assert event["event"] == "identify"
    assert [(one["product_id"], one["event"]) for one in event["clicks"]] == [
        ("pot", "view_item"),
        ("cup", "add_to_cart"),
    ]
    assert "cookie" not in str(event), "it names the visitor nowhere"

    by_hand.handle("mia", "cookie", count=2, commits=False)  # it died before its commit
    outcome = by_hand.handle("mia", "cookie", count=2)
    row = shop.users.read(["mia"])["mia"]
    assert list(row.clicks) == [cookie[0], mia[0], cookie[1], mia[1]]
    assert (row.revision, row.recent_event_ids) == (2, (event_id, "m1"))
    assert held(shop, "cookie") is None
    (made,) = [orjson.loads(one.value or b"") for one in outcome.publish if one.topic == shop.names.recommendations]
    assert (made["user_id"], made["revision"], made["event_ids"]) == ("mia", 2, [event_id])
    assert [one for one in outcome.publish if one.topic == shop.names.training_examples] == []

    again = by_hand.handle("mia", "cookie", count=2)  # it died before its acknowledgement
    assert shop.users.read(["mia"])["mia"] == row
    assert [one.key for one in again.publish] == [b"mia"], "her list, and nothing else"


def test_to_identify_twice_or_to_keep_the_visitor_adds_nothing_twice(shop: AskedShop, by_hand: ByHand) -> None:
    clicked(shop, "cookie-2", "cup", "pot")
    by_hand.handle("cookie-2", count=2)
    for number in (1, 2):
        told = send(shop, "POST", "/v1/users/noa/identify", {"anonymous_id": "cookie-2"})
        assert (told.json()["clicks"], told.json()["forget"]) == (2, False)
        by_hand.handle("noa", count=number)
        assert held(shop, "noa") == ["pot", "cup"]
    assert shop.users.read(["noa"])["noa"].revision == 2
    assert held(shop, "cookie-2") == ["pot", "cup"]
    values(shop, shop.names.user_clicks, "cookie-2", 2)


def test_clicks_that_are_not_stored_yet_are_waited_for_before_they_are_given_away(
    shop: AskedShop, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = {"anonymous_id": "cookie-4", "forget": True}
    clicked(shop, "cookie-4", "cup")
    by_hand.handle("cookie-4", count=1)
    clicked(shop, "cookie-4", "pot")
    monkeypatch.setattr(door, "STORED_WITHIN_S", 0.2)
    told = send(shop, "POST", "/v1/users/eli/identify", visitor)
    assert (told.status_code, told.headers["retry-after"]) == (503, "5")
    assert "has not stored what the anonymous id did before, and nothing was published: not within" in told.text
    monkeypatch.setattr(door, "STORED_WITHIN_S", 10.0)

    async def steps(client: httpx.AsyncClient) -> httpx.Response:
        asking = asyncio.create_task(client.post("/v1/users/eli/identify", json=visitor))
        await asyncio.sleep(0.3)
        assert not asking.done()
        await asyncio.to_thread(by_hand.handle, "cookie-4", count=2)
        return await asking

    assert run(shop, steps).json()["clicks"] == 2
    (event,) = values(shop, shop.names.user_clicks, "eli", 1)
    assert [one["product_id"] for one in event["clicks"]] == ["pot", "cup"]
    assert values(shop, shop.names.user_clicks, "cookie-4", 3)[2] is None


def test_what_the_clicks_role_gave_up_of_a_visitor_is_not_waited_for_once_it_is_acknowledged(
    shop: AskedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicked(shop, "cookie-5", "cup")
    group, topic = group_id(shop.settings, "clicks"), shop.names.user_clicks
    unread = last_unread(shop.broker, group, topic, b"cookie-5", within_s=10.0)
    assert unread is not None
    consumer = shop.broker.sync_consumer(group_id=group)
    with closing(consumer):
        place = TopicPartition(topic, unread[0])
        consumer.assign([place])
        consumer.commit({place: OffsetAndMetadata(unread[1] + 1, "", -1)})
    monkeypatch.setattr(door, "STORED_WITHIN_S", 2.0)
    assert (
        send(shop, "POST", "/v1/users/eva/identify", {"anonymous_id": "cookie-5", "forget": True}).json()["clicks"] == 0
    )


def test_who_never_clicked_is_forgotten_without_an_event(shop: AskedShop) -> None:
    told = send(shop, "POST", "/v1/users/zoe/identify", {"anonymous_id": "cookie-3", "forget": True})
    assert told.json() == {"user_id": "zoe", "event_id": None, "clicks": 0, "forget": True}
    assert values(shop, shop.names.user_clicks, "cookie-3", 1) == [None]


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("ann", {"anonymous_id": "ann"}, "the anonymous_id is the user's own id: nothing is to be joined"),
        ("ann", {}, "anonymous_id: Field required"),
        ("ann", {"anonymous_id": 7}, "anonymous_id: Input should be a valid string"),
        ("ann", {"anonymous_id": "a\0"}, "anonymous_id: String should match pattern"),
        ("ann", {"anonymous_id": "c", "forget": "no"}, "forget: Input should be a valid boolean"),
        ("x" * 201, {"anonymous_id": "c"}, "user_id: String should have at most 200 characters"),
        ("%00", {"anonymous_id": "c"}, "user_id: String should match pattern"),
    ],
)
def test_who_cannot_be_identified_is_told_why(shop: AskedShop, path: str, body: Json, detail: str) -> None:
    told = send(shop, "POST", f"/v1/users/{path}/identify", body)
    assert (told.status_code, told.headers["content-type"]) == (422, "application/problem+json")
    assert detail in told.json()["detail"]


def test_an_identify_event_holds_the_times_of_the_clicks_to_the_microsecond() -> None:
    clicks = [Click("tea", "view_item", at) for at in (1_769_860_800.123457, 1_769_860_800.1, 946_684_800.000001)]
    event = identify_event("ann", clicks)
    assert [click.occurred_at.timestamp() for click in event.clicks] == [click.occurred_at for click in clicks]


# --- a real clicks role that dies --------------------------------------------------------------------------------


def test_what_a_clicks_role_merged_that_was_killed_before_it_acknowledged_is_merged_once(
    tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    on_tansu = settings_on(tansu, tmp_path).model_dump(exclude_unset=True, exclude={"home"})
    shop = AskedShop(tmp_path, ReplicasAtHand(), partitions=1, **on_tansu)
    settings = shop.settings
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    create_topics(settings, names)
    version = untrained_version(settings)
    with closing(shop.broker.sync_producer()) as producer:
        producer.send(names.encoders, key=version.fingerprint.encode(), value=version.model_dump_json().encode())
        producer.flush()
    at = time.time() - 1_000
    shop.users.write([UserRow("cookie", 1, [Click("pot", "view_item", at + 1)], (), {})])
    shop.users.write([UserRow("ann", 1, [Click("cup", "view_item", at + 2)], (), {})])

    visitor = {"anonymous_id": "cookie", "forget": True}
    event_id = send(shop, "POST", "/v1/users/ann/identify", visitor).json()["event_id"]
    with (tmp_path / "worker.log").open("wb") as log:
        dying = subprocess.Popen(
            [sys.executable, str(SCRIPT), "clicks", "--before", "acknowledge"],
            env=environment_of(settings),
            stdout=log,
            stderr=log,
            preexec_fn=dies_with_parent(),
        )
    assert dying.wait(120) == -9, (tmp_path / "worker.log").read_text()
    row = shop.users.read(["ann"])["ann"]
    assert ([click.product_id for click in row.clicks], row.revision) == (["cup", "pot"], 2)
    with shop.broker.admin() as admin:
        acknowledged = admin.list_group_offsets([f"{settings.namespace}.freshet-clicks"])
    assert [one for group in acknowledged.values() for one in group.values() if one.offset > 0] == [], "all comes again"
    again = ByHand(shop).handle("ann", "cookie", count=2)
    assert shop.users.read(["ann"])["ann"] == row
    assert held(shop, "cookie") is None
    (made,) = [orjson.loads(one.value or b"") for one in again.publish]
    assert (made["revision"], made["event_ids"]) == (2, [event_id])
    shop.vectors.close()
