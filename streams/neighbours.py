"""For each clicked product, the new products that look and read most like it.

A product that nobody has clicked has no factors worth the name, so it enters the lists by its content: as one of the
nearest, by fused vector, to what the user clicked last. To compare a click with the whole shelf costs milliseconds,
so the nearest of a product are kept and only those that arrived since are compared.
"""

from collections import OrderedDict

import numpy as np

from encoders.next_click import Floats, Rows
from streams.shelf import Shelf

COLD_CLICKS = 5  # a product with fewer is new: its factors rest on its content
NEAREST = 24
ARRIVALS_MAX = 256  # so many new vectors are compared one by one; more, and the whole shelf is searched anew
KEPT_MAX = 20_000  # clicked products whose nearest are kept


class NewNeighbours:
    """The NEAREST cold products of a clicked product, by cosine of the fused vectors."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._kept: OrderedDict[int, tuple[str, int, Rows, Floats]] = OrderedDict()

    def of(self, row: int) -> Rows:
        """Rows (<= NEAREST,) of cold products, nearest first; call under the shelf's lock.

        They may have sold out or become known since: the caller filters by what is true now.
        """
        shelf = self._shelf
        if row >= len(shelf.fused) or not shelf.has_vector[row]:
            return np.empty(0, np.int32)
        product_id = shelf.product_ids[row] or ""
        end = shelf.arrivals_dropped + len(shelf.arrivals)
        kept = self._kept.get(row)
        if kept is None or kept[0] != product_id or end - kept[1] > ARRIVALS_MAX or kept[1] < shelf.arrivals_dropped:
            rows, cosines = self._search(row)
        elif kept[1] < end:
            fresh = np.array(shelf.arrivals[kept[1] - shelf.arrivals_dropped :], np.int32)
            rows, cosines = self._merge(row, kept[2], kept[3], fresh)
        else:
            return kept[2]
        self._kept[row] = (product_id, end, rows, cosines)
        self._kept.move_to_end(row)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return rows

    def _search(self, row: int) -> tuple[Rows, Floats]:
        shelf = self._shelf
        cold = np.flatnonzero(shelf.has_vector & shelf.listable & (shelf.clicks < COLD_CLICKS)).astype(np.int32)
        every = len(cold) * 4 > len(shelf)  # one product with the whole matrix is cheaper than to copy most of it
        cosines = (shelf.fused @ shelf.fused[row])[cold] if every else shelf.fused[cold] @ shelf.fused[row]
        return _nearest(row, cold, cosines)

    def _merge(self, row: int, rows: Rows, cosines: Floats, fresh: Rows) -> tuple[Rows, Floats]:
        shelf = self._shelf
        fresh = np.unique(fresh[shelf.has_vector[fresh]])
        old = ~np.isin(rows, fresh)
        both = np.concatenate((rows[old], fresh))
        return _nearest(row, both, np.concatenate((cosines[old], shelf.fused[fresh] @ shelf.fused[row])))


def _nearest(row: int, rows: Rows, cosines: Floats) -> tuple[Rows, Floats]:
    others = rows != row
    rows, cosines = rows[others], cosines[others]
    if len(rows) > NEAREST:
        top = np.argpartition(cosines, -NEAREST)[-NEAREST:]
        rows, cosines = rows[top], cosines[top]
    order = np.lexsort((rows, -cosines))
    return rows[order], cosines[order]
