"""What is popular in a part of the shop's users: a country, or whatever else a click names as its segment.

Of each product there are clicks by segment, and those of all users; both fade with the clicks of the whole shop and are
kept as they were at the product's last click, as in encoders.trends. How many times as often as elsewhere the product
is clicked in the segment is

    lift = (c_sp + A) / (c_p * n_s / n + A)

with c_sp, c_p, n_s, n the faded clicks of the product in the segment, of the product, of the segment, and all: the
mean of a Poisson rate after c_sp clicks where c_p * n_s / n were expected, if before any it is a gamma variable of mean
1 that weighs as much as A clicks. So a product that was clicked once, and a segment that has come just now, have lifts
near 1, and a product without clicks has exactly 1.

Source: DuMouchel, The American Statistician 53 (1999), section 2, with one gamma distribution of mean 1.

Shapes: P products, S segments, N candidates. A shop whose clicks name no segment has no columns.
"""

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Mask, Rows, compiled, longer
from encoders.ranking_features import Knowledge, top

SEGMENTS_MAX = 64  # the first that come; clicks of others count among those of all users only
EVERYBODY = 0  # the column of all users' clicks; also: no segment
HALF_LIFE = 20_000.0  # clicks of the shop
EVIDENCE = 5.0  # A, clicks
BEST_SELLERS = 30  # that are candidates


def column_for(columns: dict[str, int], segment: str | None) -> int:
    """The segment's column, a new one where there is room; EVERYBODY for none, and for what comes beyond."""
    if not segment:
        return EVERYBODY
    if segment not in columns and len(columns) < SEGMENTS_MAX:
        columns[segment] = len(columns) + 1
    return columns.get(segment, EVERYBODY)


def room_for_columns(counts: Floats, columns: dict[str, int]) -> Floats:
    """The counts (P, 0 or 1 + S) with columns for everybody and for each of these."""
    if counts.shape[1] > len(columns):
        return counts
    return np.ascontiguousarray(longer(counts.T, 1 + len(columns)).T)


@compiled
def count_in_segment(counts: Floats, counted_at: NDArray[np.int64], row: int, column: int, now: int) -> None:
    """One more click of the product in the segment of this column, at this moment; EVERYBODY: in none.

    counts  (P, 1 + S); counted_at (P,) of the trends, which count the click after this
    """
    faded = np.float32(np.exp2(-(now - counted_at[row]) / HALF_LIFE))
    for each in range(counts.shape[1]):
        counts[row, each] *= faded
    counts[row, EVERYBODY] += np.float32(1.0)
    if column != EVERYBODY:
        counts[row, column] += np.float32(1.0)


@compiled
def fade_counts(k: Knowledge, column: int, of_segment: Floats, of_all: Floats) -> float:
    """Fill of_segment and of_all (P,) with the clicks as they are at this moment; return the segment's share of all."""
    clicks, every = 0.0, 0.0
    for row in range(len(of_all)):
        passed = max(0, k.now - k.trends.counted_at[row])
        faded = np.float32(np.exp2(-passed / HALF_LIFE))
        of_segment[row] = k.segments[row, column] * faded
        of_all[row] = k.segments[row, EVERYBODY] * faded
        clicks += of_segment[row]
        every += of_all[row]
    return clicks / every if every > 0.0 else 0.0


@compiled
def take_best_sellers(of_segment: Floats, listable: Mask, count: int, candidates: Rows) -> int:
    """Append the listable products with the most clicks (P,) in the segment, BEST_SELLERS at most, to the candidates,
    each once; return how many there are now."""
    found = np.empty(BEST_SELLERS, np.int32)
    known = count
    for row in found[: top(of_segment, listable, BEST_SELLERS, found)]:
        if of_segment[row] > 0.0 and not (candidates[:known] == row).any():
            candidates[count] = row
            count += 1
    return count


@compiled
def add_lifts(of_segment: Floats, of_all: Floats, share: float, rows: Rows, scores: Floats) -> None:
    """Add to the scores (N,) of the products rows (N,) the logarithms of their lifts; share: of fade_counts."""
    for at in range(len(rows)):
        row = rows[at]
        lift = (of_segment[row] + EVIDENCE) / (of_all[row] * share + EVIDENCE)
        scores[at] += np.float32(np.log(lift))


def packed(columns: dict[str, int]) -> NDArray[np.uint8]:
    """The names (n,) uint8 in the order of their columns; a name holds no NUL."""
    return np.frombuffer("\x00".join(columns).encode(), np.uint8)


def unpacked(names: NDArray[np.uint8]) -> dict[str, int]:
    """What `packed` was given."""
    texts = names.tobytes().decode().split("\x00") if len(names) else []
    return {text: column for column, text in enumerate(texts, 1)}
