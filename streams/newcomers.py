"""Where the products that nobody has clicked stand in the model: as the cold start predicts from their vectors."""

from collections.abc import Iterable, Mapping

import numpy as np

from encoders.cold_start import MIN_CLICKS, ColdStart, fit
from encoders.next_click import Floats
from encoders.next_click_training import NextClickModel

FIT_PRODUCTS_MAX = 20_000  # that the cold start is fitted on: the PCA of more takes longer than a second


class Newcomers:
    """Fits the cold start on the learned rows, and places unclicked ones by it."""

    def __init__(self, vectors: Mapping[str, Floats]) -> None:
        """vectors: (W,) fused, by product id, all of one version of the encoders."""
        self._vectors = vectors
        self._cold_start: ColdStart | None = None

    def fit(self, model: NextClickModel, rows: Mapping[str, int]) -> None:
        """Learn from the products that have a vector; of a large catalogue from some, those with clicks first."""
        vectors = [(row, vector) for p, row in rows.items() if (vector := self._vectors.get(p)) is not None]
        if len(vectors) > FIT_PRODUCTS_MAX:
            vectors.sort(key=lambda pair: model.clicks[pair[0]] < MIN_CLICKS)
            vectors = vectors[:FIT_PRODUCTS_MAX]
        if vectors:
            fitted = np.array([row for row, _ in vectors], np.int32)
            context, target, bias = model.vectors(fitted)
            fused = np.stack([vector for _, vector in vectors])
            self._cold_start = fit(fused, context, target - context, model.clicks[fitted], bias)

    def place(self, model: NextClickModel, rows: Mapping[str, int], product_ids: Iterable[str]) -> list[str]:
        """Move those of the products that nobody clicked to their predicted places, and return them.

        None before there was anything to learn from, and none without a vector. Raises FactorsDiverged.
        """
        if self._cold_start is None or self._cold_start.products == 0:
            return []
        placed = {}
        for product_id in product_ids:
            row, vector = rows.get(product_id), self._vectors.get(product_id)
            if row is not None and vector is not None and model.clicks[row] == 0:
                placed[product_id] = row, vector
        if placed:
            predicted = self._cold_start.predict(np.stack([vector for _, vector in placed.values()]))
            model.place(np.array([row for row, _ in placed.values()], np.int32), *predicted)
        return list(placed)
