"""Counts of clicks in which old clicks fade: of one product after the other, and of pairs of products."""

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, longer

Doubles = NDArray[np.float64]

MAX_PRODUCTS = 20_000  # of a P x P matrix: 1.7 GB
ROOM = 1_024  # rows that an array gets beyond those it needs
_HEAVIEST = 2.0**60  # float32 ends at 2 ** 128, and a count is the sum of many clicks


class FadingCounts:
    """Counts of products, and where asked of pairs, by the weight of each click, halved every so many later clicks.

    Nothing old is touched for that: each click weighs more than the one before it, and `weight` is that of the click
    at hand. So only counts divided by counts, or by `weight`, mean something. Rows from P on are zero.

    singles  (P or more,) float64
    pairs    (P or more, as many) float32, dense: the simplest and the fastest; (0, 0) where not asked
    """

    def __init__(self, half_life_clicks: float, *, pairs: bool) -> None:
        """half_life_clicks >= 1; infinite for counts that do not fade. Raises ValueError otherwise."""
        if not half_life_clicks >= 1:
            raise ValueError(f"the half-life is {half_life_clicks} clicks: give 1 or more, infinity for no fading")
        self.singles: Doubles = np.zeros(0)
        self.pairs: Floats = np.zeros((0, 0), np.float32)
        self.weight = 1.0
        self._growth = 2.0 ** (1.0 / half_life_clicks)
        self._wants_pairs = pairs

    def grow(self, products: int) -> None:
        """There is room for rows up to products - 1. Raises ValueError where a matrix of pairs would be too large."""
        if self._wants_pairs and products > MAX_PRODUCTS:
            raise ValueError(
                f"{products:,} products: a matrix of all pairs is kept for {MAX_PRODUCTS:,} at most; "
                "leave this baseline out, VMIS-kNN and user-kNN have no such limit"
            )
        if products > len(self.singles):
            rows = products + ROOM
            self.singles = longer(self.singles, rows)
            if self._wants_pairs:
                known = len(self.pairs)
                pairs = np.zeros((rows, rows), np.float32)
                pairs[:known, :known] = self.pairs
                self.pairs = pairs

    def advance(self) -> bool:
        """The next click is at hand. True if all counts were divided, which keeps them from overflowing."""
        self.weight *= self._growth
        if self.weight <= _HEAVIEST:
            return False
        self.singles /= self.weight
        self.pairs /= np.float32(self.weight)
        self.weight = 1.0
        return True


def position_weights(length: int, fall: float) -> Floats:
    """Return (length,) float32: 1 for the newest click, (l + 1) ** -fall for the one at place l.

    Raises ValueError unless length >= 1 and 0 <= fall <= 10: of 200 clicks then none weighs 0.
    """
    if length < 1:
        raise ValueError(f"{length} clicks of the history are read: give 1 or more")
    if not 0 <= fall <= 10:
        raise ValueError(f"the weights of older clicks fall with the exponent {fall}: give 0 to 10")
    return (np.arange(1, length + 1) ** -float(fall)).astype(np.float32)
