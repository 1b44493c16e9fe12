"""The second stage: the features of a candidate become its score in the list, learned online from the clicks.

    x = (features - mean) / spread, cut to +-6
    y = alpha * x_next_click + (1 - alpha) * x_cosine_mean       alpha = n / (n + EVIDENCE), n clicks of the product
    score = linear[bucket] . [x, y] + outward . leaky(inward' [x, y] + context[bucket] + context[gap] + base)

y is the readable core: before anything was learned the score is y. The bucket is the length of the user's history, the
gap the time since her last click. Loss: softmax over the candidates of one list; Adam (Kingma, Ba, ICLR 2015).

Shapes: N candidates, C features, I = C + 1 inputs, U hidden units.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import GAPS, Floats, compiled
from encoders.ranking_features import CLICKED_EVER, CLICKS, COSINE_MEAN, FEATURES, NEXT_CLICK

UNITS = 32  # U
INPUTS = len(FEATURES) + 1  # I
BUCKETS = 4  # histories of 0, 1-4, 5-19, 20 and more known clicks
EVIDENCE = 5.0  # clicks of a product at which its factors and its content weigh the same
RATE = 1e-3
_FIRST_MOMENT, _SECOND_MOMENT = 0.9, 0.999
_CUT = 6.0
_LEAK = 0.1
_SPREAD_MIN = 0.03
_SEEN_MAX = 100_000.0  # features' mean and spread go on moving, as slowly as after so many candidates

Doubles = NDArray[np.float64]


class Reranker(NamedTuple):
    """What it has learned; the rest of the learner's state is Moments."""

    mean: Floats  # (C,) of the features
    spread: Floats  # (C,)
    linear: Floats  # (BUCKETS, I)
    inward: Floats  # (I, U)
    context: Floats  # (BUCKETS + GAPS, U)
    base: Floats  # (U,)
    outward: Floats  # (U,)


class Moments(NamedTuple):
    """Adam's moments of everything that learns, one after the other in the order of Reranker, and the features'."""

    first: Floats  # (n,)
    second: Floats  # (n,)
    steps: NDArray[np.int64]  # (1,)
    seen: Doubles  # (1,) candidates that the features' mean and square rest on
    square: Floats  # (C,) mean squared distance of each feature from its mean


def new_reranker(seed: int = 0) -> tuple[Reranker, Moments]:
    """One whose score is y."""
    chance = np.random.default_rng(seed)
    linear = np.zeros((BUCKETS, INPUTS), np.float32)
    linear[:, -1] = 1.0
    inward = (chance.normal(size=(INPUTS, UNITS)) * 0.3 / np.sqrt(INPUTS)).astype(np.float32)
    reranker = Reranker(
        np.zeros(len(FEATURES), np.float32),
        np.ones(len(FEATURES), np.float32),
        linear,
        inward,
        np.zeros((BUCKETS + GAPS, UNITS), np.float32),
        np.zeros(UNITS, np.float32),
        np.zeros(UNITS, np.float32),
    )
    learned = sum(array.size for array in reranker[2:])
    zeros = np.zeros(learned, np.float32)
    square = np.ones(len(FEATURES), np.float32)
    return reranker, Moments(zeros, zeros.copy(), np.zeros(1, np.int64), np.zeros(1), square)


def before_learning(r: Reranker) -> Reranker:
    """One whose score is y, by the same means and spreads of the features."""
    linear = np.zeros_like(r.linear)
    linear[:, -1] = 1.0
    return r._replace(linear=linear, outward=np.zeros_like(r.outward))


@compiled
def bucket_of(known_clicks: int) -> int:
    """Which of the BUCKETS a history of so many known clicks is in."""
    if known_clicks == 0:
        return 0
    return 1 if known_clicks < 5 else 2 if known_clicks < 20 else 3


@compiled
def _inputs(r: Reranker, features: Floats, bucket: int, inputs: Floats) -> None:
    """Fill inputs (N, I): standardised features, and y."""
    columns = features.shape[1]
    for at in range(len(features)):
        for c in range(columns):
            value = (features[at, c] - r.mean[c]) / r.spread[c]
            inputs[at, c] = min(max(value, np.float32(-_CUT)), np.float32(_CUT))
        clicks = np.exp(features[at, CLICKS]) - np.float32(1.0)
        alpha = clicks / (clicks + np.float32(EVIDENCE))
        y = alpha * inputs[at, NEXT_CLICK] + (np.float32(1.0) - alpha) * inputs[at, COSINE_MEAN]
        inputs[at, columns] = y if bucket else inputs[at, CLICKED_EVER]


@compiled
def _forward(r: Reranker, inputs: Floats, bucket: int, gap: int, hidden: Floats, scores: Floats) -> None:
    units = len(r.base)
    start = np.empty(units, np.float32)
    for u in range(units):
        start[u] = r.base[u] + r.context[bucket, u] + r.context[BUCKETS + gap, u]
    for at in range(len(inputs)):
        for u in range(units):
            hidden[at, u] = start[u]
        score = np.float32(0.0)
        for i in range(inputs.shape[1]):
            value = inputs[at, i]
            score += r.linear[bucket, i] * value
            for u in range(units):
                hidden[at, u] += value * r.inward[i, u]
        for u in range(units):
            value = hidden[at, u]
            hidden[at, u] = value if value > 0.0 else np.float32(_LEAK) * value
            score += r.outward[u] * hidden[at, u]
        scores[at] = score


