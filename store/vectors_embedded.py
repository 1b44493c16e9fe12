"""The vector store inside this process: qdrant-edge, one shard per encoder in a folder that one process owns."""

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import IO, Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

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
    point_to,
    write_whole,
)
from store.vectors_embedded_words import filter_of, index_payload, operation_of

WRITE_BATCH = 16
"""Points written under one hold of the lock, about 5 ms: a query waits no longer than that."""

FLUSH_EVERY = 4_000
"""Writes between two flushes. The log since the last one is replayed at the next start, about .1 ms a write."""


class StoreInUse(Exception):
    """Another process owns the folder: two writers would destroy it."""


class EmbeddedVectors:
    """A VectorStore in a folder. A confirmed write survives kill -9, by the engine's write-ahead log.

    Never calls the engine's optimize(): it holds the GIL for as long as it takes. So searches are exact, and their
    time grows with the number of points.
    """

    def __init__(self, folder: Path, namespace: str) -> None:
        """The folder is this process's until close() or its death. Raises StoreInUse if it is another's."""
        self._folder = folder
        self._namespace = namespace
        self._pointer = folder / alias_name(namespace)
        self._users = users_collection(namespace)
        self._lock = RLock()
        self._shards: dict[str, edge.EdgeShard] = {}
        self._target: str | None = None  # the collection of the last `ensure`
        self._unflushed = 0
        self._known_widths: dict[str, dict[str, int]] = {}  # by collection
        self._product_ids: dict[Any, str] = {}  # of points that were found
        folder.mkdir(parents=True, exist_ok=True)
        self._owner = _own(folder / f"{alias_name(namespace)}.lock")

    def ensure(self, fingerprint: str, widths: Mapping[str, int]) -> None:
        name = collection_name(self._namespace, fingerprint)
        with self._lock:
            if not (self._folder / name).exists():
                self._create(name, widths, rules.INDEXED)
            if (found := self._widths(name)) != dict(widths):
                raise ValueError(
                    f"{name} has vectors of {found}, the encoder gives {dict(widths)}: change its fingerprint"
                )
            index_payload(self._shard(name), rules.INDEXED)  # one of an earlier release may lack some
            self._target = name
            if not self._pointer.exists():
                write_whole(self._pointer, name)

    def switch(self, fingerprint: str) -> None:
        with self._lock:
            point_to(self._folder, self._namespace, fingerprint)

    def serving(self) -> str | None:
        return fingerprint_in(self._namespace, self._pointed())

    def drop(self, fingerprint: str) -> None:
        name = collection_name(self._namespace, fingerprint)
        with self._lock:
            if self._pointed() == name:
                raise ValueError(f"readers see {name}: switch() first")
            if (self._folder / name).exists():
                self._discard(name)

    def put_offers(self, points: Sequence[OfferPoint], fingerprint: str | None = None) -> None:
        for batch in rules.batches(points, WRITE_BATCH):
            self._apply(rules.offer_writes(batch, self._namespace), self._written(fingerprint))

    def put_vectors(self, points: Sequence[VectorPoint], fingerprint: str | None = None) -> None:
        written = self._written(fingerprint)
        widths = self._widths(written)
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
        with self._lock:
            return self._nearest(self._read(fingerprint), name, vector, limit, where, with_payload=with_payload)

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
        with self._lock:
            collection = self._read(fingerprint)  # once: another process may move the pointer at any time
            point = self._fetch(collection, product_id)
            if point is None or "revision" not in point.payload:
                raise UnknownProduct(product_id)
            if name not in point.vectors:
                return []
            return self._nearest(collection, name, point.vectors[name], limit, where)

    def fetch(self, product_id: str, *, fingerprint: str | None = None) -> StoredPoint | None:
        with self._lock:
            return self._fetch(self._read(fingerprint), product_id)

    def retrievable(self, product_ids: Collection[str]) -> set[str]:
        products = point_ids(self._namespace, product_ids)
        if not products:
            return set()
        where = filter_of(rules.retrievable(products))
        with self._lock:
            shard = self._shard(self._read(None))
            found, _ = shard.scroll(edge.ScrollRequest(limit=len(products), filter=where, with_payload=False))
        return {products[str(point.id)] for point in found}

    def currencies(self) -> dict[str, int]:
        with self._lock:
            asked = edge.FacetRequest(rules.CURRENCY, limit=rules.CURRENCIES_MAX, exact=True)
            found: list[Any] = self._shard(self._read(None)).facet(asked).hits
        return {hit.value: hit.count for hit in found}

    def count(self, *, fingerprint: str | None = None) -> dict[str, int]:
        with self._lock:
            shard = self._shard(self._read(fingerprint))
            return {
                "points": shard.count(edge.CountRequest()),
                "listable": shard.count(edge.CountRequest(filter=filter_of(rules.LISTABLE))),
                "fused": shard.count(edge.CountRequest(filter=filter_of(rules.FUSED))),
            }

    def answered(self, *, fingerprint: str | None = None) -> int:
        with self._lock:
            shard = self._shard(self._read(fingerprint))
            return int(shard.count(edge.CountRequest(filter=filter_of(rules.ANSWERED))))

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
        check_vector("the query", name, vector, self._widths(collection))
        query = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector.tolist(), using=name),
            filter=filter_of(where),
            with_payload=with_payload,
        )
        found: list[Any] = self._shard(collection).query(query)
        if with_payload:
            return [Hit(point.payload["product_id"], point.score, rules.flat(point.payload)) for point in found]
        known = self._product_ids  # remembered, since reading a payload takes as long as finding it
        ids = [point.id for point in found]  # made anew at each access
        if unknown := [one for one in ids if one not in known]:
            read: list[Any] = self._shard(collection).retrieve(unknown, with_payload=True, with_vector=False)
            known.update((point.id, point.payload["product_id"]) for point in read)
        return [Hit(known[one], point.score, {}) for one, point in zip(ids, found, strict=True)]

    def _fetch(self, collection: str, product_id: str) -> StoredPoint | None:
        ids: list[Any] = list(point_ids(self._namespace, (product_id,)))
        found: list[Any] = self._shard(collection).retrieve(ids, with_payload=True, with_vector=True)
        for point in found:
            vectors = {name: np.asarray(values, np.float32) for name, values in point.vector.items()}
            return StoredPoint(product_id, rules.flat(point.payload), vectors)
        return None

    # --- users ---------------------------------------------------------------------------------------------------

    def ensure_users(self, factors: int) -> None:
        folder, widths = self._folder / self._users, {EMBEDDING: factors}
        with self._lock:
            if folder.exists() and self._widths(self._users) != widths:
                self._discard(self._users)
            if not folder.exists():
                self._create(self._users, widths, rules.USERS_INDEXED)
            self._shard(self._users)

    def put_users(self, users: Sequence[UserPoint | ForgottenUser]) -> None:
        widths = self._widths(self._existing_users())
        check_users(users, widths)
        for batch in rules.batches(users, WRITE_BATCH):
            self._apply(rules.user_writes(batch, self._namespace), self._users)

    def purge_users(self, now: float) -> None:
        self._apply([rules.expired(now)], self._existing_users())

    def look_alikes(
        self, embedding: NDArray[np.float32], limit: int, *, epoch: int, exclude: Sequence[str] = ()
    ) -> list[UserHit]:
        where = rules.seen_as_look_alike(self._namespace, epoch=epoch, exclude=exclude)
        with self._lock:
            check_vector("the query", EMBEDDING, embedding, self._widths(self._existing_users()))
            query = edge.QueryRequest(
                limit=limit,
                query=edge.Query.Nearest(embedding.tolist(), using=EMBEDDING),
                filter=filter_of(where),
                with_payload=True,
            )
            found: list[Any] = self._shard(self._users).query(query)
        return [UserHit(point.payload["user_id"], point.score) for point in found]

    def _existing_users(self) -> str:
        if not (self._folder / self._users).exists():
            raise StoreUnavailable(f"there is no collection {self._users} yet: is the index role up?")
        return self._users

    # --- the folder ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        with self._lock:
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()
            self._owner.close()

    def _written(self, fingerprint: str | None) -> str:
        """The collection that takes the writes, which `ensure` has made."""
        name = self._target if fingerprint is None else collection_name(self._namespace, fingerprint)
        if name is None or name not in self._shards:
            raise RuntimeError(f"{name or 'no collection'} takes no writes: call ensure() first")
        return name

    def _read(self, fingerprint: str | None) -> str:
        """The collection of the fingerprint; None: the one that the alias points to."""
        name = self._pointed() if fingerprint is None else collection_name(self._namespace, fingerprint)
        if name is None or not (name in self._shards or (self._folder / name).exists()):
            raise StoreUnavailable(f"there is no collection {name or self._pointer.name} yet: is the index role up?")
        return name

    def _pointed(self) -> str | None:
        return self._pointer.read_text() if self._pointer.exists() else None  # once made, it is never removed

    def _widths(self, name: str) -> dict[str, int]:
        if name not in self._known_widths:
            self._known_widths[name] = json.loads((self._folder / name / "widths.json").read_bytes())
        return self._known_widths[name]

    def _create(self, name: str, widths: Mapping[str, int], indexed: Mapping[str, str]) -> None:
        """Made beside its place and moved there, so that a crash leaves no half of it."""
        draft = self._folder / f"{name}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        write_whole(draft / "widths.json", json.dumps(dict(widths)))
        vectors = {vector: edge.EdgeVectorParams(width, edge.Distance.Cosine) for vector, width in widths.items()}
        shard = edge.EdgeShard.create(str(draft / "shard"), edge.EdgeConfig(vectors=vectors, wal_enabled=True))
        index_payload(shard, indexed)
        shard.close()
        draft.rename(self._folder / name)

    def _discard(self, name: str) -> None:
        """Moved away first, so that a crash leaves no half of it in its place."""
        self._known_widths.pop(name, None)
        if (opened := self._shards.pop(name, None)) is not None:
            opened.close()
        gone = self._folder / f"{name}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        (self._folder / name).rename(gone)
        shutil.rmtree(gone)

    def _shard(self, name: str) -> edge.EdgeShard:
        """The open shard; its first opening replays the log."""
        if name not in self._shards:
            self._shards[name] = edge.EdgeShard.load(str(self._folder / name / "shard"))
        return self._shards[name]

    def _apply(self, writes: Sequence[rules.Write], collection: str) -> None:
        with self._lock:
            shard = self._shard(collection)
            for write in writes:
                shard.update(operation_of(write))
            self._unflushed += len(writes)
            if self._unflushed >= FLUSH_EVERY:
                for opened in self._shards.values():
                    opened.flush()
                self._unflushed = 0
                self._product_ids.clear()  # it is not to grow with what is gone


def _own(path: Path) -> IO[str]:
    """The lock file, locked; the kernel unlocks it when the process ends, however it does."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip() or "?"
        file.close()
        raise StoreInUse(
            f"{path.parent} belongs to process {owner}: run index and api in that one, or set FRESHET_QDRANT_URL"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
