"""One way to open a database, and the one place where its failures become StoreUnavailable.

SQLite is embedded (one file a purpose), PostgreSQL serves production; the stores' statements are the same for both.
"""

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    exc,
    inspect,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.schema import CreateSchema

from store.postgresql import postgresql_engine
from store.records import StaleRows, StoreUnavailable

metadata = MetaData()
facts = Table("facts", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))

BUSY_TIMEOUT_S = 5.0  # SQLite: waiting for another writer; below the time a process has to stop
IDS_PER_STATEMENT = 500
SCHEMA_LOCK = 470_211_123  # advisory lock in PostgreSQL: one process at a time changes the schema

Item = TypeVar("Item")


class SchemaTooNew(Exception):
    """The database was written by a newer Freshet than this one."""


def open_database(url: str | None, home: Path, name: str, namespace: str = "") -> Engine:
    """Return an engine for a database whose schema is this version's, whoever else opens it at the same moment.

    url        None for the SQLite file home/<namespace>/<name>.db, else the URL of a PostgreSQL database
    namespace  keeps shops apart: a folder for SQLite, a schema for PostgreSQL ("" = public)

    Raises StoreUnavailable if the database does not answer, SchemaTooNew, and WrongDatabase.
    """
    if url is None:
        return _open_sqlite(home / namespace / f"{name}.db")
    return _open_postgresql(url, namespace or "public")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A write transaction: committed and durable when the block ends, rolled back if it raises.

    In SQLite it owns the file from its start (BEGIN IMMEDIATE), so what it reads cannot change before it writes.
    Raises StoreUnavailable if the database is away, locked or full: what was written may still stand, if the answer to
    the commit was lost, so read again before the next try. An IntegrityError passes as it is.
    """
    with _edge(engine), engine.connect() as connection:
        connection.execution_options(freshet_writes=True)
        with connection.begin():
            yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads; each statement sees what is committed by then. Raises StoreUnavailable."""
    with _edge(engine), engine.connect() as connection, connection.begin():
        yield connection


def ping(engine: Engine) -> None:
    """Returns once the database has answered. Raises StoreUnavailable."""
    with reading(engine) as connection:
        connection.execute(select(1))


def get_fact(engine: Engine, name: str) -> str | None:
    """The text kept under this name, or None."""
    with reading(engine) as connection:
        return connection.execute(select(facts.c.value).where(facts.c.name == name)).scalar()


def set_fact(engine: Engine, name: str, value: str) -> None:
    """Keep a text under this name, in place of an earlier one."""
    upsert = insert(facts).on_conflict_do_update(index_elements=["name"], set_={"value": value})
    with transaction(engine) as connection:
        connection.execute(upsert, {"name": name, "value": value})


# --- rows that rise by one revision with each write ---------------------------------------------------------------


def write_of_next_revision(engine: Engine, table: Table) -> str:
    """The statement that inserts a row, or replaces the one whose revision is one less; else it changes nothing.

    Text, because the driver takes a row's dict as it is: SQLAlchemy's own handling costs as much again as the write.
    """
    (key,) = table.primary_key.columns
    statement = insert(table)
    replaced = {column.name: statement.excluded[column.name] for column in table.c if column is not key}
    conditional = statement.on_conflict_do_update(
        index_elements=[key], set_=replaced, where=table.c.revision == statement.excluded.revision - literal_column("1")
    )
    return str(conditional.compile(engine))


def lock_revisions(connection: Connection, table: Table, keys: Iterable[str]) -> dict[str, int]:
    """The stored revision of each row that exists; nobody else can change these until the transaction ends.

    Locked in the order of the keys, so that two workers with the same rows wait instead of blocking each other.
    """
    found: dict[str, int] = {}
    for chunk in in_chunks(sorted(keys)):
        rows = connection.execute(_revisions(table), {"keys": chunk})
        found.update((key, revision) for key, revision in rows)
    return found


@cache
def rows_by_key(table: Table) -> Select[Any]:
    """The rows whose keys are in the parameter `keys`; built once, because that takes longer than to read a row."""
    (key,) = table.primary_key.columns
    return select(table).where(key.in_(bindparam("keys", expanding=True)))


