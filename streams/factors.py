"""What the learner publishes: rows of the next-click model, nulls for the products that left it, and its weights."""

from typing import NamedTuple

import numpy as np
import orjson

from encoders.next_click import Floats, Weights
from streams.broker import Outgoing
from streams.events import pack_vector
from streams.topics import TopicNames

WEIGHTS_KEY = "next-click"


class Changes(NamedTuple):
    """Copies of n rows as they were at one moment; F factors."""

    product_ids: list[str]
    context: Floats  # (n, F)
    target: Floats  # (n, F)
    bias: Floats  # (n,)
    clicks: list[int]
    gone: list[str]  # products that are in the model no more
    weights: Weights | None  # None: as they were published
    examples: int  # learned until then
    newest_example_at: float  # s since 1970, when the newest of them was learned

    def is_empty(self) -> bool:
        return not (self.product_ids or self.gone or self.weights)

    def is_finite(self) -> bool:
        """False if a reader would refuse a record."""
        arrays = [self.context, self.target, self.bias]
        if self.weights is not None:
            arrays += [self.weights.position_weights, self.weights.gap_weights, self.weights.memory_weights]
        return all(np.isfinite(array).all() for array in arrays)


def factor_records(changes: Changes, names: TopicNames, epoch: int, sequence: int) -> list[Outgoing]:
    """Messages for item-factors and model-weights (streams.events.ItemFactors, ModelWeights), the weights last."""
    messages = [Outgoing(names.item_factors, product_id.encode(), None) for product_id in changes.gone]
    for row, product_id in enumerate(changes.product_ids):
        value = {
            "product_id": product_id,
            "epoch": epoch,
            "sequence": sequence,
            "context": pack_vector(changes.context[row]),
            "target": pack_vector(changes.target[row]),
            "bias": float(changes.bias[row]),
            "clicks": changes.clicks[row],
        }
        messages.append(Outgoing(names.item_factors, product_id.encode(), orjson.dumps(value)))
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
