"""The users' rows, and what is left of a user who asked to be forgotten: a mark that names nobody.

The mark keeps an older click, which a worker that lost its partition may still hold, from bringing the user back.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    LargeBinary,
    Table,
    Text,
    delete,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert

from store.database import (
    facts,
    in_chunks,
    lock_revisions,
    metadata,
    reading,
    require_previous,
    rows_by_key,
    transaction,
    write_of_next_revision,
    write_rows,
)
from store.experiments import UserCounts, add_counts, addition_of_counts, forget_counts
from store.history import History
from store.records import Offsets, StaleRows, UserRow

FORGETTING_LOCK = 470_211_124  # advisory lock in PostgreSQL: a row that does not exist yet cannot be locked

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("history", LargeBinary, nullable=False),
    Column("recent_event_ids", Text, nullable=False),
    Column("offsets", Text, nullable=False),
    Column("embedding", LargeBinary),
    Column("embedding_version", Text, nullable=False),
    Column("updated_at", Double, nullable=False),
)

forgotten_users = Table(
    "forgotten_users",
    metadata,
    Column("digest", LargeBinary, primary_key=True),  # SHA-256 of this database's salt and the user_id
    Column("revision", BigInteger, nullable=False),
    Column("offsets", Text, nullable=False),
    Column("forgotten_at", Double, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A wish to be forgotten, and where in the topic it stands."""

    user_id: str
    source: str  # source_key of its topic and partition
    offset: int
    forgotten_at: float  # s since 1970


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a forgotten user: the next row begins at revision + 1 and takes these offsets over."""

    revision: int
    offsets: Offsets


class UserStore:
    """Rows of users; every write is conditional on the revision that was read."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._write_sql = write_of_next_revision(engine, users)
        self._count_sql = addition_of_counts(engine)
        with reading(engine) as connection:
            salt = connection.execute(select(facts.c.value).where(facts.c.name == "forgotten-salt")).scalar_one()
        self._salt = bytes.fromhex(salt)

    def read(self, user_ids: Collection[str]) -> dict[str, UserRow]:
        """The rows of those users that exist, by id. Of none nothing is asked."""
        found: dict[str, UserRow] = {}
        if not user_ids:
            return found
        with reading(self.engine) as connection:
            for chunk in in_chunks(user_ids):
                for row in connection.execute(rows_by_key(users), {"keys": chunk}):
                    found[row[0]] = _unpack(row)
        return found

    def marks(self, user_ids: Collection[str]) -> dict[str, Mark]:
        """The marks of those who were forgotten: where the next row of one without a row begins."""
        with reading(self.engine) as connection:
            return self._marks(connection, user_ids)

    def forgotten_offsets(self, user_ids: Collection[str]) -> dict[str, Offsets]:
        """The offsets alone of marks."""
        return {user_id: mark.offsets for user_id, mark in self.marks(user_ids).items()}

    def write(
        self, rows: Sequence[UserRow], forgotten: Sequence[Forgotten] = (), counted: Sequence[UserCounts] = ()
    ) -> None:
        """First those users are forgotten, then all rows are durable, each in place of its row one revision earlier,
        and what users of these rows did in an experiment is added to their counts.

        A user without a row begins at revision 1, or one above the mark and beyond its offsets. One who is forgotten
        leaves nothing but a mark. To forget somebody again changes nothing more.

        Raises StaleRows, with nothing written, if a row has another revision by now, or holds an event at or after
        a wish to be forgotten, or a new row is older than the mark.
        """
        with transaction(self.engine) as connection:
            _lock_missing(connection, exclusive=bool(forgotten))
            for wish in sorted(forgotten, key=lambda wish: wish.user_id):
                self._forget(connection, wish)
            stored = lock_revisions(connection, users, [row.user_id for row in rows])
            self._admit_returning(connection, [row for row in rows if row.user_id not in stored], stored)
            require_previous(stored, [(row.user_id, row.revision) for row in rows], "users")
            write_rows(connection, self._write_sql, [_pack(row) for row in rows], "users")
            add_counts(connection, self._count_sql, counted)

    def purge_forgotten(self, before: float) -> int:
        """Remove marks older than before (s since 1970: longer ago than user-clicks is kept); returns how many."""
        with transaction(self.engine) as connection:
            old = forgotten_users.c.forgotten_at < before
            return connection.execute(delete(forgotten_users).where(old)).rowcount

    def counts(self) -> dict[str, int]:
        """users, forgotten (marks)."""
        with reading(self.engine) as connection:
            return {
                "users": connection.execute(select(func.count()).select_from(users)).scalar_one(),
                "forgotten": connection.execute(select(func.count()).select_from(forgotten_users)).scalar_one(),
            }

    def _digest(self, user_id: str) -> bytes:
        return hashlib.sha256(self._salt + user_id.encode()).digest()

    def _marks(self, connection: Connection, user_ids: Iterable[str]) -> dict[str, Mark]:
        digests = {self._digest(user_id): user_id for user_id in user_ids}
        found: dict[str, Mark] = {}
        for chunk in in_chunks(digests):
            for row in connection.execute(rows_by_key(forgotten_users), {"keys": chunk}):
                found[digests[bytes(row.digest)]] = Mark(row.revision, orjson.loads(row.offsets))
        return found

    def _admit_returning(self, connection: Connection, rows: Sequence[UserRow], stored: dict[str, int]) -> None:
        """Let a mark stand for the stored revision of a user without a row. It stays: what she did before her wish may
        not come back, though she is here again."""
        if not rows:
            return
        marks = self._marks(connection, [row.user_id for row in rows])
        for row in rows:
            mark = marks.get(row.user_id)
            if mark is None:
                continue
            if not _is_beyond(row.offsets, mark.offsets):
                raise StaleRows(
                    f"{row.user_id} was forgotten at {mark.offsets}, the row has only {row.offsets}: read again"
                )
            stored[row.user_id] = mark.revision

    def _forget(self, connection: Connection, wish: Forgotten) -> None:
        row = connection.execute(
            select(users.c.revision, users.c.offsets).where(users.c.user_id == wish.user_id).with_for_update()
        ).one_or_none()
        if row is not None:
            mark = Mark(row.revision, orjson.loads(row.offsets))
        else:
            mark = self._marks(connection, [wish.user_id]).get(wish.user_id, Mark(0, {}))
        applied = mark.offsets.get(wish.source, -1)
        if row is not None and applied >= wish.offset:
            raise StaleRows(f"{wish.user_id} has applied offset {applied} of {wish.source}, to forget is {wish.offset}")
        connection.execute(delete(users).where(users.c.user_id == wish.user_id))
        forget_counts(connection, wish.user_id)
        left = {
            "revision": mark.revision,
            "offsets": orjson.dumps(mark.offsets | {wish.source: max(applied, wish.offset)}).decode(),
            "forgotten_at": wish.forgotten_at,
        }
        upsert = insert(forgotten_users).on_conflict_do_update(index_elements=["digest"], set_=left)
        connection.execute(upsert, {"digest": self._digest(wish.user_id), **left})


