"""Dead letters: what could not be used, with the reason and where it came from."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from kafka import TopicPartition

from streams.broker import MAX_MESSAGE_BYTES, Broker, Headers, Outgoing
from streams.topics import dead_letters_of

ROOM_BYTES = 65_536  # for the key, the source's headers and ours
KEPT_BYTES = MAX_MESSAGE_BYTES - ROOM_BYTES  # of a value


class DeadLetter(NamedTuple):
    """One dead letter as it is read back."""

    topic: str  # where it came from
    partition: int
    offset: int
    reason: str
    at: str  # RFC 3339, when it was given up
    key: bytes | None
    value: bytes | None


def dead_letter(
    topic: str, partition: int, offset: int, *, key: bytes | None, value: bytes | None, headers: Headers, reason: str
) -> Outgoing:
    """The message that keeps the raw bytes, with the reason and the source in its headers.

    A producer that compresses can send more than any topic takes uncompressed: of such a value the first KEPT_BYTES are
    kept, and the header `value-bytes` says how long it was; a key and headers as large as that are cut or left out.
    """
    if len(key or b"") + sum(len(name) + len(text) for name, text in headers) > ROOM_BYTES // 2:
        key, headers = (key or b"")[:1_000], [("left-out", b"headers, end of the key")]
    if value is not None and len(value) > KEPT_BYTES:
        headers = [*headers, ("value-bytes", str(len(value)).encode())]
        value = value[:KEPT_BYTES]
    if key is None and value is None:
        key = b""  # brokers take a record without either, producers refuse to send one
    return Outgoing(
        dead_letters_of(topic),
        key,
        value,
        [
            *headers,
            ("reason", reason[:2_000].encode()),
            ("source-topic", topic.encode()),
            ("source-partition", str(partition).encode()),
            ("source-offset", str(offset).encode()),
            ("time", datetime.now(UTC).isoformat(timespec="milliseconds").encode()),
        ],
    )


def read_dead_letters(broker: Broker, topics: list[str], *, silence_s: float = 1.0) -> Iterator[DeadLetter]:
    """Every dead letter of these source topics, oldest first in each; ends after silence_s without one."""
    consumer = broker.sync_consumer(consumer_timeout_ms=int(silence_s * 1000))
    try:
        names = [dead_letters_of(topic) for topic in topics]
        consumer.assign([TopicPartition(name, p) for name in names for p in consumer.partitions_for_topic(name) or ()])
        for record in consumer:
            headers = dict(record.headers)
            yield DeadLetter(
                topic=headers["source-topic"].decode(),
                partition=int(headers["source-partition"]),
                offset=int(headers["source-offset"]),
                reason=headers["reason"].decode(),
                at=headers["time"].decode(),
                key=record.key,
                value=record.value,
            )
    finally:
        consumer.close()
