"""The choice of new products for one list, compiled: evidence, standing among a product's users, thresholds, memory.

What the words mean stands in encoders.exploration. Shapes as there: P products, N candidates, X unwanted rows.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Mask, Rows, compiled
from encoders.next_click_step import Random, draw_below

Counts = NDArray[np.int64]
Doubles = NDArray[np.float64]
Products = NDArray[np.void]  # (P,) of PRODUCT

MEMORY_LISTS = 500  # over which means and deviations forget
PRIOR_LISTS = 10  # lists that the mean and deviation of all products count for where a product has none
STEP = 0.1  # deviations that a threshold rises with a position
LOWEST, HIGHEST = -2.0, 4.0  # of a threshold

# What is known of a row, side by side in memory: a candidate costs one access.
PRODUCT = np.dtype(
    [
        ("birth", np.int64),  # of the product that the rest is about
        ("clicks_before", np.int64),  # its clicks at its first impression
        ("impressions", np.int32),
        ("offered", np.int32),  # lists that it was a candidate of, PRIOR_LISTS included
        ("mean", np.float32),  # of the affinities
        ("variance", np.float32),
        ("threshold", np.float32),  # in deviations
    ],
    align=True,
)

_MIX_USER, _MIX_ROW = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_MIX_BIRTH, _SHIFT, _ONE = np.uint64(0x94D049BB133111EB), np.uint64(29), np.uint64(1)


class Rule(NamedTuple):
    """How much is explored, and where; a share of 0 explores nothing."""

    share: float = 0.05  # of all positions, at most
    impressions: int = 100  # N, that each new product gets, whatever becomes of them
    nearest: float = 0.05  # of the lists, those whose users are nearest to a product, are what it asks for
    per_list: int = 2  # explored products of a list, at most
    per_user: int = 2  # lists of one user with the same explored product, at most
    top: int = 4  # first positions of a list, which stay the ranking's
    clicks: int = 20  # a product with so many is not new
    optimism: float = 1.0  # deviations above the mean


class Shown(NamedTuple):
    """How often a user was shown an explored product: two tables, so that the older pairs can be forgotten."""

    keys: Random  # (2, S), 0 is no key
    times: NDArray[np.uint8]  # (2, S)
    younger: Counts  # (2,) which table takes new pairs, and how many it holds


# --- evidence --------------------------------------------------------------------------------------------------------


@compiled
def _bound(gained: float, expected: float, optimism: float) -> float:
    return float((1.0 + gained + optimism * np.sqrt(1.0 + gained)) / (1.0 + expected))


@compiled
def _gained(product: Any, clicks: int) -> int:
    """Clicks since the first impression; a learner that went back to a checkpoint may know fewer than before."""
    return max(0, clicks - product.clicks_before) if product.impressions > 0 else 0


@compiled
def evidence(products: Products, rate: float, rows: Rows, clicks: Counts) -> tuple[Floats, Floats]:
    """Clicks since the first impression (N,), and how many an average listed product would have by now (N,)."""
    gained, expected = np.empty(len(rows), np.float32), np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        product = products[rows[place]]
        gained[place] = _gained(product, clicks[rows[place]])
        expected[place] = product.impressions * rate
    return gained, expected


@compiled
def upper_bounds(products: Products, rate: float, rows: Rows, clicks: Counts, optimism: float) -> Floats:
    """(N,) how many times the average click rate each candidate may be worth."""
    index = np.empty(len(rows), np.float32)
    for place in range(len(rows)):
        product = products[rows[place]]
        index[place] = _bound(_gained(product, clicks[rows[place]]), product.impressions * rate, optimism)
    return index


@compiled
def find_new(
    products: Products, rule: Rule, start: float, allowed: Mask, clicks: Counts, births: Counts
) -> tuple[Rows, float]:
    """The new rows, and clicks an impression of all that was listed. A row of another product starts afresh."""
    impressions, gained = 0, 0
    for row in range(len(allowed)):
        product = products[row]
        if product.birth != births[row]:
            product.birth = births[row]
            product.impressions = product.offered = 0
        if product.offered == 0:
            product.threshold = start
        impressions += product.impressions
        gained += _gained(product, clicks[row])
    rate = gained / max(1, impressions)
    rows = np.empty(len(allowed), np.int32)
    found = 0
    for row in range(len(allowed)):
        if allowed[row] and clicks[row] < rule.clicks:
            product = products[row]
            expected = product.impressions * rate
            hopeful = _bound(_gained(product, clicks[row]), expected, rule.optimism) > 1.0
            if hopeful or product.impressions < rule.impressions:
                rows[found] = row
                found += 1
    return rows[:found].copy(), rate


@compiled
def count(products: Products, rows: Rows, clicks: Counts) -> None:
    """One impression more for each of the rows."""
    for row in rows:
        product = products[row]
        if product.impressions == 0:
            product.clicks_before = clicks[row]
        product.impressions += 1


# --- a choice --------------------------------------------------------------------------------------------------------


@compiled
def _pool(pooled: Doubles, affinity: Floats) -> None:
    """Let the mean and variance of all products' affinities follow those of this list."""
    n, total, squares = 0, 0.0, 0.0
    for value in affinity:
        if np.isfinite(value):
            n += 1
            total += value
            squares += value * value
    if n > 0:
        pooled[0] += n
        rate = max(n / pooled[0], 1.0 / MEMORY_LISTS)
        mean = total / n
        away = mean - pooled[1]
        pooled[1] += rate * away
        pooled[2] = (1.0 - rate) * (pooled[2] + rate * away * away) + rate * max(0.0, squares / n - mean * mean)


