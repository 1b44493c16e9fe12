"""Dead letters: what could not be used, with the reason and where it came from."""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from store.letters import Place
from streams.broker import MAX_MESSAGE_BYTES, Broker, BrokerUnavailable, Headers, Outgoing
from streams.topics import dead_letters_of

log = logging.getLogger(__name__)

ROOM_BYTES = 65_536  # for the key, the source's headers and ours
POLL_MS = 100
KEPT_BYTES = MAX_MESSAGE_BYTES - ROOM_BYTES  # of a value
CUT = ("value-bytes", "left-out")  # headers of a letter that is not all of its record
OWN = frozenset((*CUT, "reason", "source-topic", "source-partition", "source-offset", "source-topic-id", "time"))
KIND_MAX = 120  # characters


class DeadLetter(NamedTuple):
    """One dead letter as it is read back; letter_of makes only such whose `at` is a time."""

    topic: str  # where it came from
    partition: int
    offset: int
    reason: str
    at: str  # RFC 3339, when it was given up
    key: bytes | None
    value: bytes | None
    headers: Headers = ()  # the record's own
    topic_id: str | None = None  # of the topic it came from; unknown of letters from before it was written down
    is_cut: bool = False  # True: it was too large to be kept whole

    @property
    def place(self) -> Place:
        return Place(self.topic, self.partition, self.offset)

    @property
    def given_up_at(self) -> float:
        """s since 1970."""
        return _seconds(self.at)


def dead_letter(
    topic: str,
    partition: int,
    offset: int,
    *,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    reason: str,
    topic_id: str | None = None,
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
            *([("source-topic-id", topic_id.encode())] if topic_id else ()),
            ("time", datetime.now(UTC).isoformat(timespec="milliseconds").encode()),
        ],
    )


def letters_pattern(namespace: str) -> str:
    """A regular expression of the topics of dead letters of a namespace; one group: the topic that they came from."""
    prefix = f"{namespace}." if namespace else ""
    return f"^({re.escape(prefix)}[^.]+)[.]dead-letters$"


def topics_with_letters(broker: Broker, namespace: str) -> list[str]:
    """The topics of which the broker has a topic of dead letters, by name. Raises BrokerUnavailable."""
    try:
        with broker.admin() as admin:
            found = (re.match(letters_pattern(namespace), name) for name in admin.list_topics())
    except KafkaError as error:
        raise BrokerUnavailable(f"no topics can be listed ({error!r}): is the broker running?") from error
    return sorted(match[1] for match in found if match)


def read_dead_letters(broker: Broker, topics: list[str], *, silence_s: float = 30.0) -> Iterator[DeadLetter]:
    """Every dead letter of these source topics that was there at the call, oldest first in each partition.

    silence_s  longest time without an answer of the broker

    Raises BrokerUnavailable.
    """
    consumer = broker.sync_consumer()
    try:
        names = [dead_letters_of(topic) for topic in topics]
        places = [TopicPartition(name, p) for name in names for p in consumer.partitions_for_topic(name) or ()]
        consumer.assign(places)
        for record in _until_end(consumer, places, silence_s):
            try:
                letter = letter_of(record)
            except (KeyError, ValueError) as foreign:
                log.warning("dead letter ignored topic=%s offset=%s reason=%r", record.topic, record.offset, foreign)
            else:
                yield letter
    except KafkaError as error:
        raise BrokerUnavailable(f"the dead letters cannot be read ({error!r}): is the broker running?") from error
    finally:
        consumer.close()


def letter_of(record: Any) -> DeadLetter:
    """A record of a topic of dead letters, as either client reads it.

    Raises KeyError or ValueError if it is no letter.
    """
    headers = {name: text or b"" for name, text in record.headers}  # foreign ones may be null
    _seconds(headers["time"].decode())
    topic_id = headers.get("source-topic-id")
    return DeadLetter(
        topic=headers["source-topic"].decode(),
        partition=int(headers["source-partition"]),
        offset=int(headers["source-offset"]),
        reason=headers["reason"].decode(),
        at=headers["time"].decode(),
        key=record.key,
        value=record.value,
        headers=_without_own(record.headers),
        topic_id=topic_id.decode() if topic_id else None,
        is_cut=any(name in headers for name in CUT),
    )


def kind_of(reason: str) -> str:
    """The reason without what differs from letter to letter: ids, numbers, what was given, and rules behind the first.

    "unknown product 'p7': publish an upsert first" is of the kind "unknown product '…': publish an upsert first".
    """
    quoted = re.sub(r"""b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*\"""", "'…'", reason)
    first = quoted.partition(" (got ")[0]
    return re.sub(r"(?<![\w-])-?\d[\d.]*", "N", first)[:KIND_MAX].strip()


def _seconds(at: str) -> float:
    """s since 1970. Raises ValueError."""
    try:
        return datetime.fromisoformat(at).timestamp()
    except OverflowError as error:  # the year 1 in a zone east of here
        raise ValueError(f"{at!r} is too far from now") from error


def _without_own(headers: Sequence[tuple[str, bytes]]) -> Headers:
    """The record's own headers: ours stand behind them, each once."""
    kept = list(headers)
    for name in OWN:
        places = [place for place, (other, _) in enumerate(kept) if other == name]
        if places:
            del kept[places[-1]]
    return tuple(kept)


def _until_end(consumer: KafkaConsumer, places: list[TopicPartition], silence_s: float) -> Iterator[Any]:
    """The records before the end that each partition's first fetch told.

    tansu's ListOffsets is wrong about the end, its fetch responses are right.
    """
    ends: dict[TopicPartition, int] = {}
    heard_at = time.monotonic()
    while any(place not in ends or consumer.position(place) < ends[place] for place in places):
        polled = consumer.poll(timeout_ms=POLL_MS)
        told = {place: end for place in places if place not in ends and (end := consumer.highwater(place)) is not None}
        ends |= told
        for place, records in polled.items():
            yield from (record for record in records if record.offset < ends[place])
        if polled or told:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > silence_s:
            raise BrokerUnavailable(f"no dead letter in {silence_s:g} s, and not the last one yet: is the broker well?")
