"""What is published on topics from now on, read outside any group, for those who only want to see what happens.

All of it runs on the event loop.
"""

import asyncio
import logging
from collections.abc import Callable

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.broker import Broker, BrokerUnavailable, partitions_of

log = logging.getLogger(__name__)

AGAIN_AFTER_S = 1.0
RECORDS_PER_TURN = 200  # the loop answers others in between
TOGETHER_S = 0.1
Put = Callable[[aiokafka.ConsumerRecord], None]


class Tail:
    """One reader of several topics."""

    def __init__(self, broker: Broker, is_awaited: Callable[[], bool] = lambda: True) -> None:
        """Nothing is read yet.

        is_awaited  False while nobody waits for what is read: then what comes within TOGETHER_S is read together, which
                    costs much less than one record after the other
        """
        self._broker = broker
        self._is_awaited = is_awaited
        self._puts: dict[str, list[Put]] = {}
        self._positions: dict[TopicPartition, int] = {}
        self.is_following = asyncio.Event()  # what is published from now on is handed on

    def add(self, topic: str, put: Put) -> None:
        """Each record of the topic is given to `put`, behind those that were added before; call it before `follow`."""
        self._puts.setdefault(topic, []).append(put)

    async def follow(self) -> None:
        """Read what is published from now on until cancelled; while the broker is away, try again from there."""
        while True:
            try:
                await self._read()
            except (KafkaError, OSError, BrokerUnavailable) as away:
                log.info("topics are away topics=%s reason=%r", ",".join(self._puts), away)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _read(self) -> None:
        consumer = self._broker.consumer()
        try:
            await consumer.start()
            await self._assign(consumer)
            self.is_following.set()
            while True:
                self._positions |= dict.fromkeys(await consumer.take_in_added(self._puts), 0)
                polled = await consumer.getmany(timeout_ms=500, max_records=RECORDS_PER_TURN)
                for partition, records in polled.items():
                    self._positions[partition] = records[-1].offset + 1
                    for record in records:
                        for put in self._puts[record.topic]:
                            put(record)
                is_behind = sum(map(len, polled.values())) == RECORDS_PER_TURN
                # Also of 0: getmany alone does not let others run while it has records.
                await asyncio.sleep(0.0 if is_behind or self._is_awaited() else TOGETHER_S)
        finally:
            await consumer.stop()

    async def _assign(self, consumer: aiokafka.AIOKafkaConsumer) -> None:
        """To where it was, or to the end, as a fetch tells it: tansu's ListOffsets is wrong about the end."""
        partitions = await partitions_of(consumer, self._puts)
        consumer.assign(partitions)
        unknown = [partition for partition in partitions if partition not in self._positions]
        while any(consumer.highwater(partition) is None for partition in unknown):
            await consumer.getmany(timeout_ms=100, max_records=1)
        for partition in unknown:
            self._positions[partition] = consumer.highwater(partition)
        for partition in partitions:
            consumer.seek(partition, self._positions[partition])
