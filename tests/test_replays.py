"""Dead letters are published again where that turns nothing back, or dropped; either way they are settled."""

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from brokers import settings_on
from databases import Database, database_fixture, engine_fixture  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError
from messages import run
from sqlalchemy import Engine

from store.database import open_database
from store.letters import LetterStore, Place, Settled
from store.products import ProductStore
from store.records import ProductRow, UserRow, source_key
from store.users import Forgotten, UserStore
from streams.broker import Broker, BrokerUnavailable, Outgoing
from streams.catalog import CatalogRole
from streams.dead_letters import DeadLetter, dead_letter, kind_of, letter_of
from streams.embedded_broker import EmbeddedBroker
from streams.events import pack_vector
from streams.replays import ORIGIN, Replays, place_of, settlement_of
from streams.role import Message
from streams.settings import Settings
from streams.topics import create_topics, topic_names

EARLIER, THEN, LATER = 1_000_000.0, 1_000_100.0, 1_000_200.0  # before, when, and after the letters were given up
OFFSETS = count(1_000)

# --- kinds, places, settlements ----------------------------------------------------------------------------------


AHEAD = "updated_at is {} s ahead, the limit is {} s: check the clock"
LONG = "image_links.{}: String should have at most {} characters"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (AHEAD.format(412, 300), AHEAD.format("N", "N")),
        (LONG.format(2, 2000) + " (got 'x; y'); title: Field required (got {})", LONG.format("N", "N")),
        ("the key b'\\xff' is not UTF-8", "the key '…' is not UTF-8"),
        ("the key is b\"a'b\", but the key should be 'c'", "the key is '…', but the key should be '…'"),
    ],
)
def test_the_kind_of_a_reason_leaves_out_what_differs(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


@given(st.text(max_size=200), st.integers())
def test_whatever_the_id_and_the_number_the_kind_is_the_same(key: str, number: int) -> None:
    assert kind_of(f"unknown product {key!r}: asked for {number} times") == "unknown product '…': asked for N times"


def test_a_place_is_read_as_it_is_written() -> None:
    place = Place("shop.user-clicks", 3, 41)
    assert place_of(str(place)) == place
    for wrong in ("user-clicks", "user-clicks/1", "user-clicks/x/1", "/1/2", "user-clicks/1/-2"):
        with pytest.raises(ValueError, match="names no place: write it as the list does, topic/partition/offset"):
            place_of(wrong)


def test_a_letter_that_is_given_up_later_than_what_was_settled_is_open_again(engine: Engine) -> None:
    store, place, other = LetterStore(engine), Place("t", 1, 2**40), Place("t", 0, 3)
    store.settle({place: 10.0, other: 11.0}, "dropped", now=20.0, kept_s=100.0)
    store.settle({place: 12.0}, "replayed", now=21.0, kept_s=100.0)
    store.settle({other: 5.0}, "replayed", now=22.0, kept_s=100.0)
    assert store.settled() == {place: Settled(12.0, "replayed", 21.0), other: Settled(11.0, "dropped", 20.0)}
    for at, how in ((11.0, "replayed"), (12.0, "replayed"), (12.1, None)):
        found = settlement_of(place, at, store.settled())
        assert (found.how if found else None) == how
    store.settle({}, "dropped", now=111.5, kept_s=100.0)
    assert set(store.settled()) == {place}, "what is older than the letters themselves is forgotten"


# --- what may be published again ---------------------------------------------------------------------------------


class Desk(NamedTuple):
    """Where an operator sits: a broker with topics, and the stores."""

    settings: Settings
    products: ProductStore
    users: UserStore
    replays: Replays
    topic_ids: dict[str, str]

    def letter(
        self, topic: str, key: str, value: Any, *, offset: int | None = None, partition: int = 0, **more: Any
    ) -> DeadLetter:
        """As it is read back; given up THEN. A value that is no dict is raw bytes."""
        raw = orjson.dumps(value) if isinstance(value, dict) else value
        at = datetime.fromtimestamp(THEN, UTC).isoformat(timespec="milliseconds")
        place = (topic, partition, next(OFFSETS) if offset is None else offset)
        return DeadLetter(
            *place, "a reason", at, key.encode(), raw, **{"topic_id": self.topic_ids[topic], **more}
        )  # fmt: skip

    def row(self, offsets: dict[int, int], *, changed_at: float = EARLIER, **more: Any) -> ProductRow:
        """A cup whose last updates stood at these offsets of the partitions, the last one last."""
        sources = {source_key(self.topic_ids[self.updates], p): offset for p, offset in offsets.items()}
        key = uuid.uuid4().hex
        row = ProductRow(key, {"title": "Cup"}, 3, "h", 2, 1.0, changed_at=changed_at, offsets=sources)
        self.products.write([replace(row, revision=1, **more)])
        return row

    @property
    def updates(self) -> str:
        return topic_names(self.settings, "").catalog_updates

    @property
    def clicks(self) -> str:
        return topic_names(self.settings, "").user_clicks


@pytest.fixture(scope="module")
def desk(tansu: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    home = tmp_path_factory.mktemp("desk")
    settings = settings_on(tansu, home)
    names = topic_names(settings, "ab12")
    create_topics(settings, names)
    engines = [open_database(None, home, name) for name in ("products", "users")]
    products, users = ProductStore(engines[0]), UserStore(engines[1])
    ids = Broker(settings).topic_ids([names.catalog_updates, names.user_clicks, names.product_index])
    ids |= {names.product_vectors: "v", names.encode_requests: "r", names.user_embeddings: "e"}
    yield Desk(settings, products, users, Replays(settings, products, users), ids)
    for engine in engines:
        engine.dispose()


def patch(key: str, **more: Any) -> dict[str, Any]:
    return {"op": "patch", "product_id": key, "availability": "out_of_stock", **more}


def click(user_id: str, **more: Any) -> dict[str, Any]:
    facts = {"event_id": "e1", "user_id": user_id, "product_id": "cup", "event": "view_item"}
    return facts | {"occurred_at": datetime.now(UTC).isoformat()} | more


def test_an_update_without_a_time_may_while_its_partition_told_the_row_nothing_later(desk: Desk) -> None:
    row = desk.row({2: 999, 0: 1_500}, changed_at=LATER)
    for offset, refused in ((1_501, False), (1_499, True)):
        why = desk.replays.why_not(
            desk.letter(desk.updates, row.product_id, patch(row.product_id), offset=offset), None
        )
        assert (why is not None) == refused, "of one batch, the row is written after the letter: offsets decide"
    assert why == (
        f"product {row.product_id!r} was updated since, and an update without updated_at would turn it back: publish "
        "what you want of it anew, or drop this; `anyway` publishes it all the same"
    )


def test_where_offsets_cannot_be_compared_an_update_after_the_letter_refuses_it(desk: Desk) -> None:
    for changed_at, refused in ((LATER, True), (EARLIER, False)):
        other_partition = desk.row({0: 1_500, 2: 3}, changed_at=changed_at)
        never_fed = desk.row({}, changed_at=changed_at)
        again = desk.row({0: 1}, changed_at=changed_at)
        for row, more in (
            (other_partition, {}),
            (never_fed, {}),
            (again, {"topic_id": "of the topic before"}),
            (again, {"topic_id": None}),
        ):
            letter = desk.letter(desk.updates, row.product_id, patch(row.product_id), offset=1_600, **more)
            assert (desk.replays.why_not(letter, None) is not None) == refused


def test_a_delete_without_a_time_is_an_update_too(desk: Desk) -> None:
    row = desk.row({0: 1_500})
    for value in (None, {"op": "delete", "product_id": row.product_id}):
        assert "was updated since" in str(
            desk.replays.why_not(desk.letter(desk.updates, row.product_id, value, offset=9), None)
        )


def test_an_update_with_a_time_may_and_the_row_stays_what_came_later(desk: Desk) -> None:
    """The row decides: here the letter's time is before the one that the row knows."""
    role = CatalogRole(desk.settings, topic_names(desk.settings, "ab12"), desk.products)
    key = uuid.uuid4().hex
    day = "2026-01-02T00:00:0{}Z"
    new = {"op": "upsert", "product_id": key, "title": "New", "updated_at": day.format(5)}

    def message(value: dict[str, Any], offset: int) -> Message:
        topic = desk.updates
        return Message(topic, desk.topic_ids[topic], 0, offset, key.encode(), orjson.dumps(value), (), time.time())

    run(role, message(new, 50))
    old = patch(key, title="Old", updated_at=day.format(1))
    letter = desk.letter(desk.updates, key, old, offset=40)
    assert desk.replays.why_not(letter, None) is None
    run(role, message(old, 51))
    assert desk.products.read([key])[key].fields["title"] == "New"
    assert desk.products.read([key])[key].fields["availability"] == "in_stock"


def test_what_would_be_given_up_again_is_refused_with_its_reason(desk: Desk) -> None:
    gone = desk.row({}, deleted=True)
    ahead = datetime.fromtimestamp(time.time() + 3_600, UTC).isoformat()
    for topic, key, value, why in (
        (desk.updates, "new", patch("new"), "product 'new' is still unknown: publish an upsert first"),
        (desk.updates, gone.product_id, patch(gone.product_id, updated_at="2026-01-01T00:00:00Z"), "is still unknown"),
        (desk.updates, "new", b"{", "it would be given up again: value: Invalid JSON"),
        (desk.updates, "old", patch("new"), "its key is b'old', and the key should be 'new': publish it with that key"),
        (desk.updates, "new", {"op": "upsert", "product_id": "new", "title": "T", "updated_at": ahead}, "s ahead"),
        (desk.clicks, "ann", click("ann", event="glance"), "it would be given up again: event: Input should be"),
        (desk.clicks, "", None, "it would be given up again: the record has no key"),
    ):
        letter = desk.letter(topic, key, value)
        assert why in str(desk.replays.why_not(letter, None))
        assert desk.replays.why_not(letter, None, anyway=True) is None


def test_a_click_may_whether_her_row_knows_it_or_not(desk: Desk) -> None:
    user = uuid.uuid4().hex
    assert desk.replays.why_not(desk.letter(desk.clicks, user, click(user)), None) is None
    desk.users.write([UserRow(user, 1, (), ("e1",), {})])
    assert desk.replays.why_not(desk.letter(desk.clicks, user, click(user)), None) is None


def test_a_click_of_a_person_who_was_forgotten_since_may_never(desk: Desk) -> None:
    user = uuid.uuid4().hex
    source = source_key(desk.topic_ids[desk.clicks], 0)
    desk.users.write([], [Forgotten(user, source, 500, LATER)])
    before, after = (desk.letter(desk.clicks, user, click(user), offset=offset) for offset in (499, 501))
    elsewhere = desk.letter(desk.clicks, user, click(user), offset=501, partition=1)
    for letter in (before, elsewhere):
        for settled in (None, Settled(THEN, "dropped", LATER)):
            assert desk.replays.why_not(letter, settled, anyway=True) == "she asked to be forgotten since: drop it"
    assert desk.replays.why_not(after, None) is None, "she came back by herself"
    assert desk.replays.why_not(desk.letter(desk.clicks, user, None), None) is None, "a wish is never too late"
    desk.users.write([UserRow(user, 1, (), ("e9",), {source: 600})])
    assert desk.replays.why_not(before, None, anyway=True) == "she asked to be forgotten since: drop it"
    assert desk.replays.why_not(after, None) is None


def test_what_was_cut_or_settled_is_refused_and_only_the_latter_may_anyway(desk: Desk) -> None:
    row = desk.row({})
    letter = desk.letter(desk.updates, row.product_id, patch(row.product_id))
    cut = letter._replace(is_cut=True)
    assert "too large to be kept whole" in str(desk.replays.why_not(cut, None, anyway=True))
    settled = Settled(THEN, "dropped", LATER)
    assert desk.replays.why_not(letter, settled) == "it was dropped before; `anyway` publishes it all the same"
    assert desk.replays.why_not(letter, settled, anyway=True) is None


def test_what_was_derived_from_a_row_may_while_the_row_is_the_same(desk: Desk) -> None:
    names = topic_names(desk.settings, "ab12")
    row = desk.row({}, changed_at=EARLIER, content_revision=2, image_state="encoded")
    key = row.product_id
    offer = {"product_id": key, "revision": 1, "state": "listable", "title": "Cup", "brand": None, "category": []}
    offer |= {"price": None, "availability": "in_stock", "image_links": [], "attributes": {}, "created_at": 1.0}
    request = {"product_id": key, "title": "Cup", "description": "", "brand": None, "category": [], "attributes": {}}
    vector = pack_vector(np.ones(2, np.float32))
    vectors = {"product_id": key, "encoder": "ab12", "text": None, "fused": vector, "missing": []}
    gone = {"headers": (("revision", b"0"),)}
    now = {"headers": (("revision", b"2"),)}
    for topic, value, more, refused in (
        (names.product_index, offer | {"changed_at": EARLIER}, {}, False),
        (names.product_index, offer | {"changed_at": EARLIER - 1}, {}, True),
        (names.product_index, None, gone, True),
        (names.product_index, None, now, False),
        (names.encode_requests, request | {"content_revision": 2, "image_links": []}, {}, False),
        (names.encode_requests, request | {"content_revision": 1, "image_links": []}, {}, True),
        (names.encode_requests, None, gone, True),
        (names.product_vectors, vectors | {"content_revision": 2, "image": vector}, {}, False),
        (names.product_vectors, vectors | {"content_revision": 2, "image": None}, {}, True),
        (names.product_vectors, vectors | {"content_revision": 1, "image": vector}, {}, True),
    ):
        why = desk.replays.why_not(desk.letter(topic, key, value, **more), None)
        assert (why is not None) == refused, (topic, value, why)
    unknown = desk.letter(
        names.encode_requests, "x", request | {"product_id": "x", "content_revision": 1, "image_links": []}
    )
    assert desk.replays.why_not(unknown, None), "its row was purged"
    embedding = desk.letter(names.user_embeddings, "ann", b"anything")
    assert "she may have been forgotten since: drop it" in str(desk.replays.why_not(embedding, None, anyway=True))


# --- on a broker -------------------------------------------------------------------------------------------------


def publish(settings: Settings, *letters: Outgoing) -> None:
    producer = Broker(settings).sync_producer()
    for letter in letters:
        producer.send(letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers)).get(10)
    producer.close()


def records_of(settings: Settings, topic: str, key: bytes) -> list[Any]:
    consumer = Broker(settings).sync_consumer(consumer_timeout_ms=500)
    consumer.assign([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
    found = [record for record in consumer if record.key == key]
    consumer.close()
    return found


def test_a_replayed_letter_is_its_record_again_with_its_origin_and_settled(desk: Desk) -> None:
    user = uuid.uuid4().hex
    raw = orjson.dumps(click(user), option=orjson.OPT_INDENT_2)
    headers = [("trace", b"\xff"), ("reason", b"the shop's own"), (ORIGIN, b"elsewhere")]
    offset = next(OFFSETS)
    made = dead_letter(
        desk.clicks, 1, offset, key=user.encode(), value=raw, headers=headers, reason="crashed", topic_id="t"
    )  # fmt: skip
    publish(desk.settings, made, made)  # a batch that was run again
    place = Place(desk.clicks, 1, offset)
    (held,) = desk.replays.held([], place=place)
    assert (held[0].headers, held[0].topic_id, held[1]) == (tuple(headers), "t", None)
    assert desk.replays.replay([held]) == ([place], [])
    (record,) = records_of(desk.settings, desk.clicks, user.encode())
    assert record.value == raw
    assert list(record.headers) == [*headers[:2], (ORIGIN, str(place).encode())]
    ((again, settled),) = desk.replays.held([desk.clicks], reason="crash")
    assert settled is not None
    assert settled.how == "replayed"
    done = desk.replays.replay([(again, settled)])
    assert (done.replayed, done.refused[0].why) == ([], "it was replayed before; `anyway` publishes it all the same")
    assert len(records_of(desk.settings, desk.clicks, user.encode())) == 1


def test_dropped_letters_are_settled_and_nothing_is_published(desk: Desk) -> None:
    user = uuid.uuid4().hex
    offset = next(OFFSETS)
    made = dead_letter(
        desk.clicks, 0, offset, key=user.encode(), value=b"{", headers=(), reason=f"no JSON in 'a' {user}"
    )
    publish(desk.settings, made)
    held = desk.replays.held([desk.clicks], reason=kind_of(f"no JSON in 'a' {user}"))
    assert desk.replays.drop(held) == [Place(desk.clicks, 0, offset)]
    held = desk.replays.held([desk.clicks], reason="no JSON in 'a'")
    assert [settled.how for _, settled in held if settled] == ["dropped"]
    assert desk.replays.drop(held) == []
    assert records_of(desk.settings, desk.clicks, user.encode()) == []


def test_the_first_open_letters_are_held_and_the_others_only_counted(desk: Desk) -> None:
    reason = f"so it was {uuid.uuid4().hex}"
    first, second, third, fourth = (next(OFFSETS) for _ in range(4))
    made = {
        offset: dead_letter(desk.clicks, 0, offset, key=b"k", value=b"%d" % offset, headers=(), reason=reason)
        for offset in (first, second, third, fourth)
    }
    publish(desk.settings, *made.values())
    desk.replays.drop([one for one in desk.replays.held([desk.clicks], reason=reason) if one[0].offset == first])
    publish(desk.settings, made[third]._replace(value=b"newer"), made[fourth])
    held, left = desk.replays.first_open([desk.clicks], reason=reason, most=2)
    assert [(letter.offset, letter.value, settled) for letter, settled in held] == [
        (second, b"%d" % second, None),
        (third, b"newer", None),
    ]
    assert left == 1


def test_letters_that_are_refused_do_not_stand_in_the_way_of_those_that_may(desk: Desk) -> None:
    reason, user = f"so it was {uuid.uuid4().hex}", uuid.uuid4().hex
    offsets = [next(OFFSETS) for _ in range(6)]
    values = [b"bad", b"worse", *(orjson.dumps(click(user)) for _ in range(4))]
    made = [
        dead_letter(desk.clicks, 0, offset, key=user.encode(), value=value, headers=(), reason=reason)
        for offset, value in zip(offsets, values, strict=True)
    ]
    publish(desk.settings, *made, made[2])
    places = [Place(desk.clicks, 0, offset) for offset in offsets]
    for replayed, more in ((places[2:4], 2), (places[4:], 0), ([], 0)):
        done, left = desk.replays.replay_first([desk.clicks], reason=reason, most=2)
        assert (done.replayed, [one.place for one in done.refused], left) == (replayed, places[:2], more)
    assert len(records_of(desk.settings, desk.clicks, user.encode())) == 4
    done, left = desk.replays.replay_first([desk.clicks], reason=reason, most=2, anyway=True)
    assert (done.replayed, done.refused, left) == (places[:2], [], 0)


def test_a_letter_that_the_broker_keeps_longer_than_its_time_is_no_more(desk: Desk) -> None:
    reason = f"so it was {uuid.uuid4().hex}"
    made = dead_letter(desk.clicks, 0, next(OFFSETS), key=b"k", value=b"{", headers=(), reason=reason)
    publish(desk.settings, made)
    short = desk.settings.model_copy(update={"topic_retention_days": 1e-9})
    for settings, known in ((desk.settings, 1), (short, 0)):
        replays = Replays(settings, desk.products, desk.users)
        assert len(replays.held([desk.clicks], reason=reason)) == known
        assert len(replays.first_open([desk.clicks], reason=reason, most=9)[0]) == known


def test_what_the_broker_did_not_confirm_stays_open(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    user = uuid.uuid4().hex
    letters = [(desk.letter(desk.clicks, user, click(user)), None) for _ in range(4)]

    class Confirmation:
        def get(self, _: float) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise KafkaTimeoutError("no answer")

    class Producer:
        def send(self, *_: Any, **__: Any) -> Confirmation:
            sent.append(1)
            if len(sent) == 4:
                raise KafkaTimeoutError("no room")
            return Confirmation()

        def close(self, **_: Any) -> None: ...

    calls: list[int] = []
    sent: list[int] = []
    monkeypatch.setattr(Broker, "sync_producer", lambda _: Producer())
    with pytest.raises(BrokerUnavailable, match="2 of 4 letters were confirmed, and are settled"):
        desk.replays.replay(letters)
    settled = desk.replays.letters.settled()
    assert [letter.place in settled for letter, _ in letters] == [True, False, True, False]


def test_a_cut_letter_says_that_it_is() -> None:
    made = dead_letter("t", 0, 0, key=b"k" * 40_000, value=b"v", headers=[("h", b"h")], reason="r")
    record = type("Record", (), {"headers": made.headers, "key": made.key, "value": made.value})
    assert letter_of(record).is_cut
    assert letter_of(record).headers == ()
