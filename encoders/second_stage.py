"""The second stage as it learns: neighbours, trends, content lift and the re-ranker, one click after the other.

It stands beside a NextClickModel and shares its row numbers. Each click is first ranked as it would have been served,
and the re-ranker learns from where it stood; then the rest learns it. So what the re-ranker sees of the others is what
they knew before the click.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.content_lift import ContentMap, Lift, carried_over, fit_map, learn_lift, new_lift
from encoders.neighbours import Neighbours, drop_neighbours, learn_neighbours
from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, gap_bucket, longer
from encoders.next_click_step import Random, draw_below
from encoders.next_click_training import FactorsDiverged
from encoders.ranking_features import (
    CANDIDATES_MAX,
    FEATURES,
    HISTORY,
    Knowledge,
    Scratch,
    fill_features,
    find_candidates,
    gather_shares,
    new_scratch,
    no_knowledge,
    room_for,
)
from encoders.reranker import Moments, Reranker, bucket_of, learn_list, new_reranker
from encoders.segments import column_for, count_in_segment, packed, room_for_columns, unpacked
from encoders.trends import Trends, count_click

RECENT_CLICKS = 20_000  # negatives of the lift are drawn from these
NEGATIVES = 5
ROUNDING = 1e-5  # of a content


class LearnedStage(NamedTuple):
    """Copies of what all products share, as it is published and served."""

    lift: Lift
    reranker: Reranker


class SecondStage:
    """The learner's second stage. One thread at a time; learning leaves the GIL to the others."""

    def __init__(self, *, seed: int = 0) -> None:
        """Nothing is known, and the re-ranker's score is the readable blend of clicks and content."""
        self.content_map: ContentMap | None = None
        self.segments: dict[str, int] = {}  # columns of Knowledge.segments
        self.changed = np.zeros(0, np.float32)  # (P,) by how much a row of neighbours has changed since published
        self._k = no_knowledge()
        self._reranker, self._moments = new_reranker(seed)
        self._random = np.array([seed], np.int64).view(np.uint64)
        self._recent = np.full(RECENT_CLICKS, ABSENT, np.int32)
        self._scratch = new_scratch(0)

    @property
    def now(self) -> int:
        """Learned clicks."""
        return self._k.now

    @property
    def lists(self) -> int:
        """Lists that the re-ranker has learned from."""
        return int(self._moments.steps[0])

    def knowledge(self, clicks: NDArray[np.int64]) -> Knowledge:
        """Views of all that a ranking reads, with the learned clicks (P,) of each product."""
        return self._k._replace(clicks=clicks)

    def learned(self) -> LearnedStage:
        """A copy of what all products share."""
        lift = Lift(*(array.copy() for array in self._k.lift))
        return LearnedStage(lift, Reranker(*(array.copy() for array in self._reranker)))

    def serving(self) -> LearnedStage:
        """The same as views: they change as it learns."""
        return LearnedStage(self._k.lift, self._reranker)

    # --- products ------------------------------------------------------------------------------------------------

    def grow(self, capacity: int) -> None:
        """Rows up to capacity - 1 may come."""
        if capacity <= len(self.changed):
            return
        k, room = self._k, max(capacity, 2 * len(self.changed), 1024)
        self._k = room_for(k, room)
        self.changed = longer(self.changed, room)
        self._scratch = new_scratch(room)

    def place(self, rows: Rows, fused: Floats) -> None:
        """These rows (n,) have fused vectors (n, W). Before the first `fit` there are no contents.

        A row that is where it belongs stays, bit by bit: how a matrix product is rounded depends on n.
        """
        if self.content_map is not None:
            contents = self.content_map.apply(fused)
            moved = np.abs(contents - self._k.content[rows]).max(axis=1, initial=0.0) > ROUNDING
            self._k.content[rows[moved]] = contents[moved]

    def take_content(self, rows: Rows) -> None:
        """These rows (n,) have no fused vectors."""
        self._k.content[rows] = 0.0

    def fit(self, rows: Rows, fused: Floats) -> None:
        """Map contents anew from all fused vectors that there are (n, W), n >= 1; what the lift knows is kept."""
        before, self.content_map = self.content_map, fit_map(fused)
        if before is not None and len(before.mean) == fused.shape[1]:
            self._k = self._k._replace(lift=carried_over(self._k.lift, before, self.content_map))
        elif before is not None:
            self._k = self._k._replace(lift=new_lift())
        self._k.content[:] = 0.0
        self.place(rows, fused)

    def forget_contents(self) -> None:
        """Vectors of other encoders are to come: of them neither the map tells anything, nor what the lift learned."""
        self.content_map = None
        self._k.content[:] = 0.0
        self._k = self._k._replace(lift=new_lift())

    def trends(self, rows: Rows) -> tuple[Floats, NDArray[np.int64]]:
        """Copies of the faded counts (n, half-lives) of these rows, and of when they were counted (n,)."""
        return self._k.trends.counts[rows], self._k.trends.counted_at[rows]

    def segments_of(self, row: int) -> dict[str, float]:
        """The row's faded clicks by segment, "" for those of all users, as they were counted with its trends."""
        names = ["", *self.segments]
        return {names[column]: float(self._k.segments[row, column]) for column in np.flatnonzero(self._k.segments[row])}

    def neighbours_of(self, row: int) -> tuple[tuple[Rows, Floats], tuple[Rows, Floats]]:
        """Copies of the row's neighbours (n,) and their shares (n,): those after it, those together with it."""
        after, together = self._k.after, self._k.together
        return _kept(after, row), _kept(together, row)

    def most_changed(self, limit: int) -> Rows:
        """At most `limit` rows whose neighbours differ from what was published, the most changed first."""
        changed = np.flatnonzero(self.changed > 0)
        return changed[np.argsort(-self.changed[changed], kind="stable")][:limit].astype(np.int32)

    def withdraw(self, rows: NDArray[np.integer[Any]]) -> None:
        """Of these rows nothing is to publish: they are no products any more."""
        self.changed[rows] = 0.0

    def forget(self, rows: Rows) -> None:
        """Nothing of these rows is left, in their own neighbours or in others'; the rows may be given away."""
        gone = np.zeros(len(self.changed), np.bool_)
        gone[rows] = True
        for table in (self._k.after, self._k.together):
            drop_neighbours(table, gone)
        self._k.content[rows] = 0.0
        self._k.trends.counts[rows] = 0.0
        self._k.segments[rows] = 0.0
        self.changed[rows] = 0.0
        self._recent[(self._recent >= 0) & gone[self._recent]] = ABSENT

    # --- learning ------------------------------------------------------------------------------------------------

    def rank_and_learn(
        self, scores: Floats, clicks: NDArray[np.int64], listable: Mask, history: Rows, age_s: float, row: int,
        weight: float,
    ) -> bool:  # fmt: skip
        """The re-ranker learns from where the clicked product stood; False if it was no candidate.

        scores    (P,) next-click scores before the click is learned; clicks (P,) as learned before
        listable  (P,) what this user might have got: the clicked product is among it
        history   (H,) int32, newest first, -1 unknown; age_s of the newest click, 0 without any

        Raises FactorsDiverged if a parameter is not finite any more.
        """
        found = _rank_and_learn(
            self.knowledge(clicks), self._reranker, self._moments, scores, listable, history[:HISTORY], age_s, row,
            weight, self._scratch,
        )  # fmt: skip
        if np.isnan(found):
            raise FactorsDiverged(f"the re-ranker is not finite after {self.lists} lists: restore the last checkpoint")
        return bool(found >= 0)

    def learn(self, history: Rows, row: int, segment: str | None = None) -> None:
        """Neighbours, trends and lift learn the click (row) after its history (H,), and that it was in this segment."""
        column, k = column_for(self.segments, segment), self._k
        if self.segments:
            k = k._replace(segments=room_for_columns(k.segments, self.segments))
            count_in_segment(k.segments, k.trends.counted_at, row, column, k.now + 1)
        _learn(
            k.after,
            k.together,
            k.trends,
            k.lift,
            k.content,
            self.changed,
            self._recent,
            self._random,
            history[:HISTORY],
            row,
            k.now,
        )
        self._k = k._replace(now=k.now + 1)

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def state(self, products: int) -> dict[str, NDArray[Any]]:
        """Copies of all that a checkpoint must hold, of the first `products` rows."""
        state = {name: array[:products].copy() for name, array in self._of_products().items()}
        state |= {name: array.copy() for name, array in self._shared().items()}
        state["now"] = np.array([self._k.now])
        if self.segments:
            state["segments"] = self._k.segments[:products].copy()
            state["segment_names"] = packed(self.segments)
        if self.content_map is not None:
            state["map_mean"], state["map_axes"] = self.content_map.mean, self.content_map.axes
            state["map_products"] = np.array([self.content_map.products])
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Self:
        """As it was; every row of neighbours counts as not yet published."""
        stage = cls()
        products = len(state["content"])
        stage.grow(products)
        for name, array in stage._of_products().items():
            array[:products] = state[name]
        for name, array in stage._shared().items():
            array[...] = state[name]
        stage._k = stage._k._replace(now=int(state["now"][0]))
        if "segments" in state:
            stage.segments = unpacked(state["segment_names"])
            stage._k = stage._k._replace(segments=longer(state["segments"], len(stage.changed)))
        if "map_mean" in state:
            stage.content_map = ContentMap(state["map_mean"], state["map_axes"], int(state["map_products"][0]))
        stage.changed[:products] = np.where(stage._k.together.evidence[:products] > 0, np.inf, 0.0)
        return stage

    def _of_products(self) -> dict[str, NDArray[Any]]:
        k = self._k
        tables: dict[str, NDArray[Any]] = {
            "content": k.content,
            "counts": k.trends.counts,
            "counted_at": k.trends.counted_at,
        }
        for name, table in (("after", k.after), ("together", k.together)):
            tables |= {f"{name}_{part}": array for part, array in table._asdict().items()}
        return tables

    def _shared(self) -> dict[str, NDArray[Any]]:
        shared: dict[str, NDArray[Any]] = {"random": self._random, "recent": self._recent}
        shared |= {f"lift_{name}": array for name, array in self._k.lift._asdict().items()}
        shared |= {f"reranker_{name}": array for name, array in self._reranker._asdict().items()}
        return shared | {f"moments_{name}": array for name, array in self._moments._asdict().items()}


