"""A product that has just been indexed is brought to those nearest to it, without a click of theirs.

Nearest by clicks: the product's target factors and the user's embedding. Nearest by content: its fused vector and what
the user clicked last. Both count, because the ranking blends both. The number of users and the rate are bounded: of an
import of thousands the newest are pushed, and the others wait for the next click, as everything did before.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats, Mask
from streams.audience import Audience
from streams.shelf import Shelf

WITHIN_S = 5.0  # a push that comes later than this after the product is none
FACTORS_WITHIN_S = 1.5  # so long a new product waits for the learner to place it
AHEAD_S = 2.0  # so many seconds' worth of lists wait at most: they all come in time
PRODUCTS_AT_ONCE = 2  # bounds the time of one look at all users
BURST_S = 0.1  # so many seconds' worth of lists may be made at once


class _Wanted(NamedTuple):
    """Who gets a list, for which new products, and when the first of them came (s since 1970)."""

    product_ids: set[str]
    since: float


class Push:
    """Chooses the users of each newcomer, and says how many lists may be made now."""

    def __init__(self, shelf: Shelf, audience: Audience, *, users: int, per_s: int, every_s: float) -> None:
        """users: of one product; per_s: lists per second; every_s: a user gets one push in so long. At most, each."""
        self.counts = {"push_skipped": 0, "push_late": 0}  # products that nobody was chosen for in time; lists
        self._shelf = shelf
        self._audience = audience
        self._users = users
        self._per_s = per_s
        self._every_s = every_s
        self._position = 0  # in the shelf's notices of newcomers
        self._newcomers: dict[str, float] = {}  # product -> when it came, oldest first
        self._wanted: dict[str, _Wanted] = {}
        self._allowance = 0.0  # lists
        self._allowed_at = 0.0

    def start(self) -> None:
        """What is on the shelf by now is not new."""
        self._position = self._shelf.newcomers.end

    def look(self, now: float) -> None:
        """Newcomers since the last look wait; what has waited for too long is left out."""
        with self._shelf.lock:
            rows, _ = self._shelf.newcomers.since(self._position)
            self._position = self._shelf.newcomers.end
            came = [product_id for row in rows if (product_id := self._shelf.product_ids[row]) is not None]
        if self._users and len(self._audience):
            self._newcomers.update(dict.fromkeys(came, now))
        late = [product_id for product_id, since in self._newcomers.items() if now - since > WITHIN_S]
        for product_id in late:
            del self._newcomers[product_id]
        self.counts["push_skipped"] += len(late)
        for user_id in [user_id for user_id, wanted in self._wanted.items() if now - wanted.since > WITHIN_S]:
            del self._wanted[user_id]
            self.counts["push_late"] += 1

    def choose(self, now: float) -> bool:
        """The newest of those that wait have their users now; False if there was none, or no room."""
        # Counted by product: thousands that all suit the same few users would be compared with everybody otherwise.
        room = int(self._per_s * AHEAD_S) - sum(len(wanted.product_ids) for wanted in self._wanted.values())
        with self._shelf.lock:
            ready = self._ready(now, PRODUCTS_AT_ONCE) if room > 0 else []
            if not ready:
                return False
            rows = [self._shelf.rows[product_id] for product_id in ready]
            fused, target, has_factors = self._shelf.fused, self._shelf.target, self._shelf.has_factors
        content = fused[rows] @ fused.T  # without the lock: a vector that comes meanwhile does no harm
        each = min(self._users, max(1, room // len(ready)))
        for place, product_id in enumerate(ready):
            since = self._newcomers.pop(product_id)
            factors = target[rows[place]] if has_factors[rows[place]] else None
            for slot in self._nearest(rows[place], factors, content[place], each, now):
                user_id = self._audience.user_ids[slot]
                if user_id is not None:
                    self._wanted.setdefault(user_id, _Wanted(set(), since)).product_ids.add(product_id)
        return True

    def next_users(self, most: int, now: float) -> dict[str, set[str]]:
        """Users whose lists are to be made now, those of the newest products first, each with her new products."""
        burst = max(1.0, self._per_s * BURST_S)
        self._allowance = min(burst, self._allowance + (now - self._allowed_at) * self._per_s)
        self._allowed_at = now
        count = min(most, int(self._allowance), len(self._wanted))
        self._allowance -= count
        taken: dict[str, set[str]] = {}
        for _ in range(count):
            user_id, wanted = self._wanted.popitem()
            taken[user_id] = wanted.product_ids
        return taken

    def _ready(self, now: float, most: int) -> list[str]:
        """Newcomers that can be listed now, newest first; one without factors waits a little for them."""
        shelf, ready = self._shelf, []
        for product_id, since in reversed(self._newcomers.items()):
            row = shelf.rows.get(product_id)
            if row is None or not (shelf.is_recommendable(row) and shelf.has_vector[row]):
                continue
            if shelf.weights is None or shelf.has_factors[row] or now - since > FACTORS_WITHIN_S:
                ready.append(product_id)
                if len(ready) == most:
                    break
        return ready

    def _nearest(self, row: int, target: Floats | None, content: Floats, count: int, now: float) -> list[int]:
        """Slots, at most so many: the nearest by clicks and by content in turn."""
        audience = self._audience
        may = (audience.active_at > 0) & (audience.pushed_at < now - self._every_s)
        may &= ~(audience.products == row).any(axis=1)
        orders = []
        if target is not None and len(target) == audience.embeddings.shape[1]:
            orders.append(_best(audience.embeddings @ target, may & audience.has_embedding, count))
        clicks = (audience.clicked >= 0).sum(axis=1)
        taste = np.append(content, np.float32(0.0))[audience.clicked].sum(axis=1) / np.maximum(clicks, 1)
        orders.append(_best(taste, may & (taste > 0), count))
        in_turn = [slot for pair in zip(*orders, strict=False) for slot in pair]
        in_turn += [slot for order in orders for slot in order[len(in_turn) // len(orders) :]]
        return list(dict.fromkeys(in_turn))[:count]


def _best(scores: NDArray[np.float32], may: Mask, count: int) -> list[int]:
    slots = np.flatnonzero(may)
    if len(slots) > count:
        slots = slots[np.argpartition(scores[slots], -count)[-count:]]
    best: list[int] = slots[np.argsort(-scores[slots], kind="stable")].tolist()
    return best
