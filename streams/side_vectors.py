"""All fused vectors of one version of the encoders, gathered beside those that are in use until they take their place.

So what reads vectors has those of one version or of the other, never some of both.
"""

from collections.abc import Mapping
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.next_click import Floats
from streams.broker import Headers
from streams.duplicates import picture_of
from streams.events import unpack_vector


class Gathered(NamedTuple):
    """n products that an encoder has answered for, of which m have a fused vector."""

    fingerprint: str
    product_ids: list[str]  # (n,)
    revisions: NDArray[np.int64]  # (n,) of the content
    has_vector: NDArray[np.bool_]  # (n,)
    fused: Floats  # (m, W), in the order of those that have one; W is 0 if none has
    pictures: list[bytes | None]  # (n,) as streams.duplicates.picture_of has them


class _Record(NamedTuple):
    revision: int
    fused: Floats | None
    picture: bytes | None


class VectorReader(Protocol):
    """What uses the vectors of one version at a time; `lock` is held while it changes."""

    lock: Lock
    encoder: str | None  # fingerprint of that version

    def put_vectors(self, key: bytes, value: bytes | None, headers: Headers) -> None: ...

    def prepare(self, gathered: Gathered) -> Any:
        """What is needed to take them and can be made without the lock."""

    def take_vectors(self, gathered: Gathered, prepared: Any) -> None:
        """These are the vectors from now on, and no others. Called under the lock."""


class SideVectors:
    """Records of product-vectors-<fingerprint>: first gathered, then, once taken, handed on to the reader."""

    def __init__(self, fingerprint: str, reader: VectorReader) -> None:
        """lock is held while a record is put."""
        self.lock = Lock()
        self.fingerprint = fingerprint
        self._reader = reader
        self._records: dict[str, _Record] | None = {}  # None: they were taken

    def put(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """A record. What comes when another version's vectors have taken their place is dropped."""
        if self._records is None:
            with self._reader.lock:
                if self._reader.encoder == self.fingerprint:
                    self._reader.put_vectors(key, value, headers)
            return
        product_id = key.decode()
        if value is None:
            self._records.pop(product_id, None)
            return
        record: Mapping[str, Any] = orjson.loads(value)
        known = self._records.get(product_id)
        revision = int(record.get("content_revision", 0))
        if known is None or revision >= known.revision:
            fused = None if record["fused"] is None else unpack_vector(record["fused"])
            self._records[product_id] = _Record(revision, fused, picture_of(record))

    def take(self) -> None:
        """The reader uses these and no others, from one moment to the next."""
        with self.lock:
            gathered = self._gathered()
            prepared = self._reader.prepare(gathered)
            with self._reader.lock:
                self._reader.take_vectors(gathered, prepared)
            self._records = None

    def _gathered(self) -> Gathered:
        """Vectors of another width than the first one's count as missing: no encoder gives such."""
        records = self._records or {}
        found = [record.fused for record in records.values()]
        width = next((vector.size for vector in found if vector is not None), 0)
        vectors = [vector if vector is not None and vector.size == width else None for vector in found]
        fused = [vector for vector in vectors if vector is not None]
        return Gathered(
            self.fingerprint,
            list(records),
            np.array([record.revision for record in records.values()], np.int64),
            np.array([vector is not None for vector in vectors], np.bool_),
            np.stack(fused) if fused else np.zeros((0, width), np.float32),
            [record.picture for record in records.values()],
        )
