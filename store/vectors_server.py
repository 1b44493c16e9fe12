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
from store.records import StoreUnavailable
from store.vectors import (
    Hit,
    OfferPoint,
    StoredPoint,
    UnknownProduct,
    VectorPoint,
    alias_name,
    check_points,
    check_vector,
    collection_name,
    point_ids,
)

WRITE_BATCH = 64
"""Points of one request: about 2 MB of JSON with the default encoders."""

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
        self._target: str | None = None  # the collection that takes the writes
        self._widths: dict[str, int] = {}  # of that collection
        self._read_widths: dict[str, int] = {}  # of the one behind the alias, when it was last looked at
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
            if self._url != IN_MEMORY:
                for path, kind in rules.INDEXED.items():
                    self._client.create_payload_index(name, path, qdrant.PayloadSchemaType(kind), wait=True)
            self._target, self._widths = name, found
            if self._aliased() is None:
                self._point_to(name)

    def switch(self, fingerprint: str) -> None:
        name = collection_name(self._namespace, fingerprint)
        with self._calling():
            if not self._client.collection_exists(name):
                raise ValueError(f"there is no collection {name}: ensure() makes it")
            self._point_to(name)

    def put_offers(self, points: Sequence[OfferPoint]) -> None:
        for batch in rules.batches(points, WRITE_BATCH):
            self._apply(rules.offer_writes(batch, self._namespace))

    def put_vectors(self, points: Sequence[VectorPoint]) -> None:
        self._written()
        check_points(points, self._widths)
        for batch in rules.batches(points, WRITE_BATCH):
            self._apply(rules.vector_writes(batch, self._widths.keys(), self._namespace))

    def remove(self, revisions: Sequence[tuple[str, int]]) -> None:
        for batch in rules.batches(revisions, WRITE_BATCH):
            self._apply(rules.removals(batch, self._namespace))

    def remove_vectors(self, revisions: Sequence[tuple[str, int]]) -> None:
        for batch in rules.batches(revisions, WRITE_BATCH):
            self._apply(rules.vector_removals(batch, self._namespace))

    def nearest(
        self,
        name: str,
        vector: NDArray[np.float32],
        limit: int,
        *,
        listable_only: bool = True,
        exclude: Collection[str] = (),
        brand: str | None = None,
        category: str | None = None,
    ) -> list[Hit]:
        where = rules.seen_by_search(
            self._namespace, listable_only=listable_only, exclude=exclude, brand=brand, category=category
        )
        with self._reading():
            if self._read_widths.get(name) != vector.size:  # the alias may point elsewhere by now
                self._read_widths = self._widths_of(self._alias)
            check_vector("the query", name, vector, self._read_widths)
            answer = self._client.query_points(
                self._alias,
                query=vector.tolist(),
                using=name,
                query_filter=_filter(where),
                limit=limit,
                with_payload=True,
            )
        payloads = [(point.payload or {}, point.score) for point in answer.points]
        return [Hit(payload["product_id"], score, rules.flat(payload)) for payload, score in payloads]

    def similar(self, product_id: str, limit: int, name: str = "fused") -> list[Hit]:
        point = self.fetch(product_id)
        if point is None or "revision" not in point.payload:
            raise UnknownProduct(product_id)
        if name not in point.vectors:
            return []
        return self.nearest(name, point.vectors[name], limit, exclude=(product_id,))

    def fetch(self, product_id: str) -> StoredPoint | None:
        ids = list(point_ids(self._namespace, (product_id,)))
        with self._reading():
            found = self._client.retrieve(self._alias, ids, with_payload=True, with_vectors=True)
        for point in found:
            named = point.vector if isinstance(point.vector, dict) else {}
            vectors = {name: np.asarray(values, np.float32) for name, values in named.items()}
            return StoredPoint(product_id, rules.flat(point.payload or {}), vectors)
        return None

    def retrievable(self, product_ids: Collection[str]) -> set[str]:
        products = point_ids(self._namespace, product_ids)
        if not products:
            return set()
        where = _filter(rules.retrievable(products))
        with self._reading():
            found, _ = self._client.scroll(self._alias, where, limit=len(products), with_payload=False)
        return {products[str(point.id)] for point in found}

    def count(self) -> dict[str, int]:
        with self._reading():
            return {
                "points": self._client.count(self._alias).count,
                "listable": self._client.count(self._alias, _filter(rules.LISTABLE)).count,
                "fused": self._client.count(self._alias, _filter(rules.FUSED)).count,
            }

    def close(self) -> None:
        self._client.close()

    def _written(self) -> str:
        if self._target is None:
            raise RuntimeError("no collection takes the writes: call ensure() first")
        return self._target

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

    def _apply(self, writes: Sequence[rules.Write]) -> None:
        """One request; applied in order, and on every replica in the same order."""
        target = self._written()
        operations = [_operation(write) for write in writes]
        with self._calling():
            results = self._client.batch_update_points(
                target, operations, wait=True, ordering=qdrant.WriteOrdering.MEDIUM
            )
        pending = {result.status for result in results} - {qdrant.UpdateStatus.COMPLETED}
        if pending:
            raise StoreUnavailable(f"Qdrant took the writes but has not applied them within {TIMEOUT_S} s")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """A call by the alias, which exists."""
        with self._calling():
            if not self._read_widths:
                if self._aliased() is None:
                    raise StoreUnavailable(f"there is no collection {self._alias} yet: is the index role up?")
                self._read_widths = self._widths_of(self._alias)
            yield

    @contextmanager
    def _calling(self) -> Iterator[None]:
        """A server that does not answer is StoreUnavailable; everything else stays what it is."""
        with self._lock:
            try:
                yield
            except ResponseHandlingException as error:
                if not isinstance(error.source, httpx.TransportError):
                    raise
                raise StoreUnavailable(f"Qdrant at {self._url} does not answer: {error.source}") from error
            except ResourceExhaustedResponse as error:
                raise StoreUnavailable(f"Qdrant at {self._url} is overloaded") from error
            except UnexpectedResponse as error:
                if error.status_code not in TRY_AGAIN:
                    raise
                raise StoreUnavailable(f"Qdrant at {self._url} answers {error.status_code}") from error


