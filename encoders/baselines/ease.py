"""EASE: which products go with which, a linear model that has a closed form, refitted now and then.

    G = X'X + pull * I    of the binary matrix X (U, P) of all clicks so far
    B_ij = -Q_ij / Q_jj   with Q = G^-1;  B_jj = 0
    score(j) = sum_{l < last} v_l * B_{h_l, j}       v_l = (l + 1) ** -fall, h_0 the newest click

A product that stands in the history twice counts at its newer place. The original has v_l = 1 and all products of the
user: fall = 0 and last = 200. On clicks in order of time the newest ones say far more.

Source: Steck, WWW 2019, eq. 8 and algorithm 1. Shapes: U users, P products.
"""

from typing import Any

import numpy as np

from encoders.baselines.evaluate_extra import module_of_extra
from encoders.baselines.fading_counts import MAX_PRODUCTS, position_weights
from encoders.baselines.interactions import Interactions, places_of_products
from encoders.next_click import Floats
from encoders.recommender import Request


def closed_form(matrix: Any, pull: float) -> Floats:
    """Return B (P, P) float32 of a scipy.sparse matrix (U, P): any number but 0 in it is a click.

    Takes about P^3 multiplications and three times the memory of B. Raises ImportError where scipy is not installed.
    """
    linalg = module_of_extra("scipy.linalg")
    clicked = matrix.copy()
    clicked.data[:] = 1.0
    gram: Floats = (clicked.T @ clicked).toarray().astype(np.float32, copy=False)
    gram[np.diag_indices_from(gram)] += np.float32(pull)
    # Symmetric, so the transpose is the same matrix, and in LAPACK's order: nothing is copied.
    factor, _ = linalg.cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
    inverse, _ = linalg.lapack.spotri(factor, lower=True, overwrite_c=True)
    lower = np.tril(inverse)
    weights: Floats = lower + np.tril(lower, -1).T
    weights /= -weights.diagonal().copy()
    np.fill_diagonal(weights, 0.0)
    return np.ascontiguousarray(weights)


class Ease:
    """Before the first refit all scores are 0, and later those of products that came after the last one."""

    name = "ease"

    def __init__(self, refit_every: int, *, pull: float = 300.0, last: int = 50, fall: float = 2.0) -> None:
        """Nothing learned yet.

        refit_every  >= 1, clicks of all users from one refit to the next
        pull         > 0, L2 pull of B toward zero
        last         >= 1, clicks of the history that a score looks at
        fall         0 to 10, exponent of the place in the history

        Raises ValueError where a bound does not hold.
        """
        if refit_every < 1:
            raise ValueError(f"a refit every {refit_every} clicks: give 1 or more")
        if not pull > 0:
            raise ValueError(f"the pull toward zero is {pull}: give more than 0, or there may be no inverse")
        self._refit_every, self._pull = refit_every, float(pull)
        self._place_weights = position_weights(last, fall)
        self._interactions = Interactions()
        self._weights: Floats = np.zeros((0, 0), np.float32)
        self._products = 0

    def grow(self, products: int) -> None:
        """Raises ValueError above 20,000 products."""
        if products > MAX_PRODUCTS:
            raise ValueError(
                f"{products:,} products: EASE inverts a matrix of all pairs, {MAX_PRODUCTS:,} at most; "
                "leave this baseline out, ALS has no such limit"
            )
        self._products = products

    def score(self, request: Request, out: Floats) -> None:
        fitted = len(self._weights)
        out[:] = 0.0
        places = places_of_products(request.history, len(self._place_weights), fitted)
        if len(places):
            np.matmul(self._place_weights[places], self._weights[request.history[places]], out=out[:fitted])

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        self._interactions.add(request.user, row)
        if len(self._interactions) % self._refit_every == 0:
            self._weights = closed_form(self._interactions.matrix(self._products), self._pull)
