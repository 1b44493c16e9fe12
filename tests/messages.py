"""Messages made by hand, as a role is given them, and a role run on them without a broker."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import orjson

from streams.broker import Headers, Outgoing
from streams.role import Delivery, Message, Outcome, Role
from streams.settings import Settings
from streams.topics import TopicNames, topic_names

NAMES: TopicNames = topic_names(Settings(), "ab12")
Json = dict[str, Any]


class Source:
    """One partition of a topic: each message has the next offset."""

    def __init__(self, topic: str, topic_id: str = "made-once", partition: int = 0) -> None:
        self._where = (topic, topic_id, partition)
        self._offsets: Iterator[int] = count()

    def message(self, key: str, value: Json | None, *, at: float = 100.0, headers: Headers = ()) -> Message:
        raw = None if value is None else orjson.dumps(value)
        return Message(*self._where, next(self._offsets), key.encode(), raw, headers, at)


def delivered(role: Role[Any], messages: Sequence[Message]) -> list[Delivery[Any]]:
    """The messages with their events. Raises BadEvent."""
    return [Delivery(message, role.parse(message)) for message in messages]


def run(role: Role[Any], *messages: Message) -> Outcome:
    """One batch, computed and committed, as if every publication were confirmed."""
    outcome = role.compute(delivered(role, messages), None)
    outcome.commit()
    return outcome


def values(outcome: Outcome, topic: str) -> dict[str, Json | None]:
    """The published values of a topic by key, which must be there once each."""
    records = [message for message in outcome.publish if message.topic == topic]
    found = {_key(message): _json(message) for message in records}
    assert len(found) == len(records), "a key was published twice in one batch"
    return found


def headers(outcome: Outcome, topic: str) -> dict[str, dict[str, bytes]]:
    """The headers of the published records of a topic by key."""
    return {_key(message): dict(message.headers) for message in outcome.publish if message.topic == topic}


def _key(message: Outgoing) -> str:
    assert message.key is not None, "records about products have a key"
    return message.key.decode()


def _json(message: Outgoing) -> Json | None:
    value: Json | None = None if message.value is None else orjson.loads(message.value)
    return value
