"""Topics: names, what each is told to keep, and their creation on real brokers."""

from dataclasses import astuple

import pytest
from brokers import LocalKafka, MakeSettings
from kafka.admin import ConfigResource, NewTopic

from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.settings import Settings
from streams.topics import Topic, TopicNames, create_topics, dead_letters_of, topic_names, topics_of

SETTINGS = Settings(namespace="shop", partitions=6)
NAMES = topic_names(SETTINGS, "ab12")
TOPICS = {topic.name: topic for topic in topics_of(SETTINGS, NAMES)}


def test_names_carry_the_namespace_and_the_vectors_the_fingerprint() -> None:
    assert NAMES.user_clicks == "shop.user-clicks"
    assert NAMES.product_vectors == "shop.product-vectors-ab12"
    assert topic_names(Settings(), "ab12").user_clicks == "user-clicks"


def test_every_topic_is_made_and_each_that_is_consumed_has_its_dead_letters() -> None:
    consumed = {dead_letters_of(name) for name in astuple(NAMES)[:6]}
    assert TOPICS.keys() == set(astuple(NAMES)) | consumed


def test_training_examples_have_a_partition_for_each_of_the_clicks() -> None:
    assert TOPICS[NAMES.training_examples].partitions == TOPICS[NAMES.user_clicks].partitions == 6


def test_what_a_topic_keeps() -> None:
    compacted = Topic("t", 1, "compacted").config(min_insync_replicas=2)
    assert compacted == {
        "min.insync.replicas": "2",
        "max.message.bytes": "4194304",
        "cleanup.policy": "compact",
        "segment.ms": "600000",
        "segment.bytes": "33554432",
        "min.cleanable.dirty.ratio": "0.1",
    }
    assert Topic("t", 1, "days", 0.5).config(min_insync_replicas=1)["retention.ms"] == "43200000"
    assert "retention.ms" not in Topic("t", 1, "shop").config(min_insync_replicas=1)


def made_for(settings: Settings) -> TopicNames:
    return topic_names(settings, "ab12")


def check_creation(settings: Settings) -> None:
    """What is missing is made, and what the shop has made stays as it is."""
    names = made_for(settings)
    with Broker(settings).admin() as admin:
        admin.create_topics([NewTopic(names.user_clicks, 1, 1)])  # the shop's own
    made = create_topics(settings, names)
    assert set(made) == {topic.name for topic in topics_of(settings, names)} - {names.user_clicks}
    assert create_topics(settings, names) == [], "a second time nothing is missing"
    with Broker(settings).admin() as admin:
        described = {topic["name"]: topic for topic in admin.describe_topics([names.user_clicks, names.product_index])}
    assert len(described[names.user_clicks]["partitions"]) == 1, "what is there stays as it is"
    assert len(described[names.product_index]["partitions"]) == 3


def test_missing_topics_are_created_on_tansu(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> None:
    check_creation(broker_settings(tansu, partitions=3))


@pytest.mark.kafka
def test_missing_topics_are_created_on_kafka_with_their_settings(
    kafka: LocalKafka, broker_settings: MakeSettings
) -> None:
    settings = broker_settings(kafka, partitions=3)
    check_creation(settings)
    wanted = {topic.name: topic.config(min_insync_replicas=1) for topic in topics_of(settings, made_for(settings))}
    wanted.pop(made_for(settings).user_clicks)
    with Broker(settings).admin() as admin:
        described = admin.describe_configs([ConfigResource("TOPIC", name) for name in wanted])["topic"]
    assert {name: {key: entry["value"] for key, entry in found.items()} for name, found in described.items()} == wanted


def test_a_topic_that_is_made_again_has_another_id(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> None:
    settings = broker_settings(tansu)
    broker, name = Broker(settings), f"{settings.namespace}.again"
    with broker.admin() as admin:
        admin.create_topics([NewTopic(name, 1, 1)])
        before = broker.topic_ids([name])
        admin.delete_topics([name])
        admin.create_topics([NewTopic(name, 1, 1)])
    after = broker.topic_ids([name, "no-such-topic"])
    assert before.keys() == after.keys() == {name}
    assert before[name] != after[name]
