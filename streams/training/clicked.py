"""Which products users clicked one after the other, from a clicks.jsonl."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streams.evaluation.stream import NotEvaluable, read_clicks
from streams.terminal import Failure

Rows = NDArray[np.int64]
TOGETHER_S = 1_800.0  # between two clicks that have to do with each other


def read_pairs(path: Path, product_ids: Sequence[str]) -> Rows:
    """(c, 2) rows of different products that a user clicked one after the other within TOGETHER_S, in order of time.

    product_ids  by row; clicks on others are passed over. Raises Failure where the file has no clicks on them.
    """
    try:
        clicks = read_clicks(path)
    except NotEvaluable as error:
        raise Failure(str(error)) from error
    rows_of = {product_id: row for row, product_id in enumerate(product_ids)}
    rows = np.array([rows_of.get(name, -1) for name in clicks.product_ids], np.int64)[np.array(clicks.products, int)]
    users, times = np.array(clicks.users, np.int64), np.array(clicks.times)
    known = rows >= 0
    if not known.any():
        raise Failure(f"{path} has no click on a product of this folder: are these clicks of another shop?")
    rows, users, times = rows[known], users[known], times[known]
    order = np.lexsort((np.arange(len(rows)), times, users))
    rows, users, times = rows[order], users[order], times[order]
    is_pair = (users[1:] == users[:-1]) & (times[1:] - times[:-1] <= TOGETHER_S) & (rows[1:] != rows[:-1])
    first = np.flatnonzero(is_pair)
    first = first[np.argsort(times[first + 1], kind="stable")]
    return np.stack([rows[first], rows[first + 1]], axis=1)


def earlier_and_later(pairs: Rows, share: float) -> tuple[Rows, Rows]:
    """The pairs, and the last share of them."""
    cut = len(pairs) - round(share * len(pairs))
    return pairs[:cut], pairs[cut:]


def next_found(vectors: NDArray[np.float32], pairs: Rows, depth: int = 10) -> float:
    """The share of the pairs whose second product is among so many nearest of the first; NaN without pairs.

    vectors  (P, D) of unit length
    """
    if not len(pairs):
        return float("nan")
    found = 0
    for begin in range(0, len(pairs), 512):
        first, second = pairs[begin : begin + 512].T
        cosines = vectors[first] @ vectors.T
        cosines[np.arange(len(first)), first] = -np.inf
        own = cosines[np.arange(len(first)), second][:, None]
        found += int(((cosines > own).sum(axis=1) < depth).sum())
    return found / len(pairs)
