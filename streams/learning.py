"""The model and all that must stay consistent with it: rows, positions, waiting examples, what is to be published.

A checkpoint holds all of it, taken between two chunks; so an example is in the model once, whatever died.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.content_lift import ContentMap
from encoders.next_click import ABSENT, Floats, Rows
from encoders.next_click_step import Rule
from encoders.next_click_training import DEFAULT_RULE, FactorsDiverged, NextClickModel
from encoders.ranking_features import JUST_LOOKED_AT
from encoders.second_stage import SecondStage
from streams.assortment import Assortment
from streams.contents import place_contents
from streams.events import BadEvent
from streams.examples import (
    Example,
    Record,
    SeenPositions,
    TopicIds,
    Waiting,
    pack_examples,
    parse_example,
    unpack_examples,
)
from streams.factors import Changes, NeighbourIds
from streams.newcomers import Newcomers

log = logging.getLogger(__name__)

REFIT_EXAMPLES = 1_000  # learned between two fits of the cold start
REFIT_BEHIND_EXAMPLES = 10_000  # while the learner is far behind
FRESH_MAX = 5_000  # new products published in one turn
MODEL, STAGE = "model_", "stage_"  # before the names of their arrays in a checkpoint


class Learning:
    """What the learner knows. One thread at a time; nothing here reads or writes outside the process."""

    def __init__(
        self,
        assortment: Assortment,
        topic_ids: TopicIds,
        *,
        seed: int = 0,
        event_weights: Mapping[str, float] | None = None,
        factors: int = 64,
        rule: Rule = DEFAULT_RULE,
        checkpoint: tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]] | None = None,
    ) -> None:
        """As it was at the checkpoint, with the products that are in the assortment now; every row is to publish."""
        self.topic_ids = topic_ids
        self.model = NextClickModel(factors, seed=seed, rule=rule)
        self.stage = SecondStage(seed=seed)
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
        self._event_weights = event_weights or {}
        self._weights_published = -1  # examples in the weights that were published last
        self._map_published: ContentMap | None = None
        self.encoder, self._vectors = assortment.current()
        self._newcomers = Newcomers(self._vectors)
        offers = assortment.take_all()
        if checkpoint is not None:
            offers |= self._restore(*checkpoint)
        self._fresh |= dict.fromkeys(self.rows)
        self._newcomers.fit(self.model, self.rows)
        self._reconcile(offers)
        # A vector may have come or gone while nobody learned.
        place_contents(self.stage, self.rows, self._vectors, self.rows)

    @property
    def lag(self) -> int:
        """Examples read and not learned, of known products."""
        return len(self.ready)

    # --- what comes ----------------------------------------------------------------------------------------------

    def follow_assortment(self) -> None:
        """New products have rows, and what waited for them is ready; deleted ones have left; another version serves."""
        if (current := self._assortment.current())[1] is not self._vectors:
            self._use_vectors(*current)
        offers, vectors = self._assortment.take_changes()
        if offers or vectors:
            self._reconcile(offers, vectors)

    def receive(self, records: Sequence[Record]) -> None:
        """Each example that is new is ready, or waits for its product; the positions are behind the records."""
        for record in records:
            self._receive(record)
            self.positions[record.partition] = record.offset + 1
        self.version += len(records)

    def learn(self, most: int, replays: int, *, behind: bool = False, rerank_every: int = 1) -> int:
        """Learn at most so many of the ready examples and return how many it were. Raises FactorsDiverged.

        behind        True: the cold start is fitted more rarely
        rerank_every  the re-ranker learns from each n-th example only; all else learns from every one
        """
        if self.diverged:
            raise FactorsDiverged("a parameter that was to be published or saved is not finite")
        interval = REFIT_BEHIND_EXAMPLES if behind else REFIT_EXAMPLES
        batch = self._next_ready(min(most, interval - self.model.examples % interval))
        if not batch:
            return 0
        try:
            for example in batch:
                self._learn_example(example, replays, reranks=self.model.examples % rerank_every == 0)
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

    def _learn_example(self, example: Example, replays: int, *, reranks: bool) -> None:
        """Served first, as far as the re-ranker needs it, then learned."""
        row = self.rows[example.product_id]
        history = np.array([self.rows.get(product_id, ABSENT) for product_id in example.history], np.int32)
        weight = self._event_weights.get(example.event, 1.0)
        if example.eligible and reranks:
            listable = self.model.known.copy()
            listable[history[example.seen & (history >= 0)]] = False
            latest = history[:JUST_LOOKED_AT]
            listable[latest[latest >= 0]] = False
            if listable[row]:
                age_s = float(example.ages_s[0]) if len(history) else 0.0
                scores = self.model.scores(self.model.embed(history, example.ages_s))
                self.stage.rank_and_learn(scores, self.model.clicks, listable, history, age_s, row, weight)
        self.stage.learn(history, row, example.segment)
        weights = np.array([weight], np.float32)
        self.model.learn_many(np.array([row]), history[None], example.ages_s[None], weights, replays=replays)

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
        self.stage.grow(self.model.products)
        place_contents(self.stage, self.rows, self._vectors, sorted({*added, *vectors}))
        placed = self._newcomers.place(self.model, self.rows, sorted({*added, *vectors}))
        self.ready += self.waiting.release(added)
        self._fresh |= dict.fromkeys([*added, *placed])
        self.version += len(added) + len(placed)

    def _use_vectors(self, encoder: str | None, vectors: dict[str, Floats]) -> None:
        """What was learned of clicks stays; what was fitted on the vectors before is fitted on these."""
        self.encoder, self._vectors, self._newcomers = encoder, vectors, Newcomers(vectors)
        self.stage.forget_contents()
        place_contents(self.stage, self.rows, vectors, self.rows)
        self._newcomers.fit(self.model, self.rows)
        self._fresh |= dict.fromkeys(self._newcomers.place(self.model, self.rows, self.rows))
        self.version += 1

    def _remove(self, product_id: str) -> None:
        """It has no row, and its factors are to be withdrawn, whoever published them."""
        row = self.rows.pop(product_id, None)
        if row is not None:
            reusable = self.model.remove_product(row)
            self.stage.withdraw(np.array([row]))
            if len(reusable):
                self.stage.forget(reusable)
        self._fresh.pop(product_id, None)
        self._gone.add(product_id)
        self.version += 1

    # --- what is published ---------------------------------------------------------------------------------------

    @property
    def has_fresh(self) -> bool:
        """True if there are rows that readers should have at once."""
        return bool(self._fresh)

    def take_changes(self, most: int, most_neighbours: int = 0) -> Changes:
        """Fresh products, then at most so many of the rest, the most changed first; they count as published.

        Nothing once the model has diverged: a reader would refuse it. Raises FactorsDiverged where it shows here.
        """
        fresh = [self.rows[product_id] for product_id in list(self._fresh)[:FRESH_MAX]]
        changed = self.model.most_changed(len(self.rows)).tolist()
        rows = np.array([] if self.diverged else list(dict.fromkeys(fresh + changed[:most])), np.int32)
        beside = self.stage.most_changed(0 if self.diverged else most_neighbours)
        names = {row: product_id for product_id, row in self.rows.items()} if len(rows) or len(beside) else {}
        beside = beside[[row in names for row in beside.tolist()]] if len(beside) else beside
        is_learned = self._weights_published != self.model.examples and not self.diverged
        content_map = self.stage.content_map
        changes = Changes(
            [names[row] for row in rows.tolist()],
            *self.model.vectors(rows),
            self.model.clicks[rows].tolist(),
            *self.stage.trends(rows),
            segments=[self.stage.segments_of(row) for row in rows.tolist()],
            neighbours=[self._neighbours(names, row) for row in beside.tolist()],
            gone=sorted(self._gone),
            weights=self.model.weights() if is_learned else None,
            stage=self.stage.learned() if is_learned else None,
            content_map=content_map if content_map and content_map is not self._map_published else None,
            examples=self.model.examples,
            newest_example_at=self.newest_example_at,
            encoder=self.encoder,
        )
        if not changes.is_finite():
            self.diverged = True
            raise FactorsDiverged("a row that is to be published is not finite: restore the last checkpoint")
        self.model.mark_published(rows)
        self.stage.changed[beside] = 0.0
        for product_id in changes.product_ids:
            self._fresh.pop(product_id, None)
        if changes.weights is not None:
            self._weights_published = changes.examples
        if changes.content_map is not None:
            self._map_published = changes.content_map
        self.rows_to_publish = len(set(changed) - set(rows.tolist()))
        return changes

    def _neighbours(self, names: Mapping[int, str], row: int) -> NeighbourIds:
        """By product id; a neighbour that was deleted is left out."""

        def by_id(rows: Rows, shares: Floats) -> tuple[list[str], Floats]:
            kept = [place for place, neighbour in enumerate(rows.tolist()) if neighbour in names]
            return [names[int(rows[place])] for place in kept], shares[kept]

        after, together = self.stage.neighbours_of(row)
        return NeighbourIds(names[row], by_id(*after), by_id(*together))

    def confirm(self, changes: Changes) -> None:
        """The broker has these records."""
        if changes.gone:
            self._gone -= set(changes.gone)
            self.version += 1

    def details(self) -> dict[str, int]:
        """Facts for the status."""
        return {
            "products": len(self.rows),
            "examples": self.model.examples,
            "waiting_examples": len(self.waiting),
            "waiting_dropped": self.waiting.dropped,
            "duplicates": self.duplicates,
            "malformed": self.malformed,
            "reranked_lists": self.stage.lists,
            "rows_to_publish": self.rows_to_publish,
        }

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Copies of all that `Learning(..., checkpoint=...)` needs. Raises FactorsDiverged."""
        model = {MODEL + name: array for name, array in self.model.state().items()}
        model |= {STAGE + name: array for name, array in self.stage.state(self.model.products).items()}
        if self.diverged or not all(np.isfinite(array).all() for array in model.values()):
            self.diverged = True
            raise FactorsDiverged("a parameter is not finite: restore the last checkpoint")
        seen, seen_pages = self.seen.state()
        waiting, waiting_ids = pack_examples([*self.waiting.all(), *self.ready])
        meta = {
            "topic_ids": self.topic_ids._asdict(),
            "positions": {str(partition): offset for partition, offset in self.positions.items()},
            "products": dict(self.rows),
            "gone": sorted(self._gone),
            "examples": self.model.examples,
            "seen_pages": seen_pages,
            "waiting_ids": waiting_ids,
            "newest_example_at": self.newest_example_at,
            "encoder": self.encoder,
        }
        return model | seen | waiting, meta

    def _restore(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> set[str]:
        """The checkpoint's state; returns its products, as far as their absence now means that they were deleted."""
        self.model = NextClickModel.from_state(_named(arrays, MODEL))
        if stage := _named(arrays, STAGE):
            self.stage = SecondStage.from_state(stage)
        else:  # a checkpoint from before there was a second stage
            self.stage.grow(self.model.products)
        if (before := meta.get("encoder")) is not None and before != self.encoder:
            self.stage.forget_contents()
        self.stage.withdraw(np.flatnonzero(~self.model.known))
        self.rows = dict(meta["products"])
        self.seen = SeenPositions.from_state(arrays, meta["seen_pages"])
        self.newest_example_at = meta["newest_example_at"]
        self._gone = set(meta["gone"])
        for example in unpack_examples(arrays, meta["waiting_ids"]):
            self.waiting.add(example)
        self.ready += self.waiting.release(self.rows)
        topics = TopicIds(**meta["topic_ids"])
        if topics.training_examples == self.topic_ids.training_examples:
            self.positions = {int(partition): offset for partition, offset in meta["positions"].items()}
        else:
            self.seen.keep_only(self.topic_ids.user_clicks)
        # In an index that was made again the products come back one by one: absence says nothing yet.
        return set(self.rows) if topics.product_index == self.topic_ids.product_index else set()


def _named(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