def _operation(write: rules.Write) -> qdrant.UpdateOperation:
    """The write in the server's words."""
    match write:
        case rules.Insert(products):
            points = [
                qdrant.PointStruct(id=point_id, vector={}, payload={"product_id": product})
                for point_id, product in products.items()
            ]
            return qdrant.UpsertOperation(
                upsert=qdrant.PointsList(points=points, update_filter=_filter(rules.NO_POINT))
            )
        case rules.SetPayload(where, payload):
            return qdrant.SetPayloadOperation(
                set_payload=qdrant.SetPayload(payload=dict(payload), filter=_filter(where))
            )
        case rules.SetVectors(where, point_id, vectors):
            lists: Any = {name: vector.tolist() for name, vector in vectors.items()}
            changed = [qdrant.PointVectors(id=point_id, vector=lists)]
            return qdrant.UpdateVectorsOperation(
                update_vectors=qdrant.UpdateVectors(points=changed, update_filter=_filter(where))
            )
        case rules.DropVectors(where, names):
            return qdrant.DeleteVectorsOperation(
                delete_vectors=qdrant.DeleteVectors(filter=_filter(where), vector=list(names))
            )
        case rules.DeletePoints(where):
            return qdrant.DeleteOperation(delete=qdrant.FilterSelector(filter=_filter(where)))


def _filter(where: rules.Where) -> qdrant.Filter:
    """The conditions in the server's words."""
    must: list[Any] = [
        qdrant.FieldCondition(key=path, match=qdrant.MatchValue(value=value)) for path, value in where.equal.items()
    ]
    must_not: list[Any] = []
    if where.ids is not None:
        must.append(qdrant.HasIdCondition(has_id=list(where.ids)))
    if where.other_than:
        must_not.append(qdrant.HasIdCondition(has_id=list(where.other_than)))
    if where.missing is not None:
        must.append(_empty(where.missing))
    if where.present is not None:
        must_not.append(_empty(where.present))
    for path, highest in where.missing_or_at_most.items():
        at_most = qdrant.FieldCondition(key=path, range=qdrant.Range(lte=highest))
        must.append(qdrant.Filter(should=[_empty(path), at_most]))
    if where.has_vector is not None:
        must.append(qdrant.HasVectorCondition(has_vector=where.has_vector))
    return qdrant.Filter(must=must, must_not=must_not)


def _empty(path: str) -> qdrant.IsEmptyCondition:
    return qdrant.IsEmptyCondition(is_empty=qdrant.PayloadField(key=path))
