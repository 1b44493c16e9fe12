"""Dead letters: what is kept, and reading them back."""

from typing import Any

import pytest
from brokers import MakeSettings
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka.admin import NewTopic

from streams.broker import MAX_MESSAGE_BYTES, Broker, BrokerUnavailable, Outgoing
from streams.dead_letters import KEPT_BYTES, dead_letter, read_dead_letters
from streams.embedded_broker import EmbeddedBroker


def letter(value: bytes | None, *, reason: str = "no key", headers: tuple[tuple[str, bytes], ...] = ()) -> Outgoing:
    return dead_letter("clicks", 3, 41, key=b"anna", value=value, headers=headers, reason=reason)


def test_a_dead_letter_keeps_the_bytes_and_says_why_and_from_where() -> None:
    made = letter(b"\x00\xff", headers=(("trace", b"7"),))
    assert (made.topic, made.key, made.value) == ("clicks.dead-letters", b"anna", b"\x00\xff")
    headers = dict(made.headers)
    assert headers.pop("time").endswith(b"+00:00")
    assert headers == {
        "trace": b"7",
        "reason": b"no key",
        "source-topic": b"clicks",
        "source-partition": b"3",
        "source-offset": b"41",
    }


def test_a_null_stays_null() -> None:
    assert letter(None).value is None


def test_a_record_without_key_and_value_gets_an_empty_key_because_no_producer_sends_it_without() -> None:
    made = dead_letter("clicks", 0, 0, key=None, value=None, headers=(), reason="no key")
    assert (made.key, made.value) == (b"", None)
    assert dead_letter("clicks", 0, 0, key=None, value=b"v", headers=(), reason="no key").key is None


def test_a_key_and_headers_that_leave_no_room_are_cut() -> None:
    made = dead_letter("clicks", 0, 0, key=b"k" * 40_000, value=b"v", headers=[("h", b"h")], reason="no key")
    assert (made.key, made.value) == (b"k" * 1_000, b"v")
    assert "h" not in dict(made.headers)
    assert dict(made.headers)["left-out"] == b"headers, end of the key"


@given(st.binary(max_size=300), st.text(max_size=3000))
def test_any_bytes_are_kept_and_any_reason_is_written(value: bytes, reason: str) -> None:
    made = letter(value, reason=reason.encode(errors="replace").decode())
    assert made.value == value
    assert len(dict(made.headers)["reason"].decode()) <= 2_000


def test_a_value_that_no_topic_would_take_keeps_its_beginning_and_says_its_length() -> None:
    made = letter(b"x" * (KEPT_BYTES + 1))
    assert made.value == b"x" * KEPT_BYTES
    assert dict(made.headers)["value-bytes"] == str(KEPT_BYTES + 1).encode()
    assert KEPT_BYTES < MAX_MESSAGE_BYTES
    assert "value-bytes" not in dict(letter(b"x" * KEPT_BYTES).headers)


def test_dead_letters_are_read_back_oldest_first(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> None:
    settings = broker_settings(tansu)
    broker = Broker(settings)
    source = f"{settings.namespace}.clicks"
    with broker.admin() as admin:
        admin.create_topics([NewTopic(f"{source}.dead-letters", 1, 1)])
    producer = broker.sync_producer()
    for offset, value in ((5, b"\xff"), (9, None)):
        made = dead_letter(source, 2, offset, key=None, value=value, headers=(), reason=f"because {offset} é")
        producer.send(made.topic, key=made.key, value=made.value, headers=list(made.headers)).get(timeout=10)
    producer.close()
    first, second = read_dead_letters(broker, [source])
    assert (first.topic, first.partition, first.offset, first.value) == (source, 2, 5, b"\xff")
    assert (second.offset, second.value, second.key, second.reason) == (9, None, b"", "because 9 é")


def test_a_topic_without_dead_letters_gives_none(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> None:
    broker = Broker(broker_settings(tansu))
    with pytest.raises(StopIteration):
        next(read_dead_letters(broker, ["no-such-topic"]))


@pytest.mark.parametrize("broker_name", ["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_all_that_were_there_are_read_however_slow_the_broker_is_and_none_that_came_later(
    broker_name: str, broker_settings: MakeSettings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = broker_settings(request.getfixturevalue(broker_name))
    broker = Broker(settings)
    sources = [f"{settings.namespace}.clicks", f"{settings.namespace}.nothing-went-wrong"]
    with broker.admin() as admin:
        admin.create_topics([NewTopic(f"{source}.dead-letters", 3, 1) for source in sources])
    producer = broker.sync_producer()

    def publish(*offsets: int) -> None:
        for offset in offsets:
            made = dead_letter(sources[0], 0, offset, key=b"%d" % offset, value=b"v", headers=(), reason="no")
            producer.send(made.topic, key=made.key, value=made.value, headers=list(made.headers)).get(timeout=10)

    publish(*range(1_200))
    poll = KafkaConsumer.poll

    def poll_slowly(consumer: KafkaConsumer, **arguments: Any) -> Any:
        """Two of three times nothing has come yet."""
        polls.append(None)
        return poll(consumer, **arguments) if len(polls) % 3 == 0 else {}

    polls: list[None] = []
    monkeypatch.setattr(KafkaConsumer, "poll", poll_slowly)
    letters = read_dead_letters(broker, sources)
    found = [next(letters).offset]
    publish(5_000)
    found += [letter.offset for letter in letters]
    producer.close()
    assert sorted(found) == list(range(1_200))


def test_a_broker_that_tells_nothing_is_told(
    tansu: EmbeddedBroker, broker_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = broker_settings(tansu)
    broker = Broker(settings)
    with broker.admin() as admin:
        admin.create_topics([NewTopic(f"{settings.namespace}.clicks.dead-letters", 1, 1)])
    monkeypatch.setattr(KafkaConsumer, "poll", lambda *_, **__: {})
    with pytest.raises(BrokerUnavailable, match=r"no dead letter in 0\.1 s, and not the last one yet: is the broker"):
        next(read_dead_letters(broker, [f"{settings.namespace}.clicks"], silence_s=0.1))
