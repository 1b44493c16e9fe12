"""Reads back, after an assignment, the last list that each user of the assigned partitions got."""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import NamedTuple

import aiokafka
import cramjam
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from streams.broker import Broker, BrokerUnavailable, end, partitions_of

log = logging.getLogger(__name__)

RECORDS_AT_ONCE = 200  # between two turns of the loop: a few milliseconds
AGAIN_AFTER_S = 1.0
MARGIN_S = 10.0  # what was published shortly before the partitions went is read again


class FoundList(NamedTuple):
    """A record of `recommendations` and the partition of user-clicks that its user belongs to."""

    partition: int
    packed: bytes  # lz4: all users' lists wait here at once

    @property
    def value(self) -> bytes:
        return bytes(cramjam.lz4.decompress_block(self.packed))


class LastLists:
    """A reader outside any group. It reads the end of the topic once after each assignment, in the background.

    `found` is filled on the loop when all is read, because a list is only known to be a user's last one then. It is
    emptied by popitem, in any thread; what was found last comes first.
    """

    def __init__(self, broker: Broker, *, lists: str, clicks: str, window_s: float, most: int) -> None:
        """lists, clicks: topics; window_s: lists older than this are not read; most: records, of all partitions."""
        self.found: dict[str, FoundList] = {}
        self.read = 0  # records
        self._broker = broker
        self._lists = lists
        self._clicks = clicks
        self._window_s = window_s
        self._most = most
        self._known_until: dict[int, float] = {}  # s since 1970; the lists of a partition are known up to then
        self._task: asyncio.Task[None] | None = None

    @property
    def is_reading(self) -> bool:
        return self._task is not None and not self._task.done()

    def check(self) -> None:
        """Raises what ended the reader, if something unexpected did."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    def known(self, now: float) -> None:
        """The taker has published all lists of its partitions itself until now, if their past was read."""
        if not self.is_reading:
            self._known_until = dict.fromkeys(self._known_until, now)

    def read_back(self, partitions: Collection[int], now: float) -> None:
        """Begin to read what is not known of these partitions. Others are not known any more. Call it on the loop."""
        if self._task is not None:
            self._task.cancel()
        self._known_until = {p: at for p, at in self._known_until.items() if p in partitions}
        since = {p: self._known_until.get(p, now - self._window_s) - MARGIN_S for p in partitions}
        self._task = asyncio.create_task(self._until_read(since), name="last-lists")

    async def stop(self) -> None:
        """Safe to call at any time."""
        if self._task is not None:
            await end(self._task)

    async def _until_read(self, since: dict[int, float]) -> None:
        while True:
            try:
                await self._read(since)
            except (KafkaError, OSError, BrokerUnavailable) as error:
                log.warning("last lists wait reason=%r", error)
                await asyncio.sleep(AGAIN_AFTER_S)
            else:
                break
        self._known_until = dict.fromkeys(since, time.time())

    async def _read(self, since: dict[int, float]) -> None:
        began, before = time.monotonic(), self.read
        found: dict[str, FoundList] = {}
        consumer = self._broker.consumer()
        try:
            await consumer.start()
            clicks, lists = [len(await partitions_of(consumer, [topic])) for topic in (self._clicks, self._lists)]
            # With as many partitions a user's lists stand in the partition of her clicks, else in any.
            starts = since if clicks == lists else dict.fromkeys(range(lists), min(since.values(), default=0.0))
            places = {TopicPartition(self._lists, number): at for number, at in starts.items()}
            consumer.assign(list(places))
            await self._seek(consumer, places)
            while not await _is_at_end(consumer, places):
                polled = await consumer.getmany(timeout_ms=200, max_records=RECORDS_AT_ONCE)
                for record in (record for records in polled.values() for record in records):
                    partition = record.partition if clicks == lists else _partition_of(record.key, clicks)
                    if record.value and partition in since and record.timestamp / 1000 >= since[partition]:
                        user_id = record.key.decode()
                        found.pop(user_id, None)
                        found[user_id] = FoundList(partition, bytes(cramjam.lz4.compress_block(record.value)))
                    self.read += 1
                await asyncio.sleep(0)  # getmany alone does not let others run while it has records
        finally:
            await consumer.stop()
        self.found.update(found)
        log.info("last lists read records=%d seconds=%.1f", self.read - before, time.monotonic() - began)

    async def _seek(self, consumer: aiokafka.AIOKafkaConsumer, since: dict[TopicPartition, float]) -> None:
        """To the first record of each time, and not further back than the bound on records allows."""
        if self._broker.embedded:
            await consumer.seek_to_beginning(*since)  # tansu is wrong about ends and times; its topics are short
            return
        times_ms = {place: max(0, int(at * 1000)) for place, at in since.items()}
        found = await consumer.offsets_for_times(times_ms)
        ends = await consumer.end_offsets(list(since))
        for place in since:
            first = found[place].offset if found[place] is not None else ends[place]
            consumer.seek(place, max(first, ends[place] - self._most // len(since)))


def _partition_of(key: bytes, partitions: int) -> int:
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


async def _is_at_end(consumer: aiokafka.AIOKafkaConsumer, places: Collection[TopicPartition]) -> bool:
    """As far as a fetch has told, which is right on both brokers."""
    for place in places:
        end = consumer.highwater(place)
        if end is None or await consumer.position(place) < end:
            return False
    return True
