"""Embeddings of users in Qdrant, for look-alikes: the values, and what both forms of the store promise.

A point is one user who was active lately. Its revision is that of the user's row, which every write carries: so neither
a record that comes again, nor one of a worker that lost its partition, turns a point back or brings a user back.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

EMBEDDING = "embedding"  # the name of the one vector of each point
_USERS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:freshet:users")  # never change: every point's id hangs on it


@dataclass(frozen=True, slots=True)
class UserPoint:
    user_id: str
    revision: int
    epoch: int  # of the weights: embeddings of two epochs are not compared
    embedding: NDArray[np.float32]  # (F,)
    expires_at: float  # s since 1970, when the user counts as active no more


@dataclass(frozen=True, slots=True)
class ForgottenUser:
    """Nothing is kept of her but, for a while, the revision: what comes late, at or below it, is ignored."""

    user_id: str
    revision: int  # the last one of her row
    expires_at: float  # s since 1970, when nobody can be so late any more


@dataclass(frozen=True, slots=True)
class UserHit:
    user_id: str
    score: float  # cosine, -1 to 1


class UserVectors(Protocol):
    """Every write has been applied when it returns, and a stale one changes nothing, inside the engine as well.

    All methods may be called from several threads, and raise StoreUnavailable as those of VectorStore do.
    """

    def ensure_users(self, factors: int) -> None:
        """The collection `users` exists for embeddings of so many factors (F); one for others is made anew, empty:
        an embedding of another model can be compared with none of this one."""

    def put_users(self, users: Sequence[UserPoint | ForgottenUser]) -> None:
        """In this order: each user's point is this one, unless the stored revision is higher, or was forgotten.

        Raises ValueError that names the user, with nothing written, if an embedding is not finite or not (F,).
        """

    def purge_users(self, now: float) -> None:
        """Whatever expired at `now` (s since 1970) or before is gone."""

    def look_alikes(
        self, embedding: NDArray[np.float32], limit: int, *, epoch: int, exclude: Sequence[str] = ()
    ) -> list[UserHit]:
        """The users of this epoch whose embeddings have the highest cosine, best first, without those of `exclude`.

        Raises ValueError if the embedding is not finite or not (F,).
        """


def users_collection(namespace: str) -> str:
    """The collection of the users."""
    return f"{namespace}-users" if namespace else "users"


def user_point_id(namespace: str, user_id: str) -> str:
    """The user's id in Qdrant, which takes only UUIDs."""
    return str(uuid.uuid5(uuid.uuid5(_USERS, namespace), user_id))
