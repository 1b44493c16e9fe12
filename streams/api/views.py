"""The views in memory that the api answers from: filled at its start, and never asked once they are stale."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from fastapi import HTTPException

from streams.api.problems import again, remedy_of
from streams.broker import BrokerUnavailable
from streams.replicas import ReplicaEnded

AGAIN_AFTER_S = 1.0


class Replicas(Protocol):
    """What fills the views; start() returns when they are full and may raise BrokerUnavailable."""

    @property
    def malformed(self) -> int:
        """Records that were skipped."""

    async def start(self) -> None: ...

    def check(self) -> None:
        """Raises ReplicaEnded if they are not kept up to date any more."""

    async def stop(self) -> None: ...


class Views:
    """Whether they can be asked."""

    def __init__(
        self, replicas: Replicas, prepare: Callable[[], None], lacks: Callable[[], str | None] = lambda: None
    ) -> None:
        """Both are called in a thread.

        prepare  what makes the first list take no longer than the others; once
        lacks    what the replicas lack although they have read their topics to the end; until it is None
        """
        self.replicas = replicas
        self._prepare = prepare
        self._lacks = lacks
        self._lack_at_start: str | None = "the offers and factors are still being read"

    @property
    def are_full(self) -> bool:
        return self._lack_at_start is None

    async def fill(self) -> None:
        """They are full; while the broker is away, try again."""
        while not self.are_full:
            try:
                await self.replicas.start()
            except BrokerUnavailable as away:
                self._lack_at_start = str(away)
                await asyncio.sleep(AGAIN_AFTER_S)
            else:
                await asyncio.to_thread(self._prepare)
                while lack := await asyncio.to_thread(self._lacks):
                    self._lack_at_start = lack
                    await asyncio.sleep(AGAIN_AFTER_S)
                self._lack_at_start = None

    def lack(self) -> str | None:
        """What they lack to be asked."""
        try:
            self.replicas.check()
        except ReplicaEnded as ended:
            return remedy_of(ended)
        return self._lack_at_start

    def need(self, what: str) -> None:
        """Raises HTTPException 503 if they cannot be asked for such things yet, ReplicaEnded if not any more."""
        self.replicas.check()
        if self._lack_at_start:
            raise HTTPException(503, f"no {what} yet: {self._lack_at_start}; try again in a moment", again())
