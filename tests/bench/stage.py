"""What every benchmark stands on: roles in processes of their own on a real Kafka, in a folder and a namespace."""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil  # type: ignore[import-untyped]
from brokers import LocalKafka, environment_of

from encoders.weights import fingerprint_of
from streams.broker import Broker, Outgoing, Publisher
from streams.ports import free_port
from streams.settings import Settings
from streams.status import StatusBoard
from streams.supervisor import Child, Supervisor
from streams.topics import create_topics, topic_names
from streams.up import worker_children
from tests.bench.echo import create_echo_topics

Tell = Callable[[str], None]
READY_WITHIN_S = 180.0
LOG_TAIL_CHARACTERS = 2_000


class NotInTime(Exception):
    """What a benchmark waits for does not come; str() says what it was, and what the processes wrote last."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything a benchmark takes."""

    products: int  # of the shelf
    many_products: int  # of the shelf at the restart
    seconds: float  # of each paced phase
    backlog: int  # clicks
    encoded: int  # products through the encode role
    published: int  # products that are published one at a time
    newcomers: int  # products that are encoded while others sell out
    rounds: int  # of what is measured once each time: deaths, sell-outs


FULL = Sizes(5_000, 50_000, 20.0, 30_000, 150, 30, 5_000, 3)
QUICK = Sizes(300, 1_000, 3.0, 3_000, 12, 3, 100, 1)


class Stage:
    """The topics are there; nothing runs before `start`. `stage` makes one, and cleans up behind it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
        self.broker = Broker(settings)
        self.publisher = Publisher(self.broker)
        self.http = httpx.AsyncClient(base_url=f"http://{settings.api_host}:{settings.api_port}", timeout=30.0)
        self._board = StatusBoard(self.broker, self.names.worker_status)
        self._following: asyncio.Task[None] | None = None
        self._supervisors: list[Supervisor] = []

    async def start(self, *groups: Sequence[str], until_running: bool = True) -> None:
        """A process for each group of roles, as `freshet up` starts them. Raises NotInTime."""
        await self._start(worker_children(self.settings, groups))
        roles = [role for group in groups for role in group]
        if until_running:
            await self.until(lambda: all(self.status(r)["state"] == "running" for r in roles), "all roles run")

    async def start_echo(self) -> None:
        """The echo, in a process of its own."""
        command = [sys.executable, "-m", "tests.bench.echo"]
        await self._start([Child("echo", command, environment_of(self.settings))])

    async def _start(self, children: list[Child]) -> None:
        if self._following is None:
            self._following = asyncio.create_task(self._board.follow())
        supervisor = Supervisor(children, self.settings.home / "logs")
        self._supervisors.append(supervisor)
        await supervisor.start()

    async def stop(self) -> None:
        """No process is left."""
        for supervisor in self._supervisors:
            await supervisor.stop()
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self.publisher.stop()
        await self.http.aclose()

    @property
    def processes(self) -> dict[str, psutil.Process]:
        """What runs now, by the names of the groups ("index-api")."""
        return {name: psutil.Process(pid) for s in self._supervisors for name, pid in s.processes.items()}

    @property
    def restarts(self) -> int:
        """How often a process had to be started again."""
        return sum(sum(supervisor.restarts.values()) for supervisor in self._supervisors)

    def memory_mb(self) -> dict[str, float]:
        """RSS of each process that runs now."""
        memory_mb = {}
        for name, process in self.processes.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                memory_mb[name] = process.memory_info().rss / 1e6
        return memory_mb

    def status(self, role: str) -> dict[str, Any]:
        """What the role says of itself."""
        said: dict[str, Any] = self._board.summary(time.time())["roles"][role]
        return said

    async def publish(self, topic: str, values: Sequence[dict[str, Any]], key: str = "product_id") -> None:
        """Each value is confirmed by the broker, under its own field as key."""
        messages = [Outgoing(topic, value[key].encode(), orjson.dumps(value)) for value in values]
        await self.publisher.publish(messages)

    async def retrievable(self) -> int:
        """Products that have a fused vector in the vector store."""
        answer = await self.http.get("/v1/status")
        return int(answer.json()["stores"]["vectors"].get("fused", 0))

    async def until_retrievable(self, products: int, tell: Tell, *, within_s: float = READY_WITHIN_S) -> None:
        """So many products are retrievable. Raises NotInTime if for within_s none became so."""
        known, changed_at = -1, time.monotonic()
        while known < products:
            now = await self.retrievable()
            if now > known:
                known, changed_at = now, time.monotonic()
            tell(f"{known:,} of {products:,} products are retrievable")
            if time.monotonic() - changed_at > within_s:
                raise NotInTime(f"only {known} of {products} products are retrievable: {self.last_words()}")
            await asyncio.sleep(0.25)

    async def until(self, told: Callable[[], bool], what: str, *, within_s: float = READY_WITHIN_S) -> None:
        """The condition holds. Raises NotInTime."""
        deadline = time.monotonic() + within_s
        while not told():
            if time.monotonic() > deadline:
                raise NotInTime(f"not within {within_s:.0f} s: {what}. {self.last_words()}")
            await asyncio.sleep(0.005)

    def last_words(self) -> str:
        """The end of each process's log."""
        logs = sorted((self.settings.home / "logs").glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-LOG_TAIL_CHARACTERS:]}" for log in logs)


@contextlib.asynccontextmanager
async def stage(kafka: LocalKafka, **more: Any) -> AsyncIterator[Stage]:
    """A stage in a new namespace, with settings as named; in the end no process and no folder is left."""
    home = Path(tempfile.mkdtemp(prefix="freshet-bench-"))
    settings = Settings(
        home=home,
        namespace=f"bench-{uuid.uuid4().hex[:8]}",
        worker_id="bench",
        kafka_bootstrap=f"127.0.0.1:{kafka.port}",
        api_port=free_port(),
        database_url=None,
        qdrant_url=None,
        **more,
    )
    made = Stage(settings)
    try:
        await asyncio.to_thread(create_topics, settings, made.names)
        await asyncio.to_thread(create_echo_topics, settings)
        yield made
    finally:
        await made.stop()
        shutil.rmtree(home, ignore_errors=True)


@contextlib.asynccontextmanager
async def hearing(
    broker: Broker, topic: str, hear: Callable[[dict[str, Any], float], None], *, in_bulk: bool = False
) -> AsyncIterator[None]:
    """Each value of the topic, from its beginning, is told to `hear` with the time (s since 1970) when it came.

    in_bulk  where nobody measures when they come
    """
    consumer = broker.consumer(in_bulk=in_bulk)
    consumer.subscribe([topic])
    await consumer.start()

    async def listen() -> None:
        while True:
            polled = await consumer.getmany(timeout_ms=1_000)
            heard_at = time.time()
            for record in (record for records in polled.values() for record in records):
                if record.value is not None:
                    hear(orjson.loads(record.value), heard_at)

    listening = asyncio.create_task(listen())
    try:
        yield
        if listening.done():
            listening.result()
    finally:
        listening.cancel()
        await asyncio.wait({listening})
        await consumer.stop()
