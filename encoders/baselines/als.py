"""Matrix factorisation of all clicks so far by alternating least squares, refitted now and then.

    sum_uj c_uj (p_uj - x_u . y_j)^2 + pull * (sum_u |x_u|^2 + sum_j |y_j|^2)
    p_uj = 1 where user u has clicked product j, else 0
    c_uj = 1 + alpha * log(1 + clicks)      the confidence: 1 where there is no click

Between refits the products' factors y stay, and a user's follow from her history at the moment of the score, in which
c_uj = 1 + alpha * v_l for h_l = j, v_l = (l + 1) ** -fall: on clicks in order of time the newest say far more. A
product that stands there twice counts at its newer place.

Sources: Hu, Koren, Volinsky, ICDM 2008, eqs. 3-6; solved by the package implicit with conjugate gradients (Takacs,
Pilaszy, Tikk, RecSys 2011). Shapes: U users, P products, F factors, C products of a history.
"""

import numpy as np

from encoders.baselines.evaluate_extra import module_of_extra
from encoders.baselines.fading_counts import position_weights
from encoders.baselines.interactions import Interactions, places_of_products
from encoders.next_click import Floats
from encoders.recommender import Request

FIRST_ITERATIONS, ITERATIONS = 15, 5  # a later refit starts from the last factors


def fold_in(items: Floats, confidences: Floats, gram: Floats, *, pull: float) -> Floats:
    """Return the user's factors (F,) float32 that best explain the products of her history.

    items        (C, F) float32, their factors
    confidences  (C,) float32 >= 1, c_uj
    gram         (F, F) float32, sum over all products of y y'
    pull         > 0, L2 pull toward zero

    Source: Hu, Koren, Volinsky, ICDM 2008, eq. 4.
    """
    normal = gram + (items.T * (confidences - np.float32(1.0))) @ items
    normal[np.diag_indices_from(normal)] += np.float32(pull)
    factors: Floats = np.linalg.solve(normal, confidences @ items)
    return factors


class AlternatingLeastSquares:
    """Before the first refit all scores are 0, and later those of products that came after the last one."""

    name = "als"

    def __init__(
        self,
        refit_every: int,
        *,
        factors: int = 128,
        alpha: float = 100.0,
        pull: float = 100.0,
        last: int = 20,
        fall: float = 2.5,
        seed: int = 0,
    ) -> None:
        """Nothing learned yet.

        refit_every  >= 1, clicks of all users from one refit to the next
        factors      >= 1, F
        alpha        > 0, how much more a click counts than that there is none
        pull         > 0, L2 pull toward zero: too much of it, and all factors end there
        last         >= 1, clicks of the history that a score looks at
        fall         0 to 10, exponent of the place in the history

        Raises ValueError where a bound does not hold.
        """
        if refit_every < 1:
            raise ValueError(f"a refit every {refit_every} clicks: give 1 or more")
        if factors < 1:
            raise ValueError(f"{factors} factors: give 1 or more")
        if not (alpha > 0 and pull > 0):
            raise ValueError(f"alpha is {alpha} and the pull toward zero {pull}: give more than 0 for both")
        self._refit_every, self._alpha, self._pull = refit_every, np.float32(alpha), float(pull)
        self._confidences = np.float32(1.0) + self._alpha * position_weights(last, fall)
        self._random = np.random.default_rng(seed)
        self._interactions = Interactions()
        self._items: Floats = np.zeros((0, factors), np.float32)
        self._gram: Floats = np.zeros((factors, factors), np.float32)
        self._products = 0

    def grow(self, products: int) -> None:
        self._products = products

    def score(self, request: Request, out: Floats) -> None:
        fitted = len(self._items)
        out[:] = 0.0
        places = places_of_products(request.history, len(self._confidences), fitted)
        if len(places):
            clicked = self._items[request.history[places]]
            user = fold_in(clicked, self._confidences[places], self._gram, pull=self._pull)
            np.matmul(self._items, user, out=out[:fitted])

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        """Raises ImportError where implicit is not installed."""
        self._interactions.add(request.user, row)
        if len(self._interactions) % self._refit_every == 0:
            self._refit()

    def _refit(self) -> None:
        fitted, factors = self._items.shape
        confidences = self._interactions.matrix(self._products)
        confidences.data = np.float32(1.0) + self._alpha * np.log1p(confidences.data)
        solver = module_of_extra("implicit.cpu.als")
        # implicit warns of a BLAS with threads of its own: it calls it for small matrices only.
        with module_of_extra("threadpoolctl").threadpool_limits(1):
            model = solver.AlternatingLeastSquares(
                factors=factors,
                regularization=self._pull,
                alpha=1.0,  # it is in the confidences
                iterations=ITERATIONS if fitted else FIRST_ITERATIONS,
                num_threads=1,
                random_state=self._random,
            )
            fresh = self._random.random((self._products - fitted, factors), np.float32) * np.float32(0.01)
            model.item_factors = np.concatenate([self._items, fresh])
            model.fit(confidences, show_progress=False)
            self._items = model.item_factors
            self._gram = self._items.T @ self._items
