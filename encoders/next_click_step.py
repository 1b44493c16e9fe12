"""One learning step of the next-click model: sampled softmax, row-wise Adagrad, and the random numbers it needs.

    loss = log(exp(s_t) + sum_k exp(s_k) / E_k) - s_t,  and pull/2 * squares of the context and offset rows in it

t is the clicked product, k runs over the negatives, E_k is how often the sampler was expected to draw k (the logQ
correction: Bengio, Senecal, IEEE Trans. Neural Networks 2008), s is the score with dropout on z.
Row-wise Adagrad (Duchi, Hazan, Singer, JMLR 2011, one sum for each row): n += mean(g^2), row -= rate * g / sqrt(n).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Rows, compiled, embed_history

Random = NDArray[np.uint64]
Gaps = NDArray[np.int8]

Number = float | np.floating[Any]  # in compiled code float32 and float64 differ: only float32 is fast here

_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)


class Rule(NamedTuple):
    """How the model learns; the defaults are values that worked best on real clicks and on simulated ones."""

    learning_rate: float = 0.08  # of context and offset rows
    shared_rate: float = 0.002  # of W, G and Wm
    bias_rate: float = 0.05
    pull: float = 0.004  # L2, toward zero
    dropout: float = 0.5  # share of z left out of a step
    adagrad_start: float = 0.1
    negatives: int = 32
    recent_clicks: int = 20_000  # half of the negatives come from these
    recent_scale: float = 6_000.0  # examples; half of the replays lie about this far back
    ring_examples: int = 200_000  # examples kept for replays
    positions: int = 8  # L
    memory_length: int = 50  # LM
    memory_decay: float = 0.9  # d


class Parameters(NamedTuple):
    """All that a step changes; each *_squares is the Adagrad sum of the rows before it."""

    context: Floats  # (P, F)
    context_squares: Floats  # (P,)
    offset: Floats  # (P, F)
    offset_squares: Floats  # (P,)
    bias: Floats  # (P,)
    bias_squares: Floats  # (P,)
    position_weights: Floats  # (L, F)
    position_squares: Floats  # (L,)
    gap_weights: Floats  # (6, F)
    gap_squares: Floats  # (6,)
    memory_weights: Floats  # (1, F)
    memory_squares: Floats  # (1,)
    change: Floats  # (P,) length of the way that a product's row has gone since it was published


@compiled
def draw_bits(random: Random) -> np.uint64:
    """The next 64 random bits of the state random (1,) (splitmix64: Steele, Lea, Flood, OOPSLA 2014)."""
    random[0] += _STRIDE
    bits = random[0]
    bits = (bits ^ (bits >> _S30)) * _MIX_A
    bits = (bits ^ (bits >> _S27)) * _MIX_B
    return np.uint64(bits ^ (bits >> _S31))


@compiled
def draw_share(random: Random) -> float:
    """A random number in [0, 1)."""
    return float(draw_bits(random) >> _S11) * 2.0**-53


@compiled
def draw_below(random: Random, limit: int) -> int:
    """A random whole number in [0, limit)."""
    return int(draw_share(random) * limit)


@compiled
def draw_normal(random: Random, out: Floats, deviation: float) -> None:
    """Fill out (F,) with normal numbers around 0 (Box, Muller 1958)."""
    for f in range(len(out)):
        radius = np.sqrt(-2.0 * np.log(1.0 - draw_share(random)))
        out[f] = deviation * radius * np.cos(2.0 * np.pi * draw_share(random))


@compiled
def _descend(rows: Floats, squares: Floats, at: int, gradient: Floats, rate: Number) -> float:
    """Move row `at` of rows (n, F) against its gradient (F,); return how far."""
    factors = len(gradient)
    total = np.float32(0.0)
    for f in range(factors):
        total += gradient[f] * gradient[f]
    squares[at] += total / np.float32(factors)
    pace = rate / np.sqrt(squares[at])
    for f in range(factors):
        rows[at, f] -= pace * gradient[f]
    return float(pace * np.sqrt(total))


@compiled
def _slopes(p: Parameters, z: Floats, candidates: Rows, log_expected: Floats, slopes: Floats) -> float:
    """Fill slopes (N + 1,) with d loss / d score of each candidate, the target being the last; return the loss."""
    top = np.float32(-np.inf)
    for k in range(len(candidates)):
        row = candidates[k]
        value = np.float32(0.0)
        for f in range(len(z)):
            value += (p.context[row, f] + p.offset[row, f]) * z[f]
        slopes[k] = value + p.bias[row] - log_expected[k]
        top = max(top, slopes[k])
    loss = top - slopes[-1]
    total = np.float32(0.0)
    for k in range(len(candidates)):
        slopes[k] = np.exp(slopes[k] - top)
        total += slopes[k]
    for k in range(len(candidates)):
        slopes[k] /= total
    slopes[-1] -= np.float32(1.0)
    return float(loss + np.log(total))


@compiled
def _move_candidates(p: Parameters, rule: Rule, z: Floats, candidates: Rows, slopes: Floats) -> float:
    """Move the candidates' contexts, offsets and biases; return how far, in all.

    The gradient of both vectors is slope * z + pull * vector; one loop moves both, which is a third of a step's time.
    """
    factors = len(z)
    rate, bias_rate, pull = np.float32(rule.learning_rate), np.float32(rule.bias_rate), np.float32(rule.pull)
    context, offset = p.context, p.offset
    moved = np.float32(0.0)
    for k in range(len(candidates)):
        row, slope = candidates[k], slopes[k]
        of_context, of_offset = np.float32(0.0), np.float32(0.0)
        for f in range(factors):
            of_context += (slope * z[f] + pull * context[row, f]) ** 2
            of_offset += (slope * z[f] + pull * offset[row, f]) ** 2
        p.context_squares[row] += of_context / np.float32(factors)
        p.offset_squares[row] += of_offset / np.float32(factors)
        p.bias_squares[row] += slope * slope
        context_pace = rate / np.sqrt(p.context_squares[row])
        offset_pace = rate / np.sqrt(p.offset_squares[row])
        leap = bias_rate * slope / np.sqrt(p.bias_squares[row])
        for f in range(factors):
            context[row, f] -= context_pace * (slope * z[f] + pull * context[row, f])
            offset[row, f] -= offset_pace * (slope * z[f] + pull * offset[row, f])
        p.bias[row] -= leap
        way = np.sqrt(context_pace**2 * of_context + offset_pace**2 * of_offset + leap * leap)
        p.change[row] += way
        moved += way
    return float(moved)


@compiled
def _move_history(p: Parameters, rule: Rule, history: Rows, gaps: Gaps, shares: float, slope_z: Floats) -> float:
    """Move the contexts of the clicks before the target; return how far, in all."""
    positions, factors = p.position_weights.shape
    rate, pull, decay = np.float32(rule.learning_rate), np.float32(rule.pull), np.float32(rule.memory_decay)
    share = np.float32(1.0 / shares) if shares > 0.0 else np.float32(0.0)
    context, memory_weights = p.context, p.memory_weights
    gradient = np.empty(factors, np.float32)
    moved = np.float32(0.0)
    for place in range(len(history)):
        row = history[place]
        if row >= 0:
            for f in range(factors):
                gradient[f] = share * memory_weights[0, f]
            if place < positions:
                for f in range(factors):
                    gradient[f] += p.position_weights[place, f] * p.gap_weights[gaps[place], f]
            for f in range(factors):
                gradient[f] = gradient[f] * slope_z[f] + pull * context[row, f]
            way = _descend(context, p.context_squares, row, gradient, rate)
            p.change[row] += way
            moved += way
        share *= decay
    return float(moved)


@compiled
def _shared_gradients(
    p: Parameters, history: Rows, gaps: Gaps, slope_z: Floats, by_position: Floats, by_gap: Floats
) -> None:
    """Fill by_position (L, F) and by_gap (6, F) with d loss / d W and d loss / d G."""
    positions, factors = p.position_weights.shape
    by_position[:] = 0.0
    by_gap[:] = 0.0
    for place in range(min(positions, len(history))):
        row, gap = history[place], gaps[place]
        if row >= 0:
            for f in range(factors):
                pull = slope_z[f] * p.context[row, f]
                by_position[place, f] = pull * p.gap_weights[gap, f]
                by_gap[gap, f] += pull * p.position_weights[place, f]


@compiled
def _move_shared(p: Parameters, rule: Rule, by_position: Floats, by_gap: Floats, by_memory: Floats) -> float:
    """Move W, G and Wm, which nothing pulls toward zero; return how far, in all."""
    rate = np.float32(rule.shared_rate)
    moved = _descend(p.memory_weights, p.memory_squares, 0, by_memory, rate)
    for place in range(len(p.position_weights)):
        moved += _descend(p.position_weights, p.position_squares, place, by_position[place], rate)
    for gap in range(len(p.gap_weights)):
        moved += _descend(p.gap_weights, p.gap_squares, gap, by_gap[gap], rate)
    return float(moved)


@compiled
def step(
    p: Parameters,
    rule: Rule,
    history: Rows,
    gaps: Gaps,
    candidates: Rows,
    log_expected: Floats,
    keep: Floats,
    weight: float,
) -> float:
    """Learn one example; return its loss before the step, without the pull. NaN says that the model has diverged.

    history       (<= LM,) int32, rows before the click, newest first, -1 unknown
    gaps          (L,) int8, gap buckets of its first L clicks
    candidates    (N + 1,) int32, the negatives, none of them in the history, and last the clicked product
    log_expected  (N + 1,) float32, log of how often each was expected to be drawn; 0 for the clicked product
    keep          (F,) float32, the dropout: 0, or 1 / (share that is kept)
    weight        > 0, of this example in the loss; the pull toward zero is not weighed
    """
    positions, factors = p.position_weights.shape
    z, memory = np.empty(factors, np.float32), np.empty(factors, np.float32)
    shares = embed_history(
        p.position_weights, p.gap_weights, p.memory_weights[0], rule.memory_decay, p.context, history, gaps, z, memory
    )
    for f in range(factors):
        z[f] *= keep[f]
    slopes = np.empty(len(candidates), np.float32)
    loss = _slopes(p, z, candidates, log_expected, slopes)
    for k in range(len(slopes)):
        slopes[k] *= np.float32(weight)

    slope_z = np.zeros(factors, np.float32)
    for k in range(len(candidates)):
        for f in range(factors):
            slope_z[f] += slopes[k] * (p.context[candidates[k], f] + p.offset[candidates[k], f])
    for f in range(factors):
        slope_z[f] *= keep[f]
        memory[f] *= slope_z[f]  # from here on d loss / d Wm
    by_position = np.empty((positions, factors), np.float32)
    by_gap = np.empty(p.gap_weights.shape, np.float32)
    _shared_gradients(p, history, gaps, slope_z, by_position, by_gap)

    # Every gradient above read the values before the step; those of the history below read W and G, which move last.
    moved = _move_candidates(p, rule, z, candidates, slopes)
    moved += _move_history(p, rule, history, gaps, shares, slope_z)
    moved += _move_shared(p, rule, by_position, by_gap, memory)
    return loss if np.isfinite(moved) else np.nan
