"""Opening, migrating, committing and failing, on SQLite and PostgreSQL alike."""

import sqlite3
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from databases import Database, database_fixture, engine_fixture  # noqa: F401
from sqlalchemy import Engine, exc, text

import store.checkpoints
import store.encoders
import store.leases
import store.products
import store.users  # noqa: F401  (these five give metadata its tables)
from store.database import SchemaTooNew, get_fact, in_chunks, metadata, open_database, reading, set_fact, transaction
from store.postgresql import WrongDatabase
from store.records import StoreUnavailable
from streams.ports import free_port
from streams.terminal import FAILED, MISCONFIGURED, exit_code_of


def test_a_fact_is_found_again_and_can_be_replaced(engine: Engine) -> None:
    assert get_fact(engine, "topic-id") is None
    set_fact(engine, "topic-id", "one")
    set_fact(engine, "topic-id", "zwei ünïcode")
    assert get_fact(engine, "topic-id") == "zwei ünïcode"


def test_the_migrated_schema_is_the_one_that_the_stores_name(engine: Engine) -> None:
    with reading(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_block_that_raises_leaves_nothing(engine: Engine) -> None:
    def write_half(engine: Engine) -> None:
        with transaction(engine) as connection:
            connection.execute(text("INSERT INTO facts VALUES ('half', 'done')"))
            raise KeyError

    with pytest.raises(KeyError):
        write_half(engine)
    assert get_fact(engine, "half") is None


def test_a_broken_constraint_is_not_called_unavailable(engine: Engine) -> None:
    set_fact(engine, "name", "value")
    with pytest.raises(exc.IntegrityError), transaction(engine) as connection:
        connection.execute(text("INSERT INTO facts VALUES ('name', 'again')"))


def test_a_wrong_statement_is_not_called_unavailable(engine: Engine) -> None:
    with pytest.raises(exc.DBAPIError, match="nowhere"), reading(engine) as connection:
        connection.execute(text("SELECT * FROM nowhere"))


def test_namespaces_keep_two_shops_apart(database: Database) -> None:
    one, other = database.open(), open_database(database.url, database.home, "shop", namespace=database.namespace + "b")
    set_fact(one, "owner", "one")
    assert get_fact(other, "owner") is None
    other.dispose()


def test_a_schema_of_a_newer_version_is_refused(database: Database) -> None:
    with transaction(database.open()) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaTooNew, match=r"9999.*0005.*install the newer"):
        database.open()


OPEN = """
import sys
from pathlib import Path
from store.database import get_fact, open_database
url, home, namespace = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
print(get_fact(open_database(url or None, Path(home), "shop", namespace), "forgotten-salt"))
"""


def test_four_processes_may_open_a_new_database_at_once(database: Database) -> None:
    arguments = [sys.executable, "-c", OPEN, database.url or "", str(database.home), database.namespace]
    pipe = subprocess.PIPE
    workers = [subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    answers = [worker.communicate(timeout=60) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, answers
    assert len({salt for salt, _ in answers}) == 1
    assert len(answers[0][0].strip()) == 32


def test_a_file_that_another_process_holds_is_unavailable_and_then_serves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.database.BUSY_TIMEOUT_S", 0.05)
    engine = open_database(None, tmp_path, "users")
    holder = sqlite3.connect(tmp_path / "users.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"users\.db does not serve: database is locked"):
        set_fact(engine, "a", "b")
    assert get_fact(engine, "a") is None  # reading goes on meanwhile
    holder.execute("ROLLBACK")
    holder.close()
    set_fact(engine, "a", "b")
    assert get_fact(engine, "a") == "b"
    engine.dispose()


def test_sqlite_syncs_every_commit_and_never_blocks_readers(tmp_path: Path) -> None:
    engine = open_database(None, tmp_path, "products")
    with reading(engine) as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://somewhere/shop", "begins with postgresql://, not mysql://; unset it for SQLite"),
        ("somewhere", "cannot be read: write postgresql://user:password@host:5432/name, with %40 for an @"),
        ("postgresql://u:hush@hush:hush@h/d", "cannot be read: write postgresql://"),
        ("postgresql://u:hush@h:hush/d", "cannot be read: write postgresql://"),
        ("postgresql://u:hush@h/d?color=red", 'has an option that PostgreSQL does not know: .*"color"$'),
    ],
)
def test_a_url_that_will_never_do_says_what_to_write_and_tells_no_password(
    tmp_path: Path, url: str, reason: str
) -> None:
    with pytest.raises(WrongDatabase, match=reason) as told:
        open_database(url, tmp_path, "users")
    assert "hush" not in "".join(traceback.format_exception(told.value)).split("WrongDatabase: ")[-1]
    assert "hush" not in str(told.value.__cause__)
    assert exit_code_of(told.value) == MISCONFIGURED


def test_a_missing_driver_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        WrongDatabase, match=r"no driver here \(.*psycopg.*\): pip install '\.\[postgresql\]' in Freshet's folder"
    ):
        open_database("postgresql://u@h/d", tmp_path, "users")


def test_a_server_that_does_not_answer_is_unavailable_and_not_misconfigured(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:\d+/d does not serve") as told:
        open_database(f"postgresql://u:hush@127.0.0.1:{free_port()}/d", tmp_path, "users")
    assert "hush" not in str(told.value)
    assert exit_code_of(told.value) == FAILED


def test_chunks_hold_each_item_once_and_at_most_five_hundred() -> None:
    assert [len(chunk) for chunk in in_chunks([*range(1001), 5, 6])] == [500, 500, 1]
