"""Which write wins, and which point a search sees: the rules of the vector store, free of any engine.

Payload of a point: product_id; offer and revision once the offer came; content_revision once the vectors came. The
offer is one value below its own key, so that a new one replaces the old whole and leaves the rest alone.

Every write carries its own condition, because a worker that lost its partition may still be writing. The conditions
say "missing or at most": a range alone never matches a missing field.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from store.conditions import ANY, Conditions
from store.user_vectors import EMBEDDING, ForgottenUser, UserPoint, user_point_id
from store.vectors import OfferPoint, VectorPoint, point_ids

CURRENCY = "offer.price.currency"
CURRENCIES_MAX = 200  # there are fewer in the world

INDEXED = {
    "product_id": "keyword",
    "revision": "integer",
    "content_revision": "integer",
    "offer.state": "keyword",
    "offer.brand": "keyword",
    "offer.category": "keyword",
    "offer.availability": "keyword",
    "offer.price.amount": "float",
    CURRENCY: "keyword",
}
"""Payload fields of a product with an index, and its kind."""

USERS_INDEXED = {"revision": "integer", "forgotten": "integer", "epoch": "integer", "expires_at": "float"}
"""Those of a user."""


@dataclass(frozen=True, slots=True)
class Where:
    """The points that meet every condition."""

    ids: Collection[str] | None = None
    other_than: Collection[str] = ()  # point ids
    missing: str | None = None  # a payload field
    present: str | None = None  # a payload field
    missing_or_at_most: Mapping[str, float] = field(default_factory=dict)  # payload field -> its highest value
    equal: Mapping[str, str | int] = field(default_factory=dict)  # payload field -> value, or an element of a list
    between: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)  # both ends included
    has_vector: str | None = None


@dataclass(frozen=True, slots=True)
class Insert:
    """A bare point for each product that has none."""

    products: Mapping[str, str]  # point id -> product id


@dataclass(frozen=True, slots=True)
class Replace:
    """The point is this one, whole, if there was none or it meets the conditions."""

    where: Where
    point_id: str
    payload: Mapping[str, Any]
    vectors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class SetPayload:
    where: Where
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SetVectors:
    where: Where
    point_id: str
    vectors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class DropVectors:
    where: Where
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class DeletePoints:
    where: Where


Write = Insert | Replace | SetPayload | SetVectors | DropVectors | DeletePoints

NO_POINT = Where(missing="product_id")
"""Matches no point, since each has a product_id: an upsert under this condition only inserts."""


def offer_writes(points: Sequence[OfferPoint], namespace: str) -> list[Write]:
    """An offer wins over the same revision or a lower one: the same is a batch run again, with more folded into it."""
    ids = _ids(namespace, [point.product_id for point in points])
    writes: list[Write] = [Insert({ids[point.product_id]: point.product_id for point in points})]
    for point in points:
        not_newer = Where(ids=(ids[point.product_id],), missing_or_at_most={"revision": point.revision})
        writes.append(SetPayload(not_newer, {"revision": point.revision, "offer": point.payload}))
    return writes


def vector_writes(points: Sequence[VectorPoint], names: Collection[str], namespace: str) -> list[Write]:
    """Vectors win over the same content revision or a lower one: a picture may have come since.

    The revision is written first. If a newer write comes in between, what is left of this one no longer matches.
    """
    ids = _ids(namespace, [point.product_id for point in points])
    writes: list[Write] = [Insert({ids[point.product_id]: point.product_id for point in points})]
    for point in points:
        point_id = ids[point.product_id]
        not_newer = Where(ids=(point_id,), missing_or_at_most={"content_revision": point.content_revision})
        writes.append(SetPayload(not_newer, {"content_revision": point.content_revision}))
        if point.vectors:
            writes.append(SetVectors(not_newer, point_id, point.vectors))
        if absent := sorted(set(names) - point.vectors.keys()):
            writes.append(DropVectors(not_newer, absent))
    return writes


def removals(revisions: Sequence[tuple[str, int]], namespace: str) -> list[Write]:
    """A delete wins over the same revision or a lower one, and over vectors without an offer.

    Vectors of a higher revision stay, without an offer: the product has come back, and they came first.
    """
    ids = _ids(namespace, [product_id for product_id, _ in revisions])
    writes: list[Write] = []
    for product_id, revision in revisions:
        not_newer = Where(ids=(ids[product_id],), missing_or_at_most={"revision": revision})
        both = replace(not_newer, missing_or_at_most={"revision": revision, "content_revision": revision})
        writes += [DeletePoints(both), SetPayload(not_newer, {"revision": revision, "offer": {}})]
    return writes


def vector_removals(revisions: Sequence[tuple[str, int]], namespace: str) -> list[Write]:
    """A delete of vectors wins over the same content revision or a lower one, where there is no offer."""
    ids = _ids(namespace, [product_id for product_id, _ in revisions])
    return [
        DeletePoints(
            Where(ids=(ids[product_id],), missing="revision", missing_or_at_most={"content_revision": content_revision})
        )
        for product_id, content_revision in revisions
    ]


def seen_by_search(
    namespace: str,
    *,
    listable_only: bool = True,
    exclude: Collection[str] = (),
    conditions: Conditions = ANY,
) -> Where:
    """The points that a search may return: with an offer, and what else was asked for."""
    price = conditions.price
    wanted = {
        "offer.state": "listable" if listable_only else None,
        "offer.brand": conditions.brand,
        "offer.category": conditions.category,
        "offer.availability": conditions.availability,
        CURRENCY: price.currency if price else None,
    }
    wanted |= {f'offer.attributes."{name}"': value for name, value in conditions.attributes}
    return Where(
        other_than=point_ids(namespace, exclude),
        present=None if listable_only else "revision",  # what is listable has an offer, and a condition more costs time
        equal={name: value for name, value in wanted.items() if value is not None},
        between={"offer.price.amount": (price.lowest, price.highest)} if price else {},
    )


def user_writes(users: Sequence[UserPoint | ForgottenUser], namespace: str) -> list[Write]:
    """An embedding wins over the same revision or a lower one, and over a forgetting of a lower one alone.

    A forgetting wins over the same revision or a lower one: a user who is back has a higher one.
    """
    writes: list[Write] = []
    for user in users:
        point_id = user_point_id(namespace, user.user_id)
        payload: dict[str, Any] = {"expires_at": user.expires_at}
        if isinstance(user, ForgottenUser):
            forgettable = Where(missing_or_at_most={"revision": user.revision, "forgotten": user.revision})
            writes.append(Replace(forgettable, point_id, payload | {"forgotten": user.revision}, {}))
        else:
            not_newer = Where(missing_or_at_most={"revision": user.revision, "forgotten": user.revision - 1})
            payload |= {"user_id": user.user_id, "revision": user.revision, "epoch": user.epoch}
            writes.append(Replace(not_newer, point_id, payload, {EMBEDDING: user.embedding}))
    return writes


def expired(now: float) -> DeletePoints:
    """Every user's point has `expires_at`."""
    return DeletePoints(Where(missing_or_at_most={"expires_at": now}))


def seen_as_look_alike(namespace: str, *, epoch: int, exclude: Collection[str]) -> Where:
    """The users that a search may return."""
    return Where(equal={"epoch": epoch}, other_than=[user_point_id(namespace, user_id) for user_id in exclude])


LISTABLE = Where(equal={"offer.state": "listable"})
FUSED = Where(has_vector="fused")
ANSWERED = Where(equal=LISTABLE.equal, present="content_revision")


def retrievable(points: Collection[str]) -> Where:
    """Those of the points that a search of the fused vectors can return."""
    return Where(ids=points, equal=LISTABLE.equal, has_vector="fused")


def flat(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The offer with the point's own fields, from a stored payload."""
    own = {name: value for name, value in stored.items() if name != "offer"}
    return {**stored.get("offer", {}), **own}


Entry = TypeVar("Entry")


def batches(entries: Sequence[Entry], size: int) -> Iterator[Sequence[Entry]]:
    """The entries in order, at most `size` at once."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _ids(namespace: str, product_ids: Sequence[str]) -> dict[str, str]:
    """Product id -> point id."""
    return {product_id: point_id for point_id, product_id in point_ids(namespace, product_ids).items()}
