"""Shelves made by hand: records as the topics carry them."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from encoders.content_lift import new_lift
from encoders.ranking_features import FEATURES
from encoders.reranker import Reranker, new_reranker
from streams.events import pack_vector


class FullReplica:
    """Stands for a reader that has read everything: the shelf is filled by hand."""

    malformed = 0

    def check(self) -> None: ...


def offer(
    revision: int = 1,
    *,
    title: str = "A thing",
    state: str = "listable",
    created_at: float = 1.0,
    brand: str | None = None,
    **more: Any,
) -> bytes:
    """A value of product-index, as far as a shelf reads it; more is of streams.events.Offer."""
    made = {"revision": revision, "title": title, "state": state, "created_at": created_at, "brand": brand}
    return orjson.dumps(made | more)


def vectors(fused: Sequence[float] | None, content_revision: int = 1, *, picture: bytes | None = None) -> bytes:
    """A value of product-vectors, as far as a shelf reads it.

    picture  its signature, b"" for a product without a picture; None: the record is from before there were signatures
    """
    packed = None if fused is None else pack_vector(np.array(fused, np.float32))
    told: dict[str, Any] = {"content_revision": content_revision, "fused": packed}
    if picture is not None:
        told |= {"image": "AAAA" if picture else None, "picture_signature": b64encode(picture).decode() or None}
    return orjson.dumps(told)


def factors(
    context: Sequence[float],
    target: Sequence[float] | None = None,
    *,
    bias: float = 0.0,
    clicks: int = 0,
    epoch: int = 1,
    sequence: int = 1,
) -> bytes:
    """A value of item-factors."""
    return orjson.dumps(
        {
            "epoch": epoch,
            "sequence": sequence,
            "context": pack_vector(np.array(context, np.float32)),
            "target": pack_vector(np.array(context if target is None else target, np.float32)),
            "bias": bias,
            "clicks": clicks,
            "lately": [float(clicks), float(clicks)],
            "counted_at": 0,
        }
    )


def neighbours(
    after: Mapping[str, float] | None = None, together: Mapping[str, float] | None = None, *, sequence: int = 1
) -> bytes:
    """A value of item-neighbours: shares by product id."""
    tables = {
        name: {"product_ids": list(shares), "shares": pack_vector(np.array(list(shares.values()), np.float32))}
        for name, shares in (("after", after or {}), ("together", together or {}))
    }
    return orjson.dumps({"epoch": 1, "sequence": sequence, **tables})


def stage(reranker: Reranker | None = None, *, now: int = 0, sequence: int = 1) -> bytes:
    """The value `second-stage` of model-weights; its re-ranker is the readable blend unless one is given."""
    parts: dict[str, Any] = {
        "lift": {name: pack_vector(array) for name, array in new_lift()._asdict().items()},
        "reranker": {name: pack_vector(array) for name, array in (reranker or blend())._asdict().items()},
    }
    return orjson.dumps({"name": "second-stage", "epoch": 1, "sequence": sequence, "now": now, **parts})


def blend(*, spread: Mapping[str, float] | None = None, linear: Mapping[str, float] | None = None) -> Reranker:
    """A re-ranker that has learned nothing but the spread of these features, and that these speak for a product."""
    reranker = new_reranker()[0]
    for name, value in (spread or {}).items():
        reranker.spread[FEATURES.index(name)] = value
    for name, value in (linear or {}).items():
        reranker.linear[:, FEATURES.index(name)] = value
    return reranker


def weights(factors: int = 2, *, positions: int = 2, epoch: int = 1, sequence: int = 1) -> bytes:
    """A value of model-weights: the newest click counts one, the one before it a half, the memory nothing."""
    positions_by_factor = np.array([[1.0 / (1 + place)] * factors for place in range(positions)], np.float32)
    return orjson.dumps(
        {
            "epoch": epoch,
            "sequence": sequence,
            "factors": factors,
            "position_weights": pack_vector(positions_by_factor),
            "gap_weights": pack_vector(np.ones((6, factors), np.float32)),
            "memory_weights": pack_vector(np.zeros(factors, np.float32)),
            "memory_length": 50,
            "memory_decay": 0.9,
        }
    )
