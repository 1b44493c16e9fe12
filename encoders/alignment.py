"""Two heads that bring pictures and words into one space. encoders.training.align teaches them.

    a = unit(W_p (p - mean_p) / spread_p + c_p)          p a picture's feature, of the frozen picture encoder
    b = unit(W_w (w - mean_w) / spread_w + c_w)          w the words' feature, of the frozen text encoder

Shapes: n products, V and T widths of the features, D of the common space.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.retrieval import unit_or_zero

Vectors = NDArray[np.float32]


class Head(NamedTuple):
    """One side: features to the common space."""

    mean: Vectors  # (V,) or (T,)
    spread: Vectors  # the same
    weight: Vectors  # (D, V) or (D, T)
    bias: Vectors  # (D,)

    def __call__(self, features: Vectors) -> Vectors:
        """(n, V) or (n, T) to (n, D) of unit length, zeros for zeros: nothing is known there."""
        known = ((features - self.mean) / self.spread).astype(np.float32)
        mapped = unit_or_zero(known @ self.weight.T + self.bias)
        mapped[~features.any(axis=1)] = 0.0
        return mapped


class Alignment(NamedTuple):
    """Both heads, as they are saved."""

    pictures: Head
    words: Head

    def state(self) -> dict[str, Vectors]:
        """Arrays by name."""
        sides = self._asdict()
        return {f"{side}.{name}": array for side, head in sides.items() for name, array in head._asdict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Vectors]) -> Self:
        """The inverse of state. Raises KeyError for what is missing."""
        return cls(*(Head(*(state[f"{side}.{name}"] for name in Head._fields)) for side in cls._fields))
