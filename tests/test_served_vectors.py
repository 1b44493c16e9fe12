"""Which version's vectors a process uses, on a real broker."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from brokers import MakeSettings
from shelves import offer, vectors
from test_side_vectors import on

from store.encoders import EncoderRow
from streams.broker import Broker
from streams.embedded_broker import EmbeddedBroker
from streams.replicas import shelf_topics
from streams.served_vectors import ServedVectors
from streams.settings import Settings
from streams.shelf import Shelf
from streams.topics import create_topics, topic_names
from streams.versions import Versions, version_of, version_record

WITHIN_S = 30.0
A, B = "ab12", "cd34"


class Topics:
    """The topics of a shop whose settings name A."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.names = settings, topic_names(settings, A)
        self.broker = Broker(settings)
        create_topics(settings, self.names)
        self.producer = self.broker.sync_producer()
        self._revision = 0

    def put(self, fingerprint: str, by_id: Mapping[str, Sequence[float]]) -> None:
        topic = topic_names(self.settings, fingerprint).product_vectors
        for product_id, fused in by_id.items():
            self.producer.send(self.names.product_index, key=product_id.encode(), value=offer())
            self.producer.send(topic, key=product_id.encode(), value=vectors(fused))
        self.producer.flush()

    def tell(self, fingerprint: str, served: int) -> None:
        """The version serves by the number of its switch."""
        self._revision += 1
        row = EncoderRow(fingerprint, {}, {}, state="serving", served=served, revision=self._revision, filled_at=1.0)
        record = version_record(self.names, version_of(row))
        self.producer.send(record.topic, key=record.key, value=record.value)
        self.producer.flush()


@pytest.fixture
def topics(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Iterator[Topics]:
    topics = Topics(broker_settings(tansu, partitions=2))
    yield topics
    topics.producer.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_vectors_are_those_of_the_settings_then_of_the_version_that_serves_and_never_of_two(topics: Topics) -> None:
    in_a, in_b = {f"p{n}": [n, 1] for n in range(30)}, {f"p{n}": [n, 2, 3] for n in range(40)}
    topics.put(A, in_a)
    shelf = Shelf()
    served = ServedVectors(
        topics.broker, topics.settings, topics.names, Versions(), shelf, shelf_topics(shelf, topics.names)
    )
    seen: list[bool] = []

    def is_of_one() -> bool:
        with shelf.lock:
            found = on(shelf)
        seen.append(found in (in_a, in_b, {**in_b, "new": [7, 7, 7]}))
        return seen[-1]

    async def play() -> None:
        await served.start()
        assert (shelf.encoder, on(shelf)) == (A, in_a)
        create_topics(topics.settings, topics.names, [B])
        topics.put(B, in_b)
        topics.tell(B, 1)
        await until(lambda: is_of_one() and shelf.encoder == B)
        topics.put(B, {"new": [7, 7, 7]})
        await until(lambda: "new" in on(shelf) and shelf.listable.sum() == 41)
        topics.tell(A, 2)
        await until(lambda: is_of_one() and shelf.encoder == A)
        assert on(shelf) == in_a
        assert served.malformed == 0
        await served.stop()

    asyncio.run(play())
    assert all(seen)


def test_a_process_that_starts_after_a_switch_begins_with_what_serves(topics: Topics) -> None:
    create_topics(topics.settings, topics.names, [B])
    topics.put(A, {"a": [1, 2]})
    topics.put(B, {"b": [1, 2, 3]})
    topics.tell(A, 1)
    topics.tell(B, 2)
    shelf = Shelf()
    served = ServedVectors(
        topics.broker, topics.settings, topics.names, Versions(), shelf, shelf_topics(shelf, topics.names)
    )

    async def play() -> None:
        await served.start()
        await served.stop()

    asyncio.run(play())
    assert (shelf.encoder, on(shelf)) == (B, {"b": [1, 2, 3]})
