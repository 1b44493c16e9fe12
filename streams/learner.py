"""Path 4: training examples become factors. The only writer of item-factors and model-weights.

One learner at a time, under a lease. It takes every partition by hand and starts from its checkpoint's offsets: the
checkpoint is the only truth, so what was learned after it is learned again, and nothing is learned twice. After a
start it publishes every row under its new epoch before it learns, because readers drop what older epochs wrote.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Engine

from encoders.next_click_training import FactorsDiverged
from store.checkpoints import CheckpointStore
from store.records import StoreUnavailable
from streams.assortment import Assortment
from streams.broker import Broker, BrokerUnavailable, Publisher
from streams.compiling import compile_learning
from streams.example_reader import ExampleReader, TopicChanged
from streams.examples import Record, TopicIds
from streams.factors import factor_records
from streams.held_lease import HeldLease
from streams.learning import Learning
from streams.pace import Pace
from streams.served_vectors import ServedVectors
from streams.settings import Settings
from streams.standing import Result, Standing, Stopped
from streams.topics import TopicNames
from streams.versions import Versions

log = logging.getLogger(__name__)

CHUNK = 200  # examples learned in one go: some 35 ms with 8 replays, in which nothing can be published or saved
FAR_BEHIND = 10_000  # examples: the cold start is fitted more rarely, a fit takes as long as learning hundreds
RERANK_EVERY_BEHIND = 8  # examples, while there is no time for replays: ranking a list takes longer than learning
TURN_S = 0.5  # between two turns of publishing
LEASE_ASK_S = 1.0  # while another learner holds it


class Learner:
    """The learner's process side: lease, reading, learning in a thread of its own, publishing, checkpoints."""

    def __init__(
        self, settings: Settings, names: TopicNames, broker: Broker, publisher: Publisher, engine: Engine
    ) -> None:
        """Nothing happens before `run`. engine: the database that has the tables leases and checkpoints."""
        self._settings = settings
        self._names = names
        self._broker = broker
        self._publisher = publisher
        # Shops that share a place for checkpoints have different namespaces.
        name = f"{settings.namespace}.learner" if settings.namespace else "learner"
        self._lease = HeldLease(engine, name, settings.worker_id, settings.lease_s)
        folder = settings.home / settings.namespace / "checkpoints"
        self.checkpoints = CheckpointStore(engine, settings.checkpoints_url or str(folder.absolute()))
        self._assortment = Assortment()
        puts = {names.product_index: self._assortment.put_offer}
        self._replica = ServedVectors(broker, settings, names, Versions(), self._assortment, puts)
        self._reader = ExampleReader(broker, names.training_examples)
        self._standing = Standing("learner", retry_max_s=settings.retry_max_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._pace = Pace(settings.learn_replays)
        self._learning: Learning | None = None
        self._sequence = 0  # of the last publishing turn
        self._learned = 0  # examples since the start
        self._turn_at = time.monotonic()
        self._published_newest_at = 0.0  # s since 1970, when the newest example in the published factors was learned
        self._saved_version = -1
        self._diverged_at = -1  # sum of the positions at the last divergence

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Learn until `stop` is called, then save a checkpoint.

        Raises LeaseLost when another learner has taken over, FactorsDiverged when going back did not help,
        TopicChanged, NoReadableCheckpoint; nothing is published or saved after that.
        """
        try:
            await self._in_thread(compile_learning)
            with contextlib.suppress(Stopped):
                await self._take_lease()
                await self._work()
            if self._learning is not None:
                await self._save_at_the_end()
        finally:
            await self._replica.stop()
            await self._reader.close()
            self._thread.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """`run` returns when the chunk in hand is learned and a checkpoint is saved."""
        self._standing.stop()

    async def _take_lease(self) -> None:
        async def attempt() -> None:
            while not await self._lease.take():
                if self._standing.state != "waiting":
                    log.info("another learner holds the lease, waits name=%s", self._lease.name)
                self._standing.wait_for("another learner holds the lease")
                await self._standing.pause(min(LEASE_ASK_S, self._lease.renew_every_s))

        await self._until_available(attempt, "takes the lease")
        log.info("lease taken epoch=%d", self._lease.epoch)

    async def _work(self) -> None:
        """Everything that needs the lease, side by side; the first failure ends all and is raised."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_lease())
                with contextlib.suppress(Stopped):
                    await self._start()
                    for loop in (self._learn, self._publish, self._save):
                        tasks.create_task(_until_stopped(loop))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _keep_lease(self) -> None:
        while not self._standing.is_stopping:
            await self._standing.nap(self._lease.renew_every_s)
            try:
                await self._lease.renew()
            except StoreUnavailable as away:  # publishing waits by itself as soon as the lease may have expired
                log.warning("lease not renewed reason=%s", away)

    async def _start(self) -> None:
        """The model as it was last saved, and its rows published under the new epoch."""
        self._standing.wait_for("reads its topics and its checkpoint")
        await self._until_available(self._replica.start, "reads the products")
        await self._until_available(self._reader.open, "opens training-examples")
        await self._until_available(self._restore, "loads its checkpoint")
        await self._publish_turn()
        while self._now_learning.has_fresh:
            await self._publish_turn()
        log.info("every row published epoch=%d products=%d", self._lease.epoch, len(self._now_learning.rows))
        self._standing.run()

    async def _restore(self) -> None:
        """The last checkpoint's model, and reading goes on from its offsets."""
        topic_ids = await self._topic_ids()
        saved = await asyncio.to_thread(self.checkpoints.load, self._lease.name)
        seed = self._settings.learn_seed
        weights = self._settings.event_weights
        learning = await self._in_thread(
            lambda: Learning(self._assortment, topic_ids, seed=seed, event_weights=weights, checkpoint=saved)
        )
        await self._reader.seek(learning.positions)
        self._learning, self._saved_version = learning, -1
        restored = "learner restored epoch=%d examples=%d products=%d waiting_examples=%d"
        log.info(restored, self._lease.epoch, learning.model.examples, len(learning.rows), len(learning.waiting))

    async def _topic_ids(self) -> TopicIds:
        wanted = (self._names.training_examples, self._names.user_clicks, self._names.product_index)
        ids = await asyncio.to_thread(self._broker.topic_ids, wanted)
        if missing := set(wanted) - ids.keys():
            raise BrokerUnavailable(f"no topics {sorted(missing)}: make them with `freshet topics create`")
        return TopicIds(*(ids[name] for name in wanted))

    @property
    def _now_learning(self) -> Learning:
        if self._learning is None:
            raise RuntimeError("the learner has not restored its model yet")
        return self._learning

    # --- learning ------------------------------------------------------------------------------------------------

    async def _learn(self) -> None:
        while not self._standing.is_stopping:
            self._replica.check()
            records = await self._until_available(self._read, "reads training-examples")
            backlog = self._lag()
            self._pace.adapt(backlog)
            try:
                self._learned += await self._in_thread(self._learn_chunk, records, backlog > FAR_BEHIND)
            except FactorsDiverged as diverged:
                await self._go_back(diverged)

    async def _read(self) -> list[Record]:
        room = CHUNK - self._now_learning.lag
        return await self._reader.read(room, wait=room == CHUNK) if room > 0 else []

    def _learn_chunk(self, records: list[Record], behind: bool) -> int:
        """In the learner's thread: how many examples were learned."""
        learning, pace = self._now_learning, self._pace
        learning.follow_assortment()
        began = time.perf_counter()
        learning.receive(records)
        rerank_every = 1 if pace.replays else RERANK_EVERY_BEHIND
        learned = learning.learn(CHUNK, pace.replays, behind=behind, rerank_every=rerank_every)
        pace.note(learned, time.perf_counter() - began)
        return learned

    async def _go_back(self, diverged: FactorsDiverged) -> None:
        """To the last checkpoint, once; raises the divergence if it comes again within the same offsets."""
        reached = sum(self._now_learning.positions.values())
        if reached <= self._diverged_at:
            raise diverged
        log.error("factors diverged, back to the last checkpoint reason=%s", diverged)
        self._diverged_at = reached
        await self._until_available(self._restore, "goes back to its checkpoint")

    def _lag(self) -> int:
        """Examples that are not learned yet, at the broker and in hand."""
        return self._reader.lag + (self._learning.lag if self._learning is not None else 0)

    # --- publishing ----------------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        while not self._standing.is_stopping:
            await self._publish_turn()
            if not self._now_learning.has_fresh:
                await self._standing.nap(TURN_S)

    async def _publish_turn(self) -> None:
        """What has changed, as far as the rate allows, is confirmed by the broker; nothing of a diverged model."""
        learning = self._now_learning
        since_s, self._turn_at = time.monotonic() - self._turn_at, time.monotonic()
        share = min(since_s, 1.0)
        most = int(self._settings.publish_rows_per_s * share)
        most_neighbours = int(self._settings.publish_neighbours_per_s * share)
        try:
            changes = await self._in_thread(learning.take_changes, most, most_neighbours)
        except FactorsDiverged:  # the next chunk goes back
            return
        if changes.is_empty():
            return
        self._sequence += 1
        messages = await self._in_thread(factor_records, changes, self._names, self._lease.epoch, self._sequence)

        async def attempt() -> None:
            await self._lease.require()
            await self._publisher.publish(messages)

        await self._until_available(attempt, "publishes factors")
        await self._in_thread(learning.confirm, changes)
        self._published_newest_at = changes.newest_example_at

    # --- checkpoints ---------------------------------------------------------------------------------------------

    async def _save(self) -> None:
        while True:
            await self._standing.pause(self._settings.checkpoint_every_s)
            await self._until_available(self._require_same_topics, "looks up its topics")
            await self._until_available(self._save_if_changed, "saves a checkpoint")

    async def _save_if_changed(self) -> None:
        learning = self._now_learning
        if learning.version == self._saved_version:
            return
        try:
            version, (arrays, meta) = await self._in_thread(lambda: (learning.version, learning.checkpoint()))
        except FactorsDiverged:  # the next chunk goes back
            return
        await asyncio.to_thread(self.checkpoints.save, self._lease.name, self._lease.epoch, arrays, meta)
        self._saved_version = version

    async def _save_at_the_end(self) -> None:
        try:
            await self._save_if_changed()
            await self._lease.release()
        except StoreUnavailable as away:
            log.warning("no last checkpoint, the examples since the one before come again reason=%s", away)

    async def _require_same_topics(self) -> None:
        """Raises TopicChanged. What was saved stays right: a checkpoint names the topics that it is about."""
        if (topic_ids := await self._topic_ids()) != self._now_learning.topic_ids:
            raise TopicChanged(f"made again since the start: {self._now_learning.topic_ids} is now {topic_ids}")
        self._reader.require_same_partitions()

    # --- what the status says ------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role."""
        details: dict[str, Any] = {"epoch": self._lease.epoch, "replays": self._pace.replays}
        details["replica_malformed"] = self._replica.malformed
        if self._learning is not None:
            details |= self._learning.details()
        if self._published_newest_at:
            details["newest_example_age_s"] = time.time() - self._published_newest_at
        lag = self._lag()
        return {
            "state": self._standing.state,
            "reason": self._standing.reason,
            "events": self._learned,
            "lag": lag,
            "oldest_unprocessed_s": self._reader.oldest_age_s if lag else 0.0,
            "dead_letters": 0,
            "details": details,
        }

    async def _until_available(self, attempt: Callable[[], Awaitable[Result]], doing: str) -> Result:
        """As Standing has it; what a broker that is away holds up is given up soon after a stop."""
        grace_s = self._settings.shutdown_s
        return await self._standing.until_available(lambda: self._standing.unless_stopped(attempt(), grace_s), doing)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


async def _until_stopped(loop: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(Stopped):
        await loop()
