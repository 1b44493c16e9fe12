"""How good vectors are at finding: the right one of n, and others of the same kind.

Shapes: n queries and as many answers, P products, D width.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
QUERIES_AT_ONCE = 512  # bounds the matrix of cosines


def recall_at(queries: Vectors, answers: Vectors, depth: int) -> float:
    """The share of the queries whose own answer, that of the same row, is among the `depth` nearest by cosine.

    queries, answers  (n, D), n >= 1, zero rows are like nothing; answers that are as near count half

    Raises ValueError if the shapes differ.
    """
    if queries.shape != answers.shape or not len(queries):
        raise ValueError(f"{queries.shape} queries and {answers.shape} answers: each query has one answer")
    units, others = unit_or_zero(queries), unit_or_zero(answers)
    hits = 0.0
    for begin in range(0, len(units), QUERIES_AT_ONCE):
        rows = np.arange(begin, min(begin + QUERIES_AT_ONCE, len(units)))
        cosines = units[rows] @ others.T
        own = cosines[np.arange(len(rows)), rows][:, None]
        above = (cosines > own).sum(axis=1)
        beside = (cosines == own).sum(axis=1) - 1  # the answer itself is one
        hits += float((above + beside / 2 < depth).sum())
    return hits / len(units)


def same_label_at_1(vectors: Vectors, labels: Sequence[str], queries: NDArray[np.int64]) -> float:
    """The share of the queries (rows of the P products) whose nearest other product has the same label.

    Queries without a label are left out, and so is a zero row; products without a label may be the nearest, and are
    wrong then. NaN where no query is left.
    """
    units = unit_or_zero(vectors)
    names = np.array(labels)
    asked = queries[(names[queries] != "") & units[queries].any(axis=1)]
    found = 0
    for begin in range(0, len(asked), QUERIES_AT_ONCE):
        rows = asked[begin : begin + QUERIES_AT_ONCE]
        cosines = units[rows] @ units.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        found += int((names[cosines.argmax(axis=1)] == names[rows]).sum())
    return found / len(asked) if len(asked) else float("nan")


def unit_or_zero(vectors: Vectors) -> Vectors:
    """Each row of length 1; zero rows stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return units
