"""Which versions of the encoders there are, which of them are filled, and which one serves: the truth about it.

    idle ──fill──▶ filling ──switch──▶ serving
      ▲               │ ▲                 │
      └─────stop──────┘ └─(another serves)┘          remove: from idle

A version that served before is filled on, so that going back to it costs nothing.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Connection, Double, Engine, Row, Table, Text, select, update
from sqlalchemy.dialects.postgresql import insert

from store.database import metadata, reading, transaction

State = Literal["serving", "filling", "idle", "removed"]

encoders = Table(
    "encoders",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("served", BigInteger, nullable=False),
    Column("life", BigInteger, nullable=False),
    Column("first", Boolean, nullable=False),
    Column("sources", Text, nullable=False),
    Column("widths", Text, nullable=False),
    Column("about", Text, nullable=False),
    Column("has_files", Boolean, nullable=False),
    Column("added_at", Double, nullable=False),
    Column("filled_at", Double),
)


class UnknownVersion(LookupError):
    """No version has this fingerprint; str() names those that there are."""


class WrongState(ValueError):
    """What was asked for cannot be done to a version in its state; str() says what can."""


@dataclass(frozen=True, slots=True)
class EncoderRow:
    """One version of the encoders."""

    fingerprint: str
    sources: Mapping[str, str]  # source strings of the weights, by "image" and "text"
    widths: Mapping[str, int]  # of the vectors, by "image", "text" and "fused"
    about: Mapping[str, Any] = field(default_factory=dict)  # what is told of it, as JSON values
    has_files: bool = False  # False: made from its sources alone, there is no folder
    revision: int = 1  # rises by one with each change of the row
    state: State = "idle"
    served: int = 0  # of all versions the one with the highest number serves; 0: it never did
    life: int = 1  # how often it was added: what one life had consumed is not the next one's
    first: bool = False  # the one with which the shop began
    added_at: float = 0.0  # s since 1970
    filled_at: float | None = None  # s since 1970, when it was first filled; None: there are no vectors of it


class EncoderStore:
    """Every change is one transaction in which nobody else changes any version."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[EncoderRow]:
        """Every version, removed ones too, in the order in which they were added."""
        with reading(self._engine) as connection:
            return _rows(connection, locked=False)

    def known(self) -> list[EncoderRow]:
        """Those that were not removed."""
        return [row for row in self.all() if row.state != "removed"]

    def get(self, fingerprint: str) -> EncoderRow:
        """The version whose fingerprint begins so. Raises UnknownVersion."""
        return _named(self.known(), fingerprint)

    def add(self, row: EncoderRow) -> EncoderRow:
        """The version is known, idle; one that is known already stays as it is, but for what is told of it."""
        with self._changing() as (connection, rows):
            return _add(connection, rows, row)

    def add_untrained(self, row: EncoderRow) -> EncoderRow:
        """The version made of its sources alone is known; it serves if none does."""
        with self._changing() as (connection, rows):
            added = _add(connection, rows, row)
            if any(one.state == "serving" for one in rows):
                return added
            first = not any(one.first for one in rows)
            filled_at = added.filled_at or time.time()
            return _write(connection, added, state="serving", served=_next(rows), first=first, filled_at=filled_at)

    def fill(self, fingerprint: str) -> EncoderRow:
        """Its topic and collection are filled from now on, beside the serving one's. Raises UnknownVersion."""
        with self._changing() as (connection, rows):
            row = _named(rows, fingerprint)
            if row.state in ("filling", "serving"):
                return row
            return _write(connection, row, state="filling", filled_at=row.filled_at or time.time())

    def stop(self, fingerprint: str) -> EncoderRow:
        """It is filled no more. Raises UnknownVersion, and WrongState for the serving one."""
        with self._changing() as (connection, rows):
            row = _named(rows, fingerprint)
            if row.state == "serving":
                raise WrongState(f"{row.fingerprint} serves: switch to another version first")
            return row if row.state == "idle" else _write(connection, row, state="idle")

    def switch(self, fingerprint: str) -> EncoderRow:
        """It serves, and the one that did is filled on. Raises UnknownVersion, and WrongState if it has no vectors."""
        with self._changing() as (connection, rows):
            return _serve(connection, rows, _named(rows, fingerprint))

    def rollback(self) -> EncoderRow:
        """The version that served before serves again, and is returned. Raises WrongState if none did."""
        with self._changing() as (connection, rows):
            return _serve(connection, rows, _before(rows))

    def before(self) -> EncoderRow:
        """The version that `rollback` would go back to. Raises WrongState if none served before."""
        return _before(self.known())

    def remove(self, fingerprint: str) -> EncoderRow:
        """The version is gone, but for its tombstone. Raises UnknownVersion, and WrongState unless it is idle."""
        with self._changing() as (connection, rows):
            row = _named(rows, fingerprint)
            if row.state != "idle":
                how = (
                    "switch to another version first"
                    if row.state == "serving"
                    else f"`freshet encoders stop {row.fingerprint}` first"
                )
                raise WrongState(f"{row.fingerprint} is {row.state}: {how}")
            return _write(connection, row, state="removed", filled_at=None, served=0)

    @contextmanager
    def _changing(self) -> Iterator[tuple[Connection, list[EncoderRow]]]:
        with transaction(self._engine) as connection:
            yield connection, _rows(connection, locked=True)


