"""Recommenders that are simple on purpose, and small streams, for the tests of the evaluation."""

import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from encoders.next_click import Floats
from encoders.recommender import Recommender, Request
from store.history import EVENTS
from streams.evaluation.prequential import Evaluation, Standing
from streams.evaluation.schedules import Plan
from streams.evaluation.stream import Catalog, Clicks, Stream, arrange

Click = tuple[str, str, str, float]  # user, product, event, s since 1970


def stream_of(clicks: Sequence[Click], catalog: Sequence[str] = ()) -> Stream:
    """The stream of these clicks; with a catalogue, its products are known from the beginning."""
    users = list(dict.fromkeys(click[0] for click in clicks))
    products = list(dict.fromkeys(click[1] for click in clicks))
    return arrange(
        Clicks(
            users,
            products,
            [users.index(click[0]) for click in clicks],
            [products.index(click[1]) for click in clicks],
            [EVENTS.index(click[2]) for click in clicks],
            [click[3] for click in clicks],
        ),
        Catalog({product_id: {} for product_id in catalog}),
        "catalog" if catalog else "first-click",
    )


def evaluated(model: Recommender, stream: Stream, plan: Plan) -> Standing:
    """Where the model stands after the stream."""
    standing = Standing.start(model, stream)
    Evaluation(stream, plan).run(standing)
    return standing


def goes_on_alike_from_its_pickle(whole: Recommender, stream: Iterable[tuple[Request, int]], *, products: int) -> None:
    """Of a recommender that has learned nothing: a copy from its pickle, and one from that, score what it scores, and
    to score teaches nothing."""

    def scores(recommender: Recommender) -> Floats:
        out = np.full(products, np.nan, np.float32)
        recommender.score(request, out)
        return out

    whole.grow(products)
    copy, told = whole, False
    for count, (request, row) in enumerate(stream):
        if count % 40 == 20:
            copy = pickle.loads(pickle.dumps(whole if count == 20 else copy))
        expected = scores(whole)
        told |= bool(expected.any())
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(scores(whole), expected)
        if count >= 20:
            np.testing.assert_array_equal(scores(copy), expected)
            copy.learn(request, row)
        whole.learn(request, row)
    assert told


class Counting:
    """Scores a product by its clicks, and those of this user's last product's successors twice."""

    name = "counting"

    def __init__(self) -> None:
        self.products = 0
        self.learned = 0
        self.counts = np.zeros(0, np.float32)
        self.next: dict[tuple[int, int], int] = {}

    def grow(self, products: int) -> None:
        assert products > self.products
        self.counts = np.concatenate([self.counts, np.zeros(products - self.products, np.float32)])
        self.products = products

    def score(self, request: Request, out: Floats) -> None:
        assert len(out) == self.products
        out[:] = self.counts
        if len(request.history):
            for row in range(self.products):
                out[row] += 2 * self.next.get((int(request.history[0]), row), 0)

    def learn(self, request: Request, row: int, code: int = 3) -> None:
        assert row < self.products
        self.learned += 1
        self.counts[row] += 1 + code / 10
        if len(request.history):
            pair = (int(request.history[0]), row)
            self.next[pair] = self.next.get(pair, 0) + 1


class Constant(Counting):
    """Cannot tell one product from another."""

    name = "constant"

    def score(self, _: Request, out: Floats) -> None:
        out[:] = 0.5


class Fixed(Counting):
    """Scores by row, always the same."""

    name = "fixed"

    def __init__(self, scores: Sequence[float]) -> None:
        super().__init__()
        self.scores = np.array(scores, np.float32)

    def score(self, _: Request, out: Floats) -> None:
        out[:] = self.scores[: len(out)]


class Spy(Counting):
    """Keeps each request to score with the rows learned by then, and each click learned with its request."""

    name = "spy"

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Request, int, int]] = []  # request, clicks learned, products known
        self.taught: list[tuple[Request, int, int]] = []  # request, row, code

    def score(self, request: Request, out: Floats) -> None:
        self.asked.append((request, self.learned, self.products))
        super().score(request, out)

    def learn(self, request: Request, row: int, code: int = 3) -> None:
        self.taught.append((request, row, code))
        super().learn(request, row, code)


class Forgetful(Counting):
    """Leaves the last product without a score."""

    name = "forgetful"

    def score(self, _: Request, out: Floats) -> None:
        out[:-1] = 0.0


class Interrupted(Exception):
    """The model was told to break here."""


class Breaking(Counting):
    """Breaks at a click while the file named in the environment exists."""

    name = "breaking"

    def learn(self, request: Request, row: int, code: int = 3) -> None:
        told = Path(os.environ.get("BREAKING", "never"))
        if told.exists() and self.learned == int(told.read_text()):
            raise Interrupted(f"broken at click {self.learned}")
        super().learn(request, row, code)


class Dying(Counting):
    """Its process ends at the first click without a word."""

    def learn(self, *_: object) -> None:
        os._exit(9)


class Seeded(Counting):
    """Adds noise that depends on its seed."""

    name = "seeded"

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = np.random.default_rng(seed)

    def score(self, _: Request, out: Floats) -> None:
        out[:] = self.chance.random(len(out), dtype=np.float32)


class NumberedRule(NamedTuple):
    pull: float = 0.1
    steps: int = 4


NUMBERED_RULE = NumberedRule()


class Numbered(Counting):
    """Takes numbers, and more."""

    name = "numbered"

    def __init__(
        self,
        *,
        name: str = "numbered",
        whole: int = 1,
        weights: Mapping[str, float] = {"view_item": 1.0},
        rule: NumberedRule = NUMBERED_RULE,
    ) -> None:
        super().__init__()
        self.name, self.whole, self.weights, self.rule = name, whole, weights, rule
