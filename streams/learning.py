"""The model and all that must stay consistent with it: rows, positions, waiting examples, what is to be published.

A checkpoint holds all of it, taken between two chunks; so an example is in the model once, whatever died.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Rows
from encoders.next_click_training import FactorsDiverged, NextClickModel
from streams.assortment import Assortment
from streams.events import BadEvent
from streams.examples import Example, SeenPositions, Waiting, pack_examples, parse_example, unpack_examples
from streams.factors import Changes
from streams.newcomers import Newcomers

log = logging.getLogger(__name__)

REFIT_EXAMPLES = 1_000  # learned between two fits of the cold start
REFIT_BEHIND_EXAMPLES = 10_000  # while the learner is far behind
FRESH_MAX = 5_000  # new products published in one turn
MODEL = "model_"  # before the names of the model's arrays in a checkpoint


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


class Learning:
    """What the learner knows. One thread at a time; nothing here reads or writes outside the process."""

    def __init__(
        self,
        assortment: Assortment,
        topic_ids: TopicIds,
        *,
        seed: int = 0,
        checkpoint: tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        """As it was at the checkpoint, with the products that are in the assortment now; every row is to publish."""
        self.topic_ids = topic_ids
        self.model = NextClickModel(seed=seed)
        self.rows: dict[str, int] = {}
        self.positions: dict[int, int] = {}  # partition of training-examples -> the next offset to read
        self.seen = SeenPositions()
        self.waiting = Waiting()
        self.ready: deque[Example] = deque()  # of known products, in the order in which they are learned
        self.duplicates = 0
        self.malformed = 0
        self.version = 0  # rises when something changes that a checkpoint must hold
        self.newest_example_at = 0.0  # s since 1970
        self.rows_to_publish = 0
        self.diverged = False
        self._assortment = assortment
        self._fresh: dict[str, None] = {}  # products to publish at once, in this order
        self._gone: set[str] = set()  # products whose null is not confirmed yet
        self._weights_published = -1  # examples in the weights that were published last
        self._newcomers = Newcomers(assortment)
        offers = assortment.take_all()
        if checkpoint is not None:
            offers |= self._restore(*checkpoint)
        self._fresh |= dict.fromkeys(self.rows)
        self._newcomers.fit(self.model, self.rows)
        self._reconcile(offers)

    @property
    def lag(self) -> int:
        """Examples read and not learned, of known products."""
        return len(self.ready)

    # --- what comes ----------------------------------------------------------------------------------------------

    def follow_assortment(self) -> None:
        """New products have rows, and what waited for them is ready; deleted ones have left."""
        offers, vectors = self._assortment.take_changes()
        if offers or vectors:
            self._reconcile(offers, vectors)

    def receive(self, records: Sequence[Record]) -> None:
        """Each example that is new is ready, or waits for its product; the positions are behind the records."""
        for record in records:
            self._receive(record)
            self.positions[record.partition] = record.offset + 1
        self.version += len(records)

    def learn(self, most: int, replays: int, *, behind: bool = False) -> int:
        """Learn at most so many of the ready examples and return how many it were. Raises FactorsDiverged.

        behind  True: the cold start is fitted more rarely
        """
        if self.diverged:
            raise FactorsDiverged("a parameter that was to be published or saved is not finite")
        interval = REFIT_BEHIND_EXAMPLES if behind else REFIT_EXAMPLES
        batch = self._next_ready(min(most, interval - self.model.examples % interval))
        if not batch:
            return 0
        rows = np.array([self.rows[example.product_id] for example in batch], np.int32)
        histories, ages_s = self._histories(batch)
        try:
            self.model.learn_many(rows, histories, ages_s, replays=replays)
            if self.model.examples % interval == 0:
                self._newcomers.fit(self.model, self.rows)
                self._newcomers.place(self.model, self.rows, self.rows)
        except FactorsDiverged:
            self.diverged = True
            raise
        self.newest_example_at = time.time()
        self.version += 1
        return len(batch)

    def _receive(self, record: Record) -> None:
        try:
            source, example = parse_example(record.value)
        except BadEvent as bad:
            self.malformed += 1
            log.error("example skipped partition=%d offset=%d reason=%s", record.partition, record.offset, bad)
            return
        if not self.seen.add(source):
            self.duplicates += 1
        elif example.product_id in self.rows:
            self.ready.append(example)
        else:
            self.waiting.add(example)

    def _next_ready(self, most: int) -> list[Example]:
        batch: list[Example] = []
        while self.ready and len(batch) < most:
            example = self.ready.popleft()
            if example.product_id in self.rows:
                batch.append(example)
            else:  # deleted meanwhile
                self.waiting.add(example)
        return batch

    def _histories(self, batch: Sequence[Example]) -> tuple[Rows, Floats]:
        """Rows (E, H) and ages (E, H) of the histories; a product that is not known is -1."""
        width = max(len(example.history) for example in batch)
        histories = np.full((len(batch), width), ABSENT, np.int32)
        ages_s = np.zeros((len(batch), width), np.float32)
        for place, example in enumerate(batch):
            clicks = len(example.history)
            histories[place, :clicks] = [self.rows.get(product_id, ABSENT) for product_id in example.history]
            ages_s[place, :clicks] = example.ages_s
        return histories, ages_s

    # --- products ------------------------------------------------------------------------------------------------

    def _reconcile(self, offers: Iterable[str], vectors: Iterable[str] = ()) -> None:
        """Rows for those that there are, none for those that are gone; the cold start places what is new."""
        added = []
        for product_id in sorted(offers):
            if product_id not in self._assortment:
                self._remove(product_id)
            elif product_id not in self.rows:
                self.rows[product_id] = self.model.add_product()
                self._gone.discard(product_id)
                added.append(product_id)
        placed = self._newcomers.place(self.model, self.rows, sorted({*added, *vectors}))
        self.ready += self.waiting.release(added)
        self._fresh |= dict.fromkeys([*added, *placed])
        self.version += len(added) + len(placed)

    def _remove(self, product_id: str) -> None:
        """It has no row, and its factors are to be withdrawn, whoever published them."""
        row = self.rows.pop(product_id, None)
        if row is not None:
            self.model.remove_product(row)
        self._fresh.pop(product_id, None)
        self._gone.add(product_id)
        self.version += 1

    # --- what is published ---------------------------------------------------------------------------------------

    @property
    def has_fresh(self) -> bool:
        """True if there are rows that readers should have at once."""
        return bool(self._fresh)

    def take_changes(self, most: int) -> Changes:
        """Fresh products, then at most so many of the rest, the most changed first; they count as published.

        Nothing once the model has diverged: a reader would refuse it. Raises FactorsDiverged where it shows here.
        """
        fresh = [self.rows[product_id] for product_id in list(self._fresh)[:FRESH_MAX]]
        changed = self.model.most_changed(len(self.rows)).tolist()
        rows = list(dict.fromkeys(fresh + changed[:most]))
        if self.diverged:
            rows = []
        names = {row: product_id for product_id, row in self.rows.items()} if rows else {}
        changes = Changes(
            [names[row] for row in rows],
            *self.model.vectors(np.array(rows, np.int32)),
            clicks=self.model.clicks[rows].tolist() if rows else [],
            gone=sorted(self._gone),
            weights=self.model.weights()
            if self._weights_published != self.model.examples and not self.diverged
            else None,
            examples=self.model.examples,
            newest_example_at=self.newest_example_at,
        )
        self._require_finite(changes)
        self.model.mark_published(np.array(rows, np.int32))
        for product_id in changes.product_ids:
            self._fresh.pop(product_id, None)
        if changes.weights is not None:
            self._weights_published = changes.examples
        self.rows_to_publish = len(set(changed) - set(rows))
        return changes

    def confirm(self, changes: Changes) -> None:
        """The broker has these records."""
        if changes.gone:
            self._gone -= set(changes.gone)
            self.version += 1

    def _require_finite(self, changes: Changes) -> None:
        if not changes.is_finite():
            self.diverged = True
            raise FactorsDiverged("a row that is to be published is not finite: restore the last checkpoint")

    def details(self) -> dict[str, int]:
        """Facts for the status."""
        return {
            "products": len(self.rows),
            "examples": self.model.examples,
            "waiting_examples": len(self.waiting),
            "waiting_dropped": self.waiting.dropped,
            "duplicates": self.duplicates,
            "malformed": self.malformed,
            "rows_to_publish": self.rows_to_publish,
        }

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Copies of all that `Learning(..., checkpoint=...)` needs. Raises FactorsDiverged."""
        model = {MODEL + name: array for name, array in self.model.state().items()}
        if self.diverged or not all(np.isfinite(array).all() for array in model.values()):
            self.diverged = True
            raise FactorsDiverged("a parameter is not finite: restore the last checkpoint")
        seen, seen_pages = self.seen.state()
        waiting, waiting_ids = pack_examples([*self.waiting.all(), *self.ready])
        meta = {
            "topic_ids": self.topic_ids._asdict(),
            "positions": {str(partition): offset for partition, offset in self.positions.items()},
            "products": self.rows,
            "gone": sorted(self._gone),
            "examples": self.model.examples,
            "seen_pages": seen_pages,
            "waiting_ids": waiting_ids,
            "newest_example_at": self.newest_example_at,
        }
        return model | seen | waiting, meta

    def _restore(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> set[str]:
        """The checkpoint's state; returns its products, as far as their absence now means that they were deleted."""
        names = [name for name in arrays if name.startswith(MODEL)]
        self.model = NextClickModel.from_state({name.removeprefix(MODEL): arrays[name] for name in names})
        self.rows = dict(meta["products"])
        self.seen = SeenPositions.from_state(arrays, meta["seen_pages"])
        self.newest_example_at = meta["newest_example_at"]
        self._gone = set(meta["gone"])
        for example in unpack_examples(arrays, meta["waiting_ids"]):
            self.waiting.add(example)
        self.ready += self.waiting.release(self.rows)
        before = TopicIds(**meta["topic_ids"])
        if before.training_examples == self.topic_ids.training_examples:
            self.positions = {int(partition): offset for partition, offset in meta["positions"].items()}
        else:
            self.seen.keep_only(self.topic_ids.user_clicks)
        # In an index that was made again the products come back one by one: absence says nothing yet.
        return set(self.rows) if before.product_index == self.topic_ids.product_index else set()
