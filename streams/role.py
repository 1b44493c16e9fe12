"""What a role of the stream is: its messages, what it tells the consumer, and what a batch leads to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from streams.broker import Headers, Outgoing
from streams.dead_letters import dead_letter
from streams.journal import EventId

Event = TypeVar("Event")


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


def nothing() -> None:
    """The commit of an outcome that writes no rows."""


class Assignment(NamedTuple):
    """The partitions of a role's first topic that are this member's, and the generation of the group in which."""

    generation: int
    partitions: frozenset[int]


@dataclass
class Outcome:
    """What a batch leads to: messages to publish, then a commit; rejected events become dead letters."""

    publish: list[Outgoing] = field(default_factory=list)
    commit: Callable[[], None] = nothing
    rejected: list[tuple[Message, str]] = field(default_factory=list)


class Role(Generic[Event]):
    """What a role tells the consumer. Only `name`, `topics`, `parse` and `compute` must be given."""

    name: str
    topics: tuple[str, ...]
    group: str = ""  # how the names of its consumer group and journal end, where a role has several
    batch_max: int | None = None  # None: as the settings say
    prepares: bool = False  # True: `prepare` runs on the next batch while `compute` runs on this one
    urgent: bool = False  # True: somebody waits for the answer to each event
    every_s: float | None = None  # how often `tick` is called; None: never
    aside_every_s: float | None = None  # how often `aside` is called while it has nothing to do; None: never

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

    def aside(self, assignment: Assignment) -> Outcome | None:  # noqa: ARG002
        """Work that no event waits for, in the role's thread, on every member that has partitions; None: there is none.

        A portion of a few milliseconds: it is called again at once, and a batch that waits comes in between. Its
        outcome is dropped, and comes to nothing, if the partitions may be others' by then. Raises what `tick` may.
        """
        return None

    async def stop(self) -> None:
        """Called after the last batch, also if `start` did not succeed."""

    def details(self) -> dict[str, float | int | str]:
        """Facts for the status."""
        return {}


def letter(message: Message, reason: str) -> Outgoing:
    """The message as a dead letter."""
    return dead_letter(
        message.topic,
        message.partition,
        message.offset,
        key=message.key,
        value=message.value,
        headers=message.headers,
        reason=reason,
        topic_id=message.topic_id,
    )
