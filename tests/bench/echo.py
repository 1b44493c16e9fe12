"""The echo, the baseline of everything that comes and goes through Kafka: the least that a Faust agent can do.

A Faust agent with a bounded queue and an own aiokafka producer: it publishes each value, waits for the broker's
confirmation, then acknowledges. `python -m tests.bench.echo` runs it with settings from the environment.
"""

import asyncio
from typing import Any

from kafka.admin import NewTopic

from streams.broker import Broker, Outgoing, Publisher
from streams.group import make_group
from streams.settings import Settings, load_settings
from streams.worker import run_worker

ROLE = "echo"
LEADERS_WITHIN_S = 30.0


def echo_topics(settings: Settings) -> tuple[str, str]:
    """What it reads, and what it writes."""
    return f"{settings.namespace}.echo-in", f"{settings.namespace}.echo-out"


def create_echo_topics(settings: Settings) -> None:
    """Both are there, as wide as the others."""
    new = [NewTopic(topic, settings.partitions, 1) for topic in echo_topics(settings)]
    with Broker(settings).admin() as admin:
        admin.create_topics(new)
        admin.wait_for_topics([topic.name for topic in new], timeout_ms=LEADERS_WITHIN_S * 1000)


class Echo:
    """A Runnable that echoes until `stop` is called."""

    def __init__(self, settings: Settings, broker: Broker, publisher: Publisher) -> None:
        source, self._target = echo_topics(settings)
        self._publisher = publisher
        self._batch_max = settings.batch_max
        self._queue: asyncio.Queue[Any] = asyncio.Queue(settings.queue_max)
        self._group = make_group(settings, broker, role=ROLE, topics=(source,), agent=self._echo)
        self._stopping = asyncio.Event()
        self._echoed = 0

    async def run(self) -> None:
        await self._group.start()
        await self._stopping.wait()
        await self._group.stop()

    def stop(self) -> None:
        self._stopping.set()

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role."""
        absent: dict[str, Any] = {"lag": 0, "oldest_unprocessed_s": 0.0, "dead_letters": 0, "details": {}}
        return {"state": "running", "reason": None, "events": self._echoed, **absent}

    async def _echo(self, stream: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(stream))
            tasks.create_task(self._write())

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._queue.put(event)

    async def _write(self) -> None:
        while True:
            events = [await self._queue.get()]
            while len(events) < self._batch_max and not self._queue.empty():
                events.append(self._queue.get_nowait())
            await self._publisher.publish([Outgoing(self._target, e.message.key, e.message.value) for e in events])
            for event in events:
                event.ack()
            self._echoed += len(events)


async def main() -> None:
    """Echo until SIGTERM."""
    settings = load_settings()
    broker = Broker(settings)
    publisher = Publisher(broker)
    await run_worker({ROLE: Echo(settings, broker, publisher)}, settings, publisher)


if __name__ == "__main__":
    asyncio.run(main())
