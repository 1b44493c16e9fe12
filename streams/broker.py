"""Clients of the broker: one place where TLS, SASL and the broker's kind reach every one of them alike."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import aiokafka
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from streams.settings import Settings

MAX_MESSAGE_BYTES = 4_194_304
CANCEL_EVERY_S = 0.2
BULK_BYTES, BULK_WAIT_MS = 65_536, 100
METADATA_MAX_AGE_MS = 30_000  # until a consumer hears of partitions that a topic was given
LOOK_EVERY_S = 1.0  # whether it has
Headers = Sequence[tuple[str, bytes]]
log = logging.getLogger(__name__)


class BrokerUnavailable(Exception):
    """The broker does not answer or refuses for now: try again."""


class Outgoing(NamedTuple):
    """A message to publish; without a partition, the key's murmur2 hash decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None


class Broker:
    """Makes the clients of one cluster, all with the same address, TLS and SASL settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.embedded = settings.broker_is_embedded

    def fetch_wait_ms(self, *, urgent: bool) -> int:
        """How long a fetch may wait for data.

        tansu does not wake a waiting fetch when data comes, so its consumers ask again soon; that costs it CPU, so
        only those ask very soon for whom somebody waits.
        """
        return 500 if not self.embedded else 5 if urgent else 40

    def admin(self) -> KafkaAdminClient:
        """A kafka-python admin client; a context manager closes it."""
        return self._reach(lambda: KafkaAdminClient(**self._common(), bootstrap_timeout_ms=10_000))

    def sync_producer(self) -> KafkaProducer:
        """A kafka-python producer with acks=all, idempotent where the broker can."""
        return self._reach(
            lambda: KafkaProducer(
                **self._common(),
                acks="all",
                enable_idempotence=not self.embedded,
                linger_ms=5,
                max_request_size=MAX_MESSAGE_BYTES,
                bootstrap_timeout_ms=10_000,
            )
        )

    def sync_consumer(self, **more: Any) -> KafkaConsumer:
        """A kafka-python consumer outside any group."""
        return self._reach(
            lambda: KafkaConsumer(
                **self._common(),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                fetch_max_wait_ms=self.fetch_wait_ms(urgent=False),
                bootstrap_timeout_ms=10_000,
                **more,
            )
        )

    def producer(self) -> aiokafka.AIOKafkaProducer:
        """An aiokafka producer with acks=all, idempotent where the broker can; not started."""
        return aiokafka.AIOKafkaProducer(
            **self.async_arguments(),
            acks="all",
            enable_idempotence=not self.embedded,
            max_request_size=MAX_MESSAGE_BYTES,
            max_batch_size=131_072,
            request_timeout_ms=30_000,
        )

    def consumer(self, *, urgent: bool = False, in_bulk: bool = False) -> aiokafka.AIOKafkaConsumer:
        """An aiokafka consumer outside any group, reading committed records only; not started.

        urgent   as in fetch_wait_ms
        in_bulk  nobody waits for what is read: what comes within BULK_WAIT_MS is fetched at once, which costs the
                 broker and the reader much less than one record after the other
        """
        in_bulk = in_bulk and not self.embedded  # tansu's are fetched that seldom anyway
        return _Consumer(
            **self.async_arguments(),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            fetch_max_wait_ms=BULK_WAIT_MS if in_bulk else self.fetch_wait_ms(urgent=urgent),
            fetch_min_bytes=BULK_BYTES if in_bulk else 1,
            max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
        )

    def async_arguments(self) -> dict[str, Any]:
        """Address and security as aiokafka names them."""
        arguments = self._common()
        if "ssl_cafile" in arguments:
            arguments["ssl_context"] = ssl.create_default_context(cafile=arguments.pop("ssl_cafile"))
        elif arguments["security_protocol"].endswith("SSL"):
            arguments["ssl_context"] = ssl.create_default_context()
        return arguments

    def topic_ids(self, topics: Iterable[str]) -> dict[str, str]:
        """The broker's id of each topic that exists; a topic made again has another."""
        with self.admin() as admin:
            described = self._reach(lambda: admin.describe_topics(list(topics)))
        return {t["name"]: str(t["topic_id"]) for t in described if not t["error_code"]}

    def _common(self) -> dict[str, Any]:
        settings = self._settings
        arguments: dict[str, Any] = {
            "bootstrap_servers": settings.bootstrap.split(","),
            "security_protocol": settings.kafka_security_protocol,
        }
        if settings.kafka_ca_file:
            arguments["ssl_cafile"] = str(settings.kafka_ca_file)
        if settings.kafka_security_protocol.startswith("SASL"):
            arguments |= {
                "sasl_mechanism": settings.kafka_sasl_mechanism,
                "sasl_plain_username": settings.kafka_username,
                "sasl_plain_password": settings.kafka_password.get_secret_value() if settings.kafka_password else None,
            }
        return arguments

    def _reach(self, make: Callable[[], Any]) -> Any:
        from kafka.errors import KafkaError as SyncKafkaError

        try:
            return make()
        except (SyncKafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"no answer from Kafka at {self._settings.bootstrap} ({type(error).__name__}): "
                "is it running? `freshet up` starts an embedded one, FRESHET_KAFKA_BOOTSTRAP names yours"
            ) from error


