"""Real brokers for tests: tansu from its wheel, and Apache Kafka (one KRaft node) fetched by Maven.

    def test_something(kafka: LocalKafka, broker_settings: MakeSettings) -> None:
        settings = broker_settings(kafka, worker_id="w1")

`tansu` and `kafka` live as long as the test run and are shared: each test has a namespace of its own. A test that
stops, kills or freezes a broker takes `frail_kafka`.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import orjson
import pytest
from conftest import required

from streams.embedded_broker import EmbeddedBroker, EmbeddedBrokerMissing, answers
from streams.ports import free_port
from streams.settings import Settings
from streams.supervisor import dies_with_parent

POM_FOLDER = Path(__file__).parent / "live" / "kafka"
ANSWERS_WITHIN_S = 60.0
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class LocalBroker(Protocol):
    """A broker on 127.0.0.1."""

    port: int


class MakeSettings(Protocol):
    """Settings for a broker with the test's own namespace and home; the rest as named."""

    def __call__(self, broker: LocalBroker, **more: Any) -> Settings: ...


class KafkaMissing(Exception):
    """Java or Maven is not there, or Maven could not fetch Kafka."""


class LocalKafka:
    """One Kafka node, its data in a folder; it can be stopped, killed and frozen, and started again as it was."""

    def __init__(self, folder: Path) -> None:
        """Nothing runs yet. Raises KafkaMissing."""
        self.port, controller = free_port(), free_port()
        self._folder = folder
        self._java = [
            "java",
            "-Xmx512m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            f"{kafka_libraries()}/*",
        ]
        self._process: subprocess.Popen[bytes] | None = None
        properties = PROPERTIES.format(port=self.port, controller=controller, folder=folder)
        (folder / "server.properties").write_text(properties)
        self._run_tool("kafka.tools.StorageTool", "format", "-t", "9UhBwfQwSIavjIEZLRnFcQ", "-c", self._properties)

    @property
    def _properties(self) -> str:
        return str(self._folder / "server.properties")

    def _run_tool(self, *arguments: str) -> None:
        subprocess.run([*self._java, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self) -> None:
        """It answers, with all that was written before."""
        with (self._folder / "kafka.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._java, "kafka.Kafka", self._properties],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A session of its own: Ctrl-C ends the tests first, and their end ends Kafka.
                start_new_session=True,
                preexec_fn=dies_with_parent(),
            )
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                said = (self._folder / "kafka.log").read_text(errors="replace")[-2_000:]
                raise RuntimeError(f"Kafka gives no answer on port {self.port}: {said}")
            time.sleep(0.05)

    def stop(self) -> None:
        """It has ended in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """It has ended at once, as in a crash; the operating system keeps what was written."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def mend(self) -> None:
        """It runs, whatever was done to it."""
        self.resume()
        if self._process is None:
            self.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        self._signal(number)
        if self._process is not None:
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None


@cache
def kafka_libraries() -> Path:
    """The folder of Kafka's jars, fetched if it is not there. Raises KafkaMissing."""
    libraries = POM_FOLDER / "target" / "libs"
    if any(libraries.glob("kafka_*.jar")):
        return libraries
    if missing := [tool for tool in ("java", "mvn") if shutil.which(tool) is None]:
        raise KafkaMissing(f"no {' and no '.join(missing)}: install Java 17 and Maven")
    # Into a folder beside it: a fetch that was cut off leaves nothing that looks complete.
    fetching = libraries.with_name(f"libs-{os.getpid()}")
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={fetching}"]
    fetched = subprocess.run(command, cwd=POM_FOLDER, capture_output=True, text=True)
    if fetched.returncode != 0:
        raise KafkaMissing(f"Maven could not fetch Kafka: {fetched.stdout[-2_000:]}{fetched.stderr[-2_000:]}")
    shutil.rmtree(libraries, ignore_errors=True)
    fetching.rename(libraries)
    return libraries


def absent(name: str, reason: Exception) -> NoReturn:
    """Skips the test, or fails it where the part is required."""
    if required(name):
        pytest.fail(str(reason))
    pytest.skip(str(reason))


def _running_kafka(folder: Path) -> Iterator[LocalKafka]:
    try:
        kafka = LocalKafka(folder)
    except KafkaMissing as reason:
        absent("kafka", reason)
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.kill()


@pytest.fixture(name="tansu", scope="session")
def tansu_fixture() -> Iterator[EmbeddedBroker]:
    """The embedded broker, shared by the tests of this run."""
    broker = EmbeddedBroker(free_port())
    try:
        broker.start()
    except EmbeddedBrokerMissing as reason:
        absent("tansu", reason)
    yield broker
    broker.stop()


@pytest.fixture(name="kafka", scope="session")
def kafka_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Apache Kafka, shared by the tests of this run: leave it running."""
    yield from _running_kafka(tmp_path_factory.mktemp("kafka"))


@pytest.fixture(scope="session")
def second_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """The one behind frail_kafka."""
    yield from _running_kafka(tmp_path_factory.mktemp("second-kafka"))


@pytest.fixture
def frail_kafka(second_kafka: LocalKafka) -> Iterator[LocalKafka]:
    """Apache Kafka that the test may stop, kill and freeze; it is mended for the next test."""
    yield second_kafka
    second_kafka.mend()


def settings_on(broker: LocalBroker, home: Path, **more: Any) -> Settings:
    """Settings of a worker w1 on this broker, in a namespace of its own unless one is named."""
    chosen = {
        "home": home,
        "namespace": f"test-{uuid.uuid4().hex[:12]}",
        "kafka_bootstrap": f"127.0.0.1:{broker.port}",
        "embedded_broker": isinstance(broker, EmbeddedBroker),
        "worker_id": "w1",
        "session_timeout_s": 6.0,
        **more,
    }
    return Settings(**chosen)


@pytest.fixture
def broker_settings(tmp_path: Path) -> MakeSettings:
    """Makes the settings of the test's workers: one namespace, one home, either broker."""
    return partial(settings_on, home=tmp_path, namespace=f"test-{uuid.uuid4().hex[:12]}")


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment in which another process reads these very settings (secrets are left out)."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    chosen = settings.model_dump(mode="json", exclude_unset=True, exclude={"kafka_password", "database_url"})
    return others | {f"FRESHET_{name.upper()}": _as_text(value) for name, value in chosen.items()}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
