"""The next-click model as the learner has published it, read from a shelf. Call under the shelf's lock."""

from collections.abc import Sequence

import numpy as np

from encoders.list_ranking import ServedFactors
from encoders.next_click import ABSENT, GAPS, Floats, Rows, embed, score
from streams.shelf import Shelf


def served_factors(shelf: Shelf) -> ServedFactors:
    """The model, or one that knows no product before the learner has published any."""
    weights = shelf.weights
    if weights is None or shelf.context.shape[1] != weights.position_weights.shape[1]:
        none = np.zeros((len(shelf.listable), 0), np.float32)
        known = np.zeros(len(shelf.listable), np.bool_)
        return ServedFactors(none[:1], np.zeros((GAPS, 0), np.float32), none[0], 1, 1.0, none, none, shelf.bias, known)
    return ServedFactors(
        weights.position_weights,
        weights.gap_weights,
        weights.memory_weights,
        weights.memory_length,
        weights.memory_decay,
        shelf.context,
        shelf.target,
        shelf.bias,
        shelf.has_factors,
    )


def next_click_scores(
    shelf: Shelf, histories: Sequence[Rows], ages_s: Sequence[Floats]
) -> tuple[Floats, Floats | None]:
    """Scores (B, P), NaN for products without factors, and embeddings (B, F) if there is a model.

    histories, ages_s  of each user, as Ranker.score takes them
    """
    weights = shelf.weights
    if weights is None or shelf.context.shape[1] != weights.position_weights.shape[1]:
        return np.full((len(histories), len(shelf)), np.nan, np.float32), None
    rows = np.full((len(histories), weights.memory_length), ABSENT, np.int32)
    ages = np.zeros(rows.shape, np.float32)
    lengths = np.zeros(len(histories), np.int32)
    for user, history in enumerate(histories):
        lengths[user] = min(len(history), weights.memory_length)
        rows[user, : lengths[user]] = history[: lengths[user]]
        ages[user, : lengths[user]] = ages_s[user][: lengths[user]]
    rows[~shelf.has_factors[rows]] = ABSENT  # unknown to the model; a place of -1 stays so
    embeddings = embed(weights, shelf.context, rows, ages, lengths)
    products = len(shelf)
    scores = score(shelf.target[:products], shelf.bias[:products], embeddings)
    scores[:, ~shelf.has_factors[:products]] = np.nan
    return scores, embeddings
