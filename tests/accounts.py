"""What tests of the lossless consumer share: topics, workers as processes, a feed, and the truth to compare with."""

import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from brokers import environment_of
from crashing_role import Account, Book, additions_topic, answers_topic
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from streams.broker import Broker
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import Topic, dead_letters_of, topic_names

SCRIPT = Path(__file__).parent / "crashing_role.py"


def until(condition: Callable[[], Any], within_s: float, what: str) -> None:
    """Return when the condition is true; fail with `what` after within_s."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.03)


class Event(NamedTuple):
    """An addition as it is sent; `key` is the record's own, which may be wrong."""

    number: int
    account: str
    amount: int = 1
    do: str = "count"
    key: bytes | None = b"the account"
    padding: str = ""

    @property
    def raw(self) -> bytes:
        return orjson.dumps({name: value for name, value in self._asdict().items() if name != "key"})

    @property
    def raw_key(self) -> bytes | None:
        return self.account.encode() if self.key == b"the account" else self.key


class Letter(NamedTuple):
    """A dead letter as it stands on its topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    reason: str


class Worker:
    """One process that runs the role; what it writes is in a file."""

    def __init__(self, settings: Settings, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT), *arguments],
                env=environment_of(settings),
                stdout=output,
                stderr=output,
                preexec_fn=dies_with_parent(),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def dies(self, within_s: float) -> None:
        """It ends by SIGKILL."""
        code = self.code(within_s)
        assert code == -9, f"it ended with code {code}; it said: {self.said[-3_000:]}"

    def code(self, within_s: float) -> int:
        """The exit code; -9 after SIGKILL. Fails if it lives longer."""
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker is still alive after {within_s:g} s; it said: {self.said[-3_000:]}")


class Accounts:
    """One test's accounts: everything that is sent is remembered, and `check` compares it with what came of it."""

    def __init__(self, settings: Settings, *, partitions: int = 4) -> None:
        self.settings = settings
        self.topic = additions_topic(settings)
        self.broker = Broker(settings)
        self.sent: list[Event] = []
        self.refused: set[int] = set()  # numbers of events that must not be in the book
        self.workers: list[Worker] = []
        self.answers: Counter[int] = Counter()
        self._create_topics(partitions)
        self.producer: KafkaProducer = self.broker.sync_producer()
        self._answers: KafkaConsumer = self._reader(answers_topic(settings), partitions)
        self._status: KafkaConsumer = self._reader(topic_names(settings, "").worker_status, 1)
        self._letters_reader: KafkaConsumer = self._reader(dead_letters_of(self.topic), 1)
        self._letters: list[Letter] = []
        self._last_status: dict[str, dict[str, Any]] = {}

    def _create_topics(self, partitions: int) -> None:
        wanted = [Topic(name, partitions, "shop") for name in (self.topic, answers_topic(self.settings))]
        wanted += [Topic(dead_letters_of(self.topic), 1, "shop")]
        wanted += [Topic(topic_names(self.settings, "").worker_status, 1, "shop")]
        with self.broker.admin() as admin:
            admin.create_topics(
                [NewTopic(t.name, t.partitions, 1, topic_configs=t.config(min_insync_replicas=1)) for t in wanted]
            )
            admin.wait_for_topics([topic.name for topic in wanted], timeout_ms=20_000)

    def _reader(self, topic: str, partitions: int) -> KafkaConsumer:
        consumer = self.broker.sync_consumer()
        consumer.assign([TopicPartition(topic, partition) for partition in range(partitions)])
        return consumer

    def close(self) -> None:
        """No worker is left."""
        for worker in self.workers:
            worker.kill()
        for client in (self._answers, self._status, self._letters_reader):
            client.close()
        self.producer.close(timeout=1)

    # --- what happens ------------------------------------------------------------------------------------------------

    def start(self, *arguments: str, worker_id: str = "w1", **more: Any) -> Worker:
        """A worker, whose command-line arguments are those of crashing_role."""
        settings = self.settings.model_copy(update={"worker_id": worker_id, **more})
        worker = Worker(settings, arguments, self.settings.home / f"{worker_id}.log")
        self.workers.append(worker)
        return worker

    def send(self, *events: Event) -> None:
        """The broker has them."""
        self.sent += events
        sent = [self.producer.send(self.topic, key=event.raw_key, value=event.raw) for event in events]
        self.producer.flush(timeout=60)
        for confirmation in sent:
            confirmation.get(timeout=60)

    def send_raw(self, key: bytes | None, value: bytes | None, **more: Any) -> Any:
        """A record as it is; returns where it stands."""
        return self.producer.send(self.topic, key=key, value=value, **more).get(timeout=20)

    # --- what came of it ---------------------------------------------------------------------------------------------

    def rows(self) -> dict[str, Account]:
        return Book(self.settings.home / "book.sqlite").read()

    def applied(self) -> Counter[int]:
        """How often each event is in the book."""
        return Counter(number for row in self.rows().values() for number in row.numbers)

    def read_answers(self) -> Counter[int]:
        """How often each event was answered so far."""
        for records in self._answers.poll(timeout_ms=20).values():
            self.answers.update(orjson.loads(record.value)["number"] for record in records)
        return self.answers

    def status(self, worker_id: str = "w1") -> dict[str, Any]:
        """What the worker last said of itself; {} if nothing yet."""
        for records in self._status.poll(timeout_ms=20).values():
            for record in records:
                said = orjson.loads(record.value)
                self._last_status[said["worker_id"]] = said
        return self._last_status.get(worker_id, {})

    def letters(self) -> list[Letter]:
        """The dead letters so far."""
        for records in self._letters_reader.poll(timeout_ms=20).values():
            self._letters += [Letter(r.key, r.value, r.headers, dict(r.headers)["reason"].decode()) for r in records]
        return self._letters

    def letter_of(self, value: bytes | None, within_s: float = 60.0) -> Letter:
        """The one dead letter that carries this value."""
        until(lambda: any(letter.value == value for letter in self.letters()), within_s, f"a letter of {value!r:.80}")
        (letter,) = (letter for letter in self.letters() if letter.value == value)
        return letter

    def committed(self) -> int:
        """The sum of the offsets that the group has committed."""
        with self.broker.admin() as admin:
            offsets = admin.list_group_offsets([f"{self.settings.namespace}.freshet-book"])
        return sum(entry.offset for group in offsets.values() for entry in group.values())

    def until_applied(self, numbers: set[int], within_s: float = 90.0) -> None:
        until(lambda: numbers <= self.applied().keys(), within_s, f"{len(numbers)} events in the book")

    def check(self, *, within_s: float = 90.0) -> None:
        """Each event that was sent and not refused is in the book exactly once and answered at least once."""
        expected = [event for event in self.sent if event.number not in self.refused]
        numbers = {event.number for event in expected}
        self.until_applied(numbers, within_s)
        until(lambda: numbers <= self.read_answers().keys(), 30, "every event answered")
        assert self.applied() == Counter(numbers)
        totals: dict[str, int] = defaultdict(int)
        for event in expected:
            totals[event.account] += event.amount
        assert {name: row.total for name, row in self.rows().items()} == totals


@contextmanager
def accounts(settings: Settings, *, partitions: int = 4) -> Iterator[Accounts]:
    """New topics, an empty book, and no worker left at the end."""
    made = Accounts(settings, partitions=partitions)
    try:
        yield made
    finally:
        made.close()


def additions(count: int, *, start: int = 0, over: int = 10) -> list[Event]:
    """So many events over so many accounts, of different amounts."""
    return [Event(number, f"account-{number % over}", 1 + number % 7) for number in range(start, start + count)]
