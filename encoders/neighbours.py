"""Which products are clicked after, and together with, which: a bounded row of shares for each product.

Two tables learn from each click and the history before it:

    after      row h moves toward the clicked product, h being each of the last 5 clicks, by .7^(clicks between)
    together   row h moves toward the clicked product and its row toward h, h being each of the last 20 clicks

A row is a moving average of one-hot vectors: share += step * (one-hot - share), with step = weight / evidence until the
row has seen FULL_EVIDENCE, and constant from then on; so it sums to at most 1, old habits fade as new ones come, at
each product's own pace, and a row needs nothing from other rows to be read. Where a row is full, the smallest share
leaves (Space-Saving without the overestimate: Metwally, Agrawal, El Abbadi, ICDT 2005).

Shapes: P products, N neighbours kept of each, H clicks of a history.
"""

from typing import NamedTuple

import numpy as np

from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, longer

NEIGHBOURS = 64  # N
FULL_EVIDENCE = 500.0  # clicks after which a row forgets as fast as it learns
AFTER_CLICKS, AFTER_DECAY = 5, 0.7
TOGETHER_CLICKS = 20
_NEW_SHARE = 0.5  # of the smallest share: a neighbour with more than that takes its place


class Neighbours(NamedTuple):
    """One table. Places of a row fill from the left; ABSENT ids follow."""

    ids: Rows  # (P, N) rows of the neighbours, in no order
    shares: Floats  # (P, N)
    evidence: Floats  # (P,) weighted clicks that the row has seen

    def share(self, row: int, neighbour: int) -> float:
        """The neighbour's share in the row, 0 if it is none."""
        return _share(self.ids, self.shares, row, neighbour)


@compiled
def _share(ids: Rows, shares: Floats, row: int, neighbour: int) -> float:
    for place in range(ids.shape[1]):
        if ids[row, place] == neighbour:
            return float(shares[row, place])
    return 0.0


def no_neighbours(products: int) -> Neighbours:
    """A table in which nothing is known."""
    return Neighbours(
        np.full((products, NEIGHBOURS), ABSENT, np.int32),
        np.zeros((products, NEIGHBOURS), np.float32),
        np.zeros(products, np.float32),
    )


def longer_neighbours(table: Neighbours, products: int) -> Neighbours:
    """The table with room for so many; of those that come nothing is known."""
    return Neighbours(
        longer(table.ids, products, ABSENT), longer(table.shares, products), longer(table.evidence, products)
    )


@compiled
def _shrink(table: Neighbours, row: int, weight: float) -> float:
    """Make room in a row for a weight, and return the share that the weight has."""
    table.evidence[row] += np.float32(weight)
    evidence = min(table.evidence[row], np.float32(FULL_EVIDENCE))
    step = min(np.float32(1.0), np.float32(weight) / evidence)
    for place in range(table.ids.shape[1]):
        table.shares[row, place] *= np.float32(1.0) - step
    return float(step)


@compiled
def _add(table: Neighbours, row: int, neighbour: int, share: float) -> None:
    smallest, least = 0, np.float32(np.inf)
    for place in range(table.ids.shape[1]):
        if table.ids[row, place] == neighbour:
            table.shares[row, place] += np.float32(share)
            return
        if table.ids[row, place] == ABSENT:
            table.ids[row, place], table.shares[row, place] = neighbour, np.float32(share)
            return
        if table.shares[row, place] < least:
            smallest, least = place, table.shares[row, place]
    if share > np.float32(_NEW_SHARE) * least:
        table.ids[row, smallest], table.shares[row, smallest] = neighbour, np.float32(share)


@compiled
def learn_neighbours(after: Neighbours, together: Neighbours, changed: Floats, clicked: int, history: Rows) -> None:
    """Learn one click, with the history before it (H,), newest first, -1 unknown; add to `changed` (P,) by how much
    each row has moved."""
    weight = np.float32(1.0)
    for place in range(min(AFTER_CLICKS, len(history))):
        row = history[place]
        if row >= 0 and row != clicked:
            step = _shrink(after, row, float(weight))
            _add(after, row, clicked, step)
            changed[row] += np.float32(step)
        weight *= np.float32(AFTER_DECAY)
    others = 0
    for place in range(min(TOGETHER_CLICKS, len(history))):
        row = history[place]
        if row >= 0 and row != clicked:
            step = _shrink(together, row, 1.0)
            _add(together, row, clicked, step)
            changed[row] += np.float32(step)
            others += 1
    if others:
        step = _shrink(together, clicked, float(others))
        for place in range(min(TOGETHER_CLICKS, len(history))):
            row = history[place]
            if row >= 0 and row != clicked:
                _add(together, clicked, row, step / others)
        changed[clicked] += np.float32(step)


@compiled
def drop_neighbours(table: Neighbours, gone: Mask) -> None:
    """No row has a neighbour that is gone (P,) bool, and rows that are gone know nothing."""
    for row in range(len(table.ids)):
        kept = 0
        for place in range(table.ids.shape[1]):
            neighbour = table.ids[row, place]
            if neighbour == ABSENT:
                break
            if not gone[row] and not gone[neighbour]:
                table.ids[row, kept], table.shares[row, kept] = neighbour, table.shares[row, place]
                kept += 1
        table.ids[row, kept:] = ABSENT
        table.shares[row, kept:] = 0.0
        if gone[row]:
            table.evidence[row] = 0.0
