"""Shoppers who click like a user, and who clicked a product lately: what a reason may say of them is true.

Of each product the last few clickers are kept, as slots of the audience. One of them counts if the product is among her
last clicks still, and the cosine of her embedding with the user's is at least ALIKE: no look at all users is needed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Mask, Rows, compiled, longer
from streams.audience import Audience
from streams.lists import MadeList
from streams.shelf import Shelf

ALIKE = 0.8  # cosine
CLICKERS = 8  # that are kept of each product


class LikeMinded:
    """Reads the audience; all in the role's thread."""

    def __init__(self, shelf: Shelf, audience: Audience) -> None:
        self._shelf = shelf
        self._audience = audience
        self._clickers: Rows = np.zeros((0, CLICKERS), np.int32)  # (P, CLICKERS) slots, newest first
        self._births: NDArray[np.int64] = np.zeros(0, np.int64)  # (P,) of the product that they clicked

    def note(self, lists: Sequence[MadeList]) -> None:
        """The users of these lists, who are in the audience, have clicked what the lists were made from."""
        with self._shelf.lock:
            self._make_room()
            for made in lists:
                slot = self._audience.slots.get(made.user_id)
                for product_id in made.clicked[::-1]:
                    row = self._shelf.rows.get(product_id)
                    if slot is not None and row is not None:
                        self._put(row, slot)

    def count(self, user_id: str, embedding: Floats, rows: Rows) -> list[int]:
        """How many others with tastes like this embedding (F,) have clicked each of these products (K,) lately.

        Call under the shelf's lock.
        """
        audience = self._audience
        audience.follow_epoch()
        if audience.embeddings.shape[1] != len(embedding) or not embedding.any():
            return [0] * len(rows)
        self._make_room()
        is_same = self._births[rows] == self._shelf.births[rows]
        theirs = audience.embeddings, audience.has_embedding, audience.clicked
        own = audience.slots.get(user_id, ABSENT)
        counts: list[int] = count_alike(rows, is_same, self._clickers, *theirs, own, embedding).tolist()
        return counts

    def _put(self, row: int, slot: int) -> None:
        if self._births[row] != self._shelf.births[row]:  # it was another product's
            self._clickers[row], self._births[row] = ABSENT, self._shelf.births[row]
        known = self._clickers[row].tolist()
        self._clickers[row] = [slot, *(each for each in known if each != slot), ABSENT][:CLICKERS]

    def _make_room(self) -> None:
        rows = len(self._shelf.listable)
        if len(self._clickers) < rows:
            self._clickers = longer(self._clickers, rows, ABSENT)
            self._births = longer(self._births, rows)


@compiled
def count_alike(
    rows: Rows,
    is_same: Mask,
    clickers: Rows,
    embeddings: Floats,
    has_embedding: Mask,
    clicked: Rows,
    own: int,
    embedding: Floats,
) -> Rows:
    """(K,) of the products rows (K,), of which is_same (K,) tells whether their clickers (P, CLICKERS) clicked them.

    The others' embeddings (N, F), whether they have one (N,), and their last clicks (N, PROFILE_CLICKS) are by slot;
    own is the user's, ABSENT for none, and embedding (F,) hers.
    """
    counts = np.zeros(len(rows), np.int32)
    length = np.sqrt((embedding * embedding).sum())
    for place in range(len(rows)):
        for slot in clickers[rows[place]]:
            if not is_same[place] or slot in (ABSENT, own) or not has_embedding[slot]:
                continue
            if not (clicked[slot] == rows[place]).any():
                continue
            product, square = np.float32(0.0), np.float32(0.0)
            for factor in range(len(embedding)):
                other = embeddings[slot, factor]
                product += other * embedding[factor]
                square += other * other
            counts[place] += product >= ALIKE * length * np.sqrt(square)
    return counts
