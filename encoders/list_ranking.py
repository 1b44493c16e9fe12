"""A user's list as it is served: her candidates in the order of the second stage, and the click that each rests on.

Shapes: P products, F factors, H clicks of a history, N candidates, K listed, C features.
"""

from typing import NamedTuple

import numpy as np

from encoders.content_lift import RECENT
from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, embed_history, gap_bucket
from encoders.ranking_features import (
    CANDIDATES_MAX,
    FEATURES,
    LIFT_LAST,
    LIFT_RECENT,
    NEAR_CLICKS,
    NEXT_CLICK,
    Knowledge,
    Scratch,
    fill_click_features,
    fill_features,
    fill_lifts,
    fill_product_features,
    find_candidates,
    gather_cosines,
    gather_shares,
)
from encoders.reranker import INPUTS, Reranker, bucket_of, rerank
from encoders.segments import EVERYBODY, add_lifts, fade_counts, take_best_sellers

DIVERSE_WINDOW = 4  # lists long: the candidates among which a diverse list is chosen


class ServedFactors(NamedTuple):
    """The next-click model as the ranking reads it; arrays of products may be longer than P."""

    position_weights: Floats  # (L, F)
    gap_weights: Floats  # (gaps, F)
    memory_weights: Floats  # (F,)
    memory_length: int  # LM
    memory_decay: float  # d
    context: Floats  # (P, F)
    target: Floats  # (P, F)
    bias: Floats  # (P,)
    known: Mask  # (P,) products that have factors


@compiled
def _known_clicks(history: Rows) -> int:
    known = 0
    for row in history:
        known += row != ABSENT
    return known


@compiled
def _placed(r: Reranker, scores: Floats, rows: Rows) -> Floats:
    """The next-click scores of these rows; a product without factors stands where the average candidate does."""
    placed = np.empty(len(rows), np.float32)
    for at in range(len(rows)):
        score = scores[rows[at]]
        placed[at] = r.mean[NEXT_CLICK] if np.isnan(score) else score
    return placed


@compiled
def _reranked(
    k: Knowledge, r: Reranker, scores: Floats, history: Rows, age_s: float, known: int, rows: Rows, s: Scratch
) -> Floats:
    """(N,) of these rows by the re-ranker, after a history with so many known clicks."""
    count = len(rows)
    after, together = gather_shares(k.after, history, rows, s.place), gather_shares(k.together, history, rows, s.place)
    features = np.empty((count, len(FEATURES)), np.float32)
    fill_features(k, _placed(r, scores, rows), history, rows, after, together, features)
    inputs, ranked = np.empty((count, INPUTS), np.float32), np.empty(count, np.float32)
    rerank(r, features, bucket_of(known), gap_bucket(age_s), inputs, ranked)
    return ranked


@compiled
def rank_candidates(
    k: Knowledge, r: Reranker, scores: Floats, listable: Mask, history: Rows, age_s: float, segment: int, s: Scratch
) -> tuple[Rows, Floats]:
    """Return the candidates (N,) int32, each once and in no order, and their scores in the list (N,) float32.

    scores    (P,) next-click scores, NaN for a product without factors
    listable  (P,) bool: what this user may get
    history   (<= HISTORY,) int32, newest first, -1 unknown; age_s of the newest click, 0 without any
    segment   column of the user's segment, EVERYBODY for none. Without a known click in the history, what sells best
              in it is a candidate as well, and log(p(product | segment) / p(product)) is added to each score:
              naive Bayes. With one it changes nothing

    A product's score does not depend on which others are candidates.
    """
    candidates = np.empty(CANDIDATES_MAX, np.int32)
    count = find_candidates(k, scores, listable, history, s, candidates)
    known = _known_clicks(history)
    by_segment = segment != EVERYBODY and known == 0
    products, share = len(scores) if by_segment else 0, 0.0
    of_segment, of_all = np.empty(products, np.float32), np.empty(products, np.float32)
    if by_segment:
        share = fade_counts(k, segment, of_segment, of_all)
        count = take_best_sellers(of_segment, listable, count, candidates)
    rows = candidates[:count].copy()
    ranked = _reranked(k, r, scores, history, age_s, known, rows, s)
    if by_segment:
        add_lifts(of_segment, of_all, share, rows, ranked)
    return rows, ranked


@compiled
def rank_rows(
    k: Knowledge, r: Reranker, scores: Floats, history: Rows, age_s: float, segment: int, rows: Rows, s: Scratch
) -> Floats:
    """Return the scores (N,) float32 in the list of these rows (N,), each once: those of rank_candidates."""
    known = _known_clicks(history)
    ranked = _reranked(k, r, scores, history, age_s, known, rows, s)
    if segment != EVERYBODY and known == 0:
        of_segment, of_all = np.empty(len(scores), np.float32), np.empty(len(scores), np.float32)
        add_lifts(of_segment, of_all, fade_counts(k, segment, of_segment, of_all), rows, ranked)
    return ranked


