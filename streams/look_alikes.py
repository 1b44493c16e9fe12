"""Who clicks like a user, and what they clicked last that she has not: collaborative filtering by users, for a person
who wants to see why.

The user's embedding is made here from her row and the weights of this moment; the others' are those of the collection
`users`, as they were at their last clicks, and only of the same epoch of the weights.
"""

from typing import Any

from store.history import History
from store.user_vectors import UserVectors
from store.users import UserStore
from streams.ranking import lists_ranker
from streams.settings import Settings
from streams.shelf import Shelf

CLICKED_LAST = 3  # products shown of each look-alike


class UnknownUser(LookupError):
    """There is no row of this user."""


class LookAlikes:
    """Answers from the users' rows, the shelf and the vector store; in any thread."""

    def __init__(self, shelf: Shelf, users: UserStore, vectors: UserVectors, settings: Settings) -> None:
        self._shelf = shelf
        self._users = users
        self._vectors = vectors
        self._settings = settings

    def of(self, user_id: str, limit: int) -> dict[str, Any]:
        """The users nearest by cosine, best first, each with the listable products that she clicked last and this user
        has not; none while nothing is known of this user's products.

        Raises UnknownUser, and StoreUnavailable.
        """
        row = self._users.read([user_id]).get(user_id)
        if row is None:
            raise UnknownUser(user_id)
        history = History.of(row.clicks)
        # As of her newest click, like those that it is compared with.
        embedding = lists_ranker(self._shelf, self._settings).rank([history], length=1)[0].embedding
        epoch = self._shelf.weights_version[0]
        if embedding is None or not embedding.any():
            return {"user_id": user_id, "epoch": epoch, "users": []}
        hits = self._vectors.look_alikes(embedding, limit, epoch=epoch, exclude=[user_id])
        rows = self._users.read([hit.user_id for hit in hits])
        had = set(history.product_ids)
        users = [
            {"user_id": hit.user_id, "score": hit.score, "clicked": self._clicked(History.of(other.clicks), had)}
            for hit in hits
            if (other := rows.get(hit.user_id)) is not None  # who was just forgotten is in no answer
        ]
        return {"user_id": user_id, "epoch": epoch, "users": users}

    def _clicked(self, history: History, had: set[str]) -> list[dict[str, Any]]:
        shelf = self._shelf
        clicked: list[dict[str, Any]] = []
        with shelf.lock:
            for product_id in dict.fromkeys(history.product_ids):
                row = shelf.rows.get(product_id)
                if product_id not in had and row is not None and shelf.listable[row]:
                    clicked.append({"product_id": product_id, "title": shelf.titles[row]})
                if len(clicked) == CLICKED_LAST:
                    break
        return clicked
