"""Clients of real brokers: confirmed publication, outages, security settings that reach every client."""

import asyncio
import ssl
import time
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import certifi
import pytest
from aiokafka.errors import MessageSizeTooLargeError
from brokers import LocalKafka, MakeSettings, settings_on
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from streams.broker import MAX_MESSAGE_BYTES, Broker, BrokerUnavailable, Outgoing, Publisher, end
from streams.ports import free_port
from streams.replicas import Replica
from streams.settings import Settings
from streams.tail import Tail
from streams.topics import Topic, create_topics, topic_names


@pytest.fixture(params=["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Broker:
    return Broker(settings_on(request.getfixturevalue(request.param), tmp_path))


@pytest.fixture
def topic(broker: Broker, request: pytest.FixtureRequest) -> str:
    """A new topic of two partitions."""
    name = f"t{abs(hash(request.node.name))}"
    config = Topic(name, 2, "shop").config(min_insync_replicas=1)
    with broker.admin() as admin:
        admin.create_topics([NewTopic(name, 2, 1, topic_configs=config)])
        admin.wait_for_topics([name], timeout_ms=20_000)
    return name


def read(broker: Broker, topic: str, count: int) -> list[Any]:
    """The first records of the topic, by partition."""
    consumer: KafkaConsumer = broker.sync_consumer(consumer_timeout_ms=5_000)
    with closing(consumer):
        consumer.assign([TopicPartition(topic, partition) for partition in range(2)])
        return sorted((next(consumer) for _ in range(count)), key=lambda r: (r.partition, r.offset))


def publish(broker: Broker, *messages: Outgoing) -> None:
    async def run() -> None:
        publisher = Publisher(broker)
        try:
            await publisher.publish(list(messages))
        finally:
            await publisher.stop()

    asyncio.run(run())


def test_what_was_published_is_there_when_publish_returns(broker: Broker, topic: str) -> None:
    publish(
        broker,
        Outgoing(topic, b"k", b"v", [("h", b"1"), ("h", b"2")], 1),
        Outgoing(topic, b"k", None, (), 1),
        Outgoing(topic, None, b"w", (), 0),
    )
    first, second, third = read(broker, topic, 3)
    assert (first.key, first.value, first.partition) == (None, b"w", 0)
    assert (second.key, second.value, list(second.headers)) == (b"k", b"v", [("h", b"1"), ("h", b"2")])
    assert (third.key, third.value) == (b"k", None)


def test_a_key_goes_to_the_same_partition_from_every_client(broker: Broker, topic: str) -> None:
    keys = [f"user-{number}".encode() for number in range(20)]
    publish(broker, *(Outgoing(topic, key, b"async") for key in keys))
    with closing(broker.sync_producer()) as producer:
        for key in keys:
            producer.send(topic, key=key, value=b"sync").get(timeout=10)
    places = {(record.key, record.partition) for record in read(broker, topic, 40)}
    assert len(places) == 20, "murmur2 everywhere, or one user's clicks are on two partitions"


def test_a_large_message_goes_through_and_a_larger_one_is_refused_before_it_is_sent(broker: Broker, topic: str) -> None:
    publish(broker, Outgoing(topic, b"k", b"x" * (MAX_MESSAGE_BYTES - 1_000), (), 0))
    assert len(read(broker, topic, 1)[0].value) == MAX_MESSAGE_BYTES - 1_000
    with pytest.raises(MessageSizeTooLargeError):
        publish(broker, Outgoing(topic, b"k", b"x" * MAX_MESSAGE_BYTES))


def test_only_kafka_is_asked_for_idempotence_and_only_tansu_for_short_waits(broker: Broker) -> None:
    with closing(broker.sync_producer()) as producer, closing(broker.sync_consumer()) as consumer:
        assert producer.config["enable_idempotence"] is not broker.embedded
        assert (consumer.config["fetch_max_wait_ms"] < 100) is broker.embedded


def test_nothing_to_publish_needs_no_broker() -> None:
    publish(Broker(Settings(kafka_bootstrap="127.0.0.1:1")))


def test_a_broker_that_does_not_answer_is_unavailable_and_the_message_says_what_to_do() -> None:
    nowhere = Broker(Settings(kafka_bootstrap=f"127.0.0.1:{free_port()}"))
    with pytest.raises(BrokerUnavailable, match=r"no answer from Kafka at 127\.0\.0\.1:\d+ .*FRESHET_KAFKA_BOOTSTRAP"):
        nowhere.admin()
    with pytest.raises(BrokerUnavailable, match="the producer cannot connect"):
        publish(nowhere, Outgoing("t", b"k", b"v"))


@pytest.mark.kafka
def test_a_publisher_outlives_its_broker(frail_kafka: LocalKafka, broker_settings: MakeSettings) -> None:
    broker = Broker(broker_settings(frail_kafka))
    with broker.admin() as admin:
        admin.create_topics([NewTopic("t", 2, 1)])
        admin.wait_for_topics(["t"], timeout_ms=20_000)

    async def run() -> None:
        publisher = Publisher(broker)
        await publisher.publish([Outgoing("t", b"1", b"before", (), 0)])
        frail_kafka.kill()
        during = asyncio.create_task(publisher.publish([Outgoing("t", b"2", b"during", (), 0)]))
        await asyncio.sleep(0.3)  # it notices
        frail_kafka.start()  # in this thread: Kafka ends with the thread that starts it
        await during
        await publisher.publish([Outgoing("t", b"3", b"after", (), 0)])
        await publisher.stop()

    asyncio.run(run())
    assert [record.value for record in read(broker, "t", 3)] == [b"before", b"during", b"after"]


def test_a_task_ends_although_what_it_waits_for_swallows_a_cancellation() -> None:
    async def swallows_the_first() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(swallows_the_first())
        await asyncio.sleep(0)
        await asyncio.wait_for(end(task), timeout=10)
        assert task.cancelled()
        await end(task)  # once more does no harm

    asyncio.run(run())


# --- security: each kind of client is given the same ---------------------------------------------------------------


def test_plain_text_is_the_default() -> None:
    arguments = Broker(Settings(kafka_bootstrap="one:1,two:2")).async_arguments()
    assert arguments == {"bootstrap_servers": ["one:1", "two:2"], "security_protocol": "PLAINTEXT"}


def test_tls_and_sasl_reach_the_clients() -> None:
    settings = Settings(
        kafka_bootstrap="one:1",
        kafka_security_protocol="SASL_SSL",
        kafka_ca_file=Path(certifi.where()),
        kafka_username="anna",
        kafka_password="hush",
    )
    arguments = Broker(settings).async_arguments()
    context = arguments.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert arguments == {
        "bootstrap_servers": ["one:1"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "anna",
        "sasl_plain_password": "hush",
    }


@pytest.mark.kafka
def test_partitions_that_a_topic_is_given_later_are_read_from_their_beginning_beside_the_others(
    kafka: LocalKafka, broker_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what sells out stays in the lists of workers that run, when its key has moved to a new partition."""
    monkeypatch.setattr("streams.broker.METADATA_MAX_AGE_MS", 500)
    settings = broker_settings(kafka)
    names = topic_names(settings, "ab12")
    create_topics(settings, names)
    broker, topic = Broker(settings), names.product_index
    replicated: list[bytes] = []
    followed: list[bytes] = []

    def send(*places: int) -> None:
        producer = broker.sync_producer()
        for place in places:
            producer.send(topic, key=b"to %d" % place, value=b"{}", partition=place).get(10)
        producer.close()

    async def read() -> None:
        replica = Replica(broker, {topic: lambda key, *_: replicated.append(key)}, Lock())
        tail = Tail(broker)
        tail.add(topic, lambda record: followed.append(record.key))
        await asyncio.to_thread(send, 0)
        await replica.start()
        following = asyncio.create_task(tail.follow())
        await tail.is_following.wait()
        with broker.admin() as admin:
            admin.create_partitions({topic: settings.partitions + 1})
        await asyncio.to_thread(send, settings.partitions, 0)
        deadline = time.monotonic() + 30
        while len(replicated) < 3 or len(followed) < 2:
            replica.check()
            assert time.monotonic() < deadline, (replicated, followed)
            await asyncio.sleep(0.05)
        await end(following)
        await replica.stop()

    asyncio.run(read())
    added = b"to %d" % settings.partitions
    assert sorted(replicated) == sorted([b"to 0", b"to 0", added]), "each once"
    assert sorted(followed) == sorted([b"to 0", added])
