"""The right to be the only learner, as its holder sees it: renewed in time, and asked for before each effect."""

import asyncio
import time

from sqlalchemy import Engine

from store.leases import release, renew, take_lease


class HeldLease:
    """A lease of store.leases; `epoch` is 0 until it was taken."""

    def __init__(self, engine: Engine, name: str, holder: str, ttl_s: float) -> None:
        self.name = name
        self.epoch = 0
        self._engine = engine
        self._holder = holder
        self._ttl_s = ttl_s
        self._expires_at = 0.0  # s since 1970, as far as we know

    @property
    def renew_every_s(self) -> float:
        return self._ttl_s / 3

    async def take(self) -> bool:
        """True if it is ours now, with a new epoch; False while another holds it. Raises StoreUnavailable."""
        now = time.time()
        epoch = await asyncio.to_thread(take_lease, self._engine, self.name, self._holder, self._ttl_s, now)
        if epoch is None:
            return False
        self.epoch, self._expires_at = epoch, now + self._ttl_s
        return True

    async def renew(self) -> None:
        """It lasts a whole ttl from now on. Raises LeaseLost, StoreUnavailable."""
        now = time.time()
        await asyncio.to_thread(renew, self._engine, self.name, self.epoch, self._ttl_s, now)
        self._expires_at = now + self._ttl_s

    async def require(self) -> None:
        """Nobody else has it at this moment: a process that was frozen must ask before it does anything.

        Raises LeaseLost, StoreUnavailable.
        """
        if time.time() > self._expires_at - self._ttl_s / 3:
            await self.renew()

    async def release(self) -> None:
        """Another learner may take it at once. Raises StoreUnavailable."""
        await asyncio.to_thread(release, self._engine, self.name, self.epoch)
