"""From clicks to a list: candidates by next-click score, by content and by popularity, and their order.

Candidates are the best by next-click score (exact, in memory) and the new products nearest in content to the last
clicks; `encoders.blending` puts them in order. A user without a known click gets what is clicked most. What is sold
out, deleted or seen is no candidate: that is looked at under the shelf's lock, where the list is made.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.blending import blend
from encoders.next_click import ABSENT, Floats, Mask, Rows, best, embed, score, strongest_click
from store.history import EVENTS, History
from store.records import Click
from streams.events import ListSource
from streams.neighbours import NewNeighbours
from streams.shelf import Shelf

EVIDENCE = 5.0  # clicks of a product at which its factors and its content weigh the same
PROFILE_CLICKS = 3  # the last clicks that content is compared with
BY_SCORE_MIN = 50  # candidates by next-click score, at least
NO_ROWS = np.empty(0, np.int32)
NO_SCORES = np.empty(0, np.float32)
USERS_AT_ONCE = 64  # bounds the matrix of scores: 64 users of 100,000 products are 26 MB


@dataclass(frozen=True, slots=True)
class Ranked:
    """A user's list, best first, and the embedding (F,) that it was made with, if there was one."""

    items: list[dict[str, Any]]  # as streams.events.ListItem
    embedding: NDArray[np.float32] | None


class Ranker:
    """Makes lists from a shelf. One thread at a time."""

    def __init__(self, shelf: Shelf, *, length: int, seen_events: Collection[str]) -> None:
        self._shelf = shelf
        self._length = length
        self._seen_codes = frozenset(EVENTS.index(event) for event in seen_events)
        self._neighbours = NewNeighbours(shelf)

    def rank(self, histories: Sequence[History], *, at: float | None = None, length: int | None = None) -> list[Ranked]:
        """A list for each history (newest click first), by what is known and available at this moment.

        at: the time (s since 1970) from which the clicks' ages count; None: the newest click of each.
        """
        ranked: list[Ranked] = []
        for begin in range(0, len(histories), USERS_AT_ONCE):
            with self._shelf.lock:
                ranked += self._rank(histories[begin : begin + USERS_AT_ONCE], at, length or self._length)
        return ranked

    def _rank(self, histories: Sequence[History], at: float | None, length: int) -> list[Ranked]:
        shelf = self._shelf
        if not len(shelf):
            return [Ranked([], None) for _ in histories]
        clicked = [[shelf.rows.get(product_id, ABSENT) for product_id in h.product_ids] for h in histories]
        seen = [self._seen_rows(rows, h) for rows, h in zip(clicked, histories, strict=True)]
        by_score = self._by_score(histories, clicked, seen, at, max(BY_SCORE_MIN, 2 * length))
        return [
            self._list(rows, unwanted, scored, length)
            for rows, unwanted, scored in zip(clicked, seen, by_score, strict=True)
        ]

    def _seen_rows(self, rows: list[int], history: History) -> list[int]:
        """What this user has had, and what she has just looked at."""
        seen = [row for row, code in zip(rows, history.codes, strict=True) if code in self._seen_codes]
        return list({row for row in seen + rows[:PROFILE_CLICKS] if row != ABSENT})

    # --- candidates by next-click score --------------------------------------------------------------------------

    def _by_score(
        self,
        histories: Sequence[History],
        clicked: list[list[int]],
        seen: list[list[int]],
        at: float | None,
        count: int,
    ) -> list["_Scored | None"]:
        """For each user with a known click: embedding, and the best rows by score."""
        shelf, weights = self._shelf, self._shelf.weights
        users = [user for user, rows in enumerate(clicked) if any(row != ABSENT for row in rows)]
        scored: list[_Scored | None] = [None] * len(histories)
        if weights is None or not users or not shelf.context.shape[1]:
            return scored
        # Rows without factors are unknown to the model; their vectors are zeros and add nothing.
        longest = weights.memory_length
        rows = np.full((len(users), longest), ABSENT, np.int32)
        ages_s = np.zeros((len(users), longest), np.float32)
        lengths = np.zeros(len(users), np.int32)
        for place, user in enumerate(users):
            known = clicked[user][:longest]
            lengths[place] = len(known)
            rows[place, : len(known)] = known
            times = histories[user].times[: len(known)]
            ages_s[place, : len(known)] = (times[0] if at is None else at) - times
        rows[~shelf.has_factors[rows]] = ABSENT
        embeddings = embed(weights, shelf.context, rows, ages_s, lengths)
        scores = score(shelf.target, shelf.bias, embeddings)
        excluded = np.full((len(users), max(1, *(len(seen[user]) for user in users))), ABSENT, np.int32)
        for place, user in enumerate(users):
            excluded[place, : len(seen[user])] = seen[user]
        tops, _ = best(scores, shelf.listable & shelf.has_factors, excluded, count)
        for place, user in enumerate(users):
            top = tops[place]
            scored[user] = _Scored(embeddings[place], scores[place], top[top != ABSENT], rows[place], ages_s[place])
        return scored

    # --- one list ------------------------------------------------------------------------------------------------

    def _list(self, clicked: list[int], seen: list[int], scored: "_Scored | None", length: int) -> Ranked:
        shelf = self._shelf
        profile = [row for row in dict.fromkeys(clicked[:PROFILE_CLICKS]) if row != ABSENT and shelf.has_vector[row]]
        near = [self._neighbours.of(row) for row in profile]
        rows, y, by_clicks, nearest = blend(
            np.concatenate([scored.rows, *near]) if scored is not None else np.concatenate([NO_ROWS, *near]),
            scored.scores if scored is not None else NO_SCORES,
            shelf.fused,
            np.array(profile, np.int32),
            shelf.clicks,
            shelf.listable,
            np.array(seen, np.int32),
            EVIDENCE,
            length,
        )
        items = self._items(
            rows, y, by_clicks, [profile[place] for place in nearest.tolist()] if profile else [], scored
        )
        if len(items) < length:
            items += self._popular(length - len(items), {*seen, *rows.tolist()}, items[-1] if items else None)
        return Ranked(items, scored.embedding if scored is not None else None)

    def _items(
        self, rows: Rows, y: Floats, by_clicks: Mask, nearest: list[int], scored: "_Scored | None"
    ) -> list[dict[str, Any]]:
        shelf = self._shelf
        titles, because = shelf.titles, self._strongest(rows, scored)
        items = []
        source: ListSource
        scores, follows = np.round(y.astype(np.float64), 4).tolist(), by_clicks.tolist()
        for place, row in enumerate(rows.tolist()):
            if follows[place]:
                source, click = "next-click", because[place]
                reason = "often clicked now" if click in (ABSENT, row) else f"often next after {titles[click]}"
            else:
                source, reason = "content", f"like {titles[nearest[place]]}"
            items.append(_item(shelf.product_ids[row], scores[place], place + 1, source, reason))
        return items

    def _strongest(self, rows: Rows, scored: "_Scored | None") -> list[int]:
        """For each row the clicked row that adds most to its next-click score, or ABSENT."""
        shelf, weights = self._shelf, self._shelf.weights
        if scored is None or weights is None or not len(rows):
            return [ABSENT] * len(rows)
        places = strongest_click(weights, shelf.context, shelf.target, scored.history, scored.ages_s, rows)
        return [int(scored.history[place]) if place != ABSENT else ABSENT for place in places.tolist()]

    def _popular(self, count: int, unwanted: set[int], last: dict[str, Any] | None) -> list[dict[str, Any]]:
        """What is clicked most, then what is newest, behind the last item; alone, the clicks are the score."""
        shelf = self._shelf
        rows = np.flatnonzero(shelf.listable)
        rows = rows[~np.isin(rows, list(unwanted))] if unwanted else rows
        top = rows[np.lexsort((rows, -shelf.created_at[rows], -shelf.clicks[rows]))[:count]]
        items = []
        for place, row in enumerate(top.tolist(), 1):
            clicks = int(shelf.clicks[row])
            reason = f"clicked {clicks} times" if clicks else "new in the shop"
            score, rank = (last["score"] - place, last["rank"] + place) if last else (float(clicks), place)
            items.append(_item(shelf.product_ids[row], score, rank, "popular", reason))
        return items


