"""The door for shops without a Kafka client: events are checked as their reader will check them, then confirmed.

All events of a request are published, or none because one is wrong; the broker has confirmed them when the answer goes
out. What the broker did not confirm may stand in the topic nevertheless, and may be sent again: a click with an
event_id that came before counts once, and so does a product that is told again.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from store.records import Click, StoreUnavailable, source_key
from store.users import UserStore
from streams.broker import Broker, BrokerUnavailable, Outgoing, Publisher
from streams.events import BadEvent, PastClick, UserIdentified
from streams.health import group_id
from streams.parsing import parse_catalog_update, parse_click
from streams.publish import LINE_MAX_BYTES
from streams.settings import Settings
from streams.topics import TopicNames
from streams.tracing import NO_TRACING, Tracing
from streams.unread import NotStoredYet, last_unread

EVENTS_MAX = 1_000  # of a request
PAST_CLICKS_MAX = 1_000  # as the contract says
CONFIRM_WITHIN_S = 10.0
FORGOTTEN_WITHIN_S = 10.0
STORED_WITHIN_S = 10.0
LOOK_EVERY_S = 0.05


class WrongEvents(Exception):
    """Nothing was published; str() tells of the first few. `reasons` has a reason for the place of each wrong event."""

    def __init__(self, reasons: dict[int, str], of: int) -> None:
        said = "; ".join(f"event {place}: {reason}" for place, reason in list(reasons.items())[:5])
        more = "" if len(reasons) <= 5 else f"; and {len(reasons) - 5} more"
        super().__init__(f"{len(reasons)} of {of} are wrong, and nothing was published: {said}{more}")
        self.reasons = reasons


class Posted(NamedTuple):
    """Events that are as they should be, ready to be published."""

    messages: list[Outgoing]
    event_ids: list[str]  # of clicks, in their order


class Identified(NamedTuple):
    """A visitor's clicks on their way to the user's history."""

    event_id: str | None  # None: there were none
    clicks: int


class Door:
    """Publishes for those who ask over HTTP. The coroutines run in the loop of the publisher."""

    def __init__(
        self,
        settings: Settings,
        names: TopicNames,
        broker: Broker,
        publisher: Publisher,
        users: UserStore,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._future_limit_s = settings.future_limit_s
        self._clicks_group = group_id(settings, "clicks")
        self._names = names
        self._broker = broker
        self._publisher = publisher
        self._users = users
        self._tracing = tracing
        self._late: set[asyncio.Task[list[Any]]] = set()  # publications that nobody waits for any more

    # --- events --------------------------------------------------------------------------------------------------

    def clicks_of(self, body: bytes) -> Posted:
        """The events for `user-clicks` in a JSON body; an event_id or occurred_at that is left out is made up.

        Raises BadEvent if it is neither an event nor a list of up to EVENTS_MAX; WrongEvents.
        """
        events = _events_of(body)
        now = datetime.now(UTC).isoformat()
        for event in events:
            if isinstance(event, dict):
                event.setdefault("event_id", uuid.uuid4().hex)
                event.setdefault("occurred_at", now)

        def check(key: bytes, value: bytes) -> None:
            parse_click(key, value, future_limit_s=self._future_limit_s)

        messages = _messages(self._names.user_clicks, "user_id", events, check)
        return Posted(messages, [event["event_id"] for event in events])

    def catalog_of(self, body: bytes) -> Posted:
        """The same for `catalog-updates`."""
        return Posted(_messages(self._names.catalog_updates, "product_id", _events_of(body), parse_catalog_update), [])

    async def publish(self, messages: list[Outgoing]) -> list[Any]:
        """As Publisher.publish, within the trace of the request. Raises BrokerUnavailable after CONFIRM_WITHIN_S, too,
        and at once while others wait longer."""
        if self._late:
            raise BrokerUnavailable(f"it has not confirmed for more than {CONFIRM_WITHIN_S:g} s what came before")
        if carried := self._tracing.carried():
            messages = [message._replace(headers=(*message.headers, *carried)) for message in messages]
        publishing = asyncio.create_task(self._publisher.publish(messages))
        # Not wait_for: the producer goes on all the same, and a publication that is cut off may leave it in between.
        await asyncio.wait({publishing}, timeout=CONFIRM_WITHIN_S)
        if publishing.done():
            return publishing.result()
        self._late.add(publishing)
        publishing.add_done_callback(self._came_late)
        raise BrokerUnavailable(f"it has not confirmed {len(messages)} messages within {CONFIRM_WITHIN_S:g} s")

    def _came_late(self, publishing: "asyncio.Task[list[Any]]") -> None:
        self._late.discard(publishing)
        if not publishing.cancelled():
            publishing.exception()  # looked at, or it would be told as lost

    # --- persons -------------------------------------------------------------------------------------------------

    async def forget(self, user_id: str) -> bool:
        """The wish stands in the topic, confirmed. True if it was carried out within FORGOTTEN_WITHIN_S.

        Then the user's row is gone from SQL, or is of clicks that came after the wish, and the record that removes her
        embedding is confirmed. Raises BrokerUnavailable.
        """
        topic = self._names.user_clicks
        (wish,) = await self.publish([Outgoing(topic, user_id.encode(), None)])
        deadline = time.monotonic() + FORGOTTEN_WITHIN_S
        try:
            topic_id = (await asyncio.to_thread(self._broker.topic_ids, [topic]))[topic]
        except (BrokerUnavailable, KeyError):
            return False  # it has confirmed the wish, and is away since, or has lost its topics
        source = source_key(topic_id, wish.partition)
        while not await asyncio.to_thread(self._has_applied, user_id, source, wish.offset):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(LOOK_EVERY_S)
        return True

    def _has_applied(self, user_id: str, source: str, offset: int) -> bool:
        """True if the user's row, or the mark that is left of her, is of that record or later."""
        try:
            row = self._users.read([user_id]).get(user_id)
            offsets = row.offsets if row else self._users.forgotten_offsets([user_id]).get(user_id, {})
        except StoreUnavailable:
            return False  # the wish is published: whoever reads it waits for the store
        return offsets.get(source, -1) >= offset

    async def _until_stored(self, user_id: str) -> None:
        """The clicks role has handled everything of hers that was in the topic at the call.

        Raises NotStoredYet after STORED_WITHIN_S; BrokerUnavailable.
        """
        await self._publisher.start()  # it tells at once that the broker is away
        if (unread := await self._last_unread(user_id)) is None:
            return
        topic = self._names.user_clicks
        source = source_key((await asyncio.to_thread(self._broker.topic_ids, [topic]))[topic], unread[0])
        deadline = time.monotonic() + STORED_WITHIN_S
        while not await asyncio.to_thread(self._has_applied, user_id, source, unread[1]):
            if time.monotonic() > deadline:
                # A record that was given up changes no row, and is acknowledged all the same.
                later = await self._last_unread(user_id)
                if later is None or later > unread:
                    return
                raise NotStoredYet(f"not within {STORED_WITHIN_S:g} s")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _last_unread(self, user_id: str) -> tuple[int, int] | None:
        topic, key = self._names.user_clicks, user_id.encode()
        return await asyncio.to_thread(
            last_unread, self._broker, self._clicks_group, topic, key, within_s=STORED_WITHIN_S
        )

    async def identify(self, user_id: str, visitor_id: str, *, forget: bool) -> Identified:
        """The visitor's clicks, as far as they are stored, stand in the topic as the user's; confirmed.

        forget  the wish to forget the visitor stands there, too, behind everything of hers; so all that was in the
                topic of her at the call is stored first

        Raises BrokerUnavailable, and then all of it may be asked again; StoreUnavailable. NotStoredYet.
        """
        if forget:
            await self._until_stored(visitor_id)
        row = (await asyncio.to_thread(self._users.read, [visitor_id])).get(visitor_id)
        clicks = row.clicks[:PAST_CLICKS_MAX] if row else ()
        event = identify_event(user_id, clicks) if clicks else None
        if event is not None:
            value = event.model_dump_json().encode()
            await self.publish([Outgoing(self._names.user_clicks, user_id.encode(), value)])
        if forget:  # not before the clicks are confirmed: they would be lost
            await self.publish([Outgoing(self._names.user_clicks, visitor_id.encode(), None)])
        return Identified(event.event_id if event else None, len(clicks))


