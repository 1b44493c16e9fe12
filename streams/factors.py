"""What the learner publishes: rows of the models, nulls for the products that left them, and what all share."""

from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.content_lift import ContentMap
from encoders.next_click import Floats, Weights
from encoders.second_stage import LearnedStage
from streams.broker import Outgoing
from streams.events import pack_vector
from streams.topics import TopicNames

WEIGHTS_KEY = "next-click"
STAGE_KEY = "second-stage"
MAP_KEY = "content-map"


class NeighbourIds(NamedTuple):
    """One product's rows of both tables, by product id."""

    product_id: str
    after: tuple[list[str], Floats]
    together: tuple[list[str], Floats]


class Changes(NamedTuple):
    """Copies of n rows as they were at one moment; F factors."""

    product_ids: list[str]
    context: Floats  # (n, F)
    target: Floats  # (n, F)
    bias: Floats  # (n,)
    clicks: list[int]
    lately: Floats  # (n, half-lives) faded counts
    counted_at: NDArray[np.int64]  # (n,)
    segments: list[dict[str, float]]  # faded counts by segment, "" for all users
    neighbours: list[NeighbourIds]
    gone: list[str]  # products that are in the model no more
    weights: Weights | None  # None: as they were published
    stage: LearnedStage | None  # None: as it was published
    content_map: ContentMap | None  # None: as it was published
    examples: int  # learned until then
    newest_example_at: float  # s since 1970, when the newest of them was learned
    encoder: str | None = None  # fingerprint of the version whose vectors the map and the stage's lift are of

    def is_empty(self) -> bool:
        return not (self.product_ids or self.neighbours or self.gone or self.weights or self.stage or self.content_map)

    def is_finite(self) -> bool:
        """False if a reader would refuse a record."""
        arrays = [self.context, self.target, self.bias]
        if self.weights is not None:
            arrays += [self.weights.position_weights, self.weights.gap_weights, self.weights.memory_weights]
        if self.stage is not None:
            arrays += [*self.stage.lift, *self.stage.reranker]
        return all(np.isfinite(array).all() for array in arrays)


def factor_records(changes: Changes, names: TopicNames, epoch: int, sequence: int) -> list[Outgoing]:
    """Messages for item-factors, item-neighbours and model-weights, as streams.events has them, the weights last."""
    topics = (names.item_factors, names.item_neighbours)
    messages = [Outgoing(topic, product_id.encode(), None) for topic in topics for product_id in changes.gone]
    version: dict[str, Any] = {"epoch": epoch, "sequence": sequence}
    of = {"encoder": changes.encoder} if changes.encoder else {}
    if changes.content_map is not None:
        messages.append(_map_record(changes.content_map, names, version | of))
    for row, product_id in enumerate(changes.product_ids):
        value = {
            "product_id": product_id,
            **version,
            "context": pack_vector(changes.context[row]),
            "target": pack_vector(changes.target[row]),
            "bias": float(changes.bias[row]),
            "clicks": changes.clicks[row],
            "lately": changes.lately[row].tolist(),
            "counted_at": int(changes.counted_at[row]),
        }
        if changes.segments[row]:
            value["segments"] = changes.segments[row]
        messages.append(Outgoing(names.item_factors, product_id.encode(), orjson.dumps(value)))
    messages += [_neighbours_record(row, names, version) for row in changes.neighbours]
    if changes.stage is not None:
        messages.append(_stage_record(changes.stage, changes.examples, names, version | of))
    if changes.weights is not None:
        messages.append(_weights_record(changes.weights, changes, names, epoch, sequence))
    return messages


def _weights_record(weights: Weights, changes: Changes, names: TopicNames, epoch: int, sequence: int) -> Outgoing:
    value = {
        "name": WEIGHTS_KEY,
        "epoch": epoch,
        "sequence": sequence,
        "factors": weights.position_weights.shape[1],
        "position_weights": pack_vector(weights.position_weights),
        "gap_weights": pack_vector(weights.gap_weights),
        "memory_weights": pack_vector(weights.memory_weights),
        "memory_length": weights.memory_length,
        "memory_decay": weights.memory_decay,
        "examples": changes.examples,
        "newest_example_at": changes.newest_example_at,
    }
    return Outgoing(names.model_weights, WEIGHTS_KEY.encode(), orjson.dumps(value))


def _neighbours_record(row: NeighbourIds, names: TopicNames, version: dict[str, Any]) -> Outgoing:
    tables = {
        name: {"product_ids": product_ids, "shares": pack_vector(shares)}
        for name, (product_ids, shares) in (("after", row.after), ("together", row.together))
    }
    value = {"product_id": row.product_id, **version, **tables}
    return Outgoing(names.item_neighbours, row.product_id.encode(), orjson.dumps(value))


def _map_record(content_map: ContentMap, names: TopicNames, version: dict[str, Any]) -> Outgoing:
    arrays = {"mean": pack_vector(content_map.mean), "axes": pack_vector(content_map.axes)}
    value = {"name": MAP_KEY, **version, **arrays, "products": content_map.products}
    return Outgoing(names.model_weights, MAP_KEY.encode(), orjson.dumps(value))


def _stage_record(stage: LearnedStage, now: int, names: TopicNames, version: dict[str, Any]) -> Outgoing:
    parts: dict[str, Any] = {
        "lift": {name: pack_vector(array) for name, array in stage.lift._asdict().items()},
        "reranker": {name: pack_vector(array) for name, array in stage.reranker._asdict().items()},
    }
    value = {"name": STAGE_KEY, **version, "now": now, **parts}
    return Outgoing(names.model_weights, STAGE_KEY.encode(), orjson.dumps(value))
