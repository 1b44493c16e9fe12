"""A role that keeps an account's book, run as a real process, which dies at the point where that would hurt most.

    python tests/crashing_role.py [--before publish|commit|acknowledge --at N [--until FILE]] [--prepares]

Settings come from the environment, as everywhere. tests/accounts.py starts it, feeds it and knows the truth.
"""

import argparse
import asyncio
import logging
import os
import signal
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from store.records import Offsets, StaleRows, StoreUnavailable, source_key
from streams.broker import Broker, Outgoing, Publisher
from streams.events import BadEvent, Contract, Id, WrongKey
from streams.lossless import LosslessConsumer
from streams.parsing import parse, parse_key
from streams.role import Delivery, Message, Outcome, Role, nothing
from streams.settings import Settings, load_settings
from streams.worker import run_worker

log = logging.getLogger(__name__)

ROLE = "book"


def additions_topic(settings: Settings) -> str:
    return f"{settings.namespace}.additions"


def answers_topic(settings: Settings) -> str:
    return f"{settings.namespace}.answers"


class Addition(Contract):
    """One event. `do` says what happens to the process or to the batch when it is worked on."""

    account: Id
    number: int  # of the event, given once
    amount: int
    do: Literal["count", "reject", "reject the batch", "kill", "fail", "fail to parse"] = "count"
    padding: str = ""


@dataclass
class Account:
    """A row: what was added, each event by its number, and where the events came from."""

    account: str
    revision: int = 0
    total: int = 0
    numbers: list[int] = field(default_factory=list)
    offsets: Offsets = field(default_factory=dict)


class Book:
    """The accounts in a SQLite file; another process that holds it makes it unavailable after a moment."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS accounts (account TEXT PRIMARY KEY, revision INT, row TEXT)")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=1.0, isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise StoreUnavailable(f"the book {self._path.name} is not to be had: {error}") from error
        finally:
            database.close()

    def read(self, names: Iterable[str] | None = None) -> dict[str, Account]:
        """The accounts of these names, or all."""
        with self._open() as database:
            found = database.execute("SELECT row FROM accounts").fetchall()
        rows = {row["account"]: Account(**row) for row in (orjson.loads(text) for (text,) in found)}
        return rows if names is None else {name: rows.get(name) or Account(name) for name in names}

    def write(self, rows: Iterable[Account]) -> None:
        """All or nothing. Raises StaleRows if one was written since it was read."""
        with self._open() as database:
            for row in rows:
                done = database.execute(
                    "INSERT INTO accounts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET revision = excluded.revision, "
                    "row = excluded.row WHERE revision = excluded.revision - 1",
                    (row.account, row.revision, orjson.dumps(row).decode()),
                )
                if done.rowcount != 1:
                    raise StaleRows(f"account {row.account} has moved on")


class BookRole(Role[Addition]):
    """additions to the book, one answer for each event."""

    name = ROLE

    def __init__(self, settings: Settings, *, prepares: bool) -> None:
        self.topics = (additions_topic(settings),)
        self.prepares = prepares
        self._answers = answers_topic(settings)
        self._book = Book(settings.home / "book.sqlite")

    def parse(self, message: Message) -> Addition:
        addition: Addition = parse(Addition, message.value or b"null")
        if addition.do == "fail to parse":
            raise RuntimeError("an error that nobody thought of, while parsing")
        if parse_key(message.key) != addition.account:
            raise WrongKey(addition.account)
        return addition

    async def prepare(self, batch: Sequence[Delivery[Addition]]) -> list[int]:
        await asyncio.sleep(0.002)
        return [addition.number for _, addition in batch]

    def compute(self, batch: Sequence[Delivery[Addition]], prepared: Any) -> Outcome:
        """The book after the batch: an event whose offset the row has seen changes nothing and is answered again."""
        assert prepared == ([addition.number for _, addition in batch] if self.prepares else None)
        rows = self._book.read({addition.account for _, addition in batch})
        changed, rejected, answers = set(), [], []
        for message, addition in batch:
            if addition.do == "reject":
                rejected.append((message, "this addition is refused: do not send it"))
                continue
            _obey(addition)
            row, source = rows[addition.account], source_key(message.topic_id, message.partition)
            if message.offset > row.offsets.get(source, -1):
                row.offsets[source] = message.offset
                row.total += addition.amount
                row.numbers.append(addition.number)
                changed.add(addition.account)
            answers.append((addition, row))
        for name in changed:
            rows[name].revision += 1
        return Outcome(
            publish=[self._answer(addition, row) for addition, row in answers],
            commit=lambda: self._book.write(rows[name] for name in sorted(changed)),
            rejected=rejected,
        )

    def _answer(self, addition: Addition, row: Account) -> Outgoing:
        value = {"number": addition.number, "revision": row.revision, "total": row.total}
        return Outgoing(self._answers, addition.account.encode(), orjson.dumps(value))


def _obey(addition: Addition) -> None:
    match addition.do:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise RuntimeError("an error that nobody thought of")
        case "reject the batch":
            raise BadEvent("this addition breaks its batch: do not send it")


class CrashingConsumer(LosslessConsumer[Any]):
    """Dies by SIGKILL just before its n-th publication, commit or acknowledgement, or waits there for a file."""

    def __init__(self, *arguments: Any, before: str | None, at: int, until: Path | None) -> None:
        super().__init__(*arguments)
        self._before = before
        self._left = at
        self._until = until

    async def _reach(self, point: str) -> None:
        self._left -= point == self._before
        if point != self._before or self._left != 0:
            return
        if self._until is None:
            os.kill(os.getpid(), signal.SIGKILL)
            return
        log.info("waits before=%s", point)
        while not self._until.exists():
            await asyncio.sleep(0.02)

    async def _publish(self, messages: list[Outgoing]) -> None:
        if messages:
            await self._reach("publish")
        await super()._publish(messages)

    async def _commit(self, outcome: Outcome) -> None:
        await self._reach("commit")
        await super()._commit(outcome)

    async def _carry_out(self, outcome: Outcome) -> None:
        await super()._carry_out(outcome)
        if outcome.publish or outcome.commit is not nothing:
            await self._reach("acknowledge")


async def main() -> None:
    """Run the role until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", choices=["publish", "commit", "acknowledge"])
    parser.add_argument("--at", type=int, default=1)
    parser.add_argument("--until", type=Path)
    parser.add_argument("--prepares", action="store_true")
    chosen = parser.parse_args()
    settings = load_settings()
    broker = Broker(settings)
    publisher = Publisher(broker)
    role = BookRole(settings, prepares=chosen.prepares)
    crash = {"before": chosen.before, "at": chosen.at, "until": chosen.until}
    consumer = CrashingConsumer(role, settings, broker, publisher, **crash)
    await run_worker({ROLE: consumer}, settings, publisher)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(main())
