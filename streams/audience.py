"""Who has been here lately, and the list that each of them has: memory of one clicks worker, for its partitions.

A view that can be lost: it is filled by the lists that the worker publishes and, after an assignment, from what the
topic `recommendations` still holds. One thread at a time; the shelf's lock is taken where its rows are looked up.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import cramjam
import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Mask, Rows, longer
from streams.lists import PROFILE_CLICKS, MadeList
from streams.shelf import Shelf

FIRST_SLOTS = 1_024
EVICTED_SHARE = 20  # when nobody fits any more, one in so many leaves at once: to find them takes a look at all


class Audience:
    """U slots, each of one user or of nobody: lists as shelf rows (U, K), embeddings (U, F), and what is owed to her.

    The shelf's rows may have come to belong to other products since: who is found by a row is looked at by product id.
    """

    def __init__(self, shelf: Shelf, *, most: int, active_s: float, length: int) -> None:
        """most: users; active_s: how long a user stays after her last click; length: K, items that are compared."""
        self._shelf = shelf
        self._most = most
        self._active_s = active_s
        self.slots: dict[str, int] = {}
        self.user_ids: list[str | None] = []
        self.partition: Rows = np.zeros(0, np.int32)
        self.revision: NDArray[np.int64] = np.zeros(0, np.int64)
        self.made_at: NDArray[np.float64] = np.zeros(0, np.float64)  # s since 1970, of the last list
        self.active_at: NDArray[np.float64] = np.zeros(0, np.float64)  # s since 1970; 0: nobody
        self.pushed_at: NDArray[np.float64] = np.zeros(0, np.float64)
        self.products: Rows = np.zeros((0, length), np.int32)
        self.clicked: Rows = np.zeros((0, PROFILE_CLICKS), np.int32)
        self.embeddings: Floats = np.zeros((0, 0), np.float32)
        self.has_embedding: Mask = np.zeros(0, np.bool_)
        self.owes_record: Mask = np.zeros(0, np.bool_)  # her list holds what was withdrawn, and she was not told
        self.owes_list: Mask = np.zeros(0, np.bool_)  # she was told, and has no whole list since
        self._epoch = 0  # of the weights that the embeddings are of
        self.list_ids: list[str] = []  # of lists that an experiment made; "" for others
        self._items: list[bytes] = []  # lz4: a list of 20 is 2.8 kB, and compressed .6
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.slots)

    # --- who is here ---------------------------------------------------------------------------------------------

    def note(self, made: Sequence[MadeList], *, active_at: Sequence[float] | None = None) -> None:
        """These lists are the last ones of their users. Who has only a retraction record is owed a whole list.

        active_at: when each user was active last (s since 1970); None: as known, and those who are not known stay so.

        A list with a product that may not be listed now owes her a record: it was withdrawn after the ranking.
        """
        times = active_at or [self.active_at[self.slots[m.user_id]] if m.user_id in self.slots else 0.0 for m in made]
        kept = [(one, at) for one, at in zip(made, times, strict=True) if at > 0]
        if not kept:
            return
        self.follow_epoch()
        slots = [self._slot(one.user_id, at) for one, at in kept]
        self.partition[slots] = [one.partition for one, _ in kept]
        self.revision[slots] = [one.revision for one, _ in kept]
        self.made_at[slots] = [one.made_at for one, _ in kept]
        self.active_at[slots] = [at for _, at in kept]
        self.owes_list[slots] = [bool(one.withdrawn) for one, _ in kept]
        with self._shelf.lock:
            for slot, (one, _) in zip(slots, kept, strict=True):
                self._note_items(slot, one)
                clicked = [self._shelf.rows.get(product_id, ABSENT) for product_id in one.clicked]
                self.clicked[slot] = clicked + [ABSENT] * (PROFILE_CLICKS - len(clicked))
        for slot, (one, _) in zip(slots, kept, strict=True):
            self._note_embedding(slot, one.embedding)
            if one.cause == "push":
                self.pushed_at[slot] = one.made_at

    def shorten(self, records: Iterable[MadeList]) -> None:
        """These retraction records were published: the whole lists are owed still."""
        with self._shelf.lock:
            for one in records:
                if (slot := self.slots.get(one.user_id)) is not None:
                    self.made_at[slot] = one.made_at
                    self.owes_list[slot] = True
                    self._note_items(slot, one)

    def drop(self, user_ids: Collection[str]) -> None:
        """Nothing of these users is left here."""
        for user_id in user_ids:
            slot = self.slots.pop(user_id, None)
            if slot is not None:
                self.user_ids[slot], self._items[slot], self.list_ids[slot] = None, b"", ""
                self.active_at[slot] = self.pushed_at[slot] = 0.0
                self.products[slot] = self.clicked[slot] = ABSENT
                self.embeddings[slot] = 0.0
                self.has_embedding[slot] = self.owes_record[slot] = self.owes_list[slot] = False
                self._free.append(slot)

    def keep_only(self, partitions: Collection[int], *, now: float) -> None:
        """Whoever is of another partition, or has not been active for too long, leaves."""
        here = np.isin(self.partition, list(partitions)) & (self.active_at > now - self._active_s)
        self.drop([user_id for user_id, slot in self.slots.items() if not here[slot]])

    def is_newer(self, user_id: str, revision: int, made_at: float) -> bool:
        """True if readers prefer such a list to the one that is known of the user, or none is known."""
        slot = self.slots.get(user_id)
        return slot is None or (revision, made_at) > (int(self.revision[slot]), float(self.made_at[slot]))

    # --- what they have ------------------------------------------------------------------------------------------

    def items(self, slot: int) -> list[dict[str, Any]]:
        """The last list, as streams.events.ListItem."""
        items: list[dict[str, Any]] = orjson.loads(bytes(cramjam.lz4.decompress_block(self._items[slot])))
        return items

    def owe_holders_of(self, rows: Sequence[int]) -> None:
        """Whose list may hold one of these rows is owed a record."""
        gone = np.zeros(max(len(self._shelf.listable), max(rows) + 1) + 1, np.bool_)  # ABSENT is the last one
        gone[list(rows)] = True
        self.owes_record |= gone[self.products].any(axis=1)

    def latest(self, who: Mask, most: int) -> list[int]:
        """The slots of so many of these users, the most recently active first."""
        slots = np.flatnonzero(who)
        if len(slots) > most:
            slots = slots[np.argpartition(self.active_at[slots], -most)[-most:]]
        found: list[int] = slots[np.argsort(-self.active_at[slots], kind="stable")].tolist()
        return found

    def follow_epoch(self) -> None:
        """Embeddings of other weights are none any more: they can be compared with no new one."""
        epoch = self._shelf.weights_version[0]
        if epoch != self._epoch:
            self._epoch = epoch
            self.has_embedding[:] = False

    def later(self, slot: int, now: float) -> float:
        """A time (s since 1970) for her next list: readers prefer the later one of two with the same revision."""
        return max(now, float(self.made_at[slot]) + 2e-6)  # a time on the wire has six digits

    # --- slots ---------------------------------------------------------------------------------------------------

    def _note_items(self, slot: int, made: MadeList) -> None:
        shelf = self._shelf
        rows = [shelf.rows.get(product_id, ABSENT) for product_id in made.product_ids]
        self.owes_record[slot] = any(row == ABSENT or not shelf.listable[row] for row in rows)
        width = self.products.shape[1]
        self.products[slot, : len(rows)] = rows[:width]
        self.products[slot, len(rows) :] = ABSENT
        self._items[slot] = bytes(cramjam.lz4.compress_block(made.items))
        self.list_ids[slot] = made.list_id if made.experiment is not None else ""

    def _note_embedding(self, slot: int, embedding: Floats | None) -> None:
        self.has_embedding[slot] = embedding is not None
        if embedding is None:
            return
        if len(embedding) != self.embeddings.shape[1]:  # a new model: nothing can be compared with the old ones
            self.embeddings = np.zeros((len(self.user_ids), len(embedding)), np.float32)
            self.has_embedding[:] = False
            self.has_embedding[slot] = True
        self.embeddings[slot] = embedding

    def _slot(self, user_id: str, active_at: float) -> int:
        slot = self.slots.get(user_id)
        if slot is None:
            if not self._free:
                self._make_room()
            slot = self.slots[user_id] = self._free.pop()
            self.user_ids[slot] = user_id
            self.active_at[slot] = active_at
        return slot

    def _make_room(self) -> None:
        before = len(self.user_ids)
        if before == self._most:
            count = max(1, before // EVICTED_SHARE)
            oldest = np.argpartition(self.active_at, count - 1)[:count].tolist()
            self.drop([user_id for slot in oldest if (user_id := self.user_ids[slot]) is not None])
            return
        count = min(max(FIRST_SLOTS, 2 * before), self._most)
        for name in ("partition", "revision", "made_at", "active_at", "pushed_at", "has_embedding", "embeddings"):
            setattr(self, name, longer(getattr(self, name), count))
        for name in ("owes_record", "owes_list"):
            setattr(self, name, longer(getattr(self, name), count))
        for name in ("products", "clicked"):
            setattr(self, name, longer(getattr(self, name), count, ABSENT))
        self.user_ids += [None] * (count - before)
        self._items += [b""] * (count - before)
        self.list_ids += [""] * (count - before)
        self._free += range(count - 1, before - 1, -1)
