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
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from aiokafka.errors import MessageSizeTooLargeError
from pydantic import BaseModel

from store.records import StaleRows, StoreUnavailable
from streams.broker import MAX_MESSAGE_BYTES, Broker, BrokerUnavailable, Headers, Outgoing, Publisher
from streams.dead_letters import KEPT_BYTES, dead_letter
from streams.events import BadEvent, WrongKey
from streams.group import make_group
from streams.journal import EventId, Journal
from streams.parsing import unknown_fields
from streams.settings import Settings

log = logging.getLogger(__name__)

Event = TypeVar("Event")
Unavailable = (BrokerUnavailable, StoreUnavailable, OSError)


class Message(NamedTuple):
    """A record as it was read."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    at: float  # s since 1970, the record's own time

    @property
    def event_id(self) -> EventId:
        return (self.topic_id, self.partition, self.offset)


class Delivery(NamedTuple, Generic[Event]):
    """A message and the event that it carries."""

    message: Message
    event: Event


def _nothing() -> None:
    return None


@dataclass
class Outcome:
    """What a batch leads to: messages to publish, then a commit; rejected events become dead letters."""

    publish: list[Outgoing] = field(default_factory=list)
    commit: Callable[[], None] = _nothing
    rejected: list[tuple[Message, str]] = field(default_factory=list)


class Role(Generic[Event]):
    """What a role tells the consumer. Only `name`, `topics`, `parse` and `compute` must be given."""

    name: str
    topics: tuple[str, ...]
    batch_max: int | None = None  # None: as the settings say
    prepares: bool = False  # True: `prepare` runs on the next batch while `compute` runs on this one
    every_s: float | None = None  # how often `tick` is called; None: never

    def parse(self, message: Message) -> Event:
        """The event. Raises BadEvent or WrongKey."""
        raise NotImplementedError

    async def prepare(self, batch: Sequence[Delivery[Event]]) -> Any:
        """What compute needs from outside the process (pictures); it is total: a failure is a value."""

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Any) -> Outcome:
        """What this batch leads to, from the state as it is stored now; runs in the role's own thread.

        Raises BadEvent if the batch fails for its content (it is then run one by one), StaleRows or an Unavailable
        (the same batch again). Anything else ends the process before an acknowledgement.
        """
        raise NotImplementedError

    async def start(self) -> None:
        """Called before the first event: opens what the role needs and waits until its replicas are full."""

    def assigned(self) -> Iterable[list[Outgoing]]:
        """Called in the role's thread after each assignment, before its first batch: what to publish again, in chunks.

        The next chunk is asked for when the last one is confirmed, so the end of a generator knows that all are.
        """
        return ()

    def tick(self) -> Outcome:
        """What is due by the clock, every `every_s` between two batches, in the role's thread, also if nothing comes.

        Called on one member of the group: the one that has partition 0 of the first topic. Raises what compute may,
        but for BadEvent.
        """
        return Outcome()

    async def stop(self) -> None:
        """Called after the last batch, also if `start` did not succeed."""

    def details(self) -> dict[str, float | int | str]:
        """Facts for the status."""
        return {}


@dataclass
class Progress:
    """What the status says of a consumer."""

    state: str = "starting"
    reason: str | None = None
    events: int = 0
    dead_letters: int = 0
    redirected: int = 0
    unknown_fields: dict[str, int] = field(default_factory=dict)
    last_offsets: dict[tuple[str, int], int] = field(default_factory=dict)


class Abandoned(Exception):
    """The batch is dropped without an acknowledgement: we stop, or its partitions are not ours any more."""


class GroupCrashed(Exception):
    """Faust's consumer ended by itself: nothing would be read any more."""


class _Batch(NamedTuple):
    events: list[Any]  # Faust's, to acknowledge
    deliveries: list[Delivery[Any]]
    letters: list[Outgoing]  # dead letters and redirected events
    given_up: int


