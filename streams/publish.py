"""A shop's files to the broker, and the lists that come back: the two ends that a shop's own programs have."""

import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from threading import Event, Lock
from typing import Any, NamedTuple

import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from streams.broker import MAX_MESSAGE_BYTES, Broker, BrokerUnavailable

CONFIRM_WITHIN_S = 60.0
CLOSE_WITHIN_S = 1.0
IN_FLIGHT_MAX = 10_000
LINE_MAX_BYTES = MAX_MESSAGE_BYTES - 4_096  # the broker counts the key and the record's frame as well
LOOK_EVERY_S = 0.1

Confirmed = Callable[[int], None]


class BadLine(ValueError):
    """A line cannot be published; str() names the file, the line and the reason."""


class TopicMissing(Exception):
    """The topic does not exist."""


class Line(NamedTuple):
    """A line of the file: a topic's value under the key that the topic wants."""

    key: bytes
    value: bytes


def read_lines(path: Path, id_field: str) -> Iterator[Line]:
    """The lines that are not blank, as they stand in the file. Raises BadLine at the first that cannot be published."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if value := raw.strip():
                try:
                    yield Line(_id_of(value, id_field).encode(), value)
                except ValueError as error:
                    raise BadLine(f"{path}, line {number} {error}: mend it, then publish from that line on") from error


def count_lines(path: Path) -> int:
    """How many lines are not blank."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _id_of(value: bytes, id_field: str) -> str:
    """Raises ValueError that says what is wrong."""
    if len(value) > LINE_MAX_BYTES:
        raise ValueError(f"has {len(value)} bytes, the limit is {LINE_MAX_BYTES}")
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from error
    found = event.get(id_field) if isinstance(event, dict) else None
    if not isinstance(found, str) or not found:
        raise ValueError(f"has no {id_field} (a text that is not empty)")
    return found


def require_topic(broker: Broker, topic: str) -> None:
    """Raises TopicMissing, and BrokerUnavailable."""
    if topic not in broker.topic_ids([topic]):
        raise TopicMissing(f"there is no topic {topic}: make it with `freshet topics create`, or `freshet up`")


def publish_lines(
    broker: Broker,
    topic: str,
    lines: Iterator[Line],
    *,
    rate: float | None = None,
    confirmed: Confirmed = lambda _: None,
    within_s: float = CONFIRM_WITHIN_S,
) -> int:
    """Every line has been confirmed by the broker (acks=all), in the file's order for each key; how many.

    rate       events per second, evenly paced; None for as fast as the broker confirms
    confirmed  called now and then with how many the broker has confirmed so far, and at the end
    within_s   longest time without any confirmation

    Raises what `lines` raises, when everything before that line is confirmed, and BrokerUnavailable.
    """
    producer = broker.sync_producer()
    sending = _Sending(producer, topic, confirmed, within_s)
    try:
        try:
            _send_all(sending, lines, rate)
        finally:
            sending.settle()
    finally:
        sending.report()
        _close(producer)
    return sending.confirmed


def _send_all(sending: "_Sending", lines: Iterator[Line], rate: float | None) -> None:
    began = time.monotonic()
    for number, line in enumerate(lines):
        if rate is not None:
            sending.wait_until(began + number / rate)
        sending.send(line)


def _close(producer: KafkaProducer) -> None:
    """Give up what is not confirmed; its own close() raises then, before it closes anything."""
    try:
        producer.close(timeout=CLOSE_WITHIN_S)
    except KafkaError:
        producer._sender.force_close()
        producer._sender.join(CLOSE_WITHIN_S)


class _Sending:
    """One file on its way: what was sent, and what the broker has confirmed of it."""

    def __init__(self, producer: KafkaProducer, topic: str, report: Confirmed, within_s: float) -> None:
        self.confirmed = 0
        self._sent = 0
        self._failure: BaseException | None = None
        self._producer = producer
        self._topic = topic
        self._report = report
        self._within_s = within_s
        self._progressed_at = time.monotonic()
        self._reported_at = 0.0
        self._lock = Lock()

    def send(self, line: Line) -> None:
        """On its way, when fewer than IN_FLIGHT_MAX are. Raises BrokerUnavailable if one before was refused."""
        while self._sent - self.confirmed >= IN_FLIGHT_MAX:
            self._look()
            time.sleep(0.002)
        self._look()
        try:
            future = self._producer.send(self._topic, key=line.key, value=line.value)
        except KafkaError as error:
            raise self._unavailable(error) from error
        if self._sent == self.confirmed:
            self._progressed_at = time.monotonic()
        self._sent += 1
        future.add_callback(self._on_confirmed)
        future.add_errback(self._on_refused)

    def wait_until(self, due: float) -> None:
        """Sleep until due (monotonic), reporting meanwhile."""
        while (left_s := due - time.monotonic()) > 0:
            self._look()
            time.sleep(min(left_s, LOOK_EVERY_S))

    def settle(self) -> None:
        """Everything that was sent is confirmed. Raises BrokerUnavailable."""
        while self.confirmed < self._sent:
            self._look()
            time.sleep(0.002)

    def report(self) -> None:
        """Tell how many are confirmed."""
        self._reported_at = time.monotonic()
        self._report(self.confirmed)

    def _look(self) -> None:
        if self._failure is not None:
            raise self._unavailable(self._failure) from self._failure
        now = time.monotonic()
        if self.confirmed < self._sent and now - self._progressed_at > self._within_s:
            raise self._unavailable(TimeoutError(f"no confirmation in {self._within_s:g} s"))
        if now - self._reported_at >= LOOK_EVERY_S:
            self.report()

    def _on_confirmed(self, _: Any) -> None:
        with self._lock:  # the producer's thread calls it or, where the answer was quicker than we, this one
            self.confirmed += 1
            self._progressed_at = time.monotonic()

    def _on_refused(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _unavailable(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"{self.confirmed} of {self._sent} sent to {self._topic} were confirmed, then: {error!r}. "
            "Publish the file again when the broker is well: an event_id or a product that came before counts once"
        )


def watch_lists(
    broker: Broker, topic: str, *, user_id: str | None = None, stop: Event | None = None
) -> Generator[bytes]:
    """Values of `recommendations` that are published from this call on, of one user or of all, until stop is set.

    A program that is interrupted sets stop: an exception out of the middle of a fetch may leave the consumer waiting
    for itself when it is closed. Raises BrokerUnavailable, and TopicMissing.
    """
    require_topic(broker, topic)
    consumer = broker.sync_consumer()
    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(partitions)
    began_ms = 0.0
    if broker.embedded:  # tansu is wrong about the end: all is read, and what is older left out
        began_ms = time.time() * 1000
    else:
        consumer.seek_to_end()
        for partition in partitions:
            consumer.position(partition)  # without it the end is looked up later, and lists until then are missed
    return _values(consumer, None if user_id is None else user_id.encode(), began_ms, stop or Event())


def _values(consumer: KafkaConsumer, key: bytes | None, began_ms: float, stop: Event) -> Generator[bytes]:
    try:
        while not stop.is_set():
            for records in consumer.poll(timeout_ms=LOOK_EVERY_S * 1000).values():
                for record in records:
                    if record.value is not None and record.timestamp >= began_ms and key in (None, record.key):
                        yield record.value
    except KafkaError as error:
        raise BrokerUnavailable(f"the lists cannot be read any more ({error!r}): is the broker running?") from error
    finally:
        consumer.close()
