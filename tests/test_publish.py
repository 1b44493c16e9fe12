"""A shop's files to a real broker, and the lists that come back from it."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from brokers import LocalBroker, MakeSettings, environment_of
from kafka import TopicPartition

from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.ports import free_port
from streams.publish import (
    BadLine,
    Line,
    TopicMissing,
    count_lines,
    publish_lines,
    read_lines,
    require_topic,
    watch_lists,
)
from streams.settings import Settings
from streams.topics import TopicNames, create_topics, topic_names


@pytest.fixture
def broker(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Broker:
    return Broker(broker_settings(tansu))


@pytest.fixture
def names(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> TopicNames:
    return made_topics(broker_settings(tansu))


def made_topics(settings: Settings) -> TopicNames:
    names = topic_names(settings, "f")
    create_topics(settings, names)
    return names


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def published(broker: Broker, topic: str) -> list[tuple[bytes, bytes]]:
    """Key and value of every record, in the order of each partition."""
    consumer = broker.sync_consumer(consumer_timeout_ms=500)
    consumer.assign([TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)])
    records = [(record.key, record.value) for record in consumer]
    consumer.close()
    return records


def clicks(count: int, users: int = 10) -> list[dict[str, Any]]:
    return [{"event_id": f"e{n}", "user_id": f"u{n % users}"} for n in range(count)]


# --- reading -----------------------------------------------------------------------------------------------------


def test_a_line_is_published_as_it_stands_under_its_id(tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.jsonl", ['  {"user_id": "é/1",  "more": 1.0}', "", {"user_id": "b"}])
    assert list(read_lines(path, "user_id")) == [
        Line("é/1".encode(), '{"user_id": "é/1",  "more": 1.0}'.encode()),
        Line(b"b", b'{"user_id": "b"}'),
    ]
    assert count_lines(path) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{oops", "is not JSON"),
        ("[]", r"has no user_id \(a text that is not empty\)"),
        ("null", "has no user_id"),
        ('{"product_id": "p"}', "has no user_id"),
        ('{"user_id": 7}', "has no user_id"),
        ('{"user_id": ""}', "has no user_id"),
        ('{"user_id": "' + "x" * 4_200_000 + '"}', "has 4200015 bytes, the limit is 4190208"),
    ],
)
def test_a_line_that_cannot_be_published_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "clicks.jsonl", [{"user_id": "a"}, "", line, {"user_id": "b"}])
    lines = read_lines(path, "user_id")
    assert next(lines).key == b"a"
    with pytest.raises(BadLine, match=rf"clicks.jsonl, line 3 {reason}.*: mend it, then publish from that line on"):
        next(lines)


# --- publishing --------------------------------------------------------------------------------------------------


def test_every_line_is_published_once_in_order_and_counted_when_confirmed(broker: Broker, names: TopicNames) -> None:
    sent = [Line(click["user_id"].encode(), json.dumps(click).encode()) for click in clicks(2_000)]
    told: list[int] = []
    assert publish_lines(broker, names.user_clicks, iter(sent), confirmed=told.append) == 2_000
    assert told == sorted(told)
    assert told[-1] == 2_000
    arrived = published(broker, names.user_clicks)
    assert len(arrived) == 2_000
    for user in {line.key for line in sent}:
        assert [record for record in arrived if record[0] == user] == [tuple(line) for line in sent if line.key == user]


def test_nothing_is_sent_from_a_bad_line_on(tmp_path: Path, broker: Broker, names: TopicNames) -> None:
    path = write(tmp_path / "clicks.jsonl", [*clicks(30), "{oops", *clicks(5)])
    told: list[int] = []
    with pytest.raises(BadLine, match="line 31 is not JSON"):
        publish_lines(broker, names.user_clicks, read_lines(path, "user_id"), confirmed=told.append)
    assert told[-1] == 30
    assert len(published(broker, names.user_clicks)) == 30


def test_a_rate_is_paced_evenly(broker: Broker, names: TopicNames) -> None:
    taken: list[float] = []

    def lines() -> Iterator[Line]:
        for _ in range(21):
            taken.append(time.monotonic())
            yield Line(b"u", b"{}")

    began = time.monotonic()
    publish_lines(broker, names.user_clicks, lines(), rate=40)
    # The n-th line is sent no earlier than n/rate after the start, so the next is taken no earlier either.
    assert all(at - began >= (n - 1) / 40 - 0.005 for n, at in enumerate(taken))


def test_a_missing_topic_says_what_to_do(broker: Broker) -> None:
    with pytest.raises(TopicMissing, match="there is no topic nowhere: make it with `freshet topics create`, or"):
        require_topic(broker, "nowhere")


PUBLISHES = """
import sys, time
from streams.broker import Broker
from streams.publish import Line, publish_lines
from streams.settings import load_settings

def lines():
    while True:
        yield Line(b"u", b"{}")
        time.sleep(0.01)

publish_lines(Broker(load_settings()), sys.argv[1], lines(), confirmed=lambda n: print(n, flush=True), within_s=0.5)
"""


def test_what_was_confirmed_before_the_broker_went_is_told(broker_settings: MakeSettings) -> None:
    with EmbeddedBroker(free_port()) as embedded:
        settings = broker_settings(embedded)
        topic = made_topics(settings).user_clicks
        # In a process of its own, because kafka-python never closes a socket that was refused.
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISHES, topic],
            env=environment_of(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        confirmed = next(count for line in process.stdout if (count := int(line)) >= 10)
    told, error = process.communicate(timeout=30)
    reason = re.search(
        r"BrokerUnavailable: (\d+) of (\d+) sent to (.*) were confirmed, then: .* Publish the file", error
    )
    assert reason is not None, error
    assert confirmed <= int(reason[1]) < int(reason[2])
    assert int(told.split()[-1]) == int(reason[1])
    assert reason[3] == topic
    assert process.returncode == 1


# --- watching ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker_name", ["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_lists_are_seen_from_now_on_of_one_user_or_of_all(
    broker_name: str, broker_settings: MakeSettings, request: pytest.FixtureRequest
) -> None:
    local: LocalBroker = request.getfixturevalue(broker_name)
    settings = broker_settings(local)
    broker, topic = Broker(settings), made_topics(settings).recommendations
    producer = broker.sync_producer()

    def publish(user: str, number: int) -> None:
        producer.send(topic, key=user.encode(), value=f"{user}{number}".encode()).get(10)

    publish("a", 0)
    time.sleep(0.01)
    everybody, only_b = watch_lists(broker, topic), watch_lists(broker, topic, user_id="b")
    publish("a", 1)
    publish("b", 2)
    with closing(producer), closing(everybody), closing(only_b):
        assert sorted([next(everybody), next(everybody)]) == [b"a1", b"b2"]
        assert next(only_b) == b"b2"


def test_nothing_is_watched_where_there_is_no_topic(broker: Broker) -> None:
    with pytest.raises(TopicMissing, match=r"there is no topic nowhere.recommendations: make it with"):
        watch_lists(broker, "nowhere.recommendations")