@compiled
def choose_listed(scores: Floats, rows: Rows, content: Floats, diversity: float, count: int) -> Rows:
    """Return the places (K,) int32, K <= count, of the candidates that make the list, best first, ties by lower row.

    diversity  0: the best by score. More, up to 1: what is taken next has the largest
               (1 - diversity) * score - diversity * (highest cosine with what is taken), scores mapped to 0..1,
               among the best DIVERSE_WINDOW * count (maximal marginal relevance)

    Source: Carbonell, Goldstein, SIGIR 1998.
    """
    by_row = np.argsort(rows)
    order: Rows = by_row[np.argsort(-scores[by_row], kind="mergesort")].astype(np.int32)
    listed = min(count, len(order))
    if diversity <= 0.0 or listed < 2:
        return order[:listed].copy()
    window = order[: DIVERSE_WINDOW * count]
    lowest, highest = scores[window[-1]], scores[window[0]]
    breadth = max(highest - lowest, np.float32(1e-6))
    nearest = np.full(len(window), np.float32(-1.0), np.float32)  # highest cosine with what is taken
    taken = np.zeros(len(window), np.bool_)
    chosen = np.empty(listed, np.int32)
    for place in range(listed):
        best, most = -1, -np.inf
        for at in range(len(window)):
            if not taken[at]:
                beside = nearest[at] if place else np.float32(0.0)
                value = (1.0 - diversity) * (scores[window[at]] - lowest) / breadth - diversity * beside
                if value > most:
                    best, most = at, value
        taken[best] = True
        chosen[place] = window[best]
        newest = content[rows[window[best]]]
        for at in range(len(window)):
            if not taken[at]:
                cosine = np.float32(0.0)
                for d in range(len(newest)):
                    cosine += newest[d] * content[rows[window[at]], d]
                nearest[at] = max(nearest[at], cosine)
    return chosen


@compiled
def _next_click_scores(
    r: Reranker, f: ServedFactors, history: Rows, ages_s: Floats, rows: Rows, z: Floats, memory: Floats, out: Floats
) -> None:
    """Fill out (K,) with the next-click scores of these products after this history; z, memory (F,) to work in."""
    positions, factors = f.position_weights.shape
    clicks = min(len(history), f.memory_length)
    clicked = np.empty(clicks, np.int32)
    gaps = np.zeros(positions, np.int8)
    for at in range(clicks):
        clicked[at] = history[at] if history[at] != ABSENT and f.known[history[at]] else ABSENT
        if at < positions:
            gaps[at] = gap_bucket(ages_s[at])
    embed_history(
        f.position_weights, f.gap_weights, f.memory_weights, f.memory_decay, f.context, clicked, gaps, z, memory
    )
    for at in range(len(rows)):
        row = rows[at]
        if not f.known[row]:
            out[at] = r.mean[NEXT_CLICK]
            continue
        score = f.bias[row]
        for factor in range(factors):
            score += f.target[row, factor] * z[factor]
        out[at] = score


@compiled
def _most_of_one(history: Rows) -> int:
    """How many clicks of the history the product with most of them has."""
    most = 0
    for row in history:
        if row != ABSENT:
            most = max(most, (history == row).sum())
    return most


@compiled
def clicks_behind(
    k: Knowledge, r: Reranker, f: ServedFactors, history: Rows, ages_s: Floats, rows: Rows, place: Rows
) -> Rows:
    """Return, for each listed product (K,), the clicked product without which its score would be lowest; -1: none.

    Every product of the history is taken out in turn, with all its clicks, and each list is scored anew; what the
    re-ranker reads of the history as a whole, its length and the time since the last click, stays. -1 where no click
    raises the score.

    history  (<= HISTORY,) int32, newest first, -1 unknown; ages_s (H,) float32
    rows     (K,) int32, each once; place as in Scratch
    """
    bucket = bucket_of(_known_clicks(history))
    gap = gap_bucket(float(ages_s[0]) if len(ages_s) else 0.0)
    count, factors = len(rows), f.position_weights.shape[1]
    behind = np.full(count, ABSENT, np.int32)
    lowest, without, scores = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    z, memory = np.empty(factors, np.float32), np.empty(factors, np.float32)
    features, inputs = np.empty((count, len(FEATURES)), np.float32), np.empty((count, INPUTS), np.float32)
    after, together = gather_shares(k.after, history, rows, place), gather_shares(k.together, history, rows, place)
    read = history[: NEAR_CLICKS + _most_of_one(history)]  # whatever is taken out, the nearest clicks are among these
    cosines = gather_cosines(k, read, rows)
    fill_product_features(k, rows, features)
    fill_lifts(k, history, rows, features)
    _next_click_scores(r, f, history, ages_s, rows, z, memory, scores)
    near = len(history[:NEAR_CLICKS])
    fill_click_features(scores, history[:near], cosines[:near], after, together, features)
    rerank(r, features, bucket, gap, inputs, lowest)
    of_all = features[:, LIFT_LAST : LIFT_RECENT + 1].copy()
    for click in range(len(history)):
        row = history[click]
        if row == ABSENT or (history[:click] == row).any():
            continue
        kept = history != row
        left, nearest = history[kept], np.flatnonzero(kept[: len(read)])[:NEAR_CLICKS]
        if click < RECENT:  # further back the lift does not look
            fill_lifts(k, left, rows, features)
        else:
            features[:, LIFT_LAST : LIFT_RECENT + 1] = of_all
        _next_click_scores(r, f, left, ages_s[kept], rows, z, memory, scores)
        fill_click_features(scores, history[nearest], cosines[nearest], after[kept], together[kept], features)
        rerank(r, features, bucket, gap, inputs, without)
        for at in range(count):
            if without[at] < lowest[at]:
                lowest[at], behind[at] = without[at], row
    return behind
