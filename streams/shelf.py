"""What is for sale and what the model knows of it: aligned arrays in memory, filled from the compacted topics.

A row of the arrays belongs to one product from the first record about it to the last. Readers keep the highest
revision (offers), content revision (vectors) and (epoch, sequence) (factors, weights), so neither a replay nor a late
writer can turn a row back. `lock` is held while rows change and while a ranking reads them.
"""

import threading
import time
from collections import OrderedDict

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.next_click import Weights, longer
from streams.broker import Headers
from streams.duplicates import Duplicates, picture_of
from streams.events import unpack_vector
from streams.notices import Notices
from streams.shelf_offers import ShelfOffers
from streams.shelf_stage import MappedContents, ShelfStage, mapped
from streams.side_vectors import Gathered

TOMBSTONES_MAX = 100_000
TOMBSTONE_S = 3_600.0
NOTICES_MAX = 100_000
Version = tuple[int, int]


class Shelf:
    """P products: offers, fused vectors (P, D), all of one version of the encoders, context and target factors (P, F),
    biases and click counts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.encoder: str | None = None  # fingerprint of the version whose vectors these are, once it is known
        self.rows: dict[str, int] = {}
        self.product_ids: list[str | None] = []
        self.titles: list[str] = []
        self.listable: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.has_vector: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.has_factors: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.clicks: NDArray[np.int64] = np.zeros(0, np.int64)
        self.bias: NDArray[np.float32] = np.zeros(0, np.float32)
        self.created_at: NDArray[np.float64] = np.zeros(0, np.float64)
        self.births: NDArray[np.int64] = np.zeros(0, np.int64)  # a new number when a row becomes another product's
        self.context: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.target: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.fused: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.newcomers = Notices(NOTICES_MAX)  # rows that got their first vector, for pushes
        self.withdrawn = Notices(NOTICES_MAX)  # rows that may be listed no more, for retractions
        self.restored = Notices(NOTICES_MAX)  # rows that were sold out, and may be listed again
        self.stage = ShelfStage()
        self.duplicates = Duplicates()
        self.offers: ShelfOffers | None = None  # None: nobody here filters or shows products
        self.weights: Weights | None = None
        self.weights_version: Version = (0, 0)
        self._offer_revision: NDArray[np.int64] = np.zeros(0, np.int64)
        self._vector_revision: NDArray[np.int64] = np.zeros(0, np.int64)
        self._factor_version: NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self._tombstones: OrderedDict[str, tuple[int, float]] = OrderedDict()  # product -> its last revision, and when
        self._epoch = 0
        self._births = 0
        self._free: list[int] = []
        self._gone: list[int] = []  # rows without a product that may still be neighbours of others

    def __len__(self) -> int:
        return len(self.product_ids)

    def keep_offers(self) -> ShelfOffers:
        """From now on it keeps of each offer what lists are filtered by; call it before the first record."""
        assert self.offers is not None or not self.rows, "the offers of these are not known any more"
        self.offers = self.offers or ShelfOffers()
        return self.offers

    def currencies(self) -> list[str]:
        """Those that prices are in. Takes the lock."""
        assert self.offers is not None, "keep_offers() comes first"
        with self.lock:
            return list(self.offers.currencies())

    def has_offer(self, product_id: str) -> bool:
        """True if there is an offer of it, sold out or not."""
        row = self.rows.get(product_id)
        return row is not None and bool(self._offer_revision[row] >= 0)

    # --- records of the compacted topics -------------------------------------------------------------------------

    def put_offer(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """A record of product-index."""
        product_id = key.decode()
        if value is None:
            self._remove_offer(product_id, int(dict(headers).get("revision", b"0")))
            return
        offer = orjson.loads(value)
        if self._is_deleted_since(product_id, offer["revision"]):
            return
        row = self._row(product_id)
        if offer["revision"] < self._offer_revision[row]:
            return
        self._tombstones.pop(product_id, None)
        was_sold_out = self._offer_revision[row] >= 0 and not self.listable[row]
        self._offer_revision[row] = offer["revision"]
        self.titles[row] = offer["title"]
        self.duplicates.put_offer(row, offer["title"], offer.get("brand"))
        if self.offers is not None:
            self.offers.put(row, offer)
        was_listable = self.listable[row]
        self.listable[row] = offer["state"] == "listable"
        if was_listable and not self.listable[row]:
            self.withdrawn.add(row)
        if was_sold_out and self.listable[row]:
            self.restored.add(row)
        self.created_at[row] = offer["created_at"]

    def put_vectors(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of product-vectors; the fused vector is kept, and the picture's signature."""
        product_id = key.decode()
        if value is None:
            if (known := self.rows.get(product_id)) is not None:
                self.has_vector[known] = False
                self.stage.put_vector(known, None)
                self.duplicates.put_picture(known, None)
                self._free_if_empty(product_id, known)
            return
        record = orjson.loads(value)
        row = self._row(product_id)
        if record["content_revision"] < self._vector_revision[row]:
            return
        self._vector_revision[row] = record["content_revision"]
        self.duplicates.put_picture(row, picture_of(record))
        if record["fused"] is not None and not self.has_vector[row]:
            self.newcomers.add(row)
        self.has_vector[row] = record["fused"] is not None
        if record["fused"] is None:
            self.stage.put_vector(row, None)
        else:
            vector = unpack_vector(record["fused"])
            self.fused = _widened(self.fused, len(self.listable), len(vector))
            self.fused[row] = vector
            self.stage.put_vector(row, vector)

    def prepare(self, gathered: Gathered) -> MappedContents:
        """The contents of these vectors, as the learner maps them, or by a map of their own. Takes the lock."""
        with self.lock:
            content_map = self.stage.map_of(gathered.fingerprint, gathered.fused.shape[1])
        return mapped(content_map, gathered.fused)

    def take_vectors(self, gathered: Gathered, prepared: MappedContents) -> None:
        """These are the vectors and the contents from now on, and no others. The lock is held."""
        had = {product_id for product_id, row in self.rows.items() if self.has_vector[row]}
        all_rows = np.array([self._row(product_id) for product_id in gathered.product_ids], np.int32)
        rows = all_rows[gathered.has_vector]
        self.fused = np.zeros((len(self.listable), gathered.fused.shape[1]), np.float32)
        self.fused[rows] = gathered.fused
        self.has_vector[:] = False
        self.has_vector[rows] = True
        self._vector_revision[:] = -1
        self._vector_revision[all_rows] = gathered.revisions
        self.encoder = gathered.fingerprint
        self.stage.take_contents(gathered.fingerprint, prepared, rows)
        for row, picture in zip(all_rows.tolist(), gathered.pictures, strict=True):
            self.duplicates.put_picture(row, picture)
        for row in rows.tolist():
            if self.product_ids[row] not in had:
                self.newcomers.add(row)
        for product_id in had:
            if not self.has_vector[row := self.rows[product_id]]:
                self._free_if_empty(product_id, row)

    def put_factors(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of item-factors."""
        product_id = key.decode()
        if value is None:
            if (known := self.rows.get(product_id)) is not None:
                self.has_factors[known] = False
                self.clicks[known] = 0
                self._free_if_empty(product_id, known)
            return
        record = orjson.loads(value)
        self._epoch = max(self._epoch, record["epoch"])
        row = self._row(product_id)
        version = (record["epoch"], record["sequence"])
        if version < tuple(self._factor_version[row]):
            return
        context = unpack_vector(record["context"])
        self.context = _widened(self.context, len(self.listable), len(context))
        self.target = _widened(self.target, len(self.listable), len(context))
        self._factor_version[row] = version
        self.context[row] = context
        self.target[row] = unpack_vector(record["target"])
        self.bias[row] = record["bias"]
        self.clicks[row] = record["clicks"]
        self.has_factors[row] = True
        self.stage.put_trends(row, record["lately"], record["counted_at"])
        self.stage.put_segments(row, record.get("segments", {}))

    def put_neighbours(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of item-neighbours."""
        product_id = key.decode()
        if value is not None:
            self.stage.put_neighbours(self._row(product_id), orjson.loads(value), self._row)
        elif (known := self.rows.get(product_id)) is not None:
            self.stage.drop_neighbours_of(known)
            self._free_if_empty(product_id, known)

    def put_weights(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of model-weights."""
        if value is None:
            return
        record = orjson.loads(value)
        if key == b"second-stage" and self.stage.is_newer(record):
            self.stage.put_stage(record)
        if key == b"content-map" and self.stage.is_newer(record):
            self.stage.put_map(record, self.fused, self.has_vector)
        if key != b"next-click":
            return
        version = (record["epoch"], record["sequence"])
        if version < self.weights_version:
            return
        factors = record["factors"]
        self.weights_version = version
        self.weights = Weights(
            position_weights=unpack_vector(record["position_weights"]).reshape(-1, factors),
            gap_weights=unpack_vector(record["gap_weights"]).reshape(-1, factors),
            memory_weights=unpack_vector(record["memory_weights"]),
            memory_length=record["memory_length"],
            memory_decay=record["memory_decay"],
        )

    # --- rows ----------------------------------------------------------------------------------------------------

    def _row(self, product_id: str) -> int:
        row = self.rows.get(product_id)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
        else:
            row = len(self.product_ids)
            self.product_ids.append(None)
            self.titles.append("")
            if row >= len(self.listable):
                self._grow(max(1024, 2 * row))
        self.rows[product_id] = row
        self.product_ids[row] = product_id
        self.titles[row] = product_id
        self._offer_revision[row] = self._vector_revision[row] = -1
        self._factor_version[row] = 0
        self.bias[row] = self.clicks[row] = self.created_at[row] = 0
        self.listable[row] = self.has_vector[row] = self.has_factors[row] = False
        self._births += 1
        self.births[row] = self._births
        self.stage.clear(row)
        self.duplicates.clear(row)
        if self.offers is not None:
            self.offers.clear(row)
        return row

    def _remove_offer(self, product_id: str, revision: int) -> None:
        known, _ = self._tombstones.get(product_id, (-1, 0.0))
        self._tombstones[product_id] = (max(revision, known), time.monotonic())
        self._tombstones.move_to_end(product_id)
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)
        row = self.rows.get(product_id)
        if row is not None and self._offer_revision[row] <= revision:
            if self.listable[row]:
                self.withdrawn.add(row)
            self.listable[row] = False
            self._offer_revision[row] = -1
            self.duplicates.put_offer(row, None)
            if self.offers is not None:
                self.offers.clear(row)
            self._free_if_empty(product_id, row)

    def _is_deleted_since(self, product_id: str, revision: int) -> bool:
        """True if a delete of a higher revision came lately. No writer is an hour late, and a product whose row was
        purged begins at revision 1 again."""
        deleted, at = self._tombstones.get(product_id, (-1, 0.0))
        return revision < deleted and time.monotonic() - at < TOMBSTONE_S

    def _free_if_empty(self, product_id: str, row: int) -> None:
        if self._offer_revision[row] < 0 and not self.has_vector[row] and not self.has_factors[row]:
            del self.rows[product_id]
            self.product_ids[row] = None
            self._gone.append(row)
            if len(self._gone) > max(64, len(self.product_ids) // 16):
                self.stage.forget(np.array(self._gone, np.int32))
                self._free += self._gone
                self._gone = []

    def _grow(self, rows: int) -> None:
        for name in ("listable", "has_vector", "has_factors", "clicks", "bias", "created_at", "births"):
            setattr(self, name, longer(getattr(self, name), rows))
        for name in ("_offer_revision", "_vector_revision", "_factor_version", "context", "target", "fused"):
            setattr(self, name, longer(getattr(self, name), rows))
        self.stage.grow(rows)
        self.duplicates.grow(rows)
        if self.offers is not None:
            self.offers.grow(rows)


def _widened(matrix: NDArray[np.float32], rows: int, width: int) -> NDArray[np.float32]:
    """The matrix at this width; another width than before (a new model) starts it anew."""
    return matrix if matrix.shape == (rows, width) else np.zeros((rows, width), np.float32)
