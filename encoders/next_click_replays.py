"""The ring of earlier examples: replays and negatives are drawn from it, and each new example goes into it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, gap_bucket
from encoders.next_click_step import Gaps, Parameters, Random, Rule, draw_below, draw_share, step

EXAMPLES, RECENT, MARK = range(3)  # places in Ring.counters


class Ring(NamedTuple):
    """The last examples, and what drawing from them needs."""

    targets: Rows  # (R,), -1 once its product is removed
    histories: Rows  # (R, LM), newest first
    gaps: Gaps  # (R, L)
    weights: Floats  # (R,) how much each example weighs
    recent: Rows  # (P,) how often each product is among the last `recent_clicks` targets
    known: Mask  # (P,)
    known_rows: Rows  # the rows that are known
    marks: NDArray[np.int64]  # (P,) scratch: rows that the example in hand forbids as negatives
    counters: NDArray[np.int64]  # (3,) examples learned, targets counted in recent, last mark


@compiled
def _keep_example(ring: Ring, target: int, history: Rows, ages_s: Floats, weight: float) -> int:
    """Write the example over the oldest one and return its place; unknown products of the history become -1."""
    place = int(ring.counters[EXAMPLES] % len(ring.targets))
    for clicks_ago in range(ring.histories.shape[1]):
        row = history[clicks_ago] if clicks_ago < len(history) else ABSENT
        ring.histories[place, clicks_ago] = row if 0 <= row < len(ring.known) and ring.known[row] else ABSENT
    for clicks_ago in range(ring.gaps.shape[1]):
        ring.gaps[place, clicks_ago] = gap_bucket(ages_s[clicks_ago]) if clicks_ago < len(ages_s) else 0
    ring.targets[place], ring.weights[place] = target, np.float32(weight)
    return place


@compiled
def _count_recent(ring: Ring, rule: Rule, place: int) -> None:
    """Count the example at place among the recent clicks, and the one that is not recent any more off."""
    ring.recent[ring.targets[place]] += 1
    ring.counters[RECENT] += 1
    ring.counters[EXAMPLES] += 1
    if ring.counters[EXAMPLES] > rule.recent_clicks:
        left = ring.targets[(place - rule.recent_clicks) % len(ring.targets)]
        if left >= 0 and ring.known[left]:
            ring.recent[left] -= 1
            ring.counters[RECENT] -= 1


@compiled
def draw_candidates(
    ring: Ring, rule: Rule, random: Random, target: int, history: Rows, candidates: Rows, log_expected: Floats
) -> int:
    """Fill in at most N negatives, then the target; return how many candidates there are.

    Odd draws are from the recent clicks, even ones from all known products. A row of the example is drawn in vain;
    after 4 N draws there are as many negatives as there are (shops with few products).
    """
    ring.counters[MARK] += 1
    mark = ring.counters[MARK]
    ring.marks[target] = mark
    for row in history:
        if row >= 0:
            ring.marks[row] = mark
    examples, recent = ring.counters[EXAMPLES], ring.counters[RECENT]
    window = min(examples, rule.recent_clicks)
    count = 0
    for attempt in range(4 * rule.negatives):
        if count == rule.negatives:
            break
        if attempt % 2 == 1 and window > 0:
            row = ring.targets[(examples - 1 - draw_below(random, window)) % len(ring.targets)]
        else:
            row = ring.known_rows[draw_below(random, len(ring.known_rows))]
        if row >= 0 and ring.known[row] and ring.marks[row] != mark:
            candidates[count] = row
            count += 1
    for k in range(count):
        chance = 1.0 / len(ring.known_rows)
        if recent > 0:
            chance = 0.5 * chance + 0.5 * ring.recent[candidates[k]] / recent
        log_expected[k] = np.log(count * chance)
    candidates[count], log_expected[count] = target, 0.0
    return count + 1


@compiled
def _draw_replay(ring: Ring, rule: Rule, random: Random, turn: int) -> int:
    """A place in the ring: even turns near the present, odd ones anywhere."""
    examples = ring.counters[EXAMPLES]
    kept = min(examples, len(ring.targets))
    if turn % 2 == 0:
        back = int(-rule.recent_scale * np.log(1.0 - draw_share(random)))
        if back < kept:
            return int((examples - 1 - back) % len(ring.targets))
    return draw_below(random, kept)


@compiled
def learn_examples(
    p: Parameters,
    ring: Ring,
    rule: Rule,
    random: Random,
    clicks: NDArray[np.int64],
    targets: Rows,
    histories: Rows,
    ages_s: Floats,
    weights: Floats,
    replays: int,
) -> float:
    """Learn the examples in order; return the mean loss of the examples themselves, NaN after divergence."""
    candidates = np.empty(rule.negatives + 1, np.int32)
    log_expected = np.empty(rule.negatives + 1, np.float32)
    history = np.empty(rule.memory_length, np.int32)
    keep = np.empty(p.context.shape[1], np.float32)
    kept = np.float32(1.0 / (1.0 - rule.dropout))
    losses = 0.0
    for example in range(len(targets)):
        new = _keep_example(ring, targets[example], histories[example], ages_s[example], weights[example])
        clicks[targets[example]] += 1
        for turn in range(-1, replays):
            place = new if turn < 0 else _draw_replay(ring, rule, random, turn)
            target = ring.targets[place]
            if target >= 0 and ring.known[target]:
                length = 0
                for clicks_ago in range(rule.memory_length):
                    row = ring.histories[place, clicks_ago]
                    history[clicks_ago] = row if row >= 0 and ring.known[row] else ABSENT
                    if history[clicks_ago] >= 0:
                        length = clicks_ago + 1
                for f in range(len(keep)):
                    keep[f] = kept if draw_share(random) >= rule.dropout else np.float32(0.0)
                before = history[:length]
                count = draw_candidates(ring, rule, random, target, before, candidates, log_expected)
                weight = ring.weights[place]
                loss = step(p, rule, before, ring.gaps[place], candidates[:count], log_expected[:count], keep, weight)
                if not np.isfinite(loss):
                    return np.nan
                if turn < 0:
                    losses += loss
            if turn < 0:
                _count_recent(ring, rule, place)
    return losses / max(1, len(targets))


@compiled
def sweep(ring: Ring) -> None:
    """Take what is not known any more out of the ring."""
    for place in range(min(ring.counters[EXAMPLES], len(ring.targets))):
        if ring.targets[place] >= 0 and not ring.known[ring.targets[place]]:
            ring.targets[place] = ABSENT
        for clicks_ago in range(ring.histories.shape[1]):
            row = ring.histories[place, clicks_ago]
            if row >= 0 and not ring.known[row]:
                ring.histories[place, clicks_ago] = ABSENT
