"""Why a product stands in a list as it does: how it became a candidate, and what the re-ranker read of it.

For a person who asks: plain calls of what the ranking itself is made of, one list at a time.
"""

from typing import Any

import numpy as np

from encoders.content_lift import lift_queries
from encoders.next_click import ABSENT, Floats, Mask, Rows
from encoders.ranking_features import (
    AFTER,
    AFTER_DECAY,
    BY_LIFT,
    BY_NEIGHBOURS,
    BY_SCORE,
    COLD_BY_LIFT,
    COLD_BY_SCORE,
    COLD_CLICKS,
    COSINE_BEST,
    COSINE_MEAN,
    FEATURES,
    LIFT_LAST,
    LIFT_RECENT,
    NO_SHARE,
    TOGETHER,
    Knowledge,
    Scratch,
    fill_features,
    gather_shares,
    take_neighbours,
    top,
)
from encoders.trends import HALF_LIVES, faded

SHARES = ("last", "recent", "all")  # of the last click, of the last 5, of all


def explain_listed(
    k: Knowledge, scores: Floats, listable: Mask, history: Rows, rows: Rows, s: Scratch
) -> list[dict[str, Any]]:
    """What is known of each listed product (K,), as JSON values.

    found_by    the searches for candidates that it came out of; none if it is there for another reason, such as to
                fill the list up
    next_click  its next-click score; None without factors
    content     what its content has to do with that of the last clicks
    after       the share that it has of the clicks after those of the history; together with them
    clicks      learned ones: ever, and lately by half-life in clicks of the shop

    scores    (P,) next-click scores, NaN for a product without factors
    listable  (P,) bool: what this user may get
    history   (<= HISTORY,) int32, newest first, -1 unknown
    """
    features = np.empty((len(rows), len(FEATURES)), np.float32)
    after, together = gather_shares(k.after, history, rows, s.place), gather_shares(k.together, history, rows, s.place)
    fill_features(k, scores[rows], history, rows, after, together, features)
    found = _found(k, scores, listable, history, s)
    lately = faded(k.trends, rows, k.now)
    explained = []
    for at, row in enumerate(rows.tolist()):
        of = features[at].astype(np.float64)
        shares = np.maximum(np.exp(of) - NO_SHARE, 0.0).round(6)
        explained.append(
            {
                "found_by": [name for name, some in found.items() if row in some],
                "next_click": None if np.isnan(scores[row]) else round(float(scores[row]), 6),
                "content": {
                    "lift_last": round(of[LIFT_LAST], 6),
                    "lift_recent": round(of[LIFT_RECENT], 6),
                    "cosine_best": round(of[COSINE_BEST], 6),
                    "cosine_mean": round(of[COSINE_MEAN], 6),
                },
                "after": dict(zip(SHARES, shares[AFTER : AFTER + 3].tolist(), strict=True)),
                "together": dict(zip(SHARES, shares[TOGETHER : TOGETHER + 3].tolist(), strict=True)),
                "clicks": {"ever": int(k.clicks[row])}
                | {
                    f"half_life_{half_life:g}": round(float(count), 3)
                    for half_life, count in zip(HALF_LIVES, lately[at], strict=True)
                },
            }
        )
    return explained


def _found(k: Knowledge, scores: Floats, listable: Mask, history: Rows, s: Scratch) -> dict[str, set[int]]:
    """The rows that each search of encoders.ranking_features.find_candidates gives, by its name."""
    products = len(scores)
    listable = listable[:products]
    cold = listable & (k.clicks[:products] < COLD_CLICKS)
    found = {"next-click": _best(scores, listable, BY_SCORE), "next-click of new": _best(scores, cold, COLD_BY_SCORE)}
    if len(history):
        last, recent = np.empty(k.content.shape[1], np.float32), np.empty(k.content.shape[1], np.float32)
        lift_queries(k.lift, k.content, history, last, recent)
        lifts = k.content[:products] @ (last + recent)
        found["content"] = _best(lifts, listable, BY_LIFT)
        found["content of new"] = _best(lifts, cold, COLD_BY_LIFT)
        for name, table, decay in (("next", k.after, AFTER_DECAY), ("together", k.together, 1.0)):
            rows = np.empty(BY_NEIGHBOURS, np.int32)
            rows = rows[: take_neighbours(table, decay, listable, history, s, 0, rows)]
            s.place[rows] = ABSENT
            found[name] = set(rows.tolist())
    return found


def _best(scores: Floats, allowed: Mask, count: int) -> set[int]:
    rows = np.empty(count, np.int32)
    return set(rows[: top(scores, allowed, count, rows)].tolist())