def _lock_missing(connection: Connection, *, exclusive: bool) -> None:
    """Until the transaction ends nobody is forgotten who is being inserted. SQLite's transaction is alone anyway."""
    if connection.dialect.name == "postgresql":
        shared = "" if exclusive else "_shared"
        connection.execute(text(f"SELECT pg_advisory_xact_lock{shared}(:lock)"), {"lock": FORGETTING_LOCK})


def _is_beyond(offsets: Offsets, mark: Offsets) -> bool:
    """True if offsets holds all of the mark and something after it."""
    return all(offsets.get(source, -1) >= offset for source, offset in mark.items()) and offsets != mark


def _pack(row: UserRow) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "revision": row.revision,
        "history": History.of(row.clicks).pack(),
        "recent_event_ids": orjson.dumps(row.recent_event_ids).decode(),
        "offsets": orjson.dumps(row.offsets).decode(),
        "embedding": row.embedding,
        "embedding_version": row.embedding_version,
        "updated_at": row.updated_at,
    }


def _unpack(row: tuple[Any, ...]) -> UserRow:
    user_id, revision, history, event_ids, offsets, embedding, embedding_version, updated_at = row
    return UserRow(
        user_id,
        revision,
        History.unpack(history),
        tuple(orjson.loads(event_ids)),
        orjson.loads(offsets),
        embedding,
        embedding_version,
        updated_at,
    )
