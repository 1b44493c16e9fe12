"""One consumer for each version of the encoders that a role works for, started and stopped while the process lives.

Each has its own consumer group and journal, so a version that is new begins at the beginning of the role's topics, and
one that waits or fails holds up none of the others. Only the failure of a vital one, of the version that serves, ends
the process.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.events import EncoderVersion
from streams.settings import Settings
from streams.standing import Standing, Stopped
from streams.worker import Runnable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
AGAIN_AFTER_S = 15.0  # a version that failed is tried again
NOBODY = "no version of the encoders is told of yet: is the catalog role up?"

Source = Callable[[], Awaitable[list[EncoderVersion]]]


@dataclass(frozen=True)
class Wanted:
    """A consumer that is to run; another one takes its place if any of it changes, but for `is_vital`."""

    fingerprint: str  # "" for one that is of no version
    group: str = ""  # as EncoderVersion has it
    leads: bool = False  # it does what is to be done once, for all versions
    is_vital: bool = field(default=False, compare=False)


Choose = Callable[[list[EncoderVersion]], Sequence[Wanted]]


@dataclass
class _Running:
    consumer: Runnable
    task: "asyncio.Task[None]"


async def no_more(_: list[EncoderVersion]) -> bool:
    """Nothing is to be done besides the consumers."""
    return True


class PerVersion:
    """A Runnable of as many consumers as `choose` wants."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        source: Source,
        choose: Choose,
        make: Callable[[Wanted, EncoderVersion | None], Runnable],
        also: Callable[[list[EncoderVersion]], Awaitable[bool]] = no_more,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        """Nothing runs yet.

        source  every version that is known now; it may raise what is unavailable
        choose  the consumers that are to run, the most important first
        also    done when a version has changed, after the consumers are as wanted; again at the next look if it
                returns False
        """
        self._name = name
        self._source = source
        self._choose = choose
        self._make = make
        self._also = also
        self._look_every_s = look_every_s
        self._standing = Standing(name, retry_max_s=settings.retry_max_s)
        self._running: dict[Wanted, _Running] = {}
        self._failed: dict[Wanted, tuple[float, str]] = {}  # when (monotonic), and why
        self._vital: list[Wanted] = []
        self._done = {"events": 0, "dead_letters": 0}  # of consumers that have ended
        self._handled: dict[str, int] = {}  # revisions that `also` has seen

    async def run(self) -> None:
        """Consume until `stop` is called. Raises what ended a vital consumer."""
        try:
            while not self._standing.is_stopping:
                try:
                    await self._standing.until_available(self._look, "looks which versions there are")
                except Stopped:
                    break
                tasks = [running.task for running in self._running.values()]
                stopped = asyncio.ensure_future(self._standing.until_stopped())
                await asyncio.wait({stopped, *tasks}, timeout=self._look_every_s, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
        finally:
            await self._end(list(self._running))

    def stop(self) -> None:
        """Take no more events; `run` returns when every consumer has ended."""
        self._standing.stop()
        for running in self._running.values():
            running.consumer.stop()

    async def _look(self) -> None:
        """Those run that are wanted, and no others."""
        versions = await self._source()
        known = {version.fingerprint: version for version in versions}
        wanted = self._choose(versions)
        self._vital = [one for one in wanted if one.is_vital]
        self._bury()
        await self._end([one for one in self._running if one not in wanted])
        self._failed = {one: failed for one, failed in self._failed.items() if one in wanted}
        for one in wanted:
            if one not in self._running and self._is_due(one) and not self._standing.is_stopping:
                self._begin(one, known.get(one.fingerprint))
        if not self._running and not self._failed:
            self._standing.wait_for(NOBODY)
        revisions = {version.fingerprint: version.revision for version in versions}
        if revisions != self._handled and await self._also(versions):
            self._handled = revisions

    def _begin(self, wanted: Wanted, version: EncoderVersion | None) -> None:
        consumer = self._make(wanted, version)
        log.info("version begins role=%s fingerprint=%s leads=%s", self._name, wanted.fingerprint, wanted.leads)
        self._running[wanted] = _Running(consumer, asyncio.create_task(consumer.run(), name=self._name))
        self._failed.pop(wanted, None)
        self._standing.run()

    async def _end(self, wanted: Sequence[Wanted]) -> None:
        """They have ended; what they were working on is done, or abandoned."""
        for one in wanted:
            self._running[one].consumer.stop()
        for one in wanted:
            task = self._running[one].task
            await asyncio.wait({task})
            self._forget(one)
            if one in self._vital:
                task.result()
            elif error := task.exception():
                log.warning("version ended badly role=%s fingerprint=%s reason=%r", self._name, one.fingerprint, error)

    def _bury(self) -> None:
        """Consumers that ended by themselves. Raises what ended a vital one."""
        for one, running in list(self._running.items()):
            if not running.task.done() or self._standing.is_stopping:
                continue
            self._forget(one)
            if one in self._vital:
                running.task.result()
            error = None if running.task.cancelled() else running.task.exception()
            self._failed[one] = (time.monotonic(), str(error))
            log.error(
                "version failed role=%s fingerprint=%s again_in_s=%g reason=%r",
                *(self._name, one.fingerprint, AGAIN_AFTER_S, error),
            )

    def _is_due(self, wanted: Wanted) -> bool:
        failed = self._failed.get(wanted)
        return failed is None or time.monotonic() - failed[0] > AGAIN_AFTER_S

    def _forget(self, wanted: Wanted) -> None:
        status = self._running.pop(wanted).consumer.status()
        for name in self._done:
            self._done[name] += status[name]

    # --- what the status says ------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role: events of all, the rest of those that are vital."""
        statuses = {one: running.consumer.status() for one, running in self._running.items()}
        vital = [statuses[one] for one in self._vital if one in statuses]
        others = {one.fingerprint: status for one, status in statuses.items() if one not in self._vital}
        first: dict[str, Any] = (vital or [{}])[0]
        details = {name: value for status in reversed(vital) for name, value in status["details"].items()}
        if others:
            details["filling"] = " ".join(sorted(others))
            details["filling_lag"] = sum(status["lag"] for status in others.values())
        if self._failed:
            reasons = (f"{one.fingerprint}: {reason}" for one, (_, reason) in self._failed.items())
            details["failed_versions"] = "; ".join(reasons)
        counts = {name: done + sum(status[name] for status in statuses.values()) for name, done in self._done.items()}
        return {
            "state": first.get("state", self._standing.state),
            "reason": first.get("reason", self._standing.reason),
            "lag": sum(status["lag"] for status in vital),
            "oldest_unprocessed_s": max((status["oldest_unprocessed_s"] for status in vital), default=0.0),
            **counts,
            "details": details,
        }