@cache
def _revisions(table: Table) -> Select[Any]:
    (key,) = table.primary_key.columns
    return rows_by_key(table).with_only_columns(key, table.c.revision).order_by(key).with_for_update()


def require_previous(stored: Mapping[str, int], rows: Iterable[tuple[str, int]], what: str) -> None:
    """Raise StaleRows, naming the keys, unless each (key, revision) comes right after the stored revision (0: none)."""
    stale = [(key, revision) for key, revision in rows if stored.get(key, 0) != revision - 1]
    if stale:
        named = ", ".join(f"{key} (stored {stored.get(key, 0)}, to write {revision})" for key, revision in stale[:5])
        raise StaleRows(f"{len(stale)} {what} have another revision by now: {named}; read them again")


def write_rows(connection: Connection, statement: str, rows: list[dict[str, Any]], what: str) -> None:
    """Execute a write_of_next_revision for every row. Raises StaleRows unless each was written."""
    if not rows:
        return
    written = connection.exec_driver_sql(statement, rows).rowcount
    if written != len(rows):  # PostgreSQL only: a row that did not exist cannot be locked
        raise StaleRows(f"{len(rows) - written} of {len(rows)} {what} were made by another worker just now")


def in_chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Unique items in pieces that one IN can take."""
    unique = list(dict.fromkeys(items))
    for start in range(0, len(unique), IDS_PER_STATEMENT):
        yield unique[start : start + IDS_PER_STATEMENT]


# --- opening ------------------------------------------------------------------------------------------------------


def _open_sqlite(path: Path) -> Engine:
    path.parent.mkdir(parents=True, exist_ok=True)
    address = URL.create("sqlite", database=str(path))
    engine = create_engine(address, paramstyle="named", connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    # Neither the change to WAL nor the first migration waits for a busy file, hence one process at a time.
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _disposed_on_failure(engine):
            with _edge(engine), closing(engine.raw_connection()) as connection:
                connection.cursor().execute("PRAGMA journal_mode = WAL")
            _upgrade(engine)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # else sqlite3 begins transactions by itself, and not IMMEDIATE ones
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("freshet_writes", False):
        connection.connection.cursor().execute("BEGIN IMMEDIATE")


def _open_postgresql(url: str, schema: str) -> Engine:
    engine = postgresql_engine(url, schema)
    with _disposed_on_failure(engine):
        _upgrade(engine, schema)
    return engine


@contextmanager
def _disposed_on_failure(engine: Engine) -> Iterator[None]:
    try:
        yield
    except BaseException:
        engine.dispose()
        raise


def _upgrade(engine: Engine, schema: str | None = None) -> None:
    """Bring the schema to this version, in one transaction that one process at a time can hold."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    with reading(engine) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == newest:
        return
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise SchemaTooNew(f"the schema is {current}, this version knows up to {newest}: install the newer Freshet")
    with transaction(engine) as connection:
        if schema is not None:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": SCHEMA_LOCK})
            if not inspect(connection).has_schema(schema):  # to create one needs a right that not every role has
                connection.execute(CreateSchema(schema))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")


# --- failures -----------------------------------------------------------------------------------------------------


@contextmanager
def _edge(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (exc.DBAPIError, exc.TimeoutError, sqlite3.OperationalError) as error:
        if not _says_unavailable(error):
            raise
        address = engine.url.render_as_string(hide_password=True)
        cause = str(getattr(error, "orig", error)).strip()
        raise StoreUnavailable(
            f"the database {address} does not serve: {cause}", "the database does not serve"
        ) from error


def _says_unavailable(error: Exception) -> bool:
    """True if waiting may help; a wrong statement or a broken constraint stays wrong."""
    cause = getattr(error, "orig", error)
    if isinstance(cause, sqlite3.OperationalError):
        return cause.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR
    if isinstance(error, exc.DBAPIError):
        return isinstance(error, exc.OperationalError) or error.connection_invalidated
    return True  # every connection of the pool is taken
