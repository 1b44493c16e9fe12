"""Fixtures that run a test on both databases: SQLite, and a real PostgreSQL from the wheel pgserver."""

import atexit
import os
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import required
from sqlalchemy import Engine

from store.database import open_database


@dataclass(frozen=True)
class Database:
    """An empty database of one test."""

    url: str | None
    home: Path
    namespace: str
    open: Callable[[], Engine]  # another worker's engine on the same database


@cache
def postgresql_url() -> str:
    """The URL of a PostgreSQL server that lives as long as this process.

    Fails where PostgreSQL is required and cannot be had, else skips.
    """
    # Run by root, the server has a user of its own, which must be able to reach the folder: not pytest's private one.
    folder = tempfile.mkdtemp(prefix="freshet-postgresql-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(start_postgresql(folder).get_uri())


def start_postgresql(folder: str) -> Any:
    """A running pgserver.PostgresServer with its files in folder; it stops at the latest when this process ends."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # pgserver keeps its lock file there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pgserver's own dependencies
            import pgserver

            return pgserver.get_server(folder)  # type: ignore[attr-defined]
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        message = f"no PostgreSQL ({error!r}): pip install pgserver"
        if required("postgresql"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture(name="database", params=["sqlite", "postgresql"])
def database_fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database, once SQLite and once PostgreSQL."""
    url = postgresql_url() if request.param == "postgresql" else None
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    opened: list[Engine] = []

    def open_engine() -> Engine:
        opened.append(open_database(url, tmp_path, "shop", namespace=namespace))
        return opened[-1]

    yield Database(url, tmp_path, namespace, open_engine)
    for engine in opened:
        engine.dispose()


@pytest.fixture(name="engine")
def engine_fixture(database: Database) -> Engine:
    """An engine on the test's own database."""
    return database.open()
