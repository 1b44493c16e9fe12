"""User-based collaborative filtering: what the most similar users clicked of late, learned with each click.

    similarity(u, v) = sum_{q in B_v} w_q / sqrt(sum w_q ** 2 * |B_v|)        the cosine; w_q = (l + 1) ** -fall
    score(j)         = log(U / U_j) * sum of similarity(u, v) over the k most similar users v that have j in B_v

q runs over the user's last products, l = 0 is the newest; B_v is the set of the last products of v; U counts the users
with a click, U_j those with j in B: the fewer, the more it says of a user that she has it. An inverted index holds for
each product the users that have it in B, those who clicked it last first, and only so many of them: a product that
everybody has takes no longer than another.

Sources: Herlocker, Konstan, Borchers, Riedl, SIGIR 1999 (neighbourhoods of users); Breese, Heckerman, Kadie, UAI 1998
(inverse user frequency).
"""

import math

import numpy as np

from encoders.baselines.fading_counts import ROOM, position_weights
from encoders.next_click import Floats, Rows, best, compiled, longer
from encoders.recommender import Request


@compiled
def _put_first(values: Rows, count: int, value: int) -> tuple[int, int]:
    """Put value before the first `count` values, or move it there; return the new count and what fell out, or -1."""
    place = 0
    while place < count and values[place] != value:
        place += 1
    fallen = -1
    if place == len(values):
        place -= 1
        fallen = values[place]
    for at in range(place, 0, -1):
        values[at] = values[at - 1]
    values[0] = value
    return max(count, place + 1), fallen


@compiled
def _take_out(values: Rows, count: int, value: int) -> int:
    """Take value out of the first `count` values, if it is there; return the new count."""
    for place in range(count):
        if values[place] == value:
            for at in range(place, count - 1):
                values[at] = values[at + 1]
            return count - 1
    return count


@compiled
def _learn(products: Rows, held: Rows, users: Rows, listed: Rows, holders: Rows, user: int, row: int) -> None:
    """products (U, kept), the first held (U,) of each: B. users (P, list_length), the first listed (P,): the index.

    holders (P,) counts the users with the product in B, also those not listed.
    """
    before = held[user]
    held[user], dropped = _put_first(products[user], before, row)
    if held[user] > before or dropped >= 0:
        holders[row] += 1
    if dropped >= 0:
        holders[dropped] -= 1
        listed[dropped] = _take_out(users[dropped], listed[dropped], user)
    listed[row], _ = _put_first(users[row], listed[row], user)


@compiled
def _score(
    products: Rows,
    held: Rows,
    users: Rows,
    listed: Rows,
    holders: Rows,
    known_users: int,
    shared: Floats,
    weights: Floats,
    user: int,
    history: Rows,
    neighbours: int,
    out: Floats,
) -> None:
    """shared (U,) is zero before and after: room for the weight of what each user shares."""
    out[:] = 0.0
    candidates = np.empty(min(len(weights) * users.shape[1], len(held)), np.int32)
    found = 0
    distinct = 0
    length = np.float32(0.0)
    for place in range(len(history)):
        row = history[place]
        if row in history[:place]:
            continue
        for other in users[row, : listed[row]]:
            if other != user:
                if shared[other] == 0.0:
                    candidates[found] = other
                    found += 1
                shared[other] += weights[distinct]
        length += weights[distinct] ** 2
        distinct += 1
        if distinct == len(weights):
            break
    similarities = np.empty((1, found), np.float32)
    for at in range(found):
        other = candidates[at]
        similarities[0, at] = shared[other] / np.sqrt(length * held[other])
        shared[other] = 0.0
    nobody = np.empty((1, 0), np.int32)
    nearest, closeness = best(similarities, np.ones(found, np.bool_), nobody, min(neighbours, found))
    for at in range(nearest.shape[1]):
        other = candidates[nearest[0, at]]
        for row in products[other, : held[other]]:
            out[row] += closeness[0, at]
    for row in range(len(out)):
        if out[row] > 0.0:
            out[row] *= np.float32(math.log(known_users / holders[row]))


class UserKnn:
    """Equally similar: who shares the newer product, then who clicked it later, is the nearer."""

    name = "user-knn"

    def __init__(
        self,
        *,
        last: int = 10,
        fall: float = 2.0,
        kept: int = 100,
        neighbours: int = 100,
        list_length: int = 500,
    ) -> None:
        """Nobody known yet.

        last         >= 1, products of the user that are compared
        fall         0 to 10, exponent of their places; 0 for the cosine of two sets
        kept         >= last, products of B
        neighbours   >= 1, k
        list_length  >= 1, users listed for each product

        Raises ValueError where a bound does not hold.
        """
        if kept < last:
            raise ValueError(f"{kept} products of each user are kept but {last} compared: keep at least as many")
        if neighbours < 1:
            raise ValueError(f"{neighbours} users are asked: give 1 or more")
        if list_length < 1:
            raise ValueError(f"{list_length} users are listed for each product: give 1 or more")
        self._weights, self._neighbours = position_weights(last, fall), neighbours
        self._products: Rows = np.zeros((0, kept), np.int32)
        self._held: Rows = np.zeros(0, np.int32)
        self._users: Rows = np.zeros((0, list_length), np.int32)
        self._listed: Rows = np.zeros(0, np.int32)
        self._holders: Rows = np.zeros(0, np.int32)
        self._known_users = 0
        self._shared: Floats = np.zeros(0, np.float32)

    def grow(self, products: int) -> None:
        if products > len(self._listed):
            self._users = longer(self._users, products + ROOM)
            self._listed = longer(self._listed, products + ROOM)
            self._holders = longer(self._holders, products + ROOM)

    def score(self, request: Request, out: Floats) -> None:
        _score(
            self._products,
            self._held,
            self._users,
            self._listed,
            self._holders,
            self._known_users,
            self._shared,
            self._weights,
            request.user,
            request.history,
            self._neighbours,
            out,
        )

    def learn(self, request: Request, row: int, code: int = 3) -> None:  # noqa: ARG002
        if request.user >= len(self._held):
            rows = 2 * request.user + ROOM
            self._products = longer(self._products, rows)
            self._held = longer(self._held, rows)
            self._shared = longer(self._shared, rows)
        self._known_users += self._held[request.user] == 0
        _learn(self._products, self._held, self._users, self._listed, self._holders, request.user, row)
