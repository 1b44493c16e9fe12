"""The lossless consumer in real processes on the embedded broker: bad events, an unavailable store, deaths."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest
from accounts import Accounts, Event, accounts, additions, until
from brokers import settings_on
from kafka import KafkaProducer

from streams.dead_letters import KEPT_BYTES
from streams.embedded_broker import EmbeddedBroker

BIG = b"x" * 2_000_000


@pytest.fixture(scope="module")
def book(tansu: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    """One worker for the whole file: to join a group takes tansu six seconds."""
    with accounts(settings_on(tansu, tmp_path_factory.mktemp("book"), retry_max_s=0.2)) as made:
        made.start()
        yield made


def test_events_are_applied_once_and_answered(book: Accounts) -> None:
    book.send(Event(0, "anna", 3), Event(1, "bert", 5), Event(2, "anna", 4))
    book.check()
    assert {name: row.total for name, row in book.rows().items()} == {"anna": 7, "bert": 5}
    book.send(*additions(100, start=3))
    book.check()


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"anna", b"{not json", "Invalid JSON"),
        (b"anna", b"\xff\xfe", "Invalid JSON"),
        (b"anna", b'{"account": "anna", "number": "7", "amount": 1}', "number: .* valid integer"),
        (b"anna", None, "should be an object"),
        (None, b'{"account": "anna", "number": 7, "amount": 1}', "no key"),
        (b"anna", BIG, "Invalid JSON"),
    ],
    ids=["not-json", "not-utf-8", "wrong-type", "null", "no-key", "2-MB"],
)
def test_a_bad_event_becomes_a_dead_letter_and_its_neighbours_go_through(
    book: Accounts, key: bytes | None, value: bytes | None, reason: str
) -> None:
    start = len(book.sent)
    book.send(*additions(5, start=start))
    book.send_raw(key, value)
    book.send(*additions(5, start=start + 5))
    letter = book.letter_of(value)
    assert re.search(reason, letter.reason)
    assert letter.key == key
    book.check()


def test_a_dead_letter_keeps_the_headers_and_says_where_the_event_stands(book: Accounts) -> None:
    sent = book.send_raw(b"anna", b"with headers", headers=[("trace", b"\x00\x01"), ("trace", b"2")])
    letter = book.letter_of(b"with headers")
    assert letter.headers[:2] == [("trace", b"\x00\x01"), ("trace", b"2")]
    source = dict(letter.headers[2:])
    whence = {"source-topic", "source-topic-id", "source-partition", "source-offset"}
    assert source.keys() == {"reason", "time", *whence}
    assert source["source-topic"] == book.topic.encode()
    assert (int(source["source-partition"]), int(source["source-offset"])) == (sent.partition, sent.offset)


def test_a_bad_value_that_only_compression_made_small_enough_keeps_its_beginning(book: Accounts) -> None:
    bomb = b"[" * 9_000_000
    shop = KafkaProducer(
        bootstrap_servers=book.settings.bootstrap,
        compression_type="gzip",
        max_request_size=10_000_000,
        enable_idempotence=False,
    )
    with closing(shop):
        shop.send(book.topic, key=b"anna", value=bomb).get(timeout=20)
    letter = book.letter_of(bomb[:KEPT_BYTES])
    assert "JSON" in letter.reason
    book.send(Event(len(book.sent), "anna"))
    book.check()


def test_a_record_without_key_and_value_is_a_dead_letter_too(book: Accounts) -> None:
    async def send() -> None:
        async with book.broker.producer() as producer:
            batch = producer.create_batch()
            batch.append(key=None, value=None, timestamp=None)
            await (await producer.send_batch(batch, book.topic, partition=0))

    asyncio.run(send())
    until(lambda: any((letter.key, letter.value) == (b"", None) for letter in book.letters()), 30, "the letter")
    book.send(Event(len(book.sent), "anna"))
    book.check()


def test_a_header_without_a_value_ends_neither_a_bad_event_nor_a_good_one(book: Accounts) -> None:
    good = Event(len(book.sent), "anna")

    async def send() -> None:
        async with book.broker.producer() as producer:
            for value in (b"of no form", good.raw):
                await producer.send_and_wait(book.topic, value=value, key=b"anna", headers=[("trace", None)])

    asyncio.run(send())
    book.sent.append(good)
    assert book.letter_of(b"of no form").headers[0] == ("trace", b"")
    book.check()


def test_a_good_event_of_two_megabytes_goes_through(book: Accounts) -> None:
    book.send(Event(len(book.sent), "anna", padding=BIG.decode()))
    book.check()


def test_an_event_under_a_wrong_key_is_sent_again_under_its_own(book: Accounts) -> None:
    redirected = book.status().get("details", {}).get("redirected", 0)
    book.send(Event(len(book.sent), "anna", key=b"bert"))
    book.check()
    until(lambda: book.status()["details"]["redirected"] == redirected + 1, 30, "the status counts it")


def test_a_second_wrong_key_makes_it_a_dead_letter(book: Accounts) -> None:
    stray = Event(len(book.sent), "anna", key=b"bert").raw
    book.send_raw(b"bert", stray, headers=[("origin", b"elsewhere/0/0")])
    assert "the key is b'bert', but the key should be 'anna'" in book.letter_of(stray).reason
    book.check()


def test_of_a_batch_that_fails_for_its_content_only_the_guilty_event_becomes_a_dead_letter(book: Accounts) -> None:
    start = len(book.sent)
    guilty = Event(start + 5, "anna", do="reject the batch")
    book.refused.add(guilty.number)
    book.send(*additions(5, start=start), guilty, *additions(5, start=start + 6))
    assert book.letter_of(guilty.raw).reason == "this addition breaks its batch: do not send it"
    book.check()


def test_an_event_that_the_role_rejects_is_a_dead_letter_of_its_batch(book: Accounts) -> None:
    start = len(book.sent)
    guilty = Event(start, "anna", do="reject")
    book.refused.add(guilty.number)
    book.send(guilty, *additions(5, start=start + 1))
    assert book.letter_of(guilty.raw).reason == "this addition is refused: do not send it"
    book.check()


def test_an_unknown_field_is_ignored_and_counted(book: Accounts) -> None:
    before = book.status()["details"]["unknown_fields"]
    number = len(book.sent)
    book.sent.append(Event(number, "anna"))
    book.send_raw(b"anna", orjson.dumps({"account": "anna", "number": number, "amount": 1, "colour": "red"}))
    book.check()
    until(lambda: book.status()["details"]["unknown_fields"] > before, 30, "the status counts it")


def test_a_store_that_is_away_is_waited_for_and_the_status_says_so(book: Accounts) -> None:
    with closing(sqlite3.connect(book.settings.home / "book.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        book.send(*additions(20, start=len(book.sent)))
        until(lambda: book.status()["state"] == "waiting", 30, "the worker waits")
        assert book.status()["reason"] == "the book book.sqlite is not to be had: database is locked"
        holder.execute("ROLLBACK")
    book.check()
    until(lambda: book.status()["state"] == "running", 30, "the worker goes on")


def test_sigterm_ends_a_quiet_worker_in_good_order_and_the_next_one_goes_on(book: Accounts) -> None:
    book.workers[-1].terminate()
    assert book.workers[-1].code(within_s=6) == 0
    book.send(*additions(20, start=len(book.sent)))
    book.start()
    book.check()


def test_a_death_before_publication_before_the_commit_and_before_the_ack_changes_nothing(
    tansu: EmbeddedBroker, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        books = {}
        for point in ("publish", "commit", "acknowledge"):
            (tmp_path / point).mkdir()
            books[point] = stack.enter_context(accounts(settings_on(tansu, tmp_path / point, batch_max=16)))
            books[point].send(*additions(100))
            books[point].start("--before", point, "--at", "3")
        for book in books.values():
            book.workers[0].dies(within_s=90)
            assert 0 < len(book.applied()) < 100
            book.start()
        for book in books.values():
            book.check()
