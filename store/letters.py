"""Which dead letters are settled, because they were replayed or dropped: topics of dead letters are not compacted."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from sqlalchemy import BigInteger, Column, Double, Engine, Integer, Table, Text, delete, select
from sqlalchemy.dialects.postgresql import insert

from store.database import metadata, reading, transaction

How = Literal["replayed", "dropped"]

settled_letters = Table(
    "settled_letters",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("given_up_at", Double, nullable=False),
    Column("how", Text, nullable=False),
    Column("settled_at", Double, nullable=False),
)


class Place(NamedTuple):
    """Where the record stood that became a dead letter."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Settled(NamedTuple):
    """What became of the letters of a place."""

    given_up_at: float  # s since 1970, of the newest of them: one that is given up later is open again
    how: How
    settled_at: float  # s since 1970


class LetterStore:
    """The settled letters. Its methods raise StoreUnavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def settled(self) -> dict[Place, Settled]:
        """All of them by their place."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(settled_letters)).all()
        return {Place(*row[:3]): Settled(*row[3:]) for row in rows}

    def settle(self, letters: Mapping[Place, float], how: How, *, now: float, kept_s: float) -> None:
        """These are settled; what was given up longer ago than letters are kept is forgotten.

        letters  when each was given up, s since 1970
        """
        upsert = insert(settled_letters)
        upsert = upsert.on_conflict_do_update(
            index_elements=["topic", "partition", "offset"],
            set_={name: upsert.excluded[name] for name in ("given_up_at", "how", "settled_at")},
            where=settled_letters.c.given_up_at <= upsert.excluded.given_up_at,
        )
        rows = [{**place._asdict(), "given_up_at": at, "how": how, "settled_at": now} for place, at in letters.items()]
        with transaction(self._engine) as connection:
            connection.execute(delete(settled_letters).where(settled_letters.c.given_up_at < now - kept_s))
            if rows:
                connection.execute(upsert, rows)
