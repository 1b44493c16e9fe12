"""How likely a user is to click each of some products next, for orders that are hers."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT
from encoders.ranking_features import HISTORY
from store.history import History
from store.users import UserStore
from streams.served_factors import next_click_scores
from streams.shelf import Shelf


class NextClicks:
    """Answers from the users' rows and the shelf; in any thread."""

    def __init__(self, shelf: Shelf, users: UserStore) -> None:
        self._shelf = shelf
        self._users = users

    def of(self, user_id: str, product_ids: Sequence[str]) -> NDArray[np.float32] | None:
        """The ranking's next-click scores (n,) of these products for this user at this moment, NaN for one that the
        model does not know; None while it knows none of her clicks.

        Takes the shelf's lock. Raises StoreUnavailable.
        """
        row = self._users.read([user_id]).get(user_id)
        history = History.of(row.clicks if row else ())
        ages_s = np.maximum(time.time() - history.times[:HISTORY], 0.0).astype(np.float32)
        shelf = self._shelf
        with shelf.lock:
            clicked = np.array([shelf.rows.get(one, ABSENT) for one in history.product_ids[:HISTORY]], np.int32)
            if not shelf.has_factors[clicked[clicked != ABSENT]].any():
                return None
            scores = next_click_scores(shelf, [clicked], [ages_s])[0][0]
            rows = np.array([shelf.rows.get(product_id, ABSENT) for product_id in product_ids], np.int32)
            return np.where(rows == ABSENT, np.float32(np.nan), scores[rows])
