"""The most clicked products, the same for everybody, with clicks that fade."""

import math

import numpy as np

from encoders.baselines.fading_counts import FadingCounts
from encoders.next_click import Floats
from encoders.recommender import Request


class RecentPopularity:
    """score(j) = sum over the clicks on j of 2 ** -(clicks since / half-life): plain counts if that is infinite."""

    def __init__(self, half_life_clicks: float = 2_000.0) -> None:
        """half_life_clicks > 0, clicks of the whole stream, may be infinite. Raises ValueError otherwise."""
        self._counts = FadingCounts(half_life_clicks, pairs=False)
        self._P = 0
        self.name = "popularity" if math.isinf(half_life_clicks) else f"popularity-{half_life_clicks:g}"

    def grow(self, products: int) -> None:
        self._counts.grow(products)
        self._P = products

    def score(self, request: Request, out: Floats) -> None:  # noqa: ARG002
        np.divide(self._counts.singles[: self._P], self._counts.weight, out=out, casting="same_kind")

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        self._counts.advance()
        self._counts.singles[row] += self._counts.weight