async def partitions_of(consumer: aiokafka.AIOKafkaConsumer, topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of these topics, which the consumer knows from then on. Raises BrokerUnavailable for no topic."""
    partitions = []
    for topic in topics:
        await consumer._client.add_topic(topic)  # `assign` alone leaves the partitions unknown at first
        numbers = consumer.partitions_for_topic(topic)
        if not numbers:
            raise BrokerUnavailable(f"no topic {topic}: make it with `freshet topics create`")
        partitions += [TopicPartition(topic, number) for number in numbers]
    return partitions


async def end(task: "asyncio.Task[Any]") -> None:
    """The task has ended, cancelled or not.

    It is cancelled until then, because a client of aiokafka that is being closed swallows a cancellation.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_EVERY_S)


class _Consumer(aiokafka.AIOKafkaConsumer):  # type: ignore[misc]
    _look_at = 0.0  # monotonic

    async def take_in_added(self, topics: Iterable[str]) -> list[TopicPartition]:
        """Assign the partitions that these topics were given since, from their beginning; others go on where they are.

        Returns them. To be called again and again: it looks every LOOK_EVERY_S.
        """
        if (now := time.monotonic()) < self._look_at:
            return []
        self._look_at = now + LOOK_EVERY_S
        assigned = self.assignment()
        there = [TopicPartition(topic, number) for topic in topics for number in self.partitions_for_topic(topic) or ()]
        if added := [place for place in there if place not in assigned]:
            positions = {place: await self.position(place) for place in assigned} | dict.fromkeys(added, 0)
            self.assign(list(positions))
            for place, offset in positions.items():
                self.seek(place, offset)
            log.info("partitions added %s", ",".join(f"{place.topic}/{place.partition}" for place in added))
        return added

    async def stop(self) -> None:
        """It is closed, also in an outage of the broker.

        aiokafka's fetcher awaits the fetches that it cancels. One that waits for a broker which is away ends as
        cancelled, and that would end whoever closes the consumer before the connections are closed.
        """
        try:
            await super().stop()
        except asyncio.CancelledError:
            for fetch in self._fetcher._pending_tasks:
                fetch.cancel()
            await self._client.close()


class Publisher:
    """The one aiokafka producer of a process: publishes and returns only when the broker has confirmed."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._producer: aiokafka.AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect, if it is not. Raises BrokerUnavailable."""
        async with self._starting:
            if self._producer is not None:
                return
            producer = self._broker.producer()
            try:
                await producer.start()
            except (KafkaError, OSError) as error:
                await producer.stop()
                raise BrokerUnavailable(f"the producer cannot connect: {error!r}") from error
            self._producer = producer

    async def stop(self, *, flush_s: float = 2.0) -> None:
        """Close; what is not confirmed within flush_s is given up (nobody has acknowledged its source)."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            # Not wait_for: a stop that is cancelled leaves its sender and its connections running for good.
            closing = asyncio.create_task(_close(producer))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            await asyncio.wait({closing}, timeout=flush_s)

    async def publish(self, messages: list[Outgoing]) -> list[Any]:
        """All messages are confirmed by the broker (acks=all), in order per partition; returns the confirmations.

        Each has a `partition` and an `offset`, where its message stands.

        Raises BrokerUnavailable if one is not: then all must be published again; MessageSizeTooLargeError if one is
        larger than MAX_MESSAGE_BYTES.
        """
        if not messages:
            return []
        await self.start()
        producer = self._producer
        if producer is None:
            raise BrokerUnavailable("the producer was closed meanwhile")
        try:
            confirmations = [
                await producer.send(m.topic, value=m.value, key=m.key, partition=m.partition, headers=list(m.headers))
                for m in messages
            ]
            confirmed = await asyncio.gather(*confirmations, return_exceptions=True)
            for confirmation in confirmed:
                if isinstance(confirmation, BaseException):
                    raise confirmation
        except MessageSizeTooLargeError:
            raise
        except (KafkaError, OSError) as error:
            # A producer that failed may be fenced or out of sequence: the next attempt takes a new one.
            if self._producer is producer:  # another role of the process may have been quicker
                await self.stop()
            raise BrokerUnavailable(f"{len(messages)} messages not confirmed: {error!r}") from error
        return confirmed


async def _close(producer: aiokafka.AIOKafkaProducer) -> None:
    with contextlib.suppress(KafkaError, OSError):
        await producer.stop()
