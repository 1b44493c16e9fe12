"""Candidates for a list, and what speaks for each of them.

Everything here is a function of one history, one product and what is known of the shop: no feature depends on which
other products are candidates. So the score of a product can be explained, by leaving a click out of the history, and
a list that is made elsewhere from the same knowledge is the same list.

Shapes: P products, F factors, D content width, H clicks of a history, N candidates, C features.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.content_lift import AXES, Lift, lift_queries, new_lift
from encoders.neighbours import Neighbours, longer_neighbours, no_neighbours
from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, longer
from encoders.trends import Trends, log_count, no_trends

FEATURES = (
    *("next_click", "clicked_lately", "clicked_recently", "clicked_ever", "clicks"),
    *("lift_last", "lift_recent", "cosine_best", "cosine_mean"),
    *("after_last", "after_recent", "after_all", "together_last", "together_recent", "together_all"),
)
"""The columns, C of them. Counts and shares are logarithms."""
NEXT_CLICK, CLICKED_LATELY, CLICKED_RECENTLY, CLICKED_EVER, CLICKS = range(5)
LIFT_LAST, LIFT_RECENT, COSINE_BEST, COSINE_MEAN = range(5, 9)
AFTER, TOGETHER = 9, 12  # each: the last click, the last 5, all
COLD_CLICKS = 5  # a product with fewer is new
JUST_LOOKED_AT = 3  # clicks: what the user has just looked at is no candidate

HISTORY = 50  # clicks that are read
BY_SCORE, COLD_BY_SCORE, BY_LIFT, COLD_BY_LIFT, BY_NEIGHBOURS = 120, 40, 20, 20, 30
CANDIDATES_MAX = BY_SCORE + COLD_BY_SCORE + BY_LIFT + COLD_BY_LIFT + 2 * BY_NEIGHBOURS  # or, without history,
# the best sellers of a segment in place of neighbours
NEAR_CLICKS = 8  # whose content is compared one by one
NEIGHBOUR_CLICKS, AFTER_DECAY, _ALL_DECAY = 5, 0.7, 0.95
NO_SHARE = 1e-4  # added to a share before its logarithm: a share of some ten thousandths says nothing


class Knowledge(NamedTuple):
    """What is known of P products at a moment; arrays may be longer than P."""

    clicks: NDArray[np.int64]  # (P,)
    content: Floats  # (P, D) of unit length, or zeros
    trends: Trends
    after: Neighbours
    together: Neighbours
    lift: Lift
    now: int  # learned clicks of the shop
    segments: Floats  # (P, 0 or 1 + S) of encoders.segments


def no_knowledge() -> Knowledge:
    """Of no products."""
    none, content, segments = np.zeros(0, np.int64), np.zeros((0, AXES), np.float32), np.zeros((0, 0), np.float32)
    return Knowledge(none, content, no_trends(0), no_neighbours(0), no_neighbours(0), new_lift(), 0, segments)


def room_for(k: Knowledge, products: int) -> Knowledge:
    """The same with room for so many products, all but their clicks."""
    return k._replace(
        content=longer(k.content, products),
        trends=Trends(longer(k.trends.counts, products), longer(k.trends.counted_at, products)),
        after=longer_neighbours(k.after, products),
        together=longer_neighbours(k.together, products),
        segments=longer(k.segments, products),
    )


class Scratch(NamedTuple):
    """Room to work in, for one thread; between two calls `sums` is 0 and `place` is ABSENT everywhere."""

    sums: Floats  # (P,)
    touched: Rows  # (P,)
    place: Rows  # (P,) of a candidate
    lifts: Floats  # (P,)
    cold: Mask  # (P,)


def new_scratch(products: int) -> Scratch:
    """For up to so many products."""
    return Scratch(
        np.zeros(products, np.float32),
        np.zeros(products, np.int32),
        np.full(products, ABSENT, np.int32),
        np.zeros(products, np.float32),
        np.zeros(products, np.bool_),
    )


@compiled
def top(scores: Floats, allowed: Mask, count: int, rows: Rows) -> int:
    """Fill rows with the best `count` allowed places of scores, in no order, ties to the lower; return how many."""
    kept = np.empty(count, np.float32)
    size = 0
    for row in range(len(scores)):
        if size == count and scores[row] <= kept[0]:
            continue
        if not allowed[row] or np.isnan(scores[row]):
            continue
        if size < count:
            at = size
            size += 1
            while at > 0 and kept[(at - 1) // 2] > scores[row]:
                kept[at], rows[at] = kept[(at - 1) // 2], rows[(at - 1) // 2]
                at = (at - 1) // 2
        else:
            at = 0
            while True:
                child = 2 * at + 1
                if child >= size:
                    break
                if child + 1 < size and kept[child + 1] < kept[child]:
                    child += 1
                if kept[child] >= scores[row]:
                    break
                kept[at], rows[at] = kept[child], rows[child]
                at = child
        kept[at], rows[at] = scores[row], row
    return size


@compiled
def _take(found: Rows, count: int, taken: int, candidates: Rows, place: Rows) -> int:
    """Append what is no candidate yet; return how many there are now."""
    for row in found[:count]:
        if place[row] == ABSENT:
            place[row] = taken
            candidates[taken] = row
            taken += 1
    return taken


@compiled
def take_neighbours(
    table: Neighbours, decay: float, listable: Mask, history: Rows, s: Scratch, taken: int, candidates: Rows
) -> int:
    """Append the listable products with the largest shares in the rows of the last clicks."""
    touched, weight = 0, np.float32(1.0)
    for row in history[:NEIGHBOUR_CLICKS]:
        if row >= 0:
            for place in range(table.ids.shape[1]):
                neighbour = table.ids[row, place]
                if neighbour == ABSENT:
                    break
                if listable[neighbour]:
                    if s.sums[neighbour] == 0.0:
                        s.touched[touched] = neighbour
                        touched += 1
                    s.sums[neighbour] += weight * table.shares[row, place] + np.float32(1e-9)
        weight *= np.float32(decay)
    found = np.empty(BY_NEIGHBOURS, np.int32)
    sums = np.empty(touched, np.float32)
    for at in range(touched):
        sums[at] = s.sums[s.touched[at]]
        s.sums[s.touched[at]] = 0.0
    count = top(sums, np.ones(touched, np.bool_), BY_NEIGHBOURS, found)
    for at in range(count):
        found[at] = s.touched[found[at]]
    return _take(found, count, taken, candidates, s.place)


@compiled
def find_candidates(k: Knowledge, scores: Floats, listable: Mask, history: Rows, s: Scratch, candidates: Rows) -> int:
    """Fill candidates (CANDIDATES_MAX,) with rows, each once, and return N.

    scores    (P,) next-click scores
    listable  (P,) bool: what this user may get
    history   (<= HISTORY,) int32, newest first, -1 unknown

    They are the best by score, and by score among the new products; the same by content; and the neighbours of the
    last clicks.
    """
    products = len(scores)
    found = np.empty(BY_SCORE, np.int32)
    cold = s.cold[:products]
    for row in range(products):
        cold[row] = listable[row] and k.clicks[row] < COLD_CLICKS
    taken = _take(found, top(scores, listable, BY_SCORE, found), 0, candidates, s.place)
    taken = _take(found, top(scores, cold, COLD_BY_SCORE, found), taken, candidates, s.place)
    last, recent = np.empty(k.content.shape[1], np.float32), np.empty(k.content.shape[1], np.float32)
    lift_queries(k.lift, k.content, history, last, recent)
    lifts = s.lifts[:products]
    for d in range(len(last)):
        last[d] += recent[d]
    for row in range(products):
        total = np.float32(0.0)
        for d in range(len(last)):
            total += last[d] * k.content[row, d]
        lifts[row] = total
    if len(history):
        taken = _take(found, top(lifts, listable, BY_LIFT, found), taken, candidates, s.place)
        taken = _take(found, top(lifts, cold, COLD_BY_LIFT, found), taken, candidates, s.place)
        taken = take_neighbours(k.after, AFTER_DECAY, listable, history, s, taken, candidates)
        taken = take_neighbours(k.together, 1.0, listable, history, s, taken, candidates)
    for row in candidates[:taken]:
        s.place[row] = ABSENT
    return taken


@compiled
def gather_shares(table: Neighbours, history: Rows, rows: Rows, place: Rows) -> Floats:
    """(H, N) the share that each of the products rows (N,), each once, has in the row of each click; place as in
    Scratch."""
    shares = np.zeros((len(history), len(rows)), np.float32)
    for at in range(len(rows)):
        place[rows[at]] = at
    for click in range(len(history)):
        row = history[click]
        if row >= 0:
            for neighbour in range(table.ids.shape[1]):
                other = table.ids[row, neighbour]
                if other == ABSENT:
                    break
                if place[other] != ABSENT:
                    shares[click, place[other]] = table.shares[row, neighbour]
    for row in rows:
        place[row] = ABSENT
    return shares


@compiled
def _neighbour_features(shares: Floats, decay: float, column: int, out: Floats) -> None:
    """Fill three columns: the log share of each product in the row of the last click, of the last 5, and of all."""
    clicks, count = shares.shape
    of_recent, of_all = np.zeros(count, np.float32), np.zeros(count, np.float32)
    recent, every = np.float32(1.0), np.float32(1.0)
    recents, everies = np.float32(0.0), np.float32(0.0)
    for click in range(clicks):
        if click < NEIGHBOUR_CLICKS:
            recents += recent
            for at in range(count):
                of_recent[at] += recent * shares[click, at]
        everies += every
        for at in range(count):
            of_all[at] += every * shares[click, at]
        recent *= np.float32(decay)
        every *= np.float32(_ALL_DECAY)
    recents, everies = max(recents, np.float32(1.0)), max(everies, np.float32(1.0))
    for at in range(count):
        of_last = shares[0, at] if clicks else np.float32(0.0)
        out[at, column] = np.log(of_last + np.float32(NO_SHARE))
        out[at, column + 1] = np.log(of_recent[at] / recents + np.float32(NO_SHARE))
        out[at, column + 2] = np.log(of_all[at] / everies + np.float32(NO_SHARE))


@compiled
def fill_features(
    k: Knowledge, scores: Floats, history: Rows, rows: Rows, after: Floats, together: Floats, out: Floats
) -> None:
    """Fill out (N, C) for the products rows (N,), each once.

    scores           (N,) their next-click scores
    history          (H,) int32, H <= HISTORY, newest first, -1 unknown
    after, together  (H, N) from gather_shares
    """
    fill_product_features(k, rows, out)
    fill_lifts(k, history, rows, out)
    cosines = gather_cosines(k, history[:NEAR_CLICKS], rows)
    fill_click_features(scores, history[:NEAR_CLICKS], cosines, after, together, out)


@compiled
def fill_product_features(k: Knowledge, rows: Rows, out: Floats) -> None:
    """Fill the columns of out (N, C) that no history changes."""
    every = np.log(np.float32(k.now + 1000))
    for at in range(len(rows)):
        row = rows[at]
        out[at, CLICKED_LATELY] = log_count(k.trends, row, 0, k.now)
        out[at, CLICKED_RECENTLY] = log_count(k.trends, row, 1, k.now)
        out[at, CLICKS] = np.log(np.float32(1 + k.clicks[row]))
        out[at, CLICKED_EVER] = np.log(k.clicks[row] + np.float32(0.5)) - every


@compiled
def fill_lifts(k: Knowledge, history: Rows, rows: Rows, out: Floats) -> None:
    """Fill the columns of the content lift: they depend on the last RECENT clicks of the history."""
    width = k.content.shape[1]
    last, recent = np.empty(width, np.float32), np.empty(width, np.float32)
    lift_queries(k.lift, k.content, history, last, recent)
    for at in range(len(rows)):
        of_last, of_recent = np.float32(0.0), np.float32(0.0)
        for d in range(width):
            of_last += last[d] * k.content[rows[at], d]
            of_recent += recent[d] * k.content[rows[at], d]
        out[at, LIFT_LAST], out[at, LIFT_RECENT] = of_last, of_recent


@compiled
def gather_cosines(k: Knowledge, history: Rows, rows: Rows) -> Floats:
    """(H, N) the cosine of each click's content with that of each of the products rows (N,); 0 for unknown clicks."""
    cosines = np.zeros((len(history), len(rows)), np.float32)
    for click in range(len(history)):
        if history[click] != ABSENT:
            for at in range(len(rows)):
                cosine = np.float32(0.0)
                for d in range(k.content.shape[1]):
                    cosine += k.content[history[click], d] * k.content[rows[at], d]
                cosines[click, at] = cosine
    return cosines


@compiled
def fill_click_features(
    scores: Floats, history: Rows, cosines: Floats, after: Floats, together: Floats, out: Floats
) -> None:
    """Fill the other columns of out (N, C).

    scores           (N,) next-click scores
    history          the last NEAR_CLICKS clicks, newest first, -1 unknown; cosines as long, from gather_cosines
    after, together  (H, N) from gather_shares
    """
    for at in range(len(out)):
        out[at, NEXT_CLICK] = scores[at]
        best, total, known = np.float32(-1.0), np.float32(0.0), 0
        for click in range(len(history)):
            if history[click] != ABSENT:
                cosine = cosines[click, at]
                best, total, known = max(best, cosine), total + cosine, known + 1
        out[at, COSINE_BEST] = best if known else np.float32(0.0)
        out[at, COSINE_MEAN] = total / np.float32(max(1, known))
    _neighbour_features(after, AFTER_DECAY, AFTER, out)
    _neighbour_features(together, 1.0, TOGETHER, out)
