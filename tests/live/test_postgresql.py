"""What only a server can do: go away, come back, and let several workers write at the same moment."""

import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from contextlib import contextmanager
from pathlib import Path

import pytest
from databases import postgresql_url, start_postgresql
from sqlalchemy import Engine, event, text

from store.database import get_fact, open_database, reading, set_fact
from store.records import StaleRows, StoreUnavailable, UserRow
from store.users import Forgotten, UserStore

ANNA = UserRow("anna", 1, (), (), {"t/0": 9})


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """Two workers' engines on one new schema."""
    namespace = f"live-{uuid.uuid4().hex[:12]}"
    one, other = (open_database(postgresql_url(), tmp_path, "shop", namespace) for _ in range(2))
    yield one, other
    one.dispose()
    other.dispose()


@pytest.fixture
def folder() -> Iterator[str]:
    """A folder that the server's own user can reach."""
    folder = tempfile.mkdtemp(prefix="freshet-postgresql-")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_a_server_that_dies_is_unavailable_and_has_every_confirmed_write_when_it_is_back(
    folder: str, tmp_path: Path
) -> None:
    server = start_postgresql(folder)
    url = server.get_uri().replace("postgres:@", "postgres:secret@")
    engine = open_database(url, tmp_path, "shop")
    set_fact(engine, "confirmed", "yes")
    os.kill(server.get_pid(), signal.SIGQUIT)  # it ends at once, as in a crash
    while (Path(folder) / "postmaster.pid").exists():
        time.sleep(0.01)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="does not serve") as unavailable:
            set_fact(engine, "confirmed", "no")
        assert "secret" not in str(unavailable.value)
    with pytest.raises(StoreUnavailable, match="does not serve"):
        open_database(url, tmp_path, "shop")
    server.cleanup()
    server = start_postgresql(folder)
    assert get_fact(engine, "confirmed") == "yes"
    engine.dispose()
    server.cleanup()


def test_a_connection_that_the_server_ends_costs_one_try(engines: tuple[Engine, Engine]) -> None:
    one, other = engines
    set_fact(one, "name", "value")
    end_it = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND pid = :pid"
    with reading(one) as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with reading(other) as connection:
        connection.execute(text(end_it), {"pid": pid})
    with pytest.raises(StoreUnavailable):
        get_fact(one, "name")
    assert get_fact(one, "name") == "value"


def test_a_database_that_nobody_serves_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"postgresql\+psycopg://nobody:\*\*\*@.*does not serve"):
        open_database(f"postgresql://nobody:secret@/shop?host={tmp_path}", tmp_path, "shop")


@contextmanager
def _paused_before_commit(engine: Engine) -> Iterator[tuple[threading.Event, threading.Event]]:
    """(reached, go on): the engine's next write stops before its commit until it may go on."""
    reached, go_on = threading.Event(), threading.Event()

    def pause(_: object) -> None:
        reached.set()
        go_on.wait(10)

    event.listen(engine, "commit", pause)
    try:
        yield reached, go_on
    finally:
        event.remove(engine, "commit", pause)


def test_a_user_who_is_forgotten_while_a_first_click_is_being_written_is_gone(engines: tuple[Engine, Engine]) -> None:
    one, other = UserStore(engines[0]), UserStore(engines[1])
    with _paused_before_commit(engines[0]) as (reached, go_on), ThreadPoolExecutor(2) as workers:
        click = workers.submit(one.write, [ANNA])
        assert reached.wait(10)
        forgetting = workers.submit(other.write, [], [Forgotten("anna", "t/0", 10, 0.0)])
        with pytest.raises(NotDone):  # it waits, because it could not see the row
            forgetting.result(timeout=0.3)
        go_on.set()
        click.result(10)
        forgetting.result(10)
    assert other.read(["anna"]) == {}
    assert other.forgotten_offsets(["anna"]) == {"anna": {"t/0": 10}}


def test_of_two_workers_that_make_the_same_user_at_once_the_second_is_stale(engines: tuple[Engine, Engine]) -> None:
    one, other = UserStore(engines[0]), UserStore(engines[1])
    with _paused_before_commit(engines[0]) as (reached, go_on), ThreadPoolExecutor(2) as workers:
        first = workers.submit(one.write, [ANNA])
        assert reached.wait(10)
        second = workers.submit(other.write, [ANNA])
        with pytest.raises(NotDone):
            second.result(timeout=0.3)
        go_on.set()
        first.result(10)
        with pytest.raises(StaleRows, match="1 of 1 users were made by another worker just now"):
            second.result(10)
    assert one.counts()["users"] == 1