def identify_event(user_id: str, clicks: Sequence[Click]) -> UserIdentified:
    """The event by which these clicks become the user's. Whose they were until now is not in it."""
    past = [
        PastClick.model_validate(
            {
                "product_id": click.product_id,
                "event": click.event,
                "occurred_at": datetime.fromtimestamp(click.occurred_at, UTC),
            }
        )
        for click in clicks
    ]
    return UserIdentified(
        event_id=uuid.uuid4().hex, user_id=user_id, event="identify", occurred_at=datetime.now(UTC), clicks=past
    )


def _events_of(body: bytes) -> list[Any]:
    """Raises BadEvent."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadEvent(f"the body is not JSON in UTF-8 ({error}): send one event, or a list of events") from error
    events = told if isinstance(told, list) else [told]
    if len(events) > EVENTS_MAX:
        raise BadEvent(f"{len(events)} events at once, the limit is {EVENTS_MAX}: send them in several requests")
    return events


def _messages(topic: str, id_field: str, events: list[Any], check: Callable[[bytes, bytes], object]) -> list[Outgoing]:
    """Each event under the key that its topic wants, in the bytes that were checked. Raises WrongEvents."""
    messages, reasons = [], {}
    for place, event in enumerate(events):
        key = event.get(id_field) if isinstance(event, dict) else None
        try:
            value = orjson.dumps(event)
            if len(value) > LINE_MAX_BYTES:
                raise BadEvent(f"it has {len(value)} bytes, the limit is {LINE_MAX_BYTES}: shorten its texts")
            message = Outgoing(topic, key.encode() if isinstance(key, str) else None, value)
            check(message.key or b"", value)
        except BadEvent as bad:
            reasons[place] = str(bad)
        except orjson.JSONEncodeError as error:
            reasons[place] = f"it cannot be passed on as JSON ({error}): nest it less deeply"
        else:
            messages.append(message)
    if reasons:
        raise WrongEvents(reasons, len(events))
    return messages
