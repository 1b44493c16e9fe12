"""Training examples on their way into the model: parsed, each of them once, waiting until their product is known."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.next_click import Floats, Mask
from store.history import EVENTS
from streams.events import BadEvent

HISTORY_MAX = 50  # clicks of a history that the model reads
AGE_MAX_S = 1e9  # some 30 years, far behind the oldest age that the model tells apart
PAGE = 4_096  # positions
PAGES = 256  # of a source: positions further back than about a million count as learned
WAITING_MAX = 100_000


class TopicIds(NamedTuple):
    """The broker's ids of the topics that a checkpoint refers to: one that was made again starts from 0."""

    training_examples: str
    user_clicks: str
    product_index: str


class Record(NamedTuple):
    """A record of training-examples."""

    partition: int
    offset: int
    value: bytes | None


class Example(NamedTuple):
    """One click with the history before it, newest first."""

    product_id: str
    history: tuple[str, ...]  # (H,) product ids, H <= 50
    ages_s: Floats  # (H,) how long before the click
    seen: Mask  # (H,) whether a list holds the product no more
    event: str = "view_item"
    eligible: bool = True  # a list might have held the product
    segment: str | None = None


class Source(NamedTuple):
    """Where the example's click stands."""

    topic_id: str
    partition: int
    position: int


