"""The order of a list: what clicks say and what content says of the same candidates, weighed by the evidence.

    y = alpha * collaborative + (1 - alpha) * content      both in standard deviations among the candidates
    alpha = n / (n + evidence)                              n clicks of the candidate: what is clicked speaks for itself

Shapes: P products, D fused width, N candidates, K returned.
"""

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled


@compiled
def _standardise(values: Floats) -> None:
    """Mean 0 and deviation 1, in place; zeros where all are equal."""
    mean, square = np.float32(0.0), np.float32(0.0)
    for value in values:
        mean += value
    mean /= max(1, len(values))
    for value in values:
        square += (value - mean) ** 2
    deviation = np.sqrt(square / max(1, len(values)))
    for place in range(len(values)):
        values[place] = (values[place] - mean) / deviation if deviation > 1e-6 else 0.0


@compiled
def _order(y: Floats, rows: Rows, count: int) -> Rows:
    """Places of the count best, best first, ties by lower row. Few of few: a sort would cost more."""
    order = np.empty(count, np.int32)
    taken = np.zeros(len(y), np.bool_)
    for rank in range(count):
        top = ABSENT
        for place in range(len(y)):
            is_first = top == ABSENT
            if not taken[place] and (is_first or y[place] > y[top] or (y[place] == y[top] and rows[place] < rows[top])):
                top = place
        order[rank] = top
        taken[top] = True
    return order


@compiled
def blend(
    candidates: Rows,
    scores: Floats,
    fused: Floats,
    profile: Rows,
    clicks: NDArray[np.int64],
    listable: Mask,
    excluded: Rows,
    evidence: float,
    count: int,
) -> tuple[Rows, Floats, Mask, Rows]:
    """Return the K <= count best candidates of one user, best first, ties by lower row.

    candidates  (N,) int32 rows, in any order, some perhaps twice
    scores      (P,) float32 next-click scores; (0,) where the user has none: then content decides alone
    fused       (P, D) float32, length 1 or zeros
    profile     (<= 3,) int32, the products that content is compared with; none: then clicks decide alone
    clicks      (P,) int64, the evidence; listable (P,) bool; excluded (X,) int32

    Returns rows (K,), y (K,), whether clicks weighed more than content (K,), and the place in profile of the product
    that is nearest in content (K,), -1 where there is no profile.
    """
    rows = np.empty(len(candidates), np.int32)
    kept = 0
    for row in candidates:
        fits = row != ABSENT and listable[row]
        for other in excluded:
            fits = fits and row != other
        for other in rows[:kept]:
            fits = fits and row != other
        if fits:
            rows[kept] = row
            kept += 1
    width = fused.shape[1]
    taste = np.zeros(width, np.float32)
    for row in profile:
        for d in range(width):
            taste[d] += fused[row, d] / np.float32(len(profile))
    collaborative = np.zeros(kept, np.float32)
    content = np.zeros(kept, np.float32)
    for place in range(kept):
        row = rows[place]
        if len(scores):
            collaborative[place] = scores[row]
        if len(profile):
            cosine = np.float32(0.0)
            for d in range(width):
                cosine += fused[row, d] * taste[d]
            content[place] = cosine
    _standardise(collaborative)
    _standardise(content)
    by_clicks = np.zeros(kept, np.bool_)
    for place in range(kept):
        alpha = clicks[rows[place]] / (clicks[rows[place]] + evidence)
        if not len(scores):
            alpha = 0.0
        elif not len(profile):
            alpha = 1.0
        collaborative[place] *= alpha
        content[place] *= 1.0 - alpha
        by_clicks[place] = alpha == 1.0 or (alpha > 0.0 and collaborative[place] >= content[place])
    y = collaborative + content
    order = _order(y, rows, min(count, kept))
    nearest = np.full(len(order), ABSENT, np.int32)
    for place in range(len(order)):
        top = np.float32(-2.0)
        for click in range(len(profile)):
            cosine = np.float32(0.0)
            for d in range(width):
                cosine += fused[rows[order[place]], d] * fused[profile[click], d]
            if cosine > top:
                top, nearest[place] = cosine, click
    return rows[order], y[order], by_clicks[order], nearest
