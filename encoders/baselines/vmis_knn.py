"""VMIS-kNN: the products of the sessions most similar to the one that goes on, by an index of recent sessions.

    similarity(n) = sum over the products of s that n holds of (|s| - p) / |s|    p places before the newest, 0 first
    score(j)      = sum over the k most similar n that hold j of (1 - (q + 1) / 10) * similarity(n) * log(N / N_j)

s is the session that goes on (its last products, each at its newest place), q the newest place whose product n holds,
N counts the sessions so far, N_j those with j. Compared are the m sessions with the latest clicks, of all that the
index lists for the products of s: for each product the last m sessions that took it up.

Source: Kersbergen, Sprangers, Schelter, Serenade, SIGMOD 2022. Taken from there: the linear decays by place, of the
similarity and of the match, the logarithmic idf, and m = 500, k = 100 and the last 2 products as in the example that
the authors give with their code. Different here: the index follows the clicks instead of being built each night, so it
holds sessions that still go on, the user's own left out; a session that has not begun is the user's last one; a long
session keeps its newest products instead of being left out.
"""

import math

import numpy as np
from numpy.typing import NDArray

from encoders.baselines.fading_counts import ROOM
from encoders.next_click import Floats, Rows, best, compiled, longer
from encoders.recommender import Request

Numbers = NDArray[np.int64]

FARTHEST = 9  # places of s: a match at the tenth would weigh nothing
_NO_SESSION = -1


@compiled
def _take_up(
    products: Rows, taken: Numbers, slot: int, sessions: Numbers, holders: Numbers, session: int, row: int
) -> None:
    """The session in this slot holds the row: both rings, its products and the row's sessions, go on unless it did."""
    length, listed = products.shape[1], sessions.shape[1]
    for at in range(min(taken[slot], length)):
        if products[slot, at] == row:
            return
    products[slot, taken[slot] % length] = row
    taken[slot] += 1
    sessions[row, holders[row] % listed] = session
    holders[row] += 1


@compiled
def _going_on(history: Rows, ages_s: Floats, last: int, gap_s: float) -> Rows:
    """Return s: at most `last` distinct products, newest first, of clicks with no longer gap between them."""
    found = np.empty(last, np.int32)
    count = 0
    for place in range(len(history)):
        if count == last or (place > 0 and ages_s[place] - ages_s[place - 1] > gap_s):
            break
        if history[place] not in found[:count]:
            found[count] = history[place]
            count += 1
    return found[:count]


@compiled
def _score(
    products: Rows,
    taken: Numbers,
    latest: Numbers,
    sessions: Numbers,
    holders: Numbers,
    begun: int,
    kept: int,
    own: int,
    current: Rows,
    neighbours: int,
    steps: Rows,
    match: Rows,
    out: Floats,
) -> None:
    """The slots' products (S, length), how many they took up (S,), their latest click (S,); the index and its counts.

    steps (S,) and match (S,) are room for |s| times the similarity, zero before and after, and for q.
    """
    out[:] = 0.0
    listed = sessions.shape[1]
    slots = np.empty(min(len(current) * listed, len(taken)), np.int32)
    found = 0
    for place in range(len(current)):
        row = current[place]
        for back in range(1, min(holders[row], listed) + 1):
            session = sessions[row, (holders[row] - back) % listed]
            if session == own or begun - session > kept:  # the slot belongs to a younger session by now
                continue
            slot = session % kept
            if steps[slot] == 0:
                match[slot] = place
                slots[found] = slot
                found += 1
            steps[slot] += len(current) - place
    oldest = np.int64(0)
    if found > listed:
        oldest = np.partition(latest[slots[:found]], found - listed)[found - listed]
    compared = 0
    similarities = np.empty((1, found), np.float32)
    for at in range(found):
        slot = slots[at]
        if latest[slot] >= oldest:
            slots[compared] = slot
            similarities[0, compared] = steps[slot] / len(current)
            compared += 1
        steps[slot] = 0
    nobody = np.empty((1, 0), np.int32)
    nearest, closeness = best(
        similarities[:, :compared], np.ones(compared, np.bool_), nobody, min(neighbours, compared)
    )
    for at in range(nearest.shape[1]):
        slot = slots[nearest[0, at]]
        vote = closeness[0, at] * np.float32(1.0 - 0.1 * (match[slot] + 1))
        for row in products[slot, : min(taken[slot], products.shape[1])]:
            out[row] += vote
    for row in range(len(out)):
        if out[row] > 0.0:
            out[row] *= np.float32(max(0.0, math.log(begun / holders[row])))


