"""Reads training-examples: every partition by hand, from given offsets, outside any group."""

import time
from collections.abc import Mapping

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.broker import Broker, BrokerUnavailable, partitions_of
from streams.examples import Record

READ_WAIT_MS = 200
PEEKS = 5  # of READ_WAIT_MS at most: a broker lets a fetch that finds nothing wait for half a second


class TopicChanged(Exception):
    """A topic was made again, or has more partitions than at the start: start again to read it from its beginning."""


class ExampleReader:
    """A consumer of all partitions that one topic had when it was opened."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.topic = topic
        self._broker = broker
        self._consumer: aiokafka.AIOKafkaConsumer | None = None
        self._partitions: list[TopicPartition] = []
        self._next: dict[int, int] = {}  # the offset that each partition is read at next
        self._oldest_at: float | None = None  # s since 1970, of what was read last, or is the first to read

    async def open(self) -> None:
        """Connect, if it is not. Raises BrokerUnavailable."""
        if self._consumer is not None:
            return
        consumer = self._broker.consumer(in_bulk=True)
        try:
            await consumer.start()
            self._partitions = sorted(await partitions_of(consumer, [self.topic]))
            consumer.assign(self._partitions)
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise BrokerUnavailable(f"cannot read {self.topic}: {error!r}") from error
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer

    async def close(self) -> None:
        """Safe to call at any time."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def seek(self, positions: Mapping[int, int]) -> None:
        """Read on from these offsets; where one is older than what the topic keeps, from there.

        `lag` and `oldest_age_s` count from there at once, not only after the first read. Raises BrokerUnavailable.
        """
        consumer = self._opened()
        try:
            oldest = await consumer.beginning_offsets(self._partitions)
            for partition in self._partitions:
                self._next[partition.partition] = max(oldest[partition], positions.get(partition.partition, 0))
            self._oldest_at = await self._peek(consumer)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"cannot read {self.topic}: {error!r}") from error

    async def _peek(self, consumer: aiokafka.AIOKafkaConsumer) -> float | None:
        """The time of the oldest record that is to be read next; the partitions are read on from there."""
        oldest: dict[TopicPartition, float] = {}
        self._seek_next(consumer)
        for _ in range(PEEKS):
            for partition, records in (await consumer.getmany(timeout_ms=READ_WAIT_MS)).items():
                oldest.setdefault(partition, records[0].timestamp / 1000)
            ends = {partition: consumer.highwater(partition) for partition in self._partitions}
            if all(p in oldest or (end is not None and end <= self._next[p.partition]) for p, end in ends.items()):
                break
        self._seek_next(consumer)
        return min(oldest.values(), default=None)

    def _seek_next(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        for partition in self._partitions:
            consumer.seek(partition, self._next[partition.partition])

    async def read(self, most: int, *, wait: bool) -> list[Record]:
        """What has come, at most so much, in the order of each partition. Raises BrokerUnavailable."""
        try:
            read = await self._opened().getmany(timeout_ms=READ_WAIT_MS if wait else 0, max_records=most)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"cannot read {self.topic}: {error!r}") from error
        for partition, records in read.items():
            self._next[partition.partition] = records[-1].offset + 1
        records = [record for some in read.values() for record in some]
        self._oldest_at = min((record.timestamp / 1000 for record in records), default=None)
        return [Record(record.partition, record.offset, record.value) for record in records]

    @property
    def lag(self) -> int:
        """Examples at the broker that were not read, as far as fetches have told."""
        consumer = self._consumer
        if consumer is None:
            return 0
        ends = {partition.partition: consumer.highwater(partition) or 0 for partition in self._partitions}
        return sum(max(0, end - self._next.get(partition, end)) for partition, end in ends.items())

    @property
    def oldest_age_s(self) -> float:
        """How old the oldest record of the last read is; 0 if that brought nothing."""
        return 0.0 if self._oldest_at is None else max(0.0, time.time() - self._oldest_at)

    def require_same_partitions(self) -> None:
        """Raises TopicChanged if the topic has got more partitions: nobody reads those."""
        if len(self._opened().partitions_for_topic(self.topic) or ()) > len(self._partitions):
            raise TopicChanged(f"{self.topic} has more than the {len(self._partitions)} partitions of the start")

    def _opened(self) -> aiokafka.AIOKafkaConsumer:
        if self._consumer is None:
            raise RuntimeError(f"the reader of {self.topic} is not open: call open first")
        return self._consumer
