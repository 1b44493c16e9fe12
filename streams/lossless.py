"""Reading without loss: the one module that acknowledges.

Every Faust role gives this module its topics and a handler, and gets the invariants: parsing, dead letters, retries,
confirmed publication, the commit, and acknowledgements in order, for each batch in this order:

    read -> parse -> compute -> publish, confirmed -> commit the rows -> acknowledge

Effects outside come before our own state, so a batch that is run again (after a crash, a rebalance, an outage) either
finds the old state and does the same again, or finds its positions stored and only publishes again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic

from aiokafka.errors import MessageSizeTooLargeError

from store.records import StaleRows
from streams.broker import MAX_MESSAGE_BYTES, Broker, Outgoing, Publisher
from streams.events import BadEvent
from streams.group import make_group
from streams.intake import Batch, Intake
from streams.journal import Journal
from streams.role import Assignment, Delivery, Event, Outcome, Role, letter, nothing
from streams.settings import Settings
from streams.standing import Result, Standing, Stopped, Unavailable

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """What the status says of a consumer."""

    events: int = 0
    dead_letters: int = 0
    last_offsets: dict[tuple[str, int], int] = field(default_factory=dict)


class Abandoned(Exception):
    """The batch is dropped without an acknowledgement: its partitions are not ours any more, or anew."""


class GroupCrashed(Exception):
    """Faust's consumer ended by itself: nothing would be read any more."""


