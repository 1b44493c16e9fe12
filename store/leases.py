"""A lease with an epoch: of all who think that they are the only one, the highest epoch is right."""

from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Double, Engine, Select, Table, Text, select, update
from sqlalchemy.dialects.postgresql import insert

from store.database import metadata, transaction

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),
)


class LeaseLost(Exception):
    """Somebody took the lease since: stop, and write nothing more under the old epoch."""


def take_lease(engine: Engine, name: str, holder: str, ttl_s: float, now: float) -> int | None:
    """The epoch under which the holder may act until now + ttl_s, or None while another's lease has not expired.

    Every success raises the epoch by one, also for the same holder, who takes it at once: it has started again.
    now is the caller's clock, s since 1970; clocks that differ by more than ttl_s cost a change of holder, nothing
    else, because what counts is the epoch.
    """
    never_held = {"name": name, "holder": "", "epoch": 0, "expires_at": 0.0}
    with transaction(engine) as connection:
        connection.execute(insert(leases).on_conflict_do_nothing(), never_held)
        held = connection.execute(_locking(name)).one()
        if held.holder != holder and held.expires_at > now:
            return None
        epoch: int = held.epoch + 1
        taken = {"holder": holder, "epoch": epoch, "expires_at": now + ttl_s}
        connection.execute(update(leases).where(leases.c.name == name).values(taken))
    return epoch


def renew(engine: Engine, name: str, epoch: int, ttl_s: float, now: float) -> None:
    """The lease lasts until now + ttl_s; it may have expired, as long as nobody took it. Raises LeaseLost."""
    with transaction(engine) as connection:
        require_epoch(connection, name, epoch)
        connection.execute(update(leases).where(leases.c.name == name).values(expires_at=now + ttl_s))


def release(engine: Engine, name: str, epoch: int) -> None:
    """Anybody may take the lease at once; nothing happens if somebody has."""
    mine = (leases.c.name == name) & (leases.c.epoch == epoch)
    with transaction(engine) as connection:
        connection.execute(update(leases).where(mine).values(expires_at=0.0))


def require_epoch(connection: Connection, name: str, epoch: int) -> None:
    """Nobody can take the lease before this transaction ends. Raises LeaseLost if the epoch has moved."""
    held = connection.execute(_locking(name)).one_or_none()
    if held is None or held.epoch != epoch:
        now_held = "nobody holds it" if held is None else f"{held.holder} holds epoch {held.epoch}"
        raise LeaseLost(f"epoch {epoch} of the lease {name!r} is over: {now_held}")


def _locking(name: str) -> Select[Any]:
    return select(leases).where(leases.c.name == name).with_for_update()
