"""A Faust app set up so that it cannot lose events: one consumer group that reads raw bytes.

Faust's defaults acknowledge what failed, hang on shutdown and fetch with a fixed long wait; each override below says
what breaks without it. Acknowledging is left to `streams.lossless`, which alone decides when an event is done.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import aiokafka
import faust
import faust.streams
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import IllegalStateError
from faust.app.base import BootStrategy
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from mode.threads import WorkerThread

from streams.broker import MAX_MESSAGE_BYTES, Broker
from streams.health import group_id
from streams.settings import Settings

ENDS_WITHIN_S = 1.0  # a consumer thread
Agent = Callable[[Any], Awaitable[None]]


class StreamNotCompiled(RuntimeError):
    """Faust runs its pure-Python stream, which acknowledges events of older generations unseen."""


class _Boot(BootStrategy):  # type: ignore[misc]
    """Neither Faust's producer nor its web server (which would serve tables to anyone) is started."""

    enable_kafka_producer = False
    enable_web = False


class _Daemon(WorkerThread):  # type: ignore[misc]
    """A thread that the process does not wait for at its end: a broker that says nothing would hold it for 30 s."""

    def __init__(self, service: Any, **more: Any) -> None:
        super().__init__(service, **more)
        self.daemon = True

    def stop(self) -> None:
        """Wait ENDS_WITHIN_S at most, because this holds up the loop of the process, and so all its roles: the thread
        has left the group by then, and may still wait for a broker that says nothing."""
        self.is_stopped.wait(ENDS_WITHIN_S)


class _Thread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with our own client: short waits where needed, committed records only, TLS and SASL."""

    Worker = _Daemon

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:  # noqa: ARG002
        conf = self.app.conf
        self._assignor = RoundRobinPartitionAssignor
        return aiokafka.AIOKafkaConsumer(
            **self.app.broker.async_arguments(),
            client_id=conf.broker_client_id,
            group_id=conf.id,
            group_instance_id=conf.consumer_group_instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=self.app.broker.fetch_wait_ms(urgent=self.app.urgent),
            max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
            max_poll_interval_ms=int(conf.broker_max_poll_interval * 1000),
            request_timeout_ms=int(conf.broker_request_timeout * 1000),
            session_timeout_ms=int(conf.broker_session_timeout * 1000),
            rebalance_timeout_ms=int(conf.broker_rebalance_timeout * 1000),
            heartbeat_interval_ms=int(conf.broker_heartbeat_interval * 1000),
        )

    async def on_thread_stop(self) -> None:
        """The client has ended, whatever it was waiting for."""
        # During an outage aiokafka's fetcher raises this when it is closed; it would end the thread without a word to
        # the loop that waits for it, and SIGTERM would hang.
        with contextlib.suppress(asyncio.CancelledError):
            await super().on_thread_stop()

    async def seek_to_committed(self) -> Any:
        """Every partition is read on from its committed offset, or from its beginning if it has none."""
        return await self.call_thread(self._seek_to_committed)

    async def _seek_to_committed(self) -> Any:
        consumer = self._ensure_consumer()
        committed = await consumer.seek_to_committed()
        # aiokafka leaves a partition without a committed offset where it is, and during a rebalance Faust drops what it
        # has fetched and relies on this seek to read it again: those events would be lost.
        if never := [tp for tp, offset in committed.items() if not offset]:
            await consumer.seek_to_beginning(*never)
        return committed


class _Consumer(Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Read on from the committed offsets; if that fails, the group has crashed."""
        try:
            await super().perform_seek()
        except (IllegalStateError, AssertionError):
            raise  # the partitions were taken away meanwhile
        except Exception as error:
            # Faust would log it and read on behind the events that it has dropped.
            await self.crash(error)
            raise


class _Transport(Transport):  # type: ignore[misc]
    Consumer = _Consumer


class Group(faust.App):  # type: ignore[misc]
    """One member of the consumer group of a role."""

    BootStrategy = _Boot
    broker: Broker
    urgent: bool

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)


def make_group(
    settings: Settings, broker: Broker, *, role: str, topics: tuple[str, ...], agent: Agent, urgent: bool = False
) -> Group:
    """A Faust app whose only agent gets the stream of raw events of these topics. Not started.

    urgent: somebody waits for what comes of each event (Broker.fetch_wait_ms).

    Raises StreamNotCompiled if Faust's compiled stream is not there.
    """
    if faust.streams._CStreamIterator is None:
        raise StreamNotCompiled("faust-streaming has no compiled stream here: install its wheel and unset NO_CYTHON")
    session_s = min(settings.session_timeout_s, 6.0) if broker.embedded else settings.session_timeout_s
    group = Group(
        group_id(settings, role),
        broker=f"kafka://{settings.bootstrap.replace(',', ';')}",
        key_serializer="raw",
        value_serializer="raw",
        # A member that comes back under its name takes its partitions at once instead of after the session timeout.
        consumer_group_instance_id=f"{settings.worker_id}-{role}",
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 5,
        broker_request_timeout=max(30.0, session_s + 5),
        broker_rebalance_timeout=30.0,
        broker_max_poll_interval=600.0,
        broker_commit_interval=1.0,
        stream_buffer_maxsize=settings.queue_max,
        stream_wait_empty=False,  # with it, one event that is not acknowledged hangs SIGTERM and every rebalance
        agent_supervisor="mode.CrashingSupervisor",  # the default restarts the agent and acknowledges what it held
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        store="memory://",
        datadir=str(settings.home / "faust"),  # Faust makes it, empty; without it in the current folder
        web_enabled=False,
    )
    group.broker, group.urgent = broker, urgent
    stream = group.topic(*topics, key_type=bytes, value_type=bytes, allow_empty=True)
    group.agent(stream, name="lossless", concurrency=1)(agent)
    return group
