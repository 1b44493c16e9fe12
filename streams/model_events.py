"""The contracts of what the learner publishes: its rows of products, and what all products share.

As those of streams.events, whose other half this is: vectors are base64 of little-endian float32, rows one after
the other.
"""

from typing import Annotated, Literal

from pydantic import Field

from streams.events import Contract, Id


class ItemFactors(Contract):
    """item-factors: one product's row of the next-click model; readers drop lower (epoch, sequence)."""

    product_id: Id
    epoch: int
    sequence: int
    context: str  # (F,) float32
    target: str  # (F,) float32, context + its offset
    bias: float
    clicks: int
    lately: list[float]  # clicks with the half-lives of encoders.trends.HALF_LIVES, faded until counted_at
    counted_at: int  # learned clicks of the shop at the product's last click
    # Clicks by segment, "" those of all users, with the half-life of encoders.segments.
    segments: dict[str, float] = Field(default_factory=dict)


class NeighbourRow(Contract):
    """The products most often clicked after, or together with, one."""

    product_ids: list[Id]
    shares: str  # (n,) float32, of the clicks that followed


class ItemNeighbours(Contract):
    """item-neighbours: what was clicked before, with and after one product; readers drop lower (epoch, sequence)."""

    product_id: Id
    epoch: int
    sequence: int
    after: NeighbourRow
    together: NeighbourRow


class ContentMapRecord(Contract):
    """model-weights under the key content-map: a matrix from fused vectors to contents."""

    name: Literal["content-map"]
    epoch: int
    sequence: int
    mean: str  # (W,) float32
    axes: str  # (W, D) float32
    products: int
    encoder: str | None = None  # fingerprint of the version whose vectors are mapped


class SecondStageWeights(Contract):
    """model-weights under the key second-stage: (D, D) forms of the content lift, and the re-ranker's arrays."""

    name: Literal["second-stage"]
    epoch: int
    sequence: int
    now: int  # learned clicks of the shop
    lift: dict[str, str]  # name in encoders.content_lift.Lift -> float32
    encoder: str | None = None  # of the version whose contents the lift is of
    reranker: dict[str, str]  # name in encoders.reranker.Reranker -> float32


class ModelWeights(Contract):
    """model-weights under the key next-click: what all products share in that model."""

    name: Literal["next-click"]
    epoch: int
    sequence: int
    factors: int  # F
    position_weights: str  # (L, F) float32
    gap_weights: str  # (6, F) float32
    memory_weights: str  # (F,) float32
    memory_length: int  # LM
    memory_decay: float
    examples: int
    newest_example_at: float  # s since 1970, wall time at which the newest example was learned


ModelRecord = Annotated[ModelWeights | ContentMapRecord | SecondStageWeights, Field(discriminator="name")]
