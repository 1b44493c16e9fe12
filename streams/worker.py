"""One process that runs one or more roles until it is told to stop."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from aiokafka.errors import KafkaError

from streams.broker import BrokerUnavailable, Outgoing, Publisher
from streams.events import WorkerStatus
from streams.settings import Settings
from streams.topics import topic_names

log = logging.getLogger(__name__)

STATUS_EVERY_S = 1.0
LEFT_BEHIND_AFTER_S = 5.0


class Runnable(Protocol):
    """A role as the worker runs it: the Faust roles through LosslessConsumer, the learner and the api as they are."""

    async def run(self) -> None: ...

    def stop(self) -> None: ...

    def status(self) -> dict[str, Any]:
        """state, reason, events, lag, oldest_unprocessed_s, dead_letters, details."""
        ...


def run_process(main: Coroutine[Any, Any, None]) -> None:
    """As asyncio.run, in a process that ends with it, and waits LEFT_BEHIND_AFTER_S at most for what main has left:
    Faust swallows its cancellation, and threads wait for a broker that says nothing.

    The exit code is then 0, or 1 if main has raised; what it raised is logged.
    """
    failure: list[BaseException] = []

    def leave() -> None:
        log.warning(
            "left behind what did not end after_s=%s", LEFT_BEHIND_AFTER_S, exc_info=failure[0] if failure else None
        )
        logging.shutdown()
        os._exit(1 if failure else 0)

    last = threading.Timer(LEFT_BEHIND_AFTER_S, leave)
    last.daemon = True

    async def run() -> None:
        try:
            await main
        except BaseException as error:
            failure.append(error)
            raise
        finally:
            last.start()

    try:
        asyncio.run(run())
    finally:
        last.cancel()


async def run_worker(roles: dict[str, Runnable], settings: Settings, publisher: Publisher) -> None:
    """Run the roles side by side until SIGTERM or SIGINT; the first failure of one ends all and is raised.

    A role that goes on for twice shutdown_s after it was asked to stop is cancelled.
    """
    stopping = asyncio.Event()

    def stop() -> None:
        stopping.set()
        _stop_all(roles)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    reporter = asyncio.create_task(_report(roles, settings, publisher))
    tasks = {asyncio.create_task(role.run(), name=name) for name, role in roles.items()}
    asked = asyncio.create_task(stopping.wait())
    ended = asyncio.create_task(asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))
    try:
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        first = [task for task in tasks if task.done()]
        stop()
        done, late = await asyncio.wait(tasks, timeout=2 * settings.shutdown_s)
        for task in late:
            log.warning("role did not end in time role=%s after_s=%s", task.get_name(), 2 * settings.shutdown_s)
            task.cancel()
        for task in (*first, *done):
            task.result()
    finally:
        reporter.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reporter
        await publisher.stop()


def _stop_all(roles: dict[str, Runnable]) -> None:
    for role in roles.values():
        role.stop()


async def _report(roles: dict[str, Runnable], settings: Settings, publisher: Publisher) -> None:
    """Publish what each role says of itself, every STATUS_EVERY_S; a missed report is not made up for."""
    topic = topic_names(settings, "").worker_status
    started_at = time.time()
    before: dict[str, tuple[float, int]] = {}
    while True:
        now = time.time()
        messages = []
        for name, role in roles.items():
            facts = role.status()
            then, events = before.get(name, (started_at, 0))
            before[name] = (now, facts["events"])
            status = WorkerStatus(
                worker_id=settings.worker_id,
                role=name,
                pid=os.getpid(),
                started_at=started_at,
                at=now,
                events_per_s=(facts["events"] - events) / max(now - then, 1e-3),
                **facts,
            )
            key = f"{settings.worker_id}/{name}".encode()
            messages.append(Outgoing(topic, key, status.model_dump_json().encode()))
        try:
            await publisher.publish(messages)
        except (BrokerUnavailable, KafkaError) as away:
            log.debug("no status published reason=%s", away)
        await asyncio.sleep(STATUS_EVERY_S)
