"""Which products there are, and the fused vector of each: what the learner reads of path 1 and path 2."""

import threading
from collections import OrderedDict

import orjson

from encoders.next_click import Floats
from streams.broker import Headers
from streams.events import unpack_vector
from streams.side_vectors import Gathered

TOMBSTONES_MAX = 100_000


class Assortment:
    """A view of product-index and product-vectors that tells what has changed; `lock` is held while it changes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.encoder: str | None = None  # fingerprint of the version whose vectors these are, once it is known
        self.vectors: dict[str, Floats] = {}  # (D,) fused, of listed products and of others; another dict for another
        self._revisions: dict[str, int] = {}  # of the products that there are
        self._tombstones: OrderedDict[str, int] = OrderedDict()  # deleted product -> its last revision
        self._offers_changed: set[str] = set()
        self._vectors_changed: set[str] = set()

    def __contains__(self, product_id: str) -> bool:
        return product_id in self._revisions

    def __len__(self) -> int:
        return len(self._revisions)

    def put_offer(self, key: bytes, value: bytes | None, headers: Headers) -> None:
        """A record of product-index; of a replay or a late writer the higher revision stays."""
        product_id = key.decode()
        if value is None:
            revision = int(dict(headers).get("revision", b"0"))
            if revision < self._revisions.get(product_id, -1):
                return
            self._revisions.pop(product_id, None)
            self._bury(product_id, revision)
        else:
            revision = orjson.loads(value)["revision"]
            if revision <= self._tombstones.get(product_id, -1):
                return
            self._tombstones.pop(product_id, None)
            self._revisions[product_id] = max(revision, self._revisions.get(product_id, -1))
        self._offers_changed.add(product_id)

    def put_vectors(self, key: bytes, value: bytes | None, headers: Headers) -> None:  # noqa: ARG002
        """A record of product-vectors."""
        product_id = key.decode()
        fused = orjson.loads(value)["fused"] if value is not None else None
        if fused is None:
            self.vectors.pop(product_id, None)
        else:
            self.vectors[product_id] = unpack_vector(fused)
        self._vectors_changed.add(product_id)

    def prepare(self, gathered: Gathered) -> dict[str, Floats]:
        """The vectors by product id."""
        ids = [p for p, has in zip(gathered.product_ids, gathered.has_vector.tolist(), strict=True) if has]
        return dict(zip(ids, gathered.fused, strict=True))

    def take_vectors(self, gathered: Gathered, prepared: dict[str, Floats]) -> None:
        """These are the vectors from now on. The lock is held; what reads the ones before has them whole."""
        self.encoder, self.vectors = gathered.fingerprint, prepared
        self._vectors_changed = set(prepared)

    def current(self) -> tuple[str | None, dict[str, Floats]]:
        """The version, and its vectors: they change, but for another version there is another dict."""
        with self.lock:
            return self.encoder, self.vectors

    def take_changes(self) -> tuple[set[str], set[str]]:
        """The products whose offer came or went, and those whose vector came or went, since the last call."""
        with self.lock:
            changes = self._offers_changed, self._vectors_changed
            self._offers_changed, self._vectors_changed = set(), set()
        return changes

    def take_all(self) -> set[str]:
        """Every product that there is, or is known to be deleted; no changes are left after that."""
        self.take_changes()
        with self.lock:
            return {*self._revisions, *self._tombstones}

    def _bury(self, product_id: str, revision: int) -> None:
        self._tombstones[product_id] = max(revision, self._tombstones.get(product_id, -1))
        self._tombstones.move_to_end(product_id)
        if len(self._tombstones) > TOMBSTONES_MAX:
            self._tombstones.popitem(last=False)
