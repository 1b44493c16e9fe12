"""Events of Faust become a batch that a role can work on: parsed, the rest given up or sent to its right key."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from pydantic import BaseModel

from streams.broker import Broker, BrokerUnavailable, Outgoing
from streams.dead_letters import KEPT_BYTES
from streams.events import BadEvent, WrongKey
from streams.journal import Journal
from streams.parsing import unknown_fields
from streams.role import Delivery, Message, Role, letter
from streams.settings import Settings
from streams.standing import Standing

log = logging.getLogger(__name__)

UNKNOWN_FIELDS_MAX = 1_000


class Batch(NamedTuple):
    """What was taken at once."""

    events: list[Any]  # Faust's, to acknowledge
    deliveries: list[Delivery[Any]]
    letters: list[Outgoing]  # dead letters and redirected events
    given_up: int


class Intake:
    """Between Faust's stream and a role's work: waiting events, batches, parsing; and counts of what it sees."""

    def __init__(
        self,
        role: Role[Any],
        journal: Journal,
        settings: Settings,
        broker: Broker,
        standing: Standing,
        *,
        is_current: Callable[[Any], bool],
    ) -> None:
        """is_current: False for an event whose partition was revoked since it was read; it is dropped."""
        self._role = role
        self._journal = journal
        self._broker = broker
        self._standing = standing
        self._is_current = is_current
        self._batch_max = settings.batch_max
        self._redirects = settings.on_wrong_key == "republish"
        self._queue: asyncio.Queue[Any] = asyncio.Queue(settings.queue_max)
        self._held_back: Any = None  # a suspect that was read while a batch was filled
        self._topic_ids: dict[str, str] = {}
        self._look_up = True  # the topic ids, before the next batch
        self.redirected = 0
        self.unknown_fields: dict[str, int] = {}

    async def put(self, event: Any) -> None:
        """Let an event wait; returns when there is room."""
        await self._queue.put(event)

    def waiting(self) -> int:
        """Events that were read and not yet taken."""
        return self._queue.qsize()

    def topics_may_differ(self) -> None:
        """A topic may have been made again: its id is looked up before the next batch."""
        self._look_up = True

    async def look_up_topics(self) -> None:
        """The topics' ids are those of now. Raises Stopped."""

        async def look_up() -> None:
            ids = await asyncio.to_thread(self._broker.topic_ids, self._role.topics)
            if missing := set(self._role.topics) - ids.keys():
                raise BrokerUnavailable(f"no topics {sorted(missing)}: make them with `freshet topics create`")
            self._topic_ids = ids

        await self._standing.until_available(look_up, "looks up its topics")
        self._look_up = False

    # --- batches -------------------------------------------------------------------------------------------------

    async def batches(self) -> AsyncIterator[tuple[Batch, Any]]:
        """What to work on next, with what the role has prepared for it meanwhile. Raises Stopped."""
        if not self._role.prepares:
            while True:
                yield await self._take(), None
        ahead: asyncio.Queue[tuple[Batch, Any]] = asyncio.Queue(1)

        async def prepare_ahead() -> None:
            while True:
                batch = await self._take()
                suspect = self._is_suspect(batch.events[0])
                if suspect:
                    await ahead.join()
                ids = [d.message.event_id for d in batch.deliveries]
                self._journal.hold(ids)
                prepared = await self._role.prepare(batch.deliveries)
                self._journal.release(ids)
                await ahead.put((batch, prepared))
                if suspect:  # it is alone in the process, before and after
                    await ahead.join()

        task = asyncio.ensure_future(prepare_ahead())
        following: asyncio.Future[tuple[Batch, Any]] = asyncio.get_running_loop().create_future()
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
            following.cancel()

    async def _take(self) -> Batch:
        """Whatever waits, at most batch_max, without lingering; a suspect of the last crash comes alone."""
        limit = self._role.batch_max or self._batch_max
        while True:
            events = [self._held_back or await self._queue.get()]
            self._held_back = None
            if self._look_up:
                await self.look_up_topics()
            while len(events) < limit and not self._queue.empty() and not self._is_suspect(events[0]):
                event = self._queue.get_nowait()
                if self._is_suspect(event):
                    self._held_back = event
                    break
                events.append(event)
            if events := [event for event in events if self._is_current(event)]:
                return self._parse(events)

    def _is_suspect(self, event: Any) -> bool:
        message = event.message
        return self._journal.is_suspect((self._topic_ids[message.topic], message.partition, message.offset))

    # --- parsing -------------------------------------------------------------------------------------------------

    def _parse(self, events: list[Any]) -> Batch:
        """Good events as deliveries; for each of the others the message that it leads to."""
        batch = Batch(events, [], [], 0)
        given_up = 0
        messages = [self._message(event) for event in events]
        ids = [message.event_id for message in messages]
        self._journal.hold(ids)
        for message in messages:
            try:
                if self._journal.crashed_too_often(message.event_id):
                    raise BadEvent(
                        "the process died each time it worked on this event: inspect it, then mend or drop it"
                    )
                parsed = self._role.parse(message)
            except WrongKey as wrong:
                sent = self._redirect(message, wrong)
                given_up += sent.topic != message.topic
                batch.letters.append(sent)
            except BadEvent as bad:
                batch.letters.append(letter(message, str(bad)))
                given_up += 1
            else:
                self._count_unknown_fields(parsed)
                batch.deliveries.append(Delivery(message, parsed))
        self._journal.release(ids)
        return batch._replace(given_up=given_up)

    def _message(self, event: Any) -> Message:
        m = event.message
        pairs = m.headers.items() if isinstance(m.headers, dict) else m.headers or ()
        headers = [(name, value or b"") for name, value in pairs]  # Kafka lets a header have no value
        return Message(m.topic, self._topic_ids[m.topic], m.partition, m.offset, m.key, m.value, headers, m.timestamp)

    def _redirect(self, message: Message, wrong: WrongKey) -> Outgoing:
        """The event again under its right key, once; the order of that key's own events is not known."""
        is_second = any(name == "origin" for name, _ in message.headers)
        if is_second or not self._redirects or len(message.value or b"") > KEPT_BYTES:
            return letter(message, f"the key is {message.key!r}, but {wrong}: publish it with that key")
        self.redirected += 1
        origin = f"{message.topic}/{message.partition}/{message.offset}".encode()
        return Outgoing(message.topic, wrong.right_key.encode(), message.value, [*message.headers, ("origin", origin)])

    def _count_unknown_fields(self, event: Any) -> None:
        if isinstance(event, BaseModel) and event.model_extra:
            for name in unknown_fields(event):
                if name not in self.unknown_fields and len(self.unknown_fields) < UNKNOWN_FIELDS_MAX:
                    log.warning("unknown field ignored role=%s field=%s", self._role.name, name[:100])
                self.unknown_fields[name] = self.unknown_fields.get(name, 0) + 1