class LosslessConsumer(Generic[Event]):
    """Runs one role: a Faust consumer group that acknowledges an event only after everything it caused is durable."""

    def __init__(self, role: Role[Event], settings: Settings, broker: Broker, publisher: Publisher) -> None:
        self.role = role
        self.progress = Progress()
        self._settings = settings
        self._broker = broker
        self._publisher = publisher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=role.name)
        journals = settings.home / settings.namespace / "journals"
        self._journal = Journal(journals / f"{settings.worker_id}-{role.name}{role.group}.json")
        self._group = make_group(
            settings, broker, role=role.name + role.group, topics=role.topics, agent=self._consume, urgent=role.urgent
        )
        self._group.on_partitions_assigned.connect(self._on_assigned, weak=False)
        self._group.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self._assigned: set[Any] = set()
        self._newly_assigned = asyncio.Event()
        self._standing = Standing(role.name, retry_max_s=settings.retry_max_s)
        self._intake = Intake(role, self._journal, settings, broker, self._standing, is_current=self._is_current)
        self._one_at_a_time = asyncio.Lock()
        self._idle = asyncio.Event()
        self._failure: asyncio.Future[None]
        self._in_hand_since: float | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop` is called. Raises whatever ended the role unexpectedly, before any acknowledgement."""
        with self._journal.at_work():
            self._failure = asyncio.get_running_loop().create_future()
            self._idle.set()
            stopped: asyncio.Future[Any] = asyncio.ensure_future(self._standing.until_stopped())
            try:
                await self._standing.until_available(self.role.start, "starts")
                await self._intake.look_up_topics()
                await self._group.start()
                self._standing.run()
                while not (stopped.done() or self._failure.done() or self._group.crashed):
                    # Faust's own threads say that they crashed without waking this loop: so it looks once a second.
                    await asyncio.wait({stopped, self._failure}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            except (Abandoned, Stopped):
                log.info("stopped before it had started role=%s", self.role.name)
            finally:
                stopped.cancel()
                await self._shut_down()
            if self._failure.done():
                self._failure.result()
            if self._group.crashed:
                raise GroupCrashed(f"Faust gave up: {self._group.crash_reason!r}")

    def stop(self) -> None:
        """Take no more events; `run` returns when the batch in hand is done, or abandoned after shutdown_s."""
        self._standing.stop()

    async def _shut_down(self) -> None:
        try:
            await asyncio.wait_for(self._idle.wait(), self._settings.shutdown_s)
        except TimeoutError:
            log.warning("batch abandoned role=%s after_s=%s", self.role.name, self._settings.shutdown_s)
        if self._group.started:
            # Not wait_for: Faust swallows its cancellation, so it would wait as long as Faust does.
            leaving = asyncio.ensure_future(self._group.stop())
            if not (await asyncio.wait({leaving}, timeout=self._settings.shutdown_s))[0]:
                log.warning("group did not leave role=%s", self.role.name)
        await self.role.stop()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _on_assigned(self, _app: Any, assigned: set[Any], **_: Any) -> None:
        log.info("assigned role=%s partitions=%d", self.role.name, len(assigned))
        self._assigned = set(assigned)
        self._intake.topics_may_differ()
        self._newly_assigned.set()

    async def _on_revoked(self, _app: Any, revoked: set[Any], **_: Any) -> None:
        self._assigned -= revoked

    # --- the three stages: read, prepare, settle -----------------------------------------------------------------

    async def _consume(self, stream: Any) -> None:
        """Faust's agent. Its tasks are awaited together, so a failure of one ends all."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(stream))
                tasks.create_task(self._work())
                tasks.create_task(self._between_batches())
                tasks.create_task(self._aside())
        except* (Abandoned, Stopped):
            log.info("stopped while waiting role=%s", self.role.name)
        except* Exception as group:  # noqa: BLE001
            # `run` raises it, which ends the process: the journal still holds the batch, nothing is acknowledged.
            if not self._failure.done():
                self._failure.set_exception(group.exceptions[0])
        await self._standing.until_stopped()

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._intake.put(event)

    async def _work(self) -> None:
        async for batch, prepared in self._intake.batches():
            async with self._turn():
                try:
                    await self._settle(batch, prepared)
                except (Abandoned, Stopped):
                    log.info("batch dropped role=%s events=%d", self.role.name, len(batch.events))
                finally:
                    self._in_hand_since = None
            if self._standing.is_stopping:
                return

    async def _between_batches(self) -> None:
        """Also if no event comes: what an assignment asks to publish again, and what is due by the clock."""
        while not self._standing.is_stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._newly_assigned.wait(), self.role.every_s)
            async with self._turn():
                try:
                    await self._publish_again_if_assigned()
                    if self.role.every_s is not None:
                        await self._until_done(self._tick, "does what is due")
                except (Abandoned, Stopped):
                    return

    async def _aside(self) -> None:
        """The role's own work, a portion at a time: who waits longer for a turn has it first."""
        while self.role.aside_every_s is not None and not self._standing.is_stopping:
            async with self._turn():
                try:
                    is_busy = await self._until_done(self._portion, "works aside")
                except (Abandoned, Stopped):
                    return
            await self._standing.nap(0.0 if is_busy else self.role.aside_every_s)

    async def _portion(self) -> bool:
        """What the role had to do is durable; False if there was nothing, or the partitions may be others' by now."""
        generation = self._group.consumer_generation_id
        held = frozenset(tp.partition for tp in self._assigned if tp.topic == self.role.topics[0])
        outcome = await self._in_thread(self.role.aside, Assignment(generation, held)) if held else None
        if outcome is None or generation != self._group.consumer_generation_id or not self._assigned:
            return False
        await self._carry_out(outcome)
        return True

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A batch, or what runs between two: shutdown waits for its end."""
        async with self._one_at_a_time:
            self._idle.clear()
            try:
                yield
            finally:
                self._idle.set()

    def _is_current(self, event: Any) -> bool:
        """False if its partition was revoked, or assigned anew since it was read: it will come again."""
        message = event.message
        return message.generation_id == self._group.consumer_generation_id and message.tp in self._assigned

    # --- settling a batch ----------------------------------------------------------------------------------------

    async def _settle(self, batch: Batch, prepared: Any) -> None:
        """Everything the batch causes is durable, and the batch acknowledged. Raises Abandoned."""
        self._in_hand_since = batch.events[0].message.timestamp
        await self._publish_again_if_assigned()
        given_up = batch.given_up
        try:
            given_up += await self._durable(batch.deliveries, prepared, batch.letters, batch.events)
        except BadEvent as bad:
            log.warning("batch runs one by one role=%s events=%d reason=%s", self.role.name, len(batch.deliveries), bad)
            given_up += await self._one_by_one(batch)
        self._acknowledge(batch)
        self.progress.events += len(batch.events)
        self.progress.dead_letters += given_up

    async def _one_by_one(self, batch: Batch) -> int:
        given_up = 0
        await self._durable([], None, batch.letters, batch.events)
        for delivery in batch.deliveries:
            try:
                prepared = await self.role.prepare([delivery]) if self.role.prepares else None
                given_up += await self._durable([delivery], prepared, [], batch.events)
            except BadEvent as bad:
                await self._durable([], None, [letter(delivery.message, str(bad))], batch.events)
                given_up += 1
        return given_up

    async def _durable(
        self, deliveries: list[Delivery[Event]], prepared: Any, letters: list[Outgoing], events: list[Any]
    ) -> int:
        """Compute, publish with confirmation, commit; again while something is unavailable. Returns the rejected."""

        async def attempt() -> int:
            if not all(self._is_current(event) for event in events):
                raise Abandoned
            outcome = await self._compute(deliveries, prepared) if deliveries else Outcome()
            outcome.publish += [*letters, *(letter(message, reason) for message, reason in outcome.rejected)]
            await self._carry_out(outcome)
            return len(outcome.rejected)

        rejected = await self._until_done(attempt, "works on a batch")
        self._journal.clear(d.message.event_id for d in deliveries)
        return rejected

    async def _carry_out(self, outcome: Outcome) -> None:
        await self._publish(outcome.publish)
        if outcome.commit is not nothing:
            await self._commit(outcome)

    async def _until_done(self, attempt: Callable[[], Awaitable[Result]], doing: str) -> Result:
        """Try again at once where rows have changed meanwhile, and with backoff where something is away."""

        async def on_rows_as_they_are() -> Result:
            while True:
                try:
                    return await attempt()
                except StaleRows as stale:
                    log.info("rows changed meanwhile role=%s reason=%s", self.role.name, stale)

        return await self._standing.until_available(on_rows_as_they_are, doing)

    async def _compute(self, deliveries: list[Delivery[Event]], prepared: Any) -> Outcome:
        """What the role makes of the batch. A crash counts against it meanwhile, but not while it waits for others."""
        ids = [d.message.event_id for d in deliveries]
        self._journal.hold(ids)
        try:
            outcome: Outcome = await self._in_thread(self.role.compute, deliveries, prepared)
        except (BadEvent, StaleRows, *Unavailable):
            self._journal.release(ids)
            raise
        self._journal.release(ids)
        return outcome

    async def _publish(self, messages: list[Outgoing]) -> None:
        try:
            await self._publisher.publish(messages)
        except MessageSizeTooLargeError as error:
            raise BadEvent(
                f"it leads to a message of more than {MAX_MESSAGE_BYTES} bytes: shorten its texts"
            ) from error

    async def _commit(self, outcome: Outcome) -> None:
        await self._in_thread(outcome.commit)

    def _acknowledge(self, batch: Batch) -> None:
        for event in batch.events:
            event.ack()
            self.progress.last_offsets[(event.message.topic, event.message.partition)] = event.message.offset

    async def _publish_again_if_assigned(self) -> None:
        if self._newly_assigned.is_set():
            self._newly_assigned.clear()
            if self._assigned:
                await self._standing.until_available(self._publish_again, "publishes again what changed last")

    async def _publish_again(self) -> None:
        chunks = iter(await self._in_thread(self.role.assigned))
        while (chunk := await self._in_thread(next, chunks, None)) is not None:
            await self._publish(chunk)
            if self._standing.is_stopping:
                raise Stopped

    async def _tick(self) -> None:
        if any(tp.topic == self.role.topics[0] and tp.partition == 0 for tp in self._assigned):
            await self._carry_out(await self._in_thread(self.role.tick))

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    # --- what the status says ------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role."""
        progress = self.progress
        return {
            "state": self._standing.state,
            "reason": self._standing.reason,
            "events": progress.events,
            "lag": self._lag(),
            "oldest_unprocessed_s": max(0.0, time.time() - self._in_hand_since) if self._in_hand_since else 0.0,
            "dead_letters": progress.dead_letters,
            "details": {
                "redirected": self._intake.redirected,
                "unknown_fields": sum(self._intake.unknown_fields.values()),
                **self.role.details(),
            },
        }

    def _lag(self) -> int:
        """Events at the broker, in the assigned partitions, that are not done yet, as far as fetches have told."""
        consumer = self._group.consumer
        lag = 0
        for tp in self._assigned:
            last = self.progress.last_offsets.get((tp.topic, tp.partition))
            if last is not None:
                lag += max(0, (consumer.highwater(tp) or 0) - (last + 1))
        return max(lag, self._intake.waiting())
