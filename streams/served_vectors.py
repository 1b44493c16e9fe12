"""Which version's vectors a process uses: those of the one that serves, changed in one go when another one does."""

import asyncio
import logging
from collections.abc import Mapping

from streams.broker import Broker, BrokerUnavailable, end
from streams.replicas import Put, Replica, ReplicaEnded
from streams.settings import Settings
from streams.side_vectors import SideVectors, VectorReader
from streams.topics import TopicNames, topic_names
from streams.versions import Versions

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1
AGAIN_AFTER_S = 1.0  # while the broker is away


class ServedVectors:
    """Keeps a reader equal to its topics, as Replica does, and to the vectors of the version that serves.

    While another version's vectors are read, the reader uses the ones that it has. Before any version is told of,
    those of the settings serve.
    """

    def __init__(
        self,
        broker: Broker,
        settings: Settings,
        names: TopicNames,
        versions: Versions,
        reader: VectorReader,
        puts: Mapping[str, Put],
    ) -> None:
        """puts: what fills the reader besides, by topic; what is put of vectors is left out."""
        self._broker = broker
        self._settings = settings
        self._names = names
        self._versions = versions
        self._reader = reader
        others = {topic: put for topic, put in puts.items() if topic != names.product_vectors}
        self._others = Replica(broker, {**others, names.encoders: versions.put}, reader.lock)
        self._vectors: Replica | None = None
        self._serving: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def malformed(self) -> int:
        """Records that were skipped."""
        return self._others.malformed + (self._vectors.malformed if self._vectors else 0)

    async def start(self) -> None:
        """All is read that was there, then it is followed in the background; once. Raises BrokerUnavailable."""
        async with self._starting:
            await self._others.start()
            while self._vectors is None:
                await self._change(self._wanted())
            if self._task is None:
                self._task = asyncio.create_task(self._follow(), name="served vectors")

    async def stop(self) -> None:
        """Close; safe to call at any time."""
        if self._task is not None:
            await end(self._task)
        await self._others.stop()
        if self._vectors is not None:
            await self._vectors.stop()

    def check(self) -> None:
        """Raises ReplicaEnded, from what ended a reader, if something did."""
        self._others.check()
        if self._vectors is not None:
            self._vectors.check()
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            raise ReplicaEnded(f"nobody follows which encoders serve: {error!r}") from error

    def _wanted(self) -> str:
        serving = self._versions.serving
        return serving.fingerprint if serving else self._serving or self._names.fingerprint

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if (wanted := self._wanted()) == self._serving:
                continue
            try:
                await self._change(wanted)
            except BrokerUnavailable as away:
                log.warning("vectors stay those of fingerprint=%s wanted=%s reason=%s", self._serving, wanted, away)
                await asyncio.sleep(AGAIN_AFTER_S)

    async def _change(self, wanted: str) -> None:
        """The reader uses the vectors of this version, unless another one serves by the time that they are read."""
        topic = topic_names(self._settings, wanted).product_vectors
        side = SideVectors(wanted, self._reader)
        replica = Replica(self._broker, {topic: side.put}, side.lock)
        try:
            await replica.start()
            if self._wanted() != wanted:
                await replica.stop()
                return
            await asyncio.to_thread(side.take)
        except BaseException:
            await replica.stop()
            raise
        log.info("vectors taken fingerprint=%s before=%s records=%d", wanted, self._serving, replica.records)
        before, self._vectors, self._serving = self._vectors, replica, wanted
        if before is not None:
            await before.stop()
