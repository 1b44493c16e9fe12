"""The products of the last day, and when each was clicked first: an operator sees whether what is new is found."""

from collections import OrderedDict
from typing import Any

import aiokafka
import numpy as np
import orjson

from streams.shelf import Shelf
from streams.tail import Tail

DAY_S = 86_400.0
KEPT_MAX = 20_000  # products


class FirstClicks:
    """Clicks are read from the start of the api on; of a product that was clicked before, only that is known."""

    def __init__(self, shelf: Shelf, tail: Tail, *, clicks: str) -> None:
        """clicks: the topic, which the tail reads for this, too."""
        self._shelf = shelf
        self._offers = shelf.keep_offers()
        self._clicked_at: OrderedDict[str, float] = OrderedDict()  # product id -> s since 1970
        tail.add(clicks, self.put)

    def put(self, record: aiokafka.ConsumerRecord) -> None:
        """A record of user-clicks."""
        try:
            told = orjson.loads(record.value or b"null")
        except orjson.JSONDecodeError:
            return
        product_id = told.get("product_id") if isinstance(told, dict) else None
        at = record.timestamp / 1000
        if isinstance(product_id, str) and product_id not in self._clicked_at and self._is_new(product_id, at):
            self._clicked_at[product_id] = at
            if len(self._clicked_at) > KEPT_MAX:
                self._clicked_at.popitem(last=False)

    def newcomers(self, limit: int, now: float) -> dict[str, Any]:
        """How many `products` came in the day before now (s since 1970), how many were `clicked`, and the newest
        ones with when they came and when they were clicked first, which is None if it is not known or was not yet."""
        with self._shelf.lock:
            shelf, clicked_at = self._shelf, self._clicked_at
            rows = np.flatnonzero(shelf.created_at > now - DAY_S)
            there = [
                (row, product_id)
                for row in rows[np.argsort(-shelf.created_at[rows], kind="stable")].tolist()
                if row < len(shelf) and (product_id := shelf.product_ids[row]) and shelf.has_offer(product_id)
            ]
            items = [
                {
                    "product_id": product_id,
                    "title": shelf.titles[row],
                    "created_at": float(shelf.created_at[row]),
                    "first_click_at": clicked_at.get(product_id),
                    "is_clicked": product_id in clicked_at or bool(shelf.clicks[row] > 0),
                    "is_retrievable": bool(shelf.has_vector[row]),
                    "offer": self._offers.told(row),
                }
                for row, product_id in there[:limit]
            ]
            clicked = sum(product_id in clicked_at or shelf.clicks[row] > 0 for row, product_id in there)
        return {"products": len(there), "clicked": int(clicked), "items": items}

    def _is_new(self, product_id: str, now: float) -> bool:
        """True for one that is not known yet, too. Without the lock: an array that grows meanwhile stays readable."""
        row = self._shelf.rows.get(product_id)
        return row is None or self._shelf.created_at[row] > now - DAY_S
