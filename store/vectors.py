"""Offers and vectors of products in Qdrant: the values, and what both forms of the store promise.

A point is one product. Two streams write it, in any order: the offer (price, stock; never behind an encoder) and the
vectors. Each has its own revision and never touches what belongs to the other.
"""

import os
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from store.conditions import ANY, Conditions
from store.records import StoreUnavailable
from store.user_vectors import EMBEDDING, ForgottenUser, UserPoint, UserVectors

VECTOR_NAMES = ("image", "text", "fused")
_FRESHET = uuid.uuid5(uuid.NAMESPACE_URL, "urn:freshet:products")  # never change: every point's id hangs on it


class EmbeddedStoreMissing(Exception):
    """The package with the embedded store is not installed."""


class UnknownProduct(LookupError):
    """The store has no offer of this product."""


@dataclass(frozen=True, slots=True)
class OfferPoint:
    product_id: str
    revision: int
    payload: dict[str, Any]  # the offer as JSON values; `state` decides who sees it


@dataclass(frozen=True, slots=True)
class VectorPoint:
    product_id: str
    content_revision: int
    vectors: dict[str, NDArray[np.float32]]  # by name of VECTOR_NAMES; a missing modality is absent


@dataclass(frozen=True, slots=True)
class Hit:
    product_id: str
    score: float  # cosine, -1 to 1
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredPoint:
    product_id: str
    payload: dict[str, Any]  # the offer, with revision and content_revision where there are any
    vectors: dict[str, NDArray[np.float32]]  # of length 1: the engine normalises


class VectorStore(UserVectors, Protocol):
    """Every write has been applied when it returns, and a stale one changes nothing, inside the engine as well.

    Each version of the encoders has a collection, named by its fingerprint. Writes go to that of the fingerprint, None:
    of the last `ensure`; reads go to that of the fingerprint, None: to the one that the alias `products` points to, and
    to that one alone, also if the alias moves meanwhile. Users have a collection of their own beside them.
    All methods may be called from several threads. They raise StoreUnavailable if a server does not answer, and if
    something is read before any collection exists.
    """

    def ensure(self, fingerprint: str, widths: Mapping[str, int]) -> None:
        """The collection of this encoder exists and takes the writes; if the alias pointed nowhere, it points here.

        widths   values of each named vector
        Raises ValueError if it exists with other widths.
        """

    def switch(self, fingerprint: str) -> None:
        """All readers see the collection of this encoder. Raises ValueError if it does not exist."""

    def serving(self) -> str | None:
        """The fingerprint of the collection that the alias points to; None before there is any."""

    def drop(self, fingerprint: str) -> None:
        """There is no collection of this encoder. Raises ValueError if readers see it."""

    def put_offers(self, points: Sequence[OfferPoint], fingerprint: str | None = None) -> None:
        """Each point's payload is its offer, unless the stored revision is as high. Vectors are left as they are."""

    def put_vectors(self, points: Sequence[VectorPoint], fingerprint: str | None = None) -> None:
        """Each point's vectors are these and no others, unless the stored content revision is higher.

        A point whose offer has not come yet is in no search.
        Raises ValueError that names the product, with nothing written, if a vector is not finite or of wrong width.
        """

    def remove(self, revisions: Sequence[tuple[str, int]], fingerprint: str | None = None) -> None:
        """The products (product_id, revision) are gone, but for those with an offer of that revision or higher."""

    def remove_vectors(self, revisions: Sequence[tuple[str, int]], fingerprint: str | None = None) -> None:
        """The products (product_id, content_revision) that have no offer and no newer vectors are gone."""

    def nearest(
        self,
        name: str,
        vector: NDArray[np.float32],
        limit: int,
        *,
        listable_only: bool = True,
        conditions: Conditions = ANY,
        fingerprint: str | None = None,
        with_payload: bool = True,
    ) -> list[Hit]:
        """The products whose vector of that name has the highest cosine, best first.

        There are `limit` of them wherever so many meet the conditions.

        conditions    the availability of one that is sold out only if not listable_only
        with_payload  False: hits come without theirs, and sooner
        Raises ValueError if the vector is not finite or of wrong width.
        """

    def similar(
        self,
        product_id: str,
        limit: int,
        name: str = "fused",
        *,
        conditions: Conditions = ANY,
        fingerprint: str | None = None,
    ) -> list[Hit]:
        """The listable products nearest to this one that meet the conditions, without it; none if its vector has not
        come yet.

        Raises UnknownProduct if there is no offer of it.
        """

    def fetch(self, product_id: str, *, fingerprint: str | None = None) -> StoredPoint | None:
        """All that is stored of a product, also before its offer came."""

    def retrievable(self, product_ids: Collection[str]) -> set[str]:
        """Those that a search can return: listable, and with a fused vector."""

    def currencies(self) -> dict[str, int]:
        """How many products, sold out or not, have their price in each currency."""

    def count(self, *, fingerprint: str | None = None) -> dict[str, int]:
        """How many `points`, and of those `listable`, and with a `fused` vector."""

    def answered(self, *, fingerprint: str | None = None) -> int:
        """How many listable products this encoder has answered for, be it that they have nothing to encode."""

    def close(self) -> None:
        """Everything is on disk and another process may open the store."""


