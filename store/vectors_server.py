"""The vector store on a Qdrant server or cluster (1.16 or later, for its conditional updates)."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client import models as qdrant
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from store import vectors_rules as rules
from store.conditions import ANY, Conditions
from store.records import StoreUnavailable
from store.user_vectors import EMBEDDING, ForgottenUser, UserHit, UserPoint, users_collection
from store.vectors import (
    Hit,
    OfferPoint,
    StoredPoint,
    UnknownProduct,
    VectorPoint,
    alias_name,
    check_points,
    check_users,
    check_vector,
    collection_name,
    fingerprint_in,
    point_ids,
)
from store.vectors_server_words import filter_of, operation_of

WRITE_BATCH = 64  # points of one request: about 2 MB of JSON with the default encoders
TIMEOUT_S = 10
TRY_AGAIN = frozenset({408, 429, 502, 503, 504})
"""HTTP statuses of a server, or of a proxy before it, that is there but cannot answer now."""

IN_MEMORY = ":memory:"


class ServerVectors:
    """A VectorStore through qdrant-client. The URL `:memory:` is the client's own imitation of a server, for tests."""

    def __init__(self, url: str, api_key: str | None, namespace: str) -> None:
        """Nothing is asked of the server yet."""
        self._url = url
        self._namespace = namespace
        self._alias = alias_name(namespace)
        self._users = users_collection(namespace)
        self._user_widths: dict[str, int] = {}  # of that collection, when it was last looked at
        self._target: str | None = None  # the collection of the last `ensure`
        self._widths: dict[str, dict[str, int]] = {}  # of each that takes writes
        self._read_widths: dict[str, dict[str, int]] = {}  # of those that were read, when they were last looked at
        self._client = (
            QdrantClient(IN_MEMORY)
            if url == IN_MEMORY
            else QdrantClient(url, api_key=api_key, timeout=TIMEOUT_S, check_compatibility=False)
        )
        # The imitation is not thread-safe; the client of a server is.
        self._lock: AbstractContextManager[Any] = RLock() if url == IN_MEMORY else nullcontext()

    def ensure(self, fingerprint: str, widths: Mapping[str, int]) -> None:
        name = collection_name(self._namespace, fingerprint)
        with self._calling():
            if not self._client.collection_exists(name):
                self._create(name, widths)
            if (found := self._widths_of(name)) != dict(widths):
                raise ValueError(
                    f"{name} has vectors of {found}, the encoder gives {dict(widths)}: change its fingerprint"
                )
            self._index_payload(name, rules.INDEXED)
            self._target, self._widths[name] = name, found
            if self._aliased() is None:
                self._point_to(name)

    def switch(self, fingerprint: str) -> None:
        name = collection_name(self._namespace, fingerprint)
        with self._calling():
            if not self._client.collection_exists(name):
                raise ValueError(f"there is no collection {name}: ensure() makes it")
            self._point_to(name)

    def serving(self) -> str | None:
        with self._calling():
            return fingerprint_in(self._namespace, self._aliased())

    def drop(self, fingerprint: str) -> None:
        name = collection_name(self._namespace, fingerprint)
        with self._calling():
            if self._aliased() == name:
                raise ValueError(f"readers see {name}: switch() first")
            if self._client.collection_exists(name):
                self._client.delete_collection(name)
            self._widths.pop(name, None)
            self._read_widths.pop(name, None)

    def put_offers(self, points: Sequence[OfferPoint], fingerprint: str | None = None) -> None:
        for batch in rules.batches(points, WRITE_BATCH):
            self._apply(rules.offer_writes(batch, self._namespace), self._written(fingerprint))

    def put_vectors(self, points: Sequence[VectorPoint], fingerprint: str | None = None) -> None:
        written = self._written(fingerprint)
        widths = self._widths[written]
        check_points(points, widths)
        for batch in rules.batches(points, WRITE_BATCH):
            self._apply(rules.vector_writes(batch, widths.keys(), self._namespace), written)

    def remove(self, revisions: Sequence[tuple[str, int]], fingerprint: str | None = None) -> None:
        for batch in rules.batches(revisions, WRITE_BATCH):
            self._apply(rules.removals(batch, self._namespace), self._written(fingerprint))

    def remove_vectors(self, revisions: Sequence[tuple[str, int]], fingerprint: str | None = None) -> None:
        for batch in rules.batches(revisions, WRITE_BATCH):
            self._apply(rules.vector_removals(batch, self._namespace), self._written(fingerprint))

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
        where = rules.seen_by_search(self._namespace, listable_only=listable_only, conditions=conditions)
        with self._reading(fingerprint) as collection:
            return self._nearest(collection, name, vector, limit, where, with_payload=with_payload)

    def similar(
        self,
        product_id: str,
        limit: int,
        name: str = "fused",
        *,
        conditions: Conditions = ANY,
        fingerprint: str | None = None,
    ) -> list[Hit]:
        where = rules.seen_by_search(self._namespace, exclude=(product_id,), conditions=conditions)
        with self._reading(fingerprint or self.serving()) as collection:  # not by the alias, which may move in between
            point = self._fetch(collection, product_id)
            if point is None or "revision" not in point.payload:
                raise UnknownProduct(product_id)
            if name not in point.vectors:
                return []
            return self._nearest(collection, name, point.vectors[name], limit, where)

    def fetch(self, product_id: str, *, fingerprint: str | None = None) -> StoredPoint | None:
        with self._reading(fingerprint) as collection:
            return self._fetch(collection, product_id)

    def retrievable(self, product_ids: Collection[str]) -> set[str]:
        products = point_ids(self._namespace, product_ids)
        if not products:
            return set()
        where = filter_of(rules.retrievable(products))
        with self._reading(None) as collection:
            found, _ = self._client.scroll(collection, where, limit=len(products), with_payload=False)
        return {products[str(point.id)] for point in found}

    def currencies(self) -> dict[str, int]:
        with self._reading(None) as collection:
            found = self._client.facet(collection, rules.CURRENCY, limit=rules.CURRENCIES_MAX, exact=True).hits
        return {str(hit.value): hit.count for hit in found}

    def count(self, *, fingerprint: str | None = None) -> dict[str, int]:
        with self._reading(fingerprint) as collection:
            return {
                "points": self._client.count(collection).count,
                "listable": self._client.count(collection, filter_of(rules.LISTABLE)).count,
                "fused": self._client.count(collection, filter_of(rules.FUSED)).count,
            }

    def answered(self, *, fingerprint: str | None = None) -> int:
        with self._reading(fingerprint) as collection:
            return self._client.count(collection, filter_of(rules.ANSWERED)).count

    def _nearest(
        self,
        collection: str,
        name: str,
        vector: NDArray[np.float32],
        limit: int,
        where: rules.Where,
        *,
        with_payload: bool = True,
    ) -> list[Hit]:
        if self._read_widths[collection].get(name) != vector.size:  # the alias may point elsewhere by now
            self._read_widths[collection] = self._widths_of(collection)
        check_vector("the query", name, vector, self._read_widths[collection])
        answer = self._client.query_points(
            collection,
            query=vector.tolist(),
            using=name,
            query_filter=filter_of(where),
            limit=limit,
            with_payload=with_payload or ["product_id"],
        )
        payloads = [(point.payload or {}, point.score) for point in answer.points]
        return [
            Hit(payload["product_id"], score, rules.flat(payload) if with_payload else {})
            for payload, score in payloads
        ]

    def _fetch(self, collection: str, product_id: str) -> StoredPoint | None:
        ids = list(point_ids(self._namespace, (product_id,)))
        for point in self._client.retrieve(collection, ids, with_payload=True, with_vectors=True):
            named = point.vector if isinstance(point.vector, dict) else {}
            vectors = {name: np.asarray(values, np.float32) for name, values in named.items()}
            return StoredPoint(product_id, rules.flat(point.payload or {}), vectors)
        return None

    # --- users ---------------------------------------------------------------------------------------------------

    def ensure_users(self, factors: int) -> None:
        widths = {EMBEDDING: factors}
        with self._calling():
            if self._client.collection_exists(self._users) and self._widths_of(self._users) != widths:
                self._client.delete_collection(self._users)
            if not self._client.collection_exists(self._users):
                self._create(self._users, widths)
            self._index_payload(self._users, rules.USERS_INDEXED)
            self._user_widths = widths

    def put_users(self, users: Sequence[UserPoint | ForgottenUser]) -> None:
        self._find_users()
        check_users(users, self._user_widths)
        for batch in rules.batches(users, WRITE_BATCH):
            self._apply(rules.user_writes(batch, self._namespace), self._users)

    def purge_users(self, now: float) -> None:
        self._find_users()
        self._apply([rules.expired(now)], self._users)

    def look_alikes(
        self, embedding: NDArray[np.float32], limit: int, *, epoch: int, exclude: Sequence[str] = ()
    ) -> list[UserHit]:
        where = rules.seen_as_look_alike(self._namespace, epoch=epoch, exclude=exclude)
        if self._user_widths.get(EMBEDDING) != embedding.size:  # it may have been made anew since
            self._user_widths = {}
        self._find_users()
        check_vector("the query", EMBEDDING, embedding, self._user_widths)
        with self._calling():
            answer = self._client.query_points(
                self._users,
                query=embedding.tolist(),
                using=EMBEDDING,
                query_filter=filter_of(where),
                limit=limit,
                with_payload=True,
            )
        return [UserHit((point.payload or {})["user_id"], point.score) for point in answer.points]

    def _find_users(self) -> None:
        """The widths of the users' collection, which exists, are known."""
        with self._calling():
            if not self._user_widths and not self._client.collection_exists(self._users):
                raise StoreUnavailable(f"there is no collection {self._users} yet: is the index role up?")
            self._user_widths = self._user_widths or self._widths_of(self._users)

    # --- the server ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        self._client.close()

    def _written(self, fingerprint: str | None) -> str:
        """The collection that takes the writes, which `ensure` has made."""
        name = self._target if fingerprint is None else collection_name(self._namespace, fingerprint)
        if name is None or name not in self._widths:
            raise RuntimeError(f"{name or 'no collection'} takes no writes: call ensure() first")
        return name

    def _aliased(self) -> str | None:
        """The collection that the alias points to."""
        aliases = {alias.alias_name: alias.collection_name for alias in self._client.get_aliases().aliases}
        return aliases.get(self._alias)

    def _point_to(self, name: str) -> None:
        """The alias points to the collection; readers see the one or the other at any time."""
        changes: list[Any] = [
            qdrant.CreateAliasOperation(create_alias=qdrant.CreateAlias(collection_name=name, alias_name=self._alias))
        ]
        if self._aliased() is not None:
            changes.insert(0, qdrant.DeleteAliasOperation(delete_alias=qdrant.DeleteAlias(alias_name=self._alias)))
        self._client.update_collection_aliases(changes)

    def _widths_of(self, name: str) -> dict[str, int]:
        vectors = self._client.get_collection(name).config.params.vectors
        return {vector: params.size for vector, params in vectors.items()} if isinstance(vectors, dict) else {}

    def _create(self, name: str, widths: Mapping[str, int]) -> None:
        vectors = {
            vector: qdrant.VectorParams(size=width, distance=qdrant.Distance.COSINE) for vector, width in widths.items()
        }
        try:
            self._client.create_collection(name, vectors_config=vectors)
        except UnexpectedResponse as error:
            if error.status_code != 409:  # another worker was quicker
                raise

    def _index_payload(self, name: str, indexed: Mapping[str, str]) -> None:
        if self._url != IN_MEMORY:
            for path, kind in indexed.items():
                self._client.create_payload_index(name, path, qdrant.PayloadSchemaType(kind), wait=True)

    def _apply(self, writes: Sequence[rules.Write], collection: str) -> None:
        """One request; applied in order, and so on every replica."""
        operations = [operation_of(write) for write in writes]
        with self._calling():
            results = self._client.batch_update_points(
                collection, operations, wait=True, ordering=qdrant.WriteOrdering.MEDIUM
            )
        pending = {result.status for result in results} - {qdrant.UpdateStatus.COMPLETED}
        if pending:
            raise StoreUnavailable(f"Qdrant took the writes but has not applied them within {TIMEOUT_S} s")

    @contextmanager
    def _reading(self, fingerprint: str | None) -> Iterator[str]:
        """Calls by the name of a collection that exists; None: by the alias."""
        name = self._alias if fingerprint is None else collection_name(self._namespace, fingerprint)
        with self._calling():
            if name not in self._read_widths:
                if self._aliased() is None if fingerprint is None else not self._client.collection_exists(name):
                    raise StoreUnavailable(f"there is no collection {name} yet: is the index role up?")
                self._read_widths[name] = self._widths_of(name)
            yield name

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """A server that does not answer is StoreUnavailable; everything else stays what it is."""
        with self._lock:
            try:
                yield
            except ResponseHandlingException as error:
                if not isinstance(error.source, httpx.TransportError):
                    raise
                raise self._away("does not answer", f": {error.source}") from error
            except ResourceExhaustedResponse as error:
                raise self._away("is overloaded") from error
            except UnexpectedResponse as error:
                if error.status_code not in TRY_AGAIN:
                    raise
                raise self._away(f"answers {error.status_code}") from error

    def _away(self, what: str, why: str = "") -> StoreUnavailable:
        return StoreUnavailable(f"Qdrant at {self._url} {what}{why}", f"Qdrant {what}")