class LosslessConsumer(Generic[Event]):
    """Runs one role: a Faust consumer group that acknowledges an event only after everything it caused is durable."""

    def __init__(self, role: Role[Event], settings: Settings, broker: Broker, publisher: Publisher) -> None:
        self.role = role
        self.progress = Progress()
        self._settings = settings
        self._broker = broker
        self._publisher = publisher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=role.name)
        self._journal = Journal(settings.home / "journals" / f"{settings.worker_id}-{role.name}.json")
        self._group = make_group(settings, broker, role=role.name, topics=role.topics, agent=self._consume)
        self._group.on_partitions_assigned.connect(self._on_assigned, weak=False)
        self._group.on_partitions_revoked.connect(self._on_revoked, weak=False)
        self._queue: asyncio.Queue[Any] = asyncio.Queue(settings.queue_max)
        self._assigned: set[Any] = set()
        self._held_back: Any = None  # a suspect that was read while a batch was filled
        self._topic_ids: dict[str, str] = {}
        self._look_up = True  # the topic ids, before the next batch
        self._newly_assigned = asyncio.Event()
        self._stopping = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._idle = asyncio.Event()
        self._failure: asyncio.Future[None]
        self._in_hand_since: float | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Consume until `stop` is called. Raises whatever ended the role unexpectedly, before any acknowledgement."""
        self._failure = asyncio.get_running_loop().create_future()
        self._idle.set()
        stopped: asyncio.Future[Any] = asyncio.ensure_future(self._stopping.wait())
        try:
            await self._until_available(self.role.start, "starts")
            await self._until_available(self._look_up_topic_ids, "looks up its topics")
            await self._group.start()
            while not (stopped.done() or self._failure.done() or self._group.crashed):
                # Faust's own threads say that they crashed without waking this loop: so it looks once a second.
                await asyncio.wait({stopped, self._failure}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        except Abandoned:
            log.info("stopped before it had started role=%s", self.role.name)
        finally:
            stopped.cancel()
            await self._shut_down()
        if self._failure.done():
            self._failure.result()
        if self._group.crashed:
            raise GroupCrashed(f"Faust gave up: {self._group.crash_reason!r}")
        self._journal.close()

    def stop(self) -> None:
        """Take no more events; `run` returns when the batch in hand is done, or abandoned after shutdown_s."""
        self.progress.state = "stopping"
        self._stopping.set()

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
        self._look_up = True
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
        except* Abandoned:
            log.info("stopped while waiting role=%s", self.role.name)
        except* Exception as group:  # noqa: BLE001
            # `run` raises it, which ends the process: the journal still holds the batch, nothing is acknowledged.
            if not self._failure.done():
                self._failure.set_exception(group.exceptions[0])
        await self._stopping.wait()

    async def _read(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self._queue.put(event)

    async def _work(self) -> None:
        async for batch, prepared in self._prepared_batches():
            async with self._turn():
                try:
                    await self._settle(batch, prepared)
                except Abandoned:
                    log.info("batch dropped role=%s events=%d", self.role.name, len(batch.events))
                finally:
                    self._in_hand_since = None
            if self._stopping.is_set():
                return

    async def _between_batches(self) -> None:
        """Also if no event comes: what an assignment asks to publish again, and what is due by the clock."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._newly_assigned.wait(), self.role.every_s)
            async with self._turn():
                try:
                    await self._publish_again_if_assigned()
                    if self.role.every_s is not None:
                        await self._until_available(self._tick, "does what is due")
                except Abandoned:
                    return

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """A batch, or what runs between two: shutdown waits for its end."""
        async with self._one_at_a_time:
            self._idle.clear()
            try:
                yield
            finally:
                self._idle.set()

    async def _prepared_batches(self) -> AsyncIterator[tuple[_Batch, Any]]:
        if not self.role.prepares:
            while True:
                yield await self._take(), None
        ahead: asyncio.Queue[tuple[_Batch, Any]] = asyncio.Queue(1)

        async def prepare_ahead() -> None:
            while True:
                batch = await self._take()
                suspect = self._is_suspect(batch.events[0])
                if suspect:
                    await ahead.join()
                ids = [d.message.event_id for d in batch.deliveries]
                self._journal.hold(ids)
                prepared = await self.role.prepare(batch.deliveries)
                self._journal.release(ids)
                await ahead.put((batch, prepared))
                if suspect:  # it is alone in the process, before and after
                    await ahead.join()

        task = asyncio.ensure_future(prepare_ahead())
        try:
            while True:
                following = asyncio.ensure_future(ahead.get())
                await asyncio.wait({following, task}, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    task.result()
                yield await following
                ahead.task_done()
        finally:
            task.cancel()

    async def _take(self) -> _Batch:
        """Whatever waits, at most batch_max, without lingering; a suspect of the last crash comes alone."""
        limit = self.role.batch_max or self._settings.batch_max
        while True:
            events = [self._held_back or await self._queue.get()]
            self._held_back = None
            if self._look_up:
                await self._until_available(self._look_up_topic_ids, "looks up its topics")
            while len(events) < limit and not self._queue.empty() and not self._is_suspect(events[0]):
                event = self._queue.get_nowait()
                if self._is_suspect(event):
                    self._held_back = event
                    break
                events.append(event)
            if events := [event for event in events if self._is_current(event)]:
                return self._parse(events)

    def _is_suspect(self, event: Any) -> bool:
        return self._journal.is_suspect(
            (self._topic_ids[event.message.topic], event.message.partition, event.message.offset)
        )

    def _is_current(self, event: Any) -> bool:
        """False if its partition was revoked, or assigned anew since it was read: it will come again."""
        message = event.message
        return message.generation_id == self._group.consumer_generation_id and message.tp in self._assigned

    async def _look_up_topic_ids(self) -> None:
        ids = await asyncio.to_thread(self._broker.topic_ids, self.role.topics)
        if missing := set(self.role.topics) - ids.keys():
            raise BrokerUnavailable(f"no topics {sorted(missing)}: make them with `freshet topics create`")
        self._topic_ids = ids
        self._look_up = False

    # --- parsing -------------------------------------------------------------------------------------------------

    def _parse(self, events: list[Any]) -> _Batch:
        batch = _Batch(events, [], [], 0)
        given_up = 0
        for event in events:
            message = self._message(event)
            try:
                if self._journal.crashed_too_often(message.event_id):
                    raise BadEvent(
                        "the process died each time it worked on this event: inspect it, then mend or drop it"
                    )
                parsed = self.role.parse(message)
            except WrongKey as wrong:
                letter = self._redirect(message, wrong)
                given_up += letter.topic != message.topic
                batch.letters.append(letter)
            except BadEvent as bad:
                batch.letters.append(_letter(message, str(bad)))
                given_up += 1
            else:
                self._count_unknown_fields(parsed)
                batch.deliveries.append(Delivery(message, parsed))
        return batch._replace(given_up=given_up)

    def _message(self, event: Any) -> Message:
        m = event.message
        headers = list(m.headers.items()) if isinstance(m.headers, dict) else list(m.headers or ())
        return Message(m.topic, self._topic_ids[m.topic], m.partition, m.offset, m.key, m.value, headers, m.timestamp)

    def _redirect(self, message: Message, wrong: WrongKey) -> Outgoing:
        """The event again under its right key, once; the order of that key's own events is not known."""
        is_second = any(name == "origin" for name, _ in message.headers)
        if is_second or self._settings.on_wrong_key == "dead-letter" or len(message.value or b"") > KEPT_BYTES:
            return _letter(message, f"the key is {message.key!r}, but {wrong}: publish it with that key")
        self.progress.redirected += 1
        origin = f"{message.topic}/{message.partition}/{message.offset}".encode()
        return Outgoing(message.topic, wrong.right_key.encode(), message.value, [*message.headers, ("origin", origin)])

    def _count_unknown_fields(self, event: Any) -> None:
        if isinstance(event, BaseModel) and event.model_extra:
            for name in unknown_fields(event):
                if name not in self.progress.unknown_fields and len(self.progress.unknown_fields) < 1_000:
                    log.warning("unknown field ignored role=%s field=%s", self.role.name, name[:100])
                self.progress.unknown_fields[name] = self.progress.unknown_fields.get(name, 0) + 1

    # --- settling a batch ----------------------------------------------------------------------------------------

    async def _settle(self, batch: _Batch, prepared: Any) -> None:
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

    async def _one_by_one(self, batch: _Batch) -> int:
        given_up = 0
        await self._durable([], None, batch.letters, batch.events)
        for delivery in batch.deliveries:
            try:
                prepared = await self.role.prepare([delivery]) if self.role.prepares else None
                given_up += await self._durable([delivery], prepared, [], batch.events)
            except BadEvent as bad:
                await self._durable([], None, [_letter(delivery.message, str(bad))], batch.events)
                given_up += 1
        return given_up

    async def _durable(
        self, deliveries: list[Delivery[Event]], prepared: Any, letters: list[Outgoing], events: list[Any]
    ) -> int:
        """Compute, publish with confirmation, commit; again while something is unavailable. Returns the rejected."""
        rejected = 0

        async def attempt() -> None:
            nonlocal rejected
            if not all(self._is_current(event) for event in events):
                raise Abandoned
            outcome = Outcome()
            if deliveries:
                outcome = await self._compute(deliveries, prepared)
            rejected = len(outcome.rejected)
            await self._publish(outcome.publish + letters + [_letter(m, reason) for m, reason in outcome.rejected])
            if outcome.commit is not _nothing:
                await self._commit(outcome)

        await self._until_available(attempt, "works on a batch")
        self._journal.clear(d.message.event_id for d in deliveries)
        return rejected

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

    def _acknowledge(self, batch: _Batch) -> None:
        for event in batch.events:
            event.ack()
            self.progress.last_offsets[(event.message.topic, event.message.partition)] = event.message.offset

    async def _publish_again_if_assigned(self) -> None:
        if self._newly_assigned.is_set():
            self._newly_assigned.clear()
            if self._assigned:
                await self._until_available(self._publish_again, "publishes again what changed last")

    async def _publish_again(self) -> None:
        chunks = iter(await self._in_thread(self.role.assigned))
        while (chunk := await self._in_thread(next, chunks, None)) is not None:
            await self._publish(chunk)
            if self._stopping.is_set():
                raise Abandoned

    async def _tick(self) -> None:
        if any(tp.topic == self.role.topics[0] and tp.partition == 0 for tp in self._assigned):
            outcome = await self._in_thread(self.role.tick)
            await self._publish(outcome.publish)
            if outcome.commit is not _nothing:
                await self._commit(outcome)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _until_available(self, attempt: Callable[[], Any], doing: str) -> None:
        """Try, with capped backoff while something outside is away. Raises Abandoned when asked to stop."""
        pause_s = 0.05
        while True:
            try:
                await attempt()
            except StaleRows as stale:
                log.info("rows changed meanwhile role=%s reason=%s", self.role.name, stale)
                continue
            except Unavailable as away:
                if self.progress.state != "waiting":
                    log.warning("waits role=%s while=%s reason=%s", self.role.name, doing, away)
                self.progress.state, self.progress.reason = "waiting", str(away)
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, self._settings.retry_max_s)
            else:
                if self.progress.state != "stopping":
                    self.progress.state, self.progress.reason = "running", None
                return

    async def _pause(self, pause_s: float) -> None:
        if self._stopping.is_set():
            raise Abandoned
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        except TimeoutError:
            return
        raise Abandoned

    # --- what the status says ------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `streams.events.WorkerStatus` tells of a role."""
        progress = self.progress
        return {
            "state": progress.state,
            "reason": progress.reason,
            "events": progress.events,
            "lag": self._lag(),
            "oldest_unprocessed_s": max(0.0, time.time() - self._in_hand_since) if self._in_hand_since else 0.0,
            "dead_letters": progress.dead_letters,
            "details": {
                "redirected": progress.redirected,
                "unknown_fields": sum(progress.unknown_fields.values()),
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
        return max(lag, self._queue.qsize())


def _letter(message: Message, reason: str) -> Outgoing:
    return dead_letter(
        message.topic,
        message.partition,
        message.offset,
        key=message.key,
        value=message.value,
        headers=message.headers,
        reason=reason,
    )
