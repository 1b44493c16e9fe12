"""Who has clicked what: collected click by click, read as a sparse matrix. And which clicks of a history say most.

Shapes: U users, P products, N clicks, H clicks of a history, C distinct products of it.
"""

from typing import Any

import numpy as np

from encoders.baselines.evaluate_extra import module_of_extra
from encoders.next_click import Rows, compiled, longer


class Interactions:
    """All clicks so far. Takes 8 bytes for each, and up to as much again as room."""

    def __init__(self) -> None:
        self._users: Rows = np.zeros(0, np.int32)
        self._rows: Rows = np.zeros(0, np.int32)
        self._clicks = 0

    def __len__(self) -> int:
        return self._clicks

    def add(self, user: int, row: int) -> None:
        """One more click."""
        if self._clicks == len(self._users):
            capacity = max(1024, 2 * self._clicks)
            self._users, self._rows = longer(self._users, capacity), longer(self._rows, capacity)
        self._users[self._clicks], self._rows[self._clicks] = user, row
        self._clicks += 1

    def matrix(self, products: int) -> Any:
        """How often who has clicked what, as a scipy.sparse.csr_matrix (U, P) float32; U ends with the last user.

        Raises ImportError where scipy is not installed.
        """
        users, rows = self._users[: self._clicks], self._rows[: self._clicks]
        clicks = np.ones(self._clicks, np.float32)
        # The constructor adds up what stands in the same place, in the order of the clicks.
        return module_of_extra("scipy.sparse").csr_matrix(
            (clicks, (users, rows)), shape=(int(users.max(initial=-1)) + 1, products)
        )


@compiled
def places_of_products(history: Rows, last: int, products: int) -> Rows:
    """Return (C,) int32, rising: the place of the newest click of each product among the `last` newest clicks.

    history  (H,) int32, newest first; rows from `products` on are left out
    """
    places = np.empty(min(last, len(history)), np.int32)
    found = 0
    for place in range(len(places)):
        is_new = history[place] < products
        for newer in range(place):
            is_new = is_new and history[newer] != history[place]
        if is_new:
            places[found] = place
            found += 1
    return places[:found]