@compiled
def _standing(product: Any, pooled: Doubles, affinity: float) -> float:
    """By how many deviations this user is nearer to the product than its users were; from now on she is one of them."""
    if product.offered == 0:
        product.offered, product.mean, product.variance = PRIOR_LISTS, pooled[1], pooled[2]
    product.offered = min(product.offered + 1, MEMORY_LISTS)
    away = np.float32(affinity) - product.mean
    variance = product.variance
    rate = np.float32(1.0) / np.float32(product.offered)
    product.mean += rate * away
    product.variance = (np.float32(1.0) - rate) * (variance + rate * away * away)
    return float(away / np.sqrt(variance + np.float32(1e-12)))


@compiled
def choose(
    products: Products,
    pooled: Doubles,
    shown: Shown,
    rule: Rule,
    user: np.uint64,
    rows: Rows,
    affinity: Floats,
    index: Floats,
    unwanted: Rows,
    listable: Mask,
    clicks: Counts,
    slots: int,
) -> Rows:
    """At most `slots` of the rows, those of the highest value first; each counts as shown to the user once more."""
    _pool(pooled, affinity)
    chosen, values = np.empty(slots, np.int32), np.empty(slots, np.float32)
    taken = 0
    for place in range(len(rows)):
        row = rows[place]
        if not (listable[row] and clicks[row] < rule.clicks and np.isfinite(affinity[place])):
            continue
        product = products[row]
        standing = _standing(product, pooled, affinity[place])
        pace = rule.nearest
        if product.impressions >= rule.impressions:
            pace = pace * rule.impressions / product.impressions if index[place] > 1.0 else 0.0
        if pace == 0.0 or pooled[0] < PRIOR_LISTS:  # of the very first affinities nobody can say what is near
            continue
        product.threshold = max(LOWEST, product.threshold - STEP * pace)
        above = standing - product.threshold
        if above < 0.0:
            continue
        value = above + np.log(max(index[place], 1e-6))
        if (taken == slots and value <= values[slots - 1]) or (unwanted == row).any():
            continue
        if _times(shown, _key(user, row, product.birth)) >= rule.per_user:
            continue
        taken = min(taken + 1, slots)
        at = taken - 1
        while at > 0 and value > values[at - 1]:
            chosen[at], values[at] = chosen[at - 1], values[at - 1]
            at -= 1
        chosen[at], values[at] = row, value
    for row in chosen[:taken]:
        product = products[row]
        product.threshold = min(HIGHEST, product.threshold + STEP)
        _add(shown, _key(user, row, product.birth))
    return chosen[:taken]


@compiled
def positions(random: Random, top: int, length: int, count: int) -> Rows:
    """One at random in each of `count` equal parts of what is below the top."""
    drawn = np.empty(count, np.int32)
    for part in range(count):
        begin, end = part * (length - top) // count, (part + 1) * (length - top) // count
        drawn[part] = top + begin + draw_below(random, end - begin)
    return drawn


# --- who was shown what ----------------------------------------------------------------------------------------------


@compiled
def _key(user: np.uint64, row: int, birth: int) -> np.uint64:
    key = user * _MIX_USER + np.uint64(row)
    key = (key ^ (key >> _SHIFT)) * _MIX_ROW + np.uint64(birth)
    key = (key ^ (key >> _SHIFT)) * _MIX_BIRTH
    return np.uint64((key ^ (key >> _SHIFT)) | _ONE)


@compiled
def _find(keys: Random, key: np.uint64) -> int:
    """The key's place, or the free one where it belongs."""
    at = np.int64(key >> _SHIFT) & (len(keys) - 1)
    while keys[at] != key and keys[at] != np.uint64(0):
        at = (at + 1) & (len(keys) - 1)
    return int(at)


@compiled
def _times(shown: Shown, key: np.uint64) -> int:
    times = 0
    for table in range(2):
        at = _find(shown.keys[table], key)
        if shown.keys[table, at] == key:
            times += shown.times[table, at]
    return times


@compiled
def _add(shown: Shown, key: np.uint64) -> None:
    """Once more. A table that is half full becomes the older one, and what the older one held is forgotten."""
    if shown.younger[1] * 2 >= shown.keys.shape[1]:
        shown.younger[0] = 1 - shown.younger[0]
        shown.younger[1] = 0
        shown.keys[shown.younger[0]] = 0
        shown.times[shown.younger[0]] = 0
    table = shown.younger[0]
    at = _find(shown.keys[table], key)
    if shown.keys[table, at] != key:
        shown.keys[table, at] = key
        shown.younger[1] += 1
    shown.times[table, at] += 1
