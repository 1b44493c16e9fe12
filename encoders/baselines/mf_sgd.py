"""Matrix factorisation that learns each click by stochastic gradient descent, the moment it comes.

    r(u, j) = p_u . q_j
    p_u += rate * ((1 - r(u, j)) * q_j - pull * p_u)
    q_j += rate * ((1 - r(u, j)) * p_u - pull * q_j)     r as before both, p_u as just moved; `steps` times

Negatives, before that: the products whose last click is the longest ago are taken for disliked; p_u, and no q, moves
toward r = 0 for `negatives` of them, and each of these goes to the end of the queue.

Listed by r: the paper lists by |1 - r|, which did worse. With so many negatives and steps p_u follows the last clicks.
Without negatives all p_u end beside each other, and lists are of little use.

Sources: Vinagre, Jorge, Gama, UMAP 2014, algorithm 2 (ISGD); Vinagre, Jorge, Gama, SAC 2015 (negatives by recency).
Shapes: U users, P products, F factors.
"""

import math

import numpy as np

from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, longer
from encoders.next_click_step import Number, Random, draw_normal
from encoders.next_click_training import FactorsDiverged
from encoders.recommender import Request

_ENDS = 0  # of the queue, a ring: row j stands at place j + 1, and place 0 between the newest and the oldest


@compiled
def _take_out(following: Rows, previous: Rows, place: int) -> None:
    following[previous[place]] = following[place]
    previous[following[place]] = previous[place]


@compiled
def _put_last(following: Rows, previous: Rows, place: int) -> None:
    newest = previous[_ENDS]
    following[newest], previous[place] = place, newest
    following[place], previous[_ENDS] = _ENDS, place


@compiled
def _move_user(p: Floats, q: Floats, wanted: Number, rate: Number, pull: Number) -> Number:
    """One step of p (F,) toward p . q = wanted; return the error before it."""
    error = wanted
    for f in range(len(p)):
        error -= p[f] * q[f]
    for f in range(len(p)):
        p[f] += rate * (error * q[f] - pull * p[f])
    return error


@compiled
def learn_click(
    p: Floats,
    q: Floats,
    following: Rows,
    previous: Rows,
    row: int,
    negatives: int,
    steps: int,
    rate: float,
    pull: float,
) -> float:
    """The user with factors p (F,) has clicked a row of q (P, F); following and previous (P + 1,) are the queue.

    Returns r of the two afterwards.
    """
    one, zero, pace, weight = np.float32(1.0), np.float32(0.0), np.float32(rate), np.float32(pull)
    place = row + 1
    if previous[place] != ABSENT:
        _take_out(following, previous, place)
    for _ in range(negatives):
        oldest = following[_ENDS]
        if oldest == _ENDS:
            break
        _move_user(p, q[oldest - 1], zero, pace, weight)
        _take_out(following, previous, oldest)
        _put_last(following, previous, oldest)
    for _ in range(steps):
        error = _move_user(p, q[row], one, pace, weight)
        for f in range(len(p)):
            q[row, f] += pace * (error * p[f] - weight * q[row, f])
    _put_last(following, previous, place)
    r = zero
    for f in range(len(p)):
        r += p[f] * q[row, f]
    return float(r)


class IncrementalFactorization:
    """ISGD with negatives by recency. All scores of a user without a click are 0."""

    name = "mf-sgd"

    def __init__(
        self,
        *,
        factors: int = 128,
        learning_rate: float = 0.2,
        pull: float = 0.1,
        negatives: int = 30,
        steps: int = 5,
        deviation: float = 0.1,
        seed: int = 0,
    ) -> None:
        """Nothing learned yet.

        factors        >= 1, F
        learning_rate  > 0
        pull           >= 0, L2 pull toward zero of a step
        negatives      >= 0, products at each click that are taken for disliked
        steps          >= 1, at each click
        deviation      > 0, of the normal numbers that factors start from

        Raises ValueError where a bound does not hold.
        """
        if factors < 1:
            raise ValueError(f"{factors} factors: give 1 or more")
        if not (learning_rate > 0 and pull >= 0):
            raise ValueError(f"the learning rate is {learning_rate}, the pull {pull}: give more than 0, and 0 or more")
        if negatives < 0 or steps < 1:
            raise ValueError(f"{negatives} negatives and {steps} steps at each click: give 0 or more, and 1 or more")
        if not deviation > 0:
            raise ValueError(f"factors start with a deviation of {deviation}: give more than 0")
        self._rate, self._pull, self._negatives, self._steps = learning_rate, pull, negatives, steps
        self._deviation = deviation
        self._random: Random = np.array([seed], np.int64).view(np.uint64)
        self._users: Floats = np.zeros((0, factors), np.float32)  # (>= U, F)
        self._has_clicked: Mask = np.zeros(0, np.bool_)
        self._items: Floats = np.zeros((0, factors), np.float32)  # (>= P, F)
        self._following: Rows = np.zeros(1, np.int32)  # (>= P + 1,)
        self._previous: Rows = np.zeros(1, np.int32)
        self._products = 0

    def grow(self, products: int) -> None:
        if products > len(self._items):
            capacity = max(1024, 2 * products)
            known = len(self._previous)
            self._items = longer(self._items, capacity)
            self._following, self._previous = (
                longer(self._following, capacity + 1),
                longer(self._previous, capacity + 1),
            )
            self._previous[known:] = ABSENT  # in no queue before the first click
        for row in range(self._products, products):
            draw_normal(self._random, self._items[row], self._deviation)
        self._products = products

    def score(self, request: Request, out: Floats) -> None:
        if request.user < len(self._users) and self._has_clicked[request.user]:
            np.matmul(self._items[: self._products], self._users[request.user], out=out)
        else:
            out[:] = 0.0

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        """Raises FactorsDiverged if a factor is not finite any more."""
        user = request.user
        if user >= len(self._users):
            capacity = max(1024, 2 * user)
            self._users, self._has_clicked = longer(self._users, capacity), longer(self._has_clicked, capacity)
        if not self._has_clicked[user]:
            self._has_clicked[user] = True
            draw_normal(self._random, self._users[user], self._deviation)
        r = learn_click(
            self._users[user],
            self._items,
            self._following,
            self._previous,
            row,
            self._negatives,
            self._steps,
            self._rate,
            self._pull,
        )
        if not math.isfinite(r):
            raise FactorsDiverged(
                f"factors are not finite any more: lower learning_rate={self._rate}, or raise pull={self._pull}"
            )
