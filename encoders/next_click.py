"""The next-click model as it serves: a click history becomes an embedding, the embedding a ranking.

    z = sum_{l<L} W_l * G_gap(age_l) * c_hl  +  Wm * m        h_0 is the newest click, products are elementwise
    m = sum_{l<LM} d^l c_hl / sum_{l<LM} d^l                  over the known products only
    score(j) = b_j + e_j . z                                  e_j = c_j + q_j

Shapes: B users, P products, F factors, H clicks of a history, L positions with weights of their own, K returned.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
Mask = NDArray[np.bool_]
Compiled = TypeVar("Compiled", bound=Callable[..., object])
Kind = TypeVar("Kind", bound=np.generic)

GAP_EDGES_S = (60.0, 600.0, 3_600.0, 86_400.0, 604_800.0)  # up to a minute, ten minutes, an hour, a day, a week, more
GAPS = len(GAP_EDGES_S) + 1
FACTORS = 64  # F of the model that the learner makes

# numba looks only at a function's own file to tell whether its machine code is stale, not at the files of the
# functions that it calls. So the code is kept under a name that changes with any of the sources.
if not numba.config.CACHE_DIR:
    _SOURCES = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    _FOLDER = Path(__file__).parent / "__pycache__" / f"compiled-{hashlib.sha256(_SOURCES).hexdigest()[:16]}"
    numba.config.CACHE_DIR = str(_FOLDER)

ABSENT = -1  # the row of a product that the model does not know, and of a click that is not there


def compiled(function: Compiled) -> Compiled:
    """The function as machine code, kept on disk, run without the GIL.

    Sums may be reordered, but NaN and infinity keep their meaning: the check for divergence needs them.
    """
    freely = {"reassoc", "contract", "nsz", "arcp"}
    return cast(Compiled, numba.njit(cache=True, nogil=True, fastmath=freely)(function))


def longer(array: NDArray[Kind], rows: int, filled: int = 0) -> NDArray[Kind]:
    """Return the array (n, ...) with `filled` behind it, `rows` >= n in all."""
    more = np.full((rows, *array.shape[1:]), filled, array.dtype)
    more[: len(array)] = array
    return more


@dataclass(frozen=True)
class Weights:
    """What all products share: (L, F), (6, F) and (F,) float32, and the decayed mean's length LM and decay d."""

    position_weights: Floats
    gap_weights: Floats
    memory_weights: Floats
    memory_length: int
    memory_decay: float


@compiled
def gap_bucket(age_s: float) -> int:
    """0 for a click up to a minute before, 5 for more than a week; a negative age counts as 0."""
    bucket = 0
    for edge_s in GAP_EDGES_S:
        if age_s > edge_s:
            bucket += 1
    return bucket


@compiled
def embed_history(
    position_weights: Floats,
    gap_weights: Floats,
    memory_weights: Floats,
    memory_decay: float,
    context: Floats,
    history: Rows,
    gaps: NDArray[np.int8],
    z: Floats,
    memory: Floats,
) -> float:
    """Fill z (F,) and memory (F,), the m above, from history (<= LM,) and the buckets of its first L clicks.

    Returns sum d^l over the known clicks: 0 where there is none. Serving and learning both stand on this function.
    """
    positions, factors = position_weights.shape
    share, shares = np.float32(1.0), np.float32(0.0)
    decay = np.float32(memory_decay)
    z[:] = 0.0
    memory[:] = 0.0
    for place in range(len(history)):
        row = history[place]
        if row >= 0:
            shares += share
            for f in range(factors):
                memory[f] += share * context[row, f]
            if place < positions:
                gap = gaps[place]
                for f in range(factors):
                    z[f] += position_weights[place, f] * gap_weights[gap, f] * context[row, f]
        share *= decay
    if shares > 0.0:
        for f in range(factors):
            memory[f] /= shares
            z[f] += memory_weights[f] * memory[f]
    return float(shares)


