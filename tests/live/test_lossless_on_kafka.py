"""The lossless consumer in real processes on Apache Kafka: deaths, rebalances, outages. Nothing lost, nothing twice."""

import random
from collections.abc import Iterator

import pytest
from accounts import Accounts, Event, accounts, additions, until
from brokers import LocalKafka, MakeSettings

pytestmark = pytest.mark.kafka

DEATHS = 10


@pytest.fixture
def book(kafka: LocalKafka, broker_settings: MakeSettings) -> Iterator[Accounts]:
    with accounts(broker_settings(kafka, batch_max=16)) as made:
        yield made


@pytest.fixture
def frail_book(frail_kafka: LocalKafka, broker_settings: MakeSettings) -> Iterator[Accounts]:
    """On a broker that the test may stop, kill and freeze."""
    with accounts(broker_settings(frail_kafka, batch_max=16, shutdown_s=2.0)) as made:
        yield made


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--prepares",)], ids=["plain", "prepares"])
def test_a_death_before_publication_before_the_commit_and_before_the_ack_changes_nothing(
    book: Accounts, arguments: tuple[str, ...]
) -> None:
    book.send(*additions(200))
    for point in ("publish", "commit", "acknowledge"):
        book.start("--before", point, "--at", "3", *arguments).dies(within_s=90)
    assert 0 < len(book.applied()) < 200
    book.start(*arguments)
    book.check()


@pytest.mark.parametrize(("does", "code", "arguments"), [("fail to parse", 1, ()), ("kill", -9, ("--prepares",))])
def test_an_event_that_ends_the_process_three_times_is_a_dead_letter_and_the_rest_goes_through(
    book: Accounts, does: str, code: int, arguments: tuple[str, ...]
) -> None:
    guilty = Event(1000, "account-1", do=does)
    book.send(*additions(40), guilty, *additions(40, start=40))
    book.refused.add(1000)
    for _ in range(3):
        assert book.start(*arguments).code(within_s=90) == code
    book.start(*arguments)
    book.check()
    assert book.letter_of(guilty.raw).reason.startswith("the process died each time it worked on this event")


def test_an_unexpected_error_ends_the_process_before_the_ack(book: Accounts) -> None:
    book.send(Event(1, "anna"))
    worker = book.start()
    until(lambda: book.committed() == 1, 90, "the first event acknowledged")
    book.send(Event(2, "anna", do="fail"))
    assert worker.code(within_s=60) == 1
    assert "RuntimeError: an error that nobody thought of" in worker.said
    assert book.committed() == 1


def test_where_the_setting_says_so_an_event_under_a_wrong_key_is_a_dead_letter(
    kafka: LocalKafka, broker_settings: MakeSettings
) -> None:
    with accounts(broker_settings(kafka, on_wrong_key="dead-letter")) as book:
        stray = Event(7, "anna", key=b"bert")
        book.send(stray, *additions(5))
        book.refused.add(7)
        book.start()
        book.check()
        assert "the key is b'bert', but the key should be 'anna'" in book.letter_of(stray.raw).reason


def test_two_workers_that_die_and_leave_at_random_under_load_count_every_event_once(book: Accounts) -> None:
    chance = random.Random(5)
    names = ("w1", "w2")
    workers = {name: book.start(worker_id=name) for name in names}
    book.send(*additions(100))
    for death in range(1, DEATHS + 1):
        book.send(*additions(100, start=100 * death))
        book.until_applied(set(range(100 * (death - 2))))  # they keep up
        name = chance.choice(names)
        if chance.random() < 0.4:
            is_up = book.status(name).get("pid") == workers[name].pid
            workers[name].terminate()
            assert workers[name].code(within_s=10) == 0 or not is_up, "before it is up, SIGTERM just ends it"
        else:
            workers[name].kill()
        workers[name] = book.start(worker_id=name)
    book.check()
    assert book.letters() == []


# --- rebalances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["commit", "acknowledge"])
def test_a_batch_in_hand_while_a_second_worker_joins_is_counted_once(book: Accounts, point: str) -> None:
    book.send(*additions(200))
    go_on = book.settings.home / "go-on"
    first = book.start("--before", point, "--at", "2", "--until", str(go_on))
    until(lambda: f"waits before={point}" in first.said, 90, "the first worker holds its second batch")
    second = book.start(worker_id="w2")
    until(lambda: len(book.applied()) > 60, 90, "the second worker works on its half")
    go_on.touch()
    book.check()
    # Whatever was acknowledged meanwhile, it was applied: others who start from there find nothing missing.
    first.kill()
    second.kill()
    book.start(worker_id="w1")
    book.send(*additions(20, start=200))
    book.check()


def test_a_worker_that_was_frozen_past_its_session_turns_nothing_back(
    kafka: LocalKafka, broker_settings: MakeSettings
) -> None:
    with accounts(broker_settings(kafka, batch_max=16, session_timeout_s=2.0)) as book:
        book.send(*additions(100))
        go_on = book.settings.home / "go-on"
        frozen = book.start("--before", "commit", "--at", "2", "--until", str(go_on))
        until(lambda: "waits before=commit" in frozen.said, 90, "the worker holds its second batch")
        frozen.pause()
        book.start(worker_id="w2")
        book.check()
        go_on.touch()
        frozen.resume()
        book.send(*additions(100, start=100))
        book.check()
        assert frozen.is_alive


# --- outages ---------------------------------------------------------------------------------------------------------


def test_a_sigterm_under_load_ends_the_worker_in_good_order(book: Accounts) -> None:
    book.send(*additions(4000, over=100))
    worker = book.start()
    until(lambda: len(book.applied()) > 100, 90, "the worker is at work")
    worker.terminate()
    assert worker.code(within_s=8) == 0
    assert len(book.applied()) < 4000
    book.start(batch_max=256)
    book.check()


@pytest.mark.parametrize("breaks", ["pause", "kill"])
def test_a_sigterm_during_an_outage_of_the_broker_ends_the_worker_soon(
    frail_kafka: LocalKafka, frail_book: Accounts, breaks: str
) -> None:
    frail_book.send(*additions(50))
    go_on = frail_book.settings.home / "go-on"
    worker = frail_book.start("--before", "publish", "--at", "2", "--until", str(go_on))
    until(lambda: "waits before=publish" in worker.said, 90, "the worker holds its second batch")
    getattr(frail_kafka, breaks)()
    go_on.touch()
    worker.terminate()
    assert worker.code(within_s=10) == 0
    frail_kafka.mend()
    frail_book.start()
    frail_book.check()


def test_a_broker_that_is_killed_and_started_again_loses_nothing(frail_kafka: LocalKafka, frail_book: Accounts) -> None:
    frail_book.send(*additions(50))
    go_on = frail_book.settings.home / "go-on"
    worker = frail_book.start("--before", "publish", "--at", "2", "--until", str(go_on))
    until(lambda: "waits before=publish" in worker.said, 90, "the worker holds its second batch")
    frail_kafka.kill()
    go_on.touch()
    frail_kafka.start()
    frail_book.send(*additions(50, start=50))
    frail_book.check()
    assert worker.is_alive
