"""How often each product is clicked lately: counts that fade with the clicks of the whole shop, not with the clock.

A count is kept as it was when its product was last clicked: count * 2^(-clicks since then / half-life) is what it is
now. So a click changes one row, and a row that nobody clicks needs no upkeep.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Rows, compiled

HALF_LIVES = (200.0, 2_000.0)  # clicks of the shop
_NOTHING = 1e-3  # clicks: keeps the logarithm of none finite


class Trends(NamedTuple):
    """Of P products; moments are numbers of learned clicks."""

    counts: Floats  # (P, 2), one for each half-life, faded until counted_at
    counted_at: NDArray[np.int64]  # (P,)


def no_trends(products: int) -> Trends:
    """Nothing was clicked."""
    return Trends(np.zeros((products, len(HALF_LIVES)), np.float32), np.zeros(products, np.int64))


@compiled
def count_click(trends: Trends, row: int, now: int) -> None:
    """One more click of the product, at this moment."""
    for speed in range(2):
        faded = trends.counts[row, speed] * np.exp2(-(now - trends.counted_at[row]) / HALF_LIVES[speed])
        trends.counts[row, speed] = np.float32(faded + 1.0)
    trends.counted_at[row] = now


@compiled
def log_count(trends: Trends, row: int, speed: int, now: int) -> float:
    """The logarithm of the faded count at this moment; speed is an index of HALF_LIVES."""
    passed = max(0, now - trends.counted_at[row])
    return float(np.log(trends.counts[row, speed] * np.exp2(-passed / HALF_LIVES[speed]) + _NOTHING))


def faded(trends: Trends, rows: Rows, now: int) -> Floats:
    """(n, half-lives) the counts of these rows (n,) at this moment."""
    passed = np.maximum(0, now - trends.counted_at[rows])
    counts: Floats = (trends.counts[rows] * np.exp2(-passed[:, None] / np.array(HALF_LIVES))).astype(np.float32)
    return counts


def rising(lately: Floats) -> Floats:
    """(n,) by how much more each product is clicked lately than over the longer run, in standard deviations.

    lately  (n, half-lives) from `faded`. Of one that is clicked at an even pace, the quick count is the slow one times
            the ratio of their half-lives: so many clicks are expected, and their number varies as its square root
    """
    expected = lately[:, 1] * np.float32(HALF_LIVES[0] / HALF_LIVES[1])
    beyond: Floats = (lately[:, 0] - expected) / np.sqrt(expected + np.float32(1.0))
    return beyond
