"""Training examples, products and records as the learner reads and writes them, on topics and without."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from streams.assortment import Assortment
from streams.broker import Broker
from streams.events import pack_vector
from streams.examples import Record, TopicIds
from streams.learning import Learning
from streams.settings import Settings
from streams.topics import TopicNames, create_topics, topic_names

TOPIC_IDS = TopicIds("examples-1", "clicks-1", "index-1")


def example(
    position: int,
    product_id: str,
    *history: str,
    topic_id: str = "clicks-1",
    partition: int = 0,
    segment: str | None = None,
) -> bytes:
    """A value of training-examples; the clicks of the history lie a minute apart."""
    value = {
        "topic_id": topic_id,
        "partition": partition,
        "offset": position,
        "product_id": product_id,
        "event": "purchase",
        "occurred_at": 1e9,
        "history": [{"product_id": clicked, "age_s": 60.0 * (n + 1)} for n, clicked in enumerate(history)],
    }
    return orjson.dumps(value | ({"segment": segment} if segment else {}))


def offer(revision: int = 1) -> bytes:
    """A value of product-index, as far as the learner reads it."""
    return orjson.dumps({"revision": revision})


def vectors(*fused: float) -> bytes:
    """A value of product-vectors, as far as the learner reads it."""
    return orjson.dumps({"fused": pack_vector(np.array(fused, np.float32))})


def records(*raw: bytes, first: int = 0, partition: int = 0) -> list[Record]:
    """Records with offsets from `first`."""
    return [Record(partition, first + n, value) for n, value in enumerate(raw)]


def assortment_of(*product_ids: str) -> Assortment:
    """These products, without vectors."""
    assortment = Assortment()
    for product_id in product_ids:
        assortment.put_offer(product_id.encode(), offer(), ())
    return assortment


def learn_all(learning: Learning, *, replays: int = 1) -> int:
    """All that is ready, in chunks, as the learner does; returns how many."""
    learned = 0
    while chunk := learning.learn(200, replays):
        learned += chunk
    return learned


class Topics:
    """The learner's topics on a real broker."""

    def __init__(self, settings: Settings) -> None:
        """They exist, empty."""
        self.names: TopicNames = topic_names(settings, "ab12")
        self.broker = Broker(settings)
        create_topics(settings, self.names)
        self._producer = self.broker.sync_producer()

    def close(self) -> None:
        self._producer.close()

    def put_products(self, products: Mapping[str, Sequence[float] | None], revision: int = 1) -> None:
        """Offers and, where there is one, fused vectors; confirmed."""
        for product_id, fused in products.items():
            self._send(self.names.product_index, product_id, offer(revision))
            if fused is not None:
                self._send(self.names.product_vectors, product_id, vectors(*fused))
        self._producer.flush()

    def delete_product(self, product_id: str, revision: int = 2) -> None:
        self._send(self.names.product_index, product_id, None, [("revision", str(revision).encode())])
        self._producer.flush()

    def put_examples(self, raw: Sequence[bytes], partition: int = 0) -> None:
        """Confirmed, in this order."""
        for value in raw:
            self._producer.send(self.names.training_examples, value=value, partition=partition)
        self._producer.flush()

    def read(self, topic: str, *, quiet_s: float = 0.3) -> list[tuple[str, dict[str, Any] | None]]:
        """(key, value) of every record, in the order of each partition, until so long nothing comes."""
        found: list[tuple[str, dict[str, Any] | None]] = []
        consumer = self.broker.sync_consumer()
        try:
            consumer.subscribe([topic])
            quiet_since = time.monotonic()
            while time.monotonic() - quiet_since < quiet_s:
                for some in consumer.poll(timeout_ms=50).values():
                    found += [(r.key.decode(), None if r.value is None else orjson.loads(r.value)) for r in some]
                    quiet_since = time.monotonic()
        finally:
            consumer.close()
        return found

    def _send(self, topic: str, key: str, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._producer.send(topic, key=key.encode(), value=value, headers=list(headers))
