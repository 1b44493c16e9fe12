"""Readers of compacted topics, on a real broker."""

import asyncio
import time
from threading import Lock

import pytest
from brokers import MakeSettings
from shelves import offer

from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.replicas import Replica, ReplicaEnded, shelf_topics
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


def test_a_reader_that_has_ended_says_so_and_why(
    tansu: EmbeddedBroker, broker_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = broker_settings(tansu)
    names = topic_names(settings, "ab12")
    create_topics(settings, names)
    broker = Broker(settings)

    def put(*_: object) -> None:
        raise MemoryError("no room")

    async def read() -> None:
        replica = Replica(broker, {names.product_index: put}, Lock())
        replica.check()
        await replica.start()
        replica.check()
        producer = broker.sync_producer()
        producer.send(names.product_index, key=b"rug", value=offer()).get(10)
        producer.close()
        deadline = time.monotonic() + 20
        while "replica ended, its view is stale" not in caplog.text:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        with pytest.raises(ReplicaEnded, match=r"the reader of \S+product-index has ended: MemoryError\('no room'\)"):
            replica.check()
        await replica.stop()

    asyncio.run(read())
