"""Readers of compacted topics, on a real broker."""

import asyncio

import pytest
from brokers import MakeSettings
from shelves import offer

from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.replicas import Replica, shelf_topics
from streams.shelf import Shelf
from streams.topics import create_topics, topic_names


def test_a_record_of_no_known_form_is_skipped_and_counted_and_those_around_it_are_put(
    tansu: EmbeddedBroker, broker_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = broker_settings(tansu)
    names = topic_names(settings, "ab12")
    create_topics(settings, names)
    broker, shelf = Broker(settings), Shelf()
    producer = broker.sync_producer()
    bad = ((b"lamp", b"garbage"), (None, offer()), (b"lamp", b"{}"), (b"lamp", b"7"), (b"\xff", offer()))
    for topic in shelf_topics(shelf, names):
        for key, value in bad:
            producer.send(topic, key=key, value=value, partition=0).get(10)
    producer.send(names.product_index, key=b"rug", value=offer(title="Rug"), partition=0).get(10)
    producer.close()

    async def read() -> Replica:
        replica = Replica(broker, shelf_topics(shelf, names), shelf.lock)
        await replica.start()
        await replica.stop()
        return replica

    replica = asyncio.run(read())
    assert shelf.listable[shelf.rows["rug"]]
    assert shelf.listable.sum() == 1
    assert replica.malformed >= 3 * 4
    assert f"record skipped topic={names.product_index} partition=0 offset=0" in caplog.text
