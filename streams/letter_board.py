"""How many dead letters are open, by topic and kind of reason: read from the broker outside any group, and counted.

What a letter holds is not kept here, but for the newest ones of a kind: an operator's page and a scrape every few
seconds are answered from memory.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError

from store.letters import Place, Settled
from streams.broker import Broker
from streams.dead_letters import kind_of, letter_of, letters_pattern
from streams.replays import settlement_of
from streams.settings import Settings

log = logging.getLogger(__name__)

COUNTED_MAX = 100_000  # the newest letters: about 30 MB
KINDS_MAX = 500  # a reason names fields, which whoever publishes may name as he likes
OTHER = "of other kinds: `freshet dead-letters list` has the reasons"
EXAMPLES = 3  # of each kind
AWAY_PAUSE_S = 1.0


class Example(NamedTuple):
    """A letter as an operator is told of it; its value may be personal, `freshet dead-letters show` has it."""

    place: Place
    at: str  # RFC 3339, when it was given up
    key: str | None
    reason: str


@dataclass(frozen=True)
class Open:
    """The open letters of a topic and a kind of reason."""

    topic: str
    kind: str
    count: int
    newest: tuple[Example, ...]  # newest first


class LetterBoard:
    """Every letter that the broker keeps of this namespace. It may be asked from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._broker = Broker(settings)
        self._pattern = letters_pattern(settings.namespace)
        self._kept_s = settings.topic_retention_days * 86_400
        self._begin()

    async def follow(self) -> None:
        """Read until cancelled; while the broker is away, try again."""
        while True:
            try:
                await self._read()
            except (KafkaError, OSError) as away:
                log.info("dead letters are away reason=%r", away)
                await asyncio.sleep(AWAY_PAUSE_S)

    def put(self, record: Any) -> None:
        """Count a record of a topic of dead letters, as aiokafka reads it."""
        try:
            letter = letter_of(record)
        except (KeyError, ValueError) as foreign:
            log.warning("dead letter ignored topic=%s offset=%s reason=%r", record.topic, record.offset, foreign)
            return
        kind = kind_of(letter.reason)
        if kind not in self._kinds and len(self._kinds) >= KINDS_MAX:
            kind = OTHER
        kind = self._kinds.setdefault(kind, kind)  # one text for all letters of a kind
        key = None if letter.key is None else letter.key.decode(errors="backslashreplace")
        newest = self._newest[letter.topic, kind]
        newest.appendleft(Example(letter.place, letter.at, key, letter.reason))
        # Of a place that was given up twice, the later; and all is read again when the client finds a new topic.
        self._letters.pop(letter.place, None)
        self._letters[letter.place] = (letter.given_up_at, kind)
        if len(self._letters) > COUNTED_MAX:
            del self._letters[next(iter(self._letters))]

    def open(self, settled: Mapping[Place, Settled], now: float) -> list[Open]:
        """What is open by topic and kind, the most first. settled: as LetterStore has it; now: s since 1970."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        is_open = set()
        for place, (at, kind) in self._letters.copy().items():
            if now - at < self._kept_s and settlement_of(place, at, settled) is None:
                counts[place.topic, kind] += 1
                is_open.add(place)
        found = [
            Open(topic, kind, count, tuple(self._examples(topic, kind, is_open)))
            for (topic, kind), count in counts.items()
        ]
        return sorted(found, key=lambda one: (-one.count, one.topic, one.kind))

    def _examples(self, topic: str, kind: str, is_open: set[Place]) -> Iterator[Example]:
        newest: dict[Place, Example] = {}
        for one in self._newest[topic, kind].copy():
            if one.place in is_open:
                newest.setdefault(one.place, one)
        yield from [*newest.values()][:EXAMPLES]

    def _begin(self) -> None:
        self._kinds: dict[str, str] = {}
        self._letters: dict[Place, tuple[float, str]] = {}  # when each was given up, and its kind; the newest last
        self._newest: dict[tuple[str, str], deque[Example]] = defaultdict(lambda: deque(maxlen=4 * EXAMPLES))

    async def _read(self) -> None:
        consumer = self._broker.consumer()
        # By a pattern: a new version of the encoders has a topic of its own, which the client finds within minutes.
        consumer.subscribe(pattern=self._pattern)
        try:
            await consumer.start()
            self._begin()
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        self.put(record)
        finally:
            await consumer.stop()