def parse_example(raw: bytes | None) -> tuple[Source, Example]:
    """A value of training-examples. Raises BadEvent.

    Freshet writes that topic itself, so only what the learner reads is checked: pydantic's check of all fields costs
    as much time as learning four examples.
    """
    try:
        value = orjson.loads(raw or b"")
        history = value["history"][:HISTORY_MAX]
        ages_s = np.clip(np.array([click["age_s"] for click in history], np.float64), 0.0, AGE_MAX_S)
        example = Example(
            value["product_id"],
            tuple(click["product_id"] for click in history),
            ages_s.astype(np.float32),
            np.array([bool(click.get("seen", False)) for click in history], np.bool_),
            value["event"],
            bool(value.get("eligible", True)),
            value.get("segment"),
        )
        source = Source(value["topic_id"], value["partition"], value["offset"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadEvent(f"not a training example: {error!r}") from error
    named = [source.topic_id, example.product_id, example.event, *example.history]
    texts = {type(text) for text in (named if example.segment is None else [*named, example.segment])}
    if example.event not in EVENTS:
        raise BadEvent(f"not a training example: {example.event!r} is no event, they are {', '.join(EVENTS)}")
    if texts != {str} or not all(type(number) is int and number >= 0 for number in source[1:]):
        raise BadEvent(
            f"not a training example: ids and segment must be texts, the source {source[:3]} two counts from 0"
        )
    if ages_s.shape != (len(history),) or not np.isfinite(ages_s).all():
        raise BadEvent("not a training example: an age is not a number")
    return source, example


class SeenPositions:
    """Which positions of each source were learned, exact for the newest million of each.

    The highest position alone would not do: a writer that retries a batch may deliver 97, 96, 97.
    """

    def __init__(self) -> None:
        self._pages: dict[tuple[str, int], dict[int, int]] = {}  # bit n of page p: position p * PAGE + n
        self._newest: dict[tuple[str, int], int] = {}

    def add(self, source: Source) -> bool:
        """True the first time; False for a position that was added before, or is too far back to tell."""
        topic_id, partition, position = source
        page, place = divmod(position, PAGE)
        key = (topic_id, partition)
        pages = self._pages.setdefault(key, {})
        newest = self._newest.setdefault(key, page)
        bits = pages.get(page, 0)
        if page <= newest - PAGES or bits >> place & 1:
            return False
        pages[page] = bits | 1 << place
        if page > newest:
            self._newest[key] = page
            for old in [number for number in pages if number <= page - PAGES]:
                del pages[old]
        return True

    def keep_only(self, topic_id: str) -> None:
        """Forget the sources of other topics: nothing comes from them any more."""
        for key in [key for key in self._pages if key[0] != topic_id]:
            del self._pages[key], self._newest[key]

    def state(self) -> tuple[dict[str, NDArray[Any]], list[list[Any]]]:
        """Arrays and JSON values from which `from_state` makes the same."""
        rows = [(key, page, bits) for key, pages in self._pages.items() for page, bits in pages.items()]
        packed = b"".join(bits.to_bytes(PAGE // 8, "little") for _, _, bits in rows)
        arrays = {"seen_bits": np.frombuffer(packed, np.uint8).reshape(-1, PAGE // 8)}
        return arrays, [[*key, page] for key, page, _ in rows]

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], pages: Iterable[list[Any]]) -> "SeenPositions":
        """As it was when `state` was taken."""
        seen = cls()
        for (topic_id, partition, page), bits in zip(pages, arrays["seen_bits"], strict=True):
            key = (topic_id, partition)
            seen._pages.setdefault(key, {})[page] = int.from_bytes(bits.tobytes(), "little")
            seen._newest[key] = max(page, seen._newest.get(key, page))
        return seen


class Waiting:
    """Examples whose product is not known yet, at most `most`: the oldest are dropped, and counted."""

    def __init__(self, most: int = WAITING_MAX) -> None:
        self._most = most
        self._examples: dict[int, Example] = {}  # by number, in the order of arrival
        self._numbers: dict[str, deque[int]] = defaultdict(deque)  # of each product
        self._next = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._examples)

    def add(self, example: Example) -> None:
        """It waits, in place of the oldest if there is no room."""
        if len(self._examples) == self._most:
            self._drop_oldest()
        self._examples[self._next] = example
        self._numbers[example.product_id].append(self._next)
        self._next += 1

    def release(self, product_ids: Iterable[str]) -> list[Example]:
        """The examples of these products, in the order of arrival; they wait no more."""
        numbers = [number for product_id in product_ids for number in self._numbers.pop(product_id, ())]
        return [self._examples.pop(number) for number in sorted(numbers)]

    def all(self) -> list[Example]:
        """In the order of arrival."""
        return list(self._examples.values())

    def _drop_oldest(self) -> None:
        oldest = self._examples.pop(next(iter(self._examples)))
        numbers = self._numbers[oldest.product_id]
        numbers.popleft()
        if not numbers:
            del self._numbers[oldest.product_id]
        self.dropped += 1


def pack_examples(examples: list[Example]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Arrays and the texts that they point to, ids and segments: far smaller than the examples as JSON."""
    places: dict[str, int] = {}
    width = max((len(example.history) for example in examples), default=0)
    products = np.full((len(examples), 1 + width), -1, np.int32)
    ages_s = np.zeros((len(examples), width), np.float32)
    seen = np.zeros((len(examples), width), np.bool_)
    segments = np.full(len(examples), -1, np.int32)
    for row, example in enumerate(examples):
        ids = (example.product_id, *example.history)
        products[row, : len(ids)] = [places.setdefault(product_id, len(places)) for product_id in ids]
        ages_s[row, : len(example.ages_s)] = example.ages_s
        seen[row, : len(example.seen)] = example.seen
        if example.segment is not None:
            segments[row] = places.setdefault(example.segment, len(places))
    kinds = np.array([(EVENTS.index(example.event), example.eligible) for example in examples], np.int8).reshape(-1, 2)
    arrays = {"waiting_products": products, "waiting_ages_s": ages_s, "waiting_seen": seen, "waiting_kinds": kinds}
    return arrays | {"waiting_segments": segments}, list(places)


def unpack_examples(arrays: Mapping[str, NDArray[Any]], texts: list[str]) -> list[Example]:
    """What pack_examples was given."""
    examples = []
    columns = [arrays[f"waiting_{name}"] for name in ("products", "ages_s", "seen", "kinds")]
    none = np.full(len(columns[0]), -1, np.int32)  # a checkpoint from before there were segments
    columns.append(arrays.get("waiting_segments", none))
    for places, ages_s, seen, (event, eligible), segment in zip(*columns, strict=True):
        clicked, *history = [texts[place] for place in places.tolist() if place >= 0]
        known = len(history)
        example = Example(
            clicked,
            tuple(history),
            ages_s[:known].copy(),
            seen[:known].copy(),
            EVENTS[event],
            bool(eligible),
            texts[segment] if segment >= 0 else None,
        )
        examples.append(example)
    return examples
