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

from encoders.next_click import Weights
from streams.broker import Headers
from streams.events import unpack_vector

TOMBSTONES_MAX = 100_000
TOMBSTONE_S = 3_600.0
ARRIVALS_MAX = 100_000
Version = tuple[int, int]


class Shelf:
    """P products: offers, fused vectors (P, D), context and target factors (P, F), biases and click counts."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rows: dict[str, int] = {}
        self.product_ids: list[str | None] = []
        self.titles: list[str] = []
        self.listable: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.has_vector: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.has_factors: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self.clicks: NDArray[np.int64] = np.zeros(0, np.int64)
        self.bias: NDArray[np.float32] = np.zeros(0, np.float32)
        self.created_at: NDArray[np.float64] = np.zeros(0, np.float64)
        self.context: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.target: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.fused: NDArray[np.float32] = np.zeros((0, 0), np.float32)
        self.arrivals: list[int] = []  # rows in the order in which their vectors came, for caches of neighbours
        self.arrivals_dropped = 0
        self.weights: Weights | None = None
        self.weights_version: Version = (0, 0)
        self._offer_revision: NDArray[np.int64] = np.zeros(0, np.int64)
        self._vector_revision: NDArray[np.int64] = np.zeros(0, np.int64)
        self._factor_version: NDArray[np.int64] = np.zeros((0, 2), np.int64)
        self._tombstones: OrderedDict[str, tuple[int, float]] = OrderedDict()  # product -> its last revision, and when
        self._epoch = 0
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.product_ids)

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
        self._offer_revision[row] = offer["revision"]
        self.titles[row] = offer["title"]
        self.listable[row] = offer["state"] == "listable"
        self.created_at[row] = offer["created_at"]

    def put_vectors(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of product-vectors; only the fused vector is kept."""
        product_id = key.decode()
        if value is None:
            if (known := self.rows.get(product_id)) is not None:
                self.has_vector[known] = False
                self._free_if_empty(product_id, known)
            return
        record = orjson.loads(value)
        row = self._row(product_id)
        if record["content_revision"] < self._vector_revision[row]:
            return
        self._vector_revision[row] = record["content_revision"]
        self.has_vector[row] = record["fused"] is not None
        if record["fused"] is not None:
            vector = unpack_vector(record["fused"])
            self.fused = _widened(self.fused, len(self.listable), len(vector))
            self.fused[row] = vector
            self._note_arrival(row)

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

    def put_weights(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of model-weights."""
        if value is None or key != b"next-click":
            return
        record = orjson.loads(value)
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
        return row

    def _remove_offer(self, product_id: str, revision: int) -> None:
        known, _ = self._tombstones.get(product_id, (-1, 0.0))
        self._tombstones[product_id] = (max(revision, known), time.monotonic())
        self._tombstones.move_to_end(product_id)
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)
        row = self.rows.get(product_id)
        if row is not None and self._offer_revision[row] <= revision:
            self.listable[row] = False
            self._offer_revision[row] = -1
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
            self._free.append(row)

    def _note_arrival(self, row: int) -> None:
        self.arrivals.append(row)
        if len(self.arrivals) > ARRIVALS_MAX:
            half = len(self.arrivals) // 2
            del self.arrivals[:half]
            self.arrivals_dropped += half

    def _grow(self, rows: int) -> None:
        for name in ("listable", "has_vector", "has_factors", "clicks", "bias", "created_at"):
            setattr(self, name, _lengthened(getattr(self, name), rows))
        for name in ("_offer_revision", "_vector_revision", "_factor_version", "context", "target", "fused"):
            setattr(self, name, _lengthened(getattr(self, name), rows))


def _lengthened(array: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
    longer = np.zeros((rows, *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer


def _widened(matrix: NDArray[np.float32], rows: int, width: int) -> NDArray[np.float32]:
    """The matrix at this width; another width than before (a new model) starts it anew."""
    return matrix if matrix.shape == (rows, width) else np.zeros((rows, width), np.float32)
