"""Readers of compacted topics, outside any group: views in memory that can be rebuilt at any time."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.broker import Broker, BrokerUnavailable, Headers, end, partitions_of
from streams.events import BadEvent
from streams.shelf import Shelf
from streams.topics import TopicNames

log = logging.getLogger(__name__)

Put = Callable[[bytes, bytes | None, Headers], None]
MALFORMED = (BadEvent, ValueError, LookupError, TypeError, AttributeError)  # what a record of no known form leads to
RECORDS_PER_TURN = 50  # a burst of records does not delay the clicks between them


class ReplicaEnded(Exception):
    """The reader of a view has ended: the view is stale from then on."""


def shelf_topics(shelf: Shelf, names: TopicNames) -> dict[str, Put]:
    """What fills a shelf."""
    return {
        names.product_index: shelf.put_offer,
        names.product_vectors: shelf.put_vectors,
        names.item_factors: shelf.put_factors,
        names.item_neighbours: shelf.put_neighbours,
        names.model_weights: shelf.put_weights,
        names.rules: shelf.rules.published.put,
    }


class Replica:
    """Keeps a view equal to its topics. `start` returns when every record that was there has been put."""

    def __init__(self, broker: Broker, puts: Mapping[str, Put], lock: Lock) -> None:
        self._broker = broker
        self._puts = puts
        self._lock = lock
        self._consumer: aiokafka.AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replica")
        self.records = 0
        self.malformed = 0  # records that were skipped: nobody but Freshet writes these topics, so this is never right
        self.newest_at = 0.0  # s since 1970, the time of the newest record that was put

    async def start(self) -> None:
        """Read to the end of every topic, then go on in the background; once. Raises BrokerUnavailable."""
        async with self._starting:
            if self._task is None:
                await self._start()

    async def _start(self) -> None:
        began = time.monotonic()
        consumer = self._broker.consumer()
        try:
            await consumer.start()
            partitions = await partitions_of(consumer, self._puts)
            consumer.assign(partitions)
            while not await self._is_at_end(consumer, partitions):
                await self._put_next(consumer, most=1_000)
        except (KafkaError, OSError) as error:
            await consumer.stop()
            raise BrokerUnavailable(f"a replica cannot read {sorted(self._puts)}: {error!r}") from error
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer
        log.info("replica full records=%d seconds=%.1f", self.records, time.monotonic() - began)
        self._task = asyncio.create_task(self._follow(consumer), name="replica")
        self._task.add_done_callback(_log_the_end)

    async def stop(self) -> None:
        """Close; safe to call at any time."""
        if self._task is not None:
            await end(self._task)
        if self._consumer is not None:
            await self._consumer.stop()
        self._thread.shutdown(wait=False)

    def check(self) -> None:
        """Raises ReplicaEnded, from what ended the reader, if something did."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            raise ReplicaEnded(f"the reader of {', '.join(self._puts)} has ended: {error!r}") from error

    async def _follow(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        while True:
            try:
                await consumer.take_in_added(self._puts)
                await self._put_next(consumer, most=RECORDS_PER_TURN)
            except (KafkaError, OSError) as error:
                log.warning("replica waits reason=%r", error)
                await asyncio.sleep(1.0)

    async def _is_at_end(self, consumer: aiokafka.AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> bool:
        """True when each position has reached the high watermark that a fetch has told.

        tansu's ListOffsets is wrong about the end, its fetch responses are right.
        """
        for partition in partitions:
            end = consumer.highwater(partition)
            if end is None or await consumer.position(partition) < end:
                return False
        return True

    async def _put_next(self, consumer: aiokafka.AIOKafkaConsumer, *, most: int) -> None:
        records = await consumer.getmany(timeout_ms=200, max_records=most)
        batch = [record for some in records.values() for record in some]
        if batch:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._put_all, batch)

    def _put_all(self, batch: Sequence[aiokafka.ConsumerRecord]) -> None:
        with self._lock:
            for record in batch:
                try:
                    self._puts[record.topic](record.key, record.value, record.headers)
                except MALFORMED as error:
                    self.malformed += 1
                    place = (record.topic, record.partition, record.offset)
                    log.error("record skipped topic=%s partition=%d offset=%d reason=%r", *place, error)
        self.records += len(batch)
        self.newest_at = batch[-1].timestamp / 1000


def _log_the_end(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("replica ended, its view is stale", exc_info=error)