def _kept(table: Neighbours, row: int) -> tuple[Rows, Floats]:
    known = int((table.ids[row] != ABSENT).sum())
    return table.ids[row, :known].copy(), table.shares[row, :known].copy()


@compiled
def _rank_and_learn(
    k: Knowledge, r: Reranker, m: Moments, scores: Floats, listable: Mask, history: Rows, age_s: float, row: int,
    weight: float, s: Scratch,
) -> float:  # fmt: skip
    candidates = np.empty(CANDIDATES_MAX, np.int32)
    count = find_candidates(k, scores, listable, history, s, candidates)
    clicked = -1
    for at in range(count):
        if candidates[at] == row:
            clicked = at
    if clicked < 0:
        return -1.0
    rows = candidates[:count]
    after, together = gather_shares(k.after, history, rows, s.place), gather_shares(k.together, history, rows, s.place)
    features = np.empty((count, len(FEATURES)), np.float32)
    fill_features(k, scores[rows], history, rows, after, together, features)
    known = 0
    for click in history:
        known += click >= 0
    return learn_list(r, m, features, clicked, bucket_of(known), gap_bucket(age_s), weight)


@compiled
def _learn(
    after: Neighbours, together: Neighbours, trends: Trends, lift: Lift, content: Floats, changed: Floats, recent: Rows,
    random: Random, history: Rows, row: int, now: int,
) -> None:  # fmt: skip
    negatives = np.empty(NEGATIVES, np.int32)
    drawn, window = 0, min(now, len(recent))
    for _ in range(NEGATIVES if window else 0):
        negative = recent[draw_below(random, window)]
        if negative >= 0:
            negatives[drawn] = negative
            drawn += 1
    learn_lift(lift, content, history, row, negatives[:drawn])
    learn_neighbours(after, together, changed, row, history)
    count_click(trends, row, now + 1)
    recent[now % len(recent)] = row
