"""Where a role stands, running or waiting and for what, and how it waits: for a while, or until something is back."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from store.records import StoreUnavailable
from streams.broker import BrokerUnavailable

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Unavailable = (BrokerUnavailable, StoreUnavailable, OSError)


class Stopped(Exception):
    """The role was asked to stop while it waited."""


class Standing:
    """State and reason as the status tells them; every wait ends at once when the role is asked to stop."""

    def __init__(self, role: str, *, retry_max_s: float) -> None:
        self.state = "starting"
        self.reason: str | None = None
        self._role = role
        self._retry_max_s = retry_max_s
        self._stop = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Every wait ends now."""
        self.state, self.reason = "stopping", None
        self._stop.set()

    def run(self) -> None:
        """The role does its work again."""
        if not self.is_stopping:
            self.state, self.reason = "running", None

    def wait_for(self, reason: str) -> None:
        """The role cannot do its work for now."""
        if not self.is_stopping:
            self.state, self.reason = "waiting", reason

    async def until_stopped(self) -> None:
        """Return when the role is asked to stop."""
        await self._stop.wait()

    async def nap(self, most_s: float) -> None:
        """Until asked to stop, at most so long."""
        try:
            await asyncio.wait_for(self._stop.wait(), most_s)
        except TimeoutError:
            return

    async def pause(self, pause_s: float) -> None:
        """So long. Raises Stopped."""
        await self.nap(pause_s)
        if self.is_stopping:
            raise Stopped

    async def unless_stopped(self, doing: Awaitable[Result], grace_s: float) -> Result:
        """What it returns. Raises Stopped, and gives it up, if it goes on for grace_s after the role was to stop."""
        task = asyncio.ensure_future(doing)
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=grace_s)
            if not task.done():
                raise Stopped
            return task.result()
        finally:
            stopped.cancel()
            task.cancel()

    async def until_available(self, attempt: Callable[[], Awaitable[Result]], doing: str) -> Result:
        """Return what attempt returns, tried with capped backoff while broker or store is away.

        Raises Stopped when asked to stop meanwhile.
        """
        pause_s = 0.05
        waited = False
        while True:
            try:
                result = await attempt()
            except Unavailable as away:
                if not waited:
                    log.warning("waits role=%s while=%s reason=%s", self._role, doing, away)
                waited = True
                self.wait_for(str(away))
                await self.pause(pause_s)
                pause_s = min(pause_s * 2, self._retry_max_s)
            else:
                if waited:
                    self.run()
                return result
