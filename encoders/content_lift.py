"""How much more often a product is clicked after others than its popularity says, as its content tells.

    lift(j | h) = x_j . (M1 x_h0) + x_j . (M5 mean(x_h0..x_h4))

x are the fused vectors, centred, on their first D principal axes, of unit length. M1 and M5 learn online: the clicked
product against products drawn by popularity, so that the form becomes a log-ratio and not popularity once more
(Mikolov et al., NIPS 2013, negative sampling; Levy, Goldberg, NIPS 2014). Before any click M1 = M5 = identity: cosine.

Shapes: P products, W width of the fused vectors, D axes kept.
"""

from typing import NamedTuple

import numpy as np

from encoders.next_click import ABSENT, Floats, Rows, compiled

AXES = 64  # D
RECENT = 5  # clicks of the mean
START = 2.0  # times the identity
RATE = 0.05  # row-wise Adagrad
SQUARES_START = 0.1
FIT_PRODUCTS_MAX = 20_000


class ContentMap(NamedTuple):
    """Fused vectors to contents; `products` is how many it was fitted on."""

    mean: Floats  # (W,)
    axes: Floats  # (W, D)
    products: int

    def apply(self, fused: Floats) -> Floats:
        """(n, D) float32 of unit length, from (n, W); zeros where a vector is at the mean."""
        contents = (fused - self.mean) @ self.axes
        lengths = np.linalg.norm(contents, axis=1, keepdims=True)
        unit: Floats = np.divide(contents, lengths, out=np.zeros_like(contents), where=lengths > 1e-6)
        return unit.astype(np.float32)


class Lift(NamedTuple):
    """M1 and M5 (D, D), with the Adagrad sums of their rows (D,)."""

    last: Floats
    recent: Floats
    last_squares: Floats
    recent_squares: Floats


def fit_map(fused: Floats) -> ContentMap:
    """The principal axes of fused vectors (n, W), n >= 1; fewer than AXES of them are filled up with zeros."""
    sample = fused[:: max(1, len(fused) // FIT_PRODUCTS_MAX)]
    mean = sample.mean(axis=0)
    centred = sample - mean
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    kept = np.zeros((fused.shape[1], AXES), np.float32)
    width = min(AXES, max(1, len(sample) - 1), fused.shape[1])
    kept[:, :width] = axes[:, ::-1][:, :width]
    return ContentMap(mean, kept, len(fused))


def new_lift() -> Lift:
    """The form before it has learned: cosine."""
    start = np.eye(AXES, dtype=np.float32) * np.float32(START)
    return Lift(start, start.copy(), np.full(AXES, SQUARES_START, np.float32), np.full(AXES, SQUARES_START, np.float32))


def carried_over(lift: Lift, before: ContentMap, after: ContentMap) -> Lift:
    """The same form in the coordinates of another map of the same fused vectors."""
    turn = after.axes.T @ before.axes
    return Lift(turn @ lift.last @ turn.T, turn @ lift.recent @ turn.T, lift.last_squares, lift.recent_squares)


@compiled
def mean_content(content: Floats, history: Rows, out: Floats) -> int:
    """Fill out (D,) with the mean content of the last RECENT clicks; return how many of them are known."""
    out[:] = 0.0
    known = 0
    for place in range(min(RECENT, len(history))):
        row = history[place]
        if row >= 0:
            known += 1
            for d in range(len(out)):
                out[d] += content[row, d]
    for d in range(len(out)):
        out[d] /= np.float32(max(1, known))
    return known


@compiled
def transform(matrix: Floats, vector: Floats, out: Floats) -> None:
    """out = matrix . vector, (D, D) and (D,)."""
    for row in range(len(out)):
        total = np.float32(0.0)
        for d in range(len(vector)):
            total += matrix[row, d] * vector[d]
        out[row] = total


@compiled
def lift_queries(lift: Lift, content: Floats, history: Rows, last: Floats, recent: Floats) -> None:
    """Fill last and recent (D,), the M1 and M5 parts that a product's content is multiplied with; zeros if unknown."""
    mean = np.empty(len(last), np.float32)
    last[:] = 0.0
    recent[:] = 0.0
    if mean_content(content, history, mean):
        transform(lift.recent, mean, recent)
        if history[0] != ABSENT:
            transform(lift.last, content[history[0]], last)


@compiled
def _learn_form(
    matrix: Floats, squares: Floats, content: Floats, source: Floats, clicked: int, negatives: Rows
) -> None:
    width = len(source)
    query = np.empty(width, np.float32)
    transform(matrix, source, query)
    gradient = np.zeros(width, np.float32)
    for draw in range(-1, len(negatives)):
        row = clicked if draw < 0 else negatives[draw]
        score = np.float32(0.0)
        for d in range(width):
            score += query[d] * content[row, d]
        chance = np.float32(1.0) / (np.float32(1.0) + np.exp(-score))
        error = np.float32(1.0) - chance if draw < 0 else -chance / np.float32(len(negatives))
        for d in range(width):
            gradient[d] += error * content[row, d]
    strength = np.float32(0.0)
    for d in range(width):
        strength += source[d] * source[d]
    for row in range(width):
        squares[row] += gradient[row] * gradient[row] * strength / np.float32(width)
        pace = np.float32(RATE) / np.sqrt(squares[row]) * gradient[row]
        for d in range(width):
            matrix[row, d] += pace * source[d]


@compiled
def learn_lift(lift: Lift, content: Floats, history: Rows, clicked: int, negatives: Rows) -> None:
    """Learn one click from the history before it (H,), against negatives (n,) drawn by popularity."""
    mean = np.empty(content.shape[1], np.float32)
    if len(negatives) and mean_content(content, history, mean):
        _learn_form(lift.recent, lift.recent_squares, content, mean, clicked, negatives)
        if history[0] != ABSENT:
            _learn_form(lift.last, lift.last_squares, content, content[history[0]], clicked, negatives)