def serving_of(vectors: VectorStore) -> str:
    """The fingerprint of the collection that serves. Raises StoreUnavailable, also before there is any."""
    if (serving := vectors.serving()) is None:
        raise StoreUnavailable("there is no collection of products yet: is the index role up?")
    return serving


def open_vectors(qdrant_url: str | None, api_key: str | None, home: Path, namespace: str) -> VectorStore:
    """The server at qdrant_url or, without one, the store embedded in `home`.

    Raises StoreInUse, and EmbeddedStoreMissing.
    """
    # Imported here because each form needs a package that the other installations go without.
    if qdrant_url is not None:
        from store.vectors_server import ServerVectors

        return ServerVectors(qdrant_url, api_key, namespace)
    try:
        from store.vectors_embedded import EmbeddedVectors
    except ModuleNotFoundError as error:
        raise EmbeddedStoreMissing(
            f"the embedded vector store is not installed ({error}): pip install '.[embedded]' in Freshet's folder, or "
            "name a server with FRESHET_QDRANT_URL"
        ) from error

    return EmbeddedVectors(home / "vectors", namespace)


def switch_vectors(qdrant_url: str | None, api_key: str | None, home: Path, namespace: str, fingerprint: str) -> None:
    """As VectorStore.switch, from a process that does not own the embedded store: its pointer is one file.

    Raises ValueError if the collection does not exist, StoreUnavailable.
    """
    if qdrant_url is not None:
        from store.vectors_server import ServerVectors

        store = ServerVectors(qdrant_url, api_key, namespace)
        try:
            store.switch(fingerprint)
        finally:
            store.close()
        return
    point_to(home / "vectors", namespace, fingerprint)


def point_to(folder: Path, namespace: str, fingerprint: str) -> None:
    """Readers of the embedded store in this folder see the collection. Raises ValueError if it does not exist."""
    name = collection_name(namespace, fingerprint)
    if not (folder / name).exists():
        raise ValueError(f"there is no collection {name}: ensure() makes it")
    write_whole(folder / alias_name(namespace), name)


def write_whole(path: Path, text: str) -> None:
    """The file holds the text or what it held before, whatever happens in between, whoever else writes it."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.draft")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def point_ids(namespace: str, product_ids: Iterable[str]) -> dict[str, str]:
    """The products' ids in Qdrant, which takes only UUIDs: point id -> product id."""
    shop = uuid.uuid5(_FRESHET, namespace)
    return {str(uuid.uuid5(shop, product_id)): product_id for product_id in product_ids}


def alias_name(namespace: str) -> str:
    """The name under which readers find the products."""
    return f"{namespace}-products" if namespace else "products"


def collection_name(namespace: str, fingerprint: str) -> str:
    """The collection of one encoder."""
    return f"{alias_name(namespace)}-{fingerprint}"


def fingerprint_in(namespace: str, collection: str | None) -> str | None:
    """The encoder of a collection's name."""
    return None if collection is None else collection.removeprefix(f"{alias_name(namespace)}-")


def check_points(points: Iterable[VectorPoint], widths: Mapping[str, int]) -> None:
    """Raises ValueError that names the first product with a vector that the collection cannot take."""
    for point in points:
        for name, vector in point.vectors.items():
            check_vector(f"product {point.product_id!r}", name, vector, widths)


def check_users(users: Iterable[UserPoint | ForgottenUser], widths: Mapping[str, int]) -> None:
    """Raises ValueError that names the first user with an embedding that the collection cannot take."""
    for user in users:
        if isinstance(user, UserPoint):
            check_vector(f"user {user.user_id!r}", EMBEDDING, user.embedding, widths)


def check_vector(owner: str, name: str, vector: NDArray[np.float32], widths: Mapping[str, int]) -> None:
    """Raises ValueError: the engines take NaN without a word and then return it first for every query."""
    if name not in widths:
        raise ValueError(f"{owner}: no vector is called {name!r}, the collection has {', '.join(sorted(widths))}")
    if vector.shape != (widths[name],):
        raise ValueError(f"{owner}: the {name} vector has shape {vector.shape}, the collection takes ({widths[name]},)")
    if not np.isfinite(vector).all():
        raise ValueError(f"{owner}: the {name} vector has a value that is not finite: encode it again")
