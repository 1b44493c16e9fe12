"""Item-based collaborative filtering: what goes with the last clicks, learned with each click.

    score(j)      = sum_{l < last} v_l * similarity(h_l, j)                       h_0 the newest click
    similarity    = n_ij / (n_i ** (1 - a) * n_j ** a)                            a = 1/2 is the cosine
    n_ij         += w_l for the new click j and the click i = h_l before it, l < reach, in both directions
    n_j          += 1 for the new click j
    v_l, w_l      = (l + 1) ** -fall, with a fall each

A product that stands in the history twice counts at its newer place; a pair of a product with itself does not count.

Sources: Sarwar, Karypis, Konstan, Riedl, WWW 2001 (item-based, cosine); Aiolli, RecSys 2013 (the asymmetric cosine);
Ludewig, Jannach, UMUAI 2018 (weights by the distance of two clicks, there in sequential rules).
"""

import numpy as np

from encoders.baselines.fading_counts import Doubles, FadingCounts, position_weights
from encoders.next_click import Floats, Rows, compiled, longer
from encoders.recommender import Request


@compiled
def _learn(
    pairs: Floats,
    singles: Doubles,
    discounts: Floats,
    weight: float,
    weights: Floats,
    exponent: float,
    history: Rows,
    row: int,
) -> None:
    singles[row] += weight
    discounts[row] = np.float32(singles[row] ** -exponent)
    for place in range(min(len(weights), len(history))):
        other = history[place]
        if other != row and other not in history[:place]:
            step = np.float32(weight) * weights[place]
            pairs[row, other] += step
            pairs[other, row] += step


@compiled
def _score(
    pairs: Floats, singles: Doubles, discounts: Floats, weights: Floats, exponent: float, history: Rows, out: Floats
) -> None:
    out[:] = 0.0
    for place in range(min(len(weights), len(history))):
        clicked = history[place]
        if singles[clicked] > 0.0 and clicked not in history[:place]:
            share = weights[place] * np.float32(singles[clicked] ** (exponent - 1.0))
            beside = pairs[clicked]
            for row in range(len(out)):
                out[row] += share * beside[row]
    for row in range(len(out)):
        out[row] *= discounts[row]


class ItemKnn:
    """Neighbours are all products that were ever clicked near one of the last clicks; nothing is cut to the k best.

    Keeps a dense matrix of all pairs: up to 20,000 products.
    """

    name = "item-knn"

    def __init__(
        self,
        *,
        last: int = 10,
        score_fall: float = 1.5,
        reach: int = 30,
        learn_fall: float = 0.7,
        exponent: float = 0.3,
        half_life_clicks: float = 100_000.0,
    ) -> None:
        """Nothing learned yet.

        last              >= 1, clicks of the history that a score looks at
        reach             >= 1, clicks of the history that a new click goes with
        score_fall        0 to 10, exponent of the place in the history, of score; learn_fall of learn
        exponent          0 to 1: a above; the higher, the less popular are the products listed
        half_life_clicks  >= 1, clicks of the whole stream, may be infinite

        Raises ValueError where a bound does not hold.
        """
        if not 0 <= exponent <= 1:
            raise ValueError(f"the exponent of the product's own clicks is {exponent}: give 0 to 1, 0.5 for the cosine")
        self._score_weights = position_weights(last, score_fall)
        self._learn_weights = position_weights(reach, learn_fall)
        self._exponent = float(exponent)
        self._counts = FadingCounts(half_life_clicks, pairs=True)
        self._discounts: Floats = np.zeros(0, np.float32)  # n_j ** -a, 0 without clicks

    def grow(self, products: int) -> None:
        self._counts.grow(products)
        if len(self._discounts) < len(self._counts.singles):
            self._discounts = longer(self._discounts, len(self._counts.singles))

    def score(self, request: Request, out: Floats) -> None:
        counts = self._counts
        _score(counts.pairs, counts.singles, self._discounts, self._score_weights, self._exponent, request.history, out)

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        counts = self._counts
        if counts.advance():
            self._discount_all()
        _learn(
            counts.pairs,
            counts.singles,
            self._discounts,
            counts.weight,
            self._learn_weights,
            self._exponent,
            request.history,
            row,
        )

    def _discount_all(self) -> None:
        clicked = self._counts.singles > 0
        self._discounts[clicked] = self._counts.singles[clicked] ** -self._exponent