def _add(connection: Connection, rows: list[EncoderRow], row: EncoderRow) -> EncoderRow:
    before = next((one for one in rows if one.fingerprint == row.fingerprint), None)
    now = time.time()
    if before is None:
        added = replace(row, state="idle", revision=1, life=1, served=0, first=False, added_at=now, filled_at=None)
        connection.execute(insert(encoders), _pack(added))
        return added
    if before.state != "removed":
        return _write(connection, before, about=dict(before.about) | dict(row.about))
    anew = {name: getattr(row, name) for name in ("sources", "widths", "about", "has_files")}
    return _write(connection, before, **anew, state="idle", life=before.life + 1, added_at=now)


def _serve(connection: Connection, rows: list[EncoderRow], row: EncoderRow) -> EncoderRow:
    if row.state == "serving":
        return row
    if row.filled_at is None:
        raise WrongState(f"{row.fingerprint} has no vectors: `freshet encoders fill {row.fingerprint}` first")
    for other in rows:
        if other.state == "serving":
            _write(connection, other, state="filling")
    return _write(connection, row, state="serving", served=_next(rows))


def _next(rows: list[EncoderRow]) -> int:
    return max((row.served for row in rows), default=0) + 1


def _before(rows: list[EncoderRow]) -> EncoderRow:
    served = sorted((row for row in rows if row.served and row.state != "removed"), key=lambda row: row.served)
    if len(served) < 2:
        raise WrongState("no other version served before, so there is none to go back to: `freshet encoders list`")
    return served[-2]


def _named(rows: list[EncoderRow], fingerprint: str) -> EncoderRow:
    """The version whose fingerprint begins so, alone among those that were not removed."""
    rows = [row for row in rows if row.state != "removed"]
    found = [row for row in rows if fingerprint and row.fingerprint.startswith(fingerprint)]
    if len(found) != 1:
        named = ", ".join(row.fingerprint for row in rows) or "none"
        how = "several versions begin" if found else "no version begins"
        raise UnknownVersion(f"{how} with {fingerprint!r}: known are {named}")
    return found[0]


def _rows(connection: Connection, *, locked: bool) -> list[EncoderRow]:
    query = select(encoders).order_by(encoders.c.added_at, encoders.c.fingerprint)
    if locked and connection.dialect.name == "postgresql":
        # Of the table, not of rows: two processes that begin at once would both find none.
        connection.exec_driver_sql("LOCK TABLE encoders IN SHARE ROW EXCLUSIVE MODE")
    return [_unpack(row) for row in connection.execute(query)]


def _write(connection: Connection, row: EncoderRow, **changes: Any) -> EncoderRow:
    changed = replace(row, **changes)
    if changed == row:
        return row
    changed = replace(changed, revision=row.revision + 1)
    connection.execute(update(encoders).where(encoders.c.fingerprint == row.fingerprint).values(_pack(changed)))
    return changed


def _pack(row: EncoderRow) -> dict[str, Any]:
    packed = {name: getattr(row, name) for name in row.__dataclass_fields__}
    return packed | {name: orjson.dumps(dict(packed[name])).decode() for name in ("sources", "widths", "about")}


def _unpack(row: Row[Any]) -> EncoderRow:
    stored = row._asdict()
    return EncoderRow(**stored | {name: orjson.loads(stored[name]) for name in ("sources", "widths", "about")})