@compiled
def rerank(r: Reranker, features: Floats, bucket: int, gap: int, inputs: Floats, scores: Floats) -> None:
    """Fill scores (N,) from features (N, C); inputs (N, I) is room to work in, and holds y in its last column."""
    _inputs(r, features, bucket, inputs)
    hidden = np.empty((len(features), len(r.base)), np.float32)
    _forward(r, inputs, bucket, gap, hidden, scores)


@compiled
def _follow_features(r: Reranker, m: Moments, features: Floats) -> None:
    """Mean and spread move toward those of these candidates."""
    count = len(features)
    m.seen[0] = min(m.seen[0] + count, _SEEN_MAX)
    pace = np.float32(count / m.seen[0])
    for c in range(features.shape[1]):
        mean = np.float32(0.0)
        for at in range(count):
            mean += features[at, c]
        mean /= np.float32(count)
        r.mean[c] += pace * (mean - r.mean[c])
        square = np.float32(0.0)
        for at in range(count):
            square += (features[at, c] - r.mean[c]) ** 2
        m.square[c] += pace * (square / np.float32(count) - m.square[c])
        r.spread[c] = max(np.sqrt(m.square[c]), np.float32(_SPREAD_MIN))


@compiled
def _adam(values: Floats, gradients: Floats, m: Moments, start: int, rate: float) -> None:
    """Move flat values (n,) against their gradients; their moments begin at `start`."""
    early = np.float32(1.0 - _FIRST_MOMENT ** min(m.steps[0], 10_000))
    late = np.float32(1.0 - _SECOND_MOMENT ** min(m.steps[0], 1_000_000))
    for n in range(len(values)):
        first = np.float32(_FIRST_MOMENT) * m.first[start + n] + np.float32(1.0 - _FIRST_MOMENT) * gradients[n]
        second = np.float32(_SECOND_MOMENT) * m.second[start + n]
        second += np.float32(1.0 - _SECOND_MOMENT) * gradients[n] * gradients[n]
        m.first[start + n], m.second[start + n] = first, second
        values[n] -= np.float32(rate) * (first / early) / (np.sqrt(second / late) + np.float32(1e-8))


@compiled
def learn_list(r: Reranker, m: Moments, features: Floats, clicked: int, bucket: int, gap: int, weight: float) -> float:
    """Learn from one click which of the candidates it was; return the loss before the step, NaN after divergence.

    features  (N, C); clicked: the place of the clicked product among the candidates; weight > 0, of this click
    """
    _follow_features(r, m, features)
    count, units = len(features), len(r.base)
    inputs = np.empty((count, features.shape[1] + 1), np.float32)
    hidden = np.empty((count, units), np.float32)
    slopes = np.empty(count, np.float32)
    _inputs(r, features, bucket, inputs)
    _forward(r, inputs, bucket, gap, hidden, slopes)
    top, total = np.float32(-np.inf), np.float32(0.0)
    for at in range(count):
        top = max(top, slopes[at])
    loss = top - slopes[clicked]
    for at in range(count):
        slopes[at] = np.exp(slopes[at] - top)
        total += slopes[at]
    for at in range(count):
        slopes[at] *= np.float32(weight) / total
    slopes[clicked] -= np.float32(weight)

    of_linear = np.zeros(inputs.shape[1], np.float32)
    of_inward = np.zeros(r.inward.shape, np.float32)
    of_base, of_outward = np.zeros(units, np.float32), np.zeros(units, np.float32)
    back = np.empty(units, np.float32)
    for at in range(count):
        slope = slopes[at]
        if abs(slope) < np.float32(1e-6):
            continue
        for u in range(units):
            of_outward[u] += slope * hidden[at, u]
            back[u] = slope * r.outward[u] * (np.float32(1.0) if hidden[at, u] > 0.0 else np.float32(_LEAK))
            of_base[u] += back[u]
        for i in range(inputs.shape[1]):
            of_linear[i] += slope * inputs[at, i]
            for u in range(units):
                of_inward[i, u] += inputs[at, i] * back[u]

    m.steps[0] += 1
    start = bucket * inputs.shape[1]
    _adam(r.linear[bucket], of_linear, m, start, RATE)
    start = r.linear.size
    _adam(r.inward.reshape(-1), of_inward.reshape(-1), m, start, RATE)
    start += r.inward.size
    _adam(r.context[bucket], of_base, m, start + bucket * units, RATE)
    _adam(r.context[BUCKETS + gap], of_base, m, start + (BUCKETS + gap) * units, RATE)
    start += r.context.size
    _adam(r.base, of_base, m, start, RATE)
    _adam(r.outward, of_outward, m, start + units, RATE)
    return loss + np.log(total) if np.isfinite(r.outward.sum() + r.inward.sum()) else np.nan
