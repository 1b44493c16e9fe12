"""From scores to a rank, and from ranks to measures with their standard errors.

The rank of a product is 1 + the known, listable products with a higher score + half of those with the same score.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Rows, compiled

LISTED = 10  # length of the lists that coverage and popularity are measured on
PUBLISHED = 20  # items of a list on the topic
FEW_CLICKS = 5  # a product with fewer is on the new shelf
HISTORY_LENGTHS = {"0": (0, 0), "1-4": (1, 4), "5-19": (5, 19), "20+": (20, 2**31)}
MEASURES = ("hr_at_10", "hr_at_20", "ndcg_at_10", "mrr")

Values = NDArray[np.float64]


@compiled
def judge(
    scores: Floats, excluded: Rows, target: int, clicks: Rows, marks: NDArray[np.int64], mark: int, top: Rows
) -> tuple[float, float, int, int]:
    """Return the target's rank, its rank on the new shelf, its place in the list, and the length of top.

    scores    (P,) float32      clicks  (P,) int32, of each product so far
    excluded  (X,) int32        target  a row that is not excluded, or -1
    marks     (P,) int64, scratch: not yet equal to mark in any place
    top       (LISTED,) int32, filled in: the rows of the best scores, best first; of equal ones the lower row first

    The rank is NaN if a score is; that on the new shelf is NaN if the target is not there. Without a target both are
    infinite. The place counts from 1, in the order of top.
    """
    for row in excluded:
        marks[row] = mark
    own = scores[target] if target >= 0 else np.float32(np.inf)
    new = target >= 0 and clicks[target] < FEW_CLICKS
    above, equal, new_above, new_equal, equal_before, listed = 0, 0, 0, 0, 0, 0
    for row in range(len(scores)):
        score = scores[row]
        if np.isnan(score):
            return np.nan, np.nan, 0, 0
        if marks[row] == mark:
            continue
        if listed < len(top) or score > scores[top[listed - 1]]:
            place = listed if listed < len(top) else listed - 1
            listed = place + 1
            while place > 0 and score > scores[top[place - 1]]:
                top[place] = top[place - 1]
                place -= 1
            top[place] = row
        if row == target or score < own:
            continue
        on_shelf = clicks[row] < FEW_CLICKS
        if score > own:
            above += 1
            new_above += on_shelf
        else:
            equal += 1
            new_equal += on_shelf
            equal_before += row < target
    if target < 0:
        return np.inf, np.inf, 0, listed
    return 1 + above + equal / 2, 1 + new_above + new_equal / 2 if new else np.nan, 1 + above + equal_before, listed


def centred(vectors: Floats) -> Floats:
    """(P, D) of unit length, seen from the mean of those that are not zero; zeros stay."""
    there = np.any(vectors, axis=1)
    if not there.any():
        return vectors
    apart = np.where(there[:, None], vectors - vectors.sum(axis=0) / there.sum(), np.float32(0.0))
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    units: Floats = apart / np.maximum(lengths, np.float32(1e-12))
    return units


def likeness_of(units: Floats) -> float:
    """The mean cosine of every two of these vectors (K, D), of unit length or zeros, which do not count.

    NaN if there are fewer than two. Source: intra-list similarity, Ziegler and others, WWW 2005.
    """
    count = int(units.any(axis=1).sum())
    total = units.sum(axis=0)  # its square is count, and twice the sum of the cosines
    return (float(total @ total) - count) / (count * (count - 1)) if count > 1 else float("nan")


class Mean(NamedTuple):
    """A mean and its standard error; the error is None where the values are of one user only."""

    value: float
    stderr: float | None


def value_of(measure: str, ranks: Floats) -> Values:
    """(n,) what each rank is worth: of MEASURES. An infinite rank is a miss."""
    ranks = ranks.astype(np.float64)
    if measure == "hr_at_10":
        return (ranks <= 10).astype(np.float64)
    if measure == "hr_at_20":
        return (ranks <= 20).astype(np.float64)
    if measure == "ndcg_at_10":
        return np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0)
    if measure == "mrr":
        return np.asarray(1 / ranks)
    raise ValueError(f"there is no measure {measure!r}: take one of {', '.join(MEASURES)}")


def mean(values: Values, users: Rows) -> Mean:
    """The mean of at least one value, with a standard error that allows for likeness among the values of one user.

    values  (n,)      users  (n,) int32, whose each value is

    Source: the cluster-robust variance, Cameron and Miller, Journal of Human Resources 2015, eq. 6 and 11.
    """
    centre = float(values.mean())
    sums = np.bincount(np.unique(users, return_inverse=True)[1], weights=values - centre)
    if len(sums) < 2:
        return Mean(centre, None)
    spread = len(sums) / (len(sums) - 1) * float(np.square(sums).sum())
    return Mean(centre, math.sqrt(spread) / len(values))


def measured(ranks: Floats, users: Rows) -> dict[str, float | None]:
    """Every measure and its standard error of the ranks that are not NaN; None where there is none.

    ranks  (N,) float32, NaN where nothing was judged      users  (N,) int32
    """
    there = ~np.isnan(ranks)
    found: dict[str, float | None] = {"events": int(there.sum())}
    for measure in MEASURES:
        result = mean(value_of(measure, ranks[there]), users[there]) if there.any() else None
        found[measure] = result.value if result else None
        found[f"{measure}_stderr"] = result.stderr if result else None
    return found


def measured_by_history(ranks: Floats, users: Rows, lengths: NDArray[np.int64]) -> dict[str, dict[str, float | None]]:
    """The measures by how many clicks the user had before, (N,)."""
    return {
        name: measured(np.where((lengths >= least) & (lengths <= most), ranks, np.float32(np.nan)), users)
        for name, (least, most) in HISTORY_LENGTHS.items()
    }
