"""All of Freshet as real processes, for tests: started as `freshet up` starts them, killed, fed and looked at.

    with running(settings) as system:
        system.start("catalog", "encode", "index", "clicks", "learner")
        system.send(system.names.user_clicks, b"anna", value)
        system.workers["clicks"].kill()
        system.until_quiet(60)

A worker that ends is started again, as under a supervisor, whenever the test waits for something.
"""

import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from streams.dead_letters import DeadLetter, read_dead_letters
from streams.health import group_id, topics_of_groups
from streams.roles import Parts
from streams.settings import Settings
from streams.supervisor import Child, dies_with_parent
from streams.topics import create_topics
from streams.up import worker_children

POLL_S = 0.1
READ_WITHIN_S = 60.0


class Worker:
    """One process with its roles; what it writes is in a file."""

    def __init__(self, child: Child, roles: Sequence[str], worker_id: str, log: Path) -> None:
        self.roles = roles
        self.worker_id = worker_id
        self.ends: list[int] = []  # exit codes of ends that the test did not ask for
        self._child = child
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._is_wanted = False

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        self._is_wanted = True
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                self._child.command,
                env=self._child.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=dies_with_parent(self._child.nice),
            )

    def keep(self) -> None:
        """It runs, if it is meant to."""
        if self._is_wanted and self._process is not None and (code := self._process.poll()) is not None:
            self.ends.append(code)
            self.start()

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def crash(self) -> None:
        """It died at once, and runs again."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """It died at once."""
        self._is_wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask_to_end(self) -> None:
        self._is_wanted = False
        self.signal(signal.SIGTERM)

    def code(self, within_s: float) -> int:
        """Its exit code. Fails if it lives longer."""
        assert self._process is not None
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._log.stem} is still alive after {within_s:g} s; it said: {self.said[-3_000:]}")


class System:
    """One shop's workers, topics and stores."""

    def __init__(self, settings: Settings, *, nice: int | None = None) -> None:
        """The topics exist; nothing runs.

        nice  of every process; None: as `freshet up` has it, which on a busy machine leaves the encoder next to nothing
        """
        self.settings = settings
        self._nice = nice
        self.parts = Parts(settings)
        self.names = self.parts.names
        self.broker = self.parts.broker
        self.workers: dict[str, Worker] = {}
        create_topics(settings, self.names)
        self._producer: KafkaProducer = self.broker.sync_producer()
        self._confirmations: list[Any] = []
        self._ends: KafkaConsumer = self.broker.sync_consumer()
        self._status: KafkaConsumer = self.broker.sync_consumer()
        self._status.assign([TopicPartition(self.names.worker_status, 0)])
        self._said: dict[tuple[str, str], dict[str, Any]] = {}

    def close(self) -> None:
        """No worker is left."""
        for worker in self.workers.values():
            worker.kill()
        for client in (self._ends, self._status):
            client.close()
        self._producer.close(timeout=1)

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(
        self, *groups: str, worker_id: str = "w1", command: Sequence[str] | None = None, **more: Any
    ) -> list[Worker]:
        """A process for each group of roles, like "index,api"; `workers` has them as group, or group.worker_id.

        command  another one than `freshet worker`
        more     settings that differ from the system's
        """
        settings = self.settings.model_copy(update={"worker_id": worker_id, **more})
        roles = [tuple(group.split(",")) for group in groups]
        started = []
        for group, child in zip(roles, worker_children(settings, roles), strict=True):
            name = ",".join(group) if worker_id == "w1" else f"{','.join(group)}.{worker_id}"
            child = replace(
                child,
                command=child.command if command is None else command,
                nice=child.nice if self._nice is None else self._nice,
            )
            if name in self.workers:
                self.workers[name].kill()
            self.workers[name] = worker = Worker(child, group, worker_id, self.settings.home / f"{name}.log")
            worker.start()
            started.append(worker)
        return started

    def keep(self) -> None:
        """Who died is started again."""
        for worker in self.workers.values():
            worker.keep()

    def end_all(self, within_s: float = 30.0) -> dict[str, int]:
        """Every worker was asked to end and has: its exit code by name."""
        for worker in self.workers.values():
            worker.ask_to_end()
        codes = {name: worker.code(within_s) for name, worker in self.workers.items()}
        self.workers.clear()
        return codes

    def unasked_ends(self) -> dict[str, list[int]]:
        """The exit codes of workers that ended although nobody told them to, by name."""
        return {name: worker.ends for name, worker in self.workers.items() if worker.ends}

    # --- what is sent ------------------------------------------------------------------------------------------------

    def send(self, topic: str, key: bytes | None, value: bytes | None) -> Any:
        """On its way, behind what was sent before; kafka-python's future of its place."""
        confirmation = self._producer.send(topic, key=key, value=value)
        self._confirmations.append(confirmation)
        return confirmation

    def confirm(self, within_s: float = 60.0) -> float:
        """The broker has all that was sent; the newest record's time, s since 1970."""
        newest_ms = 0
        for confirmation in self._confirmations:
            newest_ms = max(newest_ms, confirmation.get(timeout=within_s).timestamp)
        self._confirmations.clear()
        return newest_ms / 1000

    # --- what came of it ---------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], within_s: float, what: str) -> None:
        """Return when the condition is true, keeping the workers alive; fail with `what` after within_s."""
        deadline = time.monotonic() + within_s
        while not condition():
            self.keep()
            if time.monotonic() > deadline:
                self._fail(f"not within {within_s:g} s: {what}")
            time.sleep(POLL_S)

    def until_at_work(self, *workers: str, within_s: float = 180.0) -> None:
        """Each of these processes has said that all its roles run."""
        self.until(lambda: all(map(self.is_running, workers)), within_s, f"{', '.join(workers)} at work")

    def until_quiet(self, within_s: float) -> None:
        """The groups of all workers have acknowledged all that their topics hold, for good. Kafka only."""
        self.until(self._is_quiet, within_s, "every group at the end of its topics")

    def until_learned(self, examples: int, within_s: float) -> None:
        """The learner says that it has learned so many, or more."""

        def learned() -> int:
            return int(self.status("learner").get("details", {}).get("examples", 0))

        self.until(lambda: learned() >= examples, within_s, f"{examples} examples learned")

    def is_running(self, name: str) -> bool:
        return all(self.status(name, role).get("state") == "running" for role in self.workers[name].roles)

    def status(self, name: str, role: str | None = None) -> dict[str, Any]:
        """What the process that runs now last said of this role (its first one), {} if nothing yet."""
        for records in self._status.poll(timeout_ms=5, max_records=10_000).values():
            for record in records:
                said = orjson.loads(record.value)
                self._said[said["worker_id"], said["role"]] = said
        worker = self.workers[name]
        said = self._said.get((worker.worker_id, role or worker.roles[0]), {})
        return said if said.get("pid") == worker.pid else {}

    def lag(self, role: str) -> int:
        """Events that the role's group has not acknowledged. Kafka only: tansu is wrong about the end."""
        ends, acknowledged = self._end_offsets([role]), self._acknowledged([role])
        return sum(end - acknowledged.get(place, 0) for place, end in ends.items())

    def _is_quiet(self) -> bool:
        at_work = {role for worker in self.workers.values() for role in worker.roles}
        roles = sorted(at_work)
        ends = self._end_offsets(roles)
        acknowledged = self._acknowledged(roles)
        behind = [place for place, end in ends.items() if acknowledged.get(place, 0) < end]
        return not behind and self._end_offsets(roles) == ends

    def _topics_of(self, roles: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """By group, as long as only the encoders of the settings serve."""
        return {name: t for name, t in topics_of_groups(self.names).items() if name.partition("-")[0] in roles}

    def _end_offsets(self, roles: Sequence[str]) -> dict[tuple[str, TopicPartition], int]:
        topics = self._topics_of(roles)
        numbers = range(self.settings.partitions)
        places = {name: [TopicPartition(topic, n) for topic in topics[name] for n in numbers] for name in topics}
        ends = self._ends.end_offsets(sorted({place for some in places.values() for place in some}))
        return {(name, place): ends[place] for name, some in places.items() for place in some}

    def _acknowledged(self, roles: Sequence[str]) -> dict[tuple[str, TopicPartition], int]:
        groups = {group_id(self.settings, name): name for name in self._topics_of(roles)}
        with self.broker.admin() as admin:
            committed = admin.list_group_offsets(list(groups))
        return {
            (groups[group], place): offset.offset
            for group, offsets in committed.items()
            for place, offset in offsets.items()
        }

    def records(self, topic: str) -> list[Any]:
        """Every record that the topic holds now, in the order of each partition."""
        consumer = self.broker.sync_consumer()
        deadline = time.monotonic() + READ_WITHIN_S
        found: list[Any] = []
        try:
            places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(places)
            while not all(_is_at_end(consumer, place) for place in places):
                assert time.monotonic() < deadline, f"{topic} was not read within {READ_WITHIN_S:g} s"
                for records in consumer.poll(timeout_ms=200).values():
                    found += records
        finally:
            consumer.close()
        return found

    def lists(self) -> list[dict[str, Any]]:
        """Every list on the topic, oldest first, with `at`, the record's time (s since 1970)."""
        records = sorted(self.records(self.names.recommendations), key=lambda record: record.timestamp)
        return [{**orjson.loads(record.value), "at": record.timestamp / 1000} for record in records]

    def letters(self) -> dict[str, list[DeadLetter]]:
        """The dead letters by the topic that they came from; every topic that has a reader is looked at."""
        topics = sorted({topic for topics in topics_of_groups(self.names).values() for topic in topics})
        found: dict[str, list[DeadLetter]] = defaultdict(list)
        for letter in read_dead_letters(self.broker, topics):
            found[letter.topic].append(letter)
        return found

    def _fail(self, what: str) -> NoReturn:
        said = "\n".join(f"--- {name} {worker.ends}\n{worker.said[-1_500:]}" for name, worker in self.workers.items())
        pytest.fail(f"{what}\n{said}", pytrace=False)


def _is_at_end(consumer: KafkaConsumer, place: TopicPartition) -> bool:
    """As far as a fetch has told, which is right on both brokers."""
    end = consumer.highwater(place)
    return end is not None and consumer.position(place) >= end


@contextmanager
def running(settings: Settings, *, nice: int | None = None) -> Iterator[System]:
    """A system whose workers are gone at the end."""
    system = System(settings, nice=nice)
    try:
        yield system
    finally:
        system.close()
