"""What is known of a user at any moment of the stream, without keeping it: her clicks lie side by side in one array."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Mask
from encoders.recommender import Request
from streams.evaluation.stream import CODES, Stream

LONGEST = 200  # clicks of a history, as the setting history_clicks has it

Ints = NDArray[np.int64]


class Moments:
    """Requests at any moment of the stream; the moment "click i" is just before it.

    before    (N,) int64, how many clicks the user of click i has before it
    repeated  (N,) bool, the user has clicked this product before
    had       (N,) bool, the user has had this product before under an event that counts as seen
    """

    def __init__(self, stream: Stream, seen_events: Collection[str]) -> None:
        events = np.arange(len(stream))
        pairs = stream.users.astype(np.int64) * (int(stream.rows.max(initial=0)) + 1) + stream.rows
        _, first, pair = np.unique(pairs, return_index=True, return_inverse=True)
        self.repeated: Mask = first[pair] < events
        seen = np.flatnonzero(np.isin(stream.codes, [CODES[event] for event in seen_events]))
        _, first_seen = np.unique(pairs[seen], return_index=True)
        had_at = np.full(len(first), len(stream))
        had_at[pair[seen[first_seen]]] = seen[first_seen]
        self.had: Mask = had_at[pair] < events
        self._clicks = _ByUser(stream.users, events)
        self._seen = _ByUser(stream.users, np.sort(seen[first_seen]))
        self._rows = stream.rows[self._clicks.events]
        self._times = stream.times[self._clicks.events]
        self._codes = stream.codes[self._clicks.events]
        self._seen_rows = stream.rows[self._seen.events]
        self._users = stream.users
        self._segments = stream.segments
        self.before, self._had_before = self.counted(events)

    def counted(self, through: Ints) -> tuple[Ints, Ints]:
        """For each click i: how many clicks, and seen products, its user has among the first through[i] clicks."""
        return self._clicks.counted(self._users, through), self._seen.counted(self._users, through)

    def at(self, click: int, at: float) -> Request:
        """What is known of the user of this click just before it."""
        counts = self.before[click], self._had_before[click]
        return self.request(self._users[click], at, *counts, self._segments[click])

    def request(self, user: int, at: float, clicks: int, seen: int, segment: int) -> Request:
        """The user with her first `clicks` clicks and `seen` seen products, in this segment; the arrays are copies."""
        start, seen_start = self._clicks.starts[user], self._seen.starts[user]
        span = slice(start + max(0, clicks - LONGEST), start + clicks)
        return Request(
            user=int(user),
            history=self._rows[span][::-1].copy(),
            ages_s=(at - self._times[span][::-1]).astype(np.float32),
            at=at,
            excluded=self._seen_rows[seen_start : seen_start + seen].copy(),
            codes=self._codes[span][::-1].copy(),
            segment=int(segment),
        )

    def next_of_user(self) -> Ints:
        """(N,) the same user's next click, -1 where there is none."""
        following = np.full(len(self._users), -1)
        events, users = self._clicks.events, self._users[self._clicks.events]
        same = users[1:] == users[:-1]
        following[events[:-1][same]] = events[1:][same]
        return following


class _ByUser:
    """Events of each user side by side, oldest first; those of user u begin at starts[u]."""

    def __init__(self, users: NDArray[np.int32], events: Ints) -> None:
        self._length = len(users) + 1
        self.events = events[np.argsort(users[events], kind="stable")]
        self._keys = users[self.events].astype(np.int64) * self._length + self.events
        everybody = np.arange(int(users.max(initial=-1)) + 1, dtype=np.int64)
        self.starts = np.searchsorted(self._keys, everybody * self._length)

    def counted(self, users: NDArray[np.int32], through: Ints) -> Ints:
        """(N,) how many of users[i]'s events are among the first through[i] of the stream."""
        return np.searchsorted(self._keys, users.astype(np.int64) * self._length + through) - self.starts[users]