def warm_up() -> None:
    """Everything that a list needs is compiled, by making one: the first click does not wait for it."""
    shelf = Shelf()
    one = base64.b64encode(np.ones(1, "<f4").tobytes()).decode()
    for product_id in (b"a", b"b"):
        offer = {"revision": 1, "title": "", "state": "listable", "created_at": 0.0}
        shelf.put_offer(product_id, orjson.dumps(offer), ())
        shelf.put_vectors(product_id, orjson.dumps({"content_revision": 1, "fused": one}), ())
        factors = {"epoch": 1, "sequence": 1, "context": one, "target": one, "bias": 0.0, "clicks": 1}
        shelf.put_factors(product_id, orjson.dumps(factors), ())
    six = base64.b64encode(np.ones(6, "<f4").tobytes()).decode()
    shared = {"position_weights": one, "gap_weights": six, "memory_weights": one}
    sizes = {"epoch": 1, "sequence": 1, "factors": 1, "memory_length": 1, "memory_decay": 1.0}
    shelf.put_weights(b"next-click", orjson.dumps(shared | sizes), ())
    history = History.of((Click("a", "view_item", 0.0),))
    Ranker(shelf, length=1, seen_events=()).rank([history])


@dataclass(frozen=True, slots=True)
class _Scored:
    embedding: NDArray[np.float32]  # (F,)
    scores: NDArray[np.float32]  # (P,)
    rows: NDArray[np.int32]  # best first
    history: NDArray[np.int32]  # (LM,) clicked rows, newest first, ABSENT where unknown
    ages_s: NDArray[np.float32]  # (LM,)


def _item(product_id: str | None, score: float, rank: int, source: ListSource, reason: str) -> dict[str, Any]:
    return {"product_id": product_id, "score": score, "rank": rank, "source": source, "reason": reason}
