"""Directed transitions: what was clicked after the last clicks, learned with each click.

    score(j)  = sum_{l < last} v_l * n_ij / (n_i + smoothing)                     i = h_l, h_0 the newest click
    n_ij     += w_l for the new click j after the click i = h_l, l < reach;       n_i += w_l with it
    v_l, w_l  = (l + 1) ** -fall, with a fall each

With reach = 1 a Markov chain of the first order, with more the sequential rules of Ludewig, Jannach, UMUAI 2018.
"""

import numpy as np

from encoders.baselines.fading_counts import Doubles, FadingCounts, position_weights
from encoders.next_click import Floats, Rows, compiled
from encoders.recommender import Request


@compiled
def _learn(pairs: Floats, singles: Doubles, weight: float, weights: Floats, history: Rows, row: int) -> None:
    for place in range(min(len(weights), len(history))):
        before = history[place]
        step = weight * weights[place]
        pairs[before, row] += np.float32(step)
        singles[before] += step


@compiled
def _score(pairs: Floats, singles: Doubles, weights: Floats, smoothing: float, history: Rows, out: Floats) -> None:
    out[:] = 0.0
    for place in range(min(len(weights), len(history))):
        before = history[place]
        if singles[before] > 0.0:
            share = np.float32(weights[place] / (singles[before] + smoothing))
            after = pairs[before]
            for row in range(len(out)):
                out[row] += share * after[row]


class Transitions:
    """Keeps a dense matrix of all pairs: up to 20,000 products."""

    name = "transitions"

    def __init__(
        self,
        *,
        last: int = 10,
        score_fall: float = 1.5,
        reach: int = 10,
        learn_fall: float = 1.0,
        smoothing: float = 3.0,
        half_life_clicks: float = 200_000.0,
    ) -> None:
        """Nothing learned yet.

        last              >= 1, clicks of the history that a score looks at
        reach             >= 1, clicks of the history after which a new click counts
        score_fall        0 to 10, exponent of the place in the history, of score; learn_fall of learn
        smoothing         >= 0, clicks: how many transitions a product needs for a full say
        half_life_clicks  >= 1, clicks of the whole stream, may be infinite

        Raises ValueError where a bound does not hold.
        """
        if not smoothing >= 0:
            raise ValueError(f"the smoothing is {smoothing} clicks: give 0 or more")
        self._score_weights = position_weights(last, score_fall)
        self._learn_weights = position_weights(reach, learn_fall)
        self._smoothing = float(smoothing)
        self._counts = FadingCounts(half_life_clicks, pairs=True)

    def grow(self, products: int) -> None:
        self._counts.grow(products)

    def score(self, request: Request, out: Floats) -> None:
        counts = self._counts
        smoothing = self._smoothing * counts.weight
        _score(counts.pairs, counts.singles, self._score_weights, smoothing, request.history, out)

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        self._counts.advance()
        counts = self._counts
        _learn(counts.pairs, counts.singles, counts.weight, self._learn_weights, request.history, row)
