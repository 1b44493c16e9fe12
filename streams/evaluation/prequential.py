"""Predict, judge, then learn: one model over one stream, in steps that a checkpoint may come between."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from encoders.next_click import Floats, Mask, Rows
from encoders.recommender import Recommender, Request
from streams.evaluation.measures import LISTED, PUBLISHED, centred, judge, likeness_of
from streams.evaluation.moments import Ints, Moments
from streams.evaluation.schedules import Plan, judged, schedule
from streams.evaluation.stream import Stream

UNTIMED = 10  # first calls of each kind, in which functions may be compiled
TELL_EVERY_S = 0.25


class ScoresBroken(Exception):
    """A model gave no number as the score of a product; str() names the model and the click."""


@dataclass
class Cost:
    """Time that calls of one kind took, the first few apart."""

    calls: int = 0
    spent_s: float = 0.0

    def add(self, spent_s: float) -> None:
        self.calls += 1
        if self.calls > UNTIMED:
            self.spent_s += spent_s

    @property
    def mean_us(self) -> float | None:
        """Of one call; None where there were too few."""
        return self.spent_s / (self.calls - UNTIMED) * 1e6 if self.calls > UNTIMED else None


@dataclass
class Standing:
    """How far an evaluation has come, with all that it goes on from. N clicks, P products at the stream's end.

    ranks            (N,) float32, in the list made at the request; NaN where it was not judged
    shelf_ranks      (N,) float32, among the products with few clicks; NaN if the clicked one has more
    published_ranks  (N,) float32, in the list made after the click before; infinite where it was not in the list
    clicks           (P,) int32, of each product so far
    shown            (P,) bool, was in one of the first ten
    popularity       sum over the lists of what their first ten had, as shares of a known product's mean clicks
    likeness         sum over the lists of how alike their first ten are; compared: lists with two vectors or more
    """

    model: Recommender
    ranks: Floats
    shelf_ranks: Floats
    published_ranks: Floats
    clicks: Rows
    shown: Mask
    position: int = 0
    learned: int = 0
    products: int = 0
    lists: int = 0
    popularity: float = 0.0
    likeness: float = 0.0
    compared: int = 0
    updating: Cost = field(default_factory=Cost)
    listing: Cost = field(default_factory=Cost)

    @classmethod
    def start(cls, model: Recommender, stream: Stream) -> "Standing":
        """Before the first click."""
        ranks, shelf_ranks, published_ranks = np.full((3, len(stream)), np.nan, np.float32)
        products = int(stream.known[-1])
        return cls(
            model,
            ranks,
            shelf_ranks,
            published_ranks,
            clicks=np.zeros(products, np.int32),
            shown=np.zeros(products, np.bool_),
        )


class Evaluation:
    """Takes a model through the stream. Nothing of it goes into a checkpoint: all follows from stream and plan."""

    def __init__(self, stream: Stream, plan: Plan) -> None:
        self.moments = Moments(stream, plan.seen_events)
        self.judged = judged(stream, self.moments, plan)
        self._stream = stream
        self._schedule = schedule(stream.times, plan)
        self._told_before = self.moments.counted(self._schedule.told_before)
        self._told_after = self.moments.counted(self._schedule.told_after)
        self._fresh = not plan.delay_history
        self._at_request = plan.judged_list != "published"
        self._published = plan.judged_list != "request"
        following = self.moments.next_of_user()
        self._awaited = np.where(self._published & (following >= 0) & self.judged.mask[following], following, -1)
        self._asked: tuple[int, Request | None] = -1, None
        products = int(stream.known[-1])
        self._scores = np.empty(products, np.float32)
        self._marks = np.full(products, -1, np.int64)
        self._top = np.empty(LISTED, np.int32)
        self._mark = 0
        self._content = None if stream.facts.fused is None else centred(stream.facts.fused)

    def run(
        self,
        standing: Standing,
        *,
        told: Callable[[Standing], None] = lambda _: None,
        save: Callable[[Standing], None] = lambda _: None,
        save_every_s: float = np.inf,
    ) -> None:
        """Go on from the standing to the end of the stream.

        told  called every TELL_EVERY_S      save  called every save_every_s, between two clicks

        Raises ScoresBroken, and what the model raises.
        """
        tell_at, save_at = perf_counter() + TELL_EVERY_S, perf_counter() + save_every_s
        for click in range(standing.position, len(self._stream)):
            self._step(standing, click)
            standing.position = click + 1
            now = perf_counter()
            if now >= tell_at:
                told(standing)
                tell_at = now + TELL_EVERY_S
            if now >= save_at:
                save(standing)
                save_at = perf_counter() + save_every_s
        told(standing)

    def _step(self, standing: Standing, click: int) -> None:
        row, at = int(self._stream.rows[click]), float(self._stream.times[click])
        self._grow(standing, int(self._stream.known[click]))
        self._learn(standing, int(self._schedule.learned_before[click]))
        if self.judged.mask[click]:
            if self._at_request:
                request = self._request(click, at, self._told_before)
                standing.ranks[click], standing.shelf_ranks[click], _ = self._judge(standing, request, row)
                if self._fresh:
                    self._asked = click, request
            if self._published and np.isnan(standing.published_ranks[click]):
                standing.published_ranks[click] = np.inf  # her first click: no list was on the topic
        standing.clicks[row] += 1
        self._grow(standing, int(self._stream.known[click + 1]))
        self._learn(standing, int(self._schedule.learned_after[click]))
        following = int(self._awaited[click])
        if following >= 0:
            wanted = int(self._stream.rows[following])
            target = wanted if wanted < standing.products else -1  # -1: not known yet when the list is made
            _, _, place = self._judge(standing, self._request(click, at, self._told_after), target, published=True)
            standing.published_ranks[following] = place if 0 < place <= PUBLISHED else np.inf

    def _request(self, click: int, at: float, told: tuple[Ints, Ints]) -> Request:
        user, segment = int(self._stream.users[click]), int(self._stream.segments[click])
        return self.moments.request(user, at, int(told[0][click]), int(told[1][click]), segment)

    def _grow(self, standing: Standing, products: int) -> None:
        """That many products are known."""
        if products > standing.products:
            began = perf_counter()
            standing.model.grow(products)
            standing.updating.spent_s += perf_counter() - began if standing.updating.calls > UNTIMED else 0.0
            standing.products = products

    def _learn(self, standing: Standing, through: int) -> None:
        """The model has learned the first `through` clicks, each with what was known of its user before it."""
        for click in range(standing.learned, through):
            asked, request = self._asked
            if request is None or asked != click:
                request = self.moments.at(click, float(self._stream.times[click]))
            row, code = int(self._stream.rows[click]), int(self._stream.codes[click])
            began = perf_counter()
            standing.model.learn(request, row, code)
            standing.updating.add(perf_counter() - began)
            standing.learned = click + 1

    def _judge(
        self, standing: Standing, request: Request, target: int, *, published: bool = False
    ) -> tuple[float, float, int]:
        """Rank, rank on the new shelf, and place of the target in the list that the model makes now."""
        products = standing.products
        scores = self._scores[:products]
        scores.fill(np.nan)  # a place that the model forgets is found
        began = perf_counter()
        standing.model.score(request, scores)
        standing.listing.add(perf_counter() - began)
        self._mark += 1
        clicks = standing.clicks[:products]
        rank, shelf_rank, place, listed = judge(
            scores, request.excluded, target, clicks, self._marks[:products], self._mark, self._top
        )
        if np.isnan(rank):
            wrong = int(np.flatnonzero(np.isnan(scores))[0])
            raise ScoresBroken(
                f"{standing.model.name} gave no number as the score of row {wrong}, at click {standing.position} "
                f"with {products} known products"
            )
        if published is not self._at_request and listed:
            top = self._top[:listed]
            standing.shown[top] = True
            standing.lists += 1
            total = standing.position + published  # clicks so far: the one in hand has come when its list is made
            standing.popularity += float(clicks[top].mean()) * products / total if total else 0.0
            likeness = np.nan if self._content is None else likeness_of(self._content[top])
            if not np.isnan(likeness):
                standing.likeness += likeness
                standing.compared += 1
        return rank, shelf_rank, place
