"""Embeddings of users on their topic, for look-alikes: published some time after a click, from the row as it is stored.

Nothing of it is done while a click waits. A user's clicks of one visit come to one record, and at most so many records
are published in a second; who had to wait when the worker died is found again with the lists that the topic still has.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from store.records import UserRow
from store.users import UserStore
from streams.broker import Outgoing
from streams.events import UserEmbedding, pack_vector
from streams.role import Outcome

SETTLE_S = 20.0  # from a user's first click to her record: the others of her visit are in it
AT_ONCE = 32


class UserEmbeddings:
    """The users whose embeddings are to be published. In the role's thread, as all that runs between batches."""

    def __init__(self, topic: str, users: UserStore, *, per_s: int, most: int) -> None:
        """per_s: records per second, 0 = none; most: users that wait. At most, each."""
        self._topic = topic
        self._users = users
        self._per_s = per_s
        self._most = most
        self._due_at: dict[str, float] = {}  # s since 1970 of each user who waits, in the order in which they came
        self._not_before = 0.0
        self.published = 0

    def __len__(self) -> int:
        return len(self._due_at)

    def note(self, user_ids: Collection[str], now: float) -> None:
        """These users have another embedding since. Where too many wait, the one who came first waits no more."""
        if not self._per_s:
            return
        for user_id in user_ids:
            self._due_at.setdefault(user_id, now + SETTLE_S)
        while len(self._due_at) > self._most:
            del self._due_at[next(iter(self._due_at))]

    def drop(self, user_ids: Collection[str]) -> None:
        """These users were forgotten."""
        for user_id in user_ids:
            self._due_at.pop(user_id, None)

    def portion(self, now: float) -> Outcome | None:
        """The records that are due, None if there are none. Who has no row, or nothing in her embedding, gets
        none.

        Raises StoreUnavailable.
        """
        if now < self._not_before:
            return None
        user_ids: list[str] = []
        for user_id, due_at in self._due_at.items():
            if due_at > now or len(user_ids) == AT_ONCE:
                break
            user_ids.append(user_id)
        if not user_ids:
            return None
        rows = [row for row in self._users.read(user_ids).values() if _embedding(row).any()]

        def commit() -> None:
            self.drop(user_ids)
            self.published += len(rows)
            self._not_before = now + len(user_ids) / self._per_s

        return Outcome([self._record(row) for row in rows], commit)

    def _record(self, row: UserRow) -> Outgoing:
        epoch, _, sequence = row.embedding_version.partition(".")
        record = UserEmbedding(
            user_id=row.user_id,
            revision=row.revision,
            epoch=int(epoch),
            sequence=int(sequence),
            embedding=pack_vector(_embedding(row)),
            active_at=row.updated_at,
        )
        return Outgoing(self._topic, row.user_id.encode(), record.model_dump_json().encode())


def _embedding(row: UserRow) -> NDArray[np.float32]:
    """(F,), zeros where the model knew none of her products; (0,) where there was no model."""
    return np.frombuffer(row.embedding or b"", "<f4")


def forgotten_record(topic: str, user_id: str, revision: int) -> Outgoing:
    """A null record: nothing of the user is to be kept, up to this revision of her row."""
    return Outgoing(topic, user_id.encode(), None, (("revision", b"%d" % revision),))