@compiled
def _embed(
    position_weights: Floats,
    gap_weights: Floats,
    memory_weights: Floats,
    memory_length: int,
    memory_decay: float,
    context: Floats,
    history_rows: Rows,
    ages_s: Floats,
    lengths: Rows,
) -> Floats:
    positions, factors = position_weights.shape
    users, columns = history_rows.shape
    embeddings = np.empty((users, factors), np.float32)
    memory = np.empty(factors, np.float32)
    gaps = np.zeros(positions, np.int8)
    for user in range(users):
        clicks = min(lengths[user], memory_length, columns)
        for place in range(min(clicks, positions)):
            gaps[place] = gap_bucket(ages_s[user, place])
        embed_history(
            position_weights,
            gap_weights,
            memory_weights,
            memory_decay,
            context,
            history_rows[user, :clicks],
            gaps,
            embeddings[user],
            memory,
        )
    return embeddings


def embed(weights: Weights, context: Floats, history_rows: Rows, ages_s: Floats, lengths: Rows) -> Floats:
    """Return the embeddings (B, F) float32 of B click histories; a row does not depend on the rows beside it.

    context       (P, F) float32, context vectors
    history_rows  (B, H) int32, rows of the clicked products, newest first; -1 is unknown: it adds nothing,
                  but the clicks behind it keep their places
    ages_s        (B, H) float32, how long before now; below 0 counts as 0
    lengths       (B,) int32, clicks of each history; those behind the first LM are not read
    """
    return _embed(
        weights.position_weights,
        weights.gap_weights,
        weights.memory_weights,
        weights.memory_length,
        weights.memory_decay,
        context,
        history_rows,
        ages_s,
        lengths,
    )


def score(target: Floats, bias: Floats, embeddings: Floats, out: Floats | None = None) -> Floats:
    """Return b_j + e_j . z as (B, P) float32, written into out where it is given.

    target (P, F), bias (P,), embeddings (B, F): all float32. BLAS: its threads are the caller's to limit.
    """
    scores = np.matmul(embeddings, target.T, out=out)
    scores += bias
    return scores


@compiled
def _is_worse(score_a: float, row_a: int, score_b: float, row_b: int) -> bool:
    return score_a < score_b or (score_a == score_b and row_a > row_b)


@compiled
def _sink(scores: Floats, rows: Rows, size: int) -> None:
    """Let the root of a heap, whose root is the worst, sink to its place."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not _is_worse(scores[child], rows[child], scores[at], rows[at]):
            return
        scores[at], scores[child] = scores[child], scores[at]
        rows[at], rows[child] = rows[child], rows[at]
        at = child


@compiled
def _rise(scores: Floats, rows: Rows, at: int) -> None:
    """Let the last element of a heap, whose root is the worst, rise to its place."""
    while at > 0:
        parent = (at - 1) // 2
        if not _is_worse(scores[at], rows[at], scores[parent], rows[parent]):
            return
        scores[at], scores[parent] = scores[parent], scores[at]
        rows[at], rows[parent] = rows[parent], rows[at]
        at = parent


@compiled
def best(scores: Floats, allowed: Mask, excluded: Rows, count: int) -> tuple[Rows, Floats]:
    """Return the K = count best rows (B, K) int32 and their scores (B, K) float32, best first, ties by lower row.

    scores    (B, P) float32; a NaN is never returned
    allowed   (P,) bool, what may be listed at all
    excluded  (B, X) int32, rows that this user must not get; -1 fills up

    Where fewer than K exist, the rest is -1 with a score of minus infinity.
    """
    users, products = scores.shape
    rows = np.full((users, count), ABSENT, np.int32)
    tops = np.full((users, count), -np.inf, np.float32)
    listable = allowed.copy()
    for user in range(users if count > 0 else 0):
        for row in excluded[user]:
            if 0 <= row < products:
                listable[row] = False
        size = 0
        for row in range(products):
            value = scores[user, row]
            if size == count:  # the common case first: an equal score in a later row is the worse of the two
                if value > tops[user, 0] and listable[row]:
                    tops[user, 0], rows[user, 0] = value, row
                    _sink(tops[user], rows[user], size)
            elif listable[row] and not np.isnan(value):
                tops[user, size], rows[user, size] = value, row
                _rise(tops[user], rows[user], size)
                size += 1
        for last in range(size - 1, 0, -1):
            tops[user, 0], tops[user, last] = tops[user, last], tops[user, 0]
            rows[user, 0], rows[user, last] = rows[user, last], rows[user, 0]
            _sink(tops[user], rows[user], last)
        for row in excluded[user]:
            if 0 <= row < products:
                listable[row] = allowed[row]
    return rows, tops