class VmisKnn:
    """Equally similar: the session that shares the newer product, then that took it up later, is the nearer."""

    name = "vmis-knn"

    def __init__(
        self,
        *,
        neighbours: int = 100,
        recent: int = 500,
        last: int = 2,
        gap_s: float = 1_800.0,
        session_length: int = 100,
        kept_sessions: int = 100_000,
    ) -> None:
        """No session known yet.

        neighbours      >= 1, k
        recent          >= k, m
        last            1 to 9, products of s
        gap_s           >= 0, a session ends when no click comes for longer; infinite: all clicks of a user are one
        session_length  >= 1, products that a session holds, the newest
        kept_sessions   >= 1, the sessions begun last; older ones are forgotten

        Raises ValueError where a bound does not hold.
        """
        if neighbours < 1:
            raise ValueError(f"{neighbours} sessions are asked: give 1 or more")
        if recent < neighbours:
            raise ValueError(f"{recent} recent sessions are compared but {neighbours} asked: compare at least as many")
        if not 1 <= last <= FARTHEST:
            raise ValueError(f"{last} products of the session are compared: give 1 to {FARTHEST}")
        if not gap_s >= 0:
            raise ValueError(f"a session ends after {gap_s} s: give 0 or more, infinity for one session a user")
        if session_length < 1 or kept_sessions < 1:
            raise ValueError(f"{kept_sessions} sessions of {session_length} products are kept: give 1 or more of each")
        self._neighbours, self._last, self._gap_s, self._kept = neighbours, last, float(gap_s), kept_sessions
        self._products: Rows = np.zeros((0, session_length), np.int32)
        self._taken: Numbers = np.zeros(0, np.int64)
        self._latest: Numbers = np.zeros(0, np.int64)
        self._steps: Rows = np.zeros(0, np.int32)
        self._match: Rows = np.zeros(0, np.int32)
        self._sessions: Numbers = np.zeros((0, recent), np.int64)
        self._holders: Numbers = np.zeros(0, np.int64)
        self._session_of_user: dict[int, int] = {}
        self._begun = 0
        self._clicks = 0

    def grow(self, products: int) -> None:
        if products > len(self._holders):
            self._sessions = longer(self._sessions, products + ROOM)
            self._holders = longer(self._holders, products + ROOM)

    def score(self, request: Request, out: Floats) -> None:
        _score(
            self._products,
            self._taken,
            self._latest,
            self._sessions,
            self._holders,
            self._begun,
            self._kept,
            self._session_of_user.get(request.user, _NO_SESSION),
            _going_on(request.history, request.ages_s, self._last, self._gap_s),
            self._neighbours,
            self._steps,
            self._match,
            out,
        )

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        session = self._session_of_user.get(request.user, _NO_SESSION)
        goes_on = session != _NO_SESSION and len(request.history) > 0 and request.ages_s[0] <= self._gap_s
        if not goes_on or self._begun - session > self._kept:
            session = self._begin(request.user)
        slot = session % self._kept
        self._clicks += 1
        self._latest[slot] = self._clicks
        _take_up(self._products, self._taken, slot, self._sessions, self._holders, session, row)

    def _begin(self, user: int) -> int:
        session = self._session_of_user[user] = self._begun
        self._begun += 1
        if session == len(self._taken) and session < self._kept:
            slots = min(self._kept, 2 * session + ROOM)
            self._products = longer(self._products, slots)
            self._taken, self._latest = longer(self._taken, slots), longer(self._latest, slots)
            self._steps, self._match = longer(self._steps, slots), longer(self._match, slots)
        self._taken[session % self._kept] = 0
        return session
