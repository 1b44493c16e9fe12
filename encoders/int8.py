"""Linear layers in whole numbers: eight bits a weight, and states rounded as they come, each word piece by itself.

    y = (q(x) q(W)') s_x s_w + b      q(x) = round(x / s_x),  s_x = max |x| / 127 of a word piece, s_w of a row of W

A scale for the whole batch, which quantisation libraries take, is faster still (measured: 1.8 times), but then a
product's vector depends on what is encoded beside it. Source: vector-wise quantisation, Dettmers, Lewis, Belkada,
Zettlemoyer, LLM.int8(), NeurIPS 2022 (arXiv 2208.07339), section 2.1.

Shapes: R rows and C columns of a weight, N word pieces.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

HIGHEST = 127
SCALE = "_scale"  # at the end of the name of a weight: the factors of its rows
WORDS = "embeddings.word_embeddings.weight"
TINY = 1e-20  # a row of zeros stays one


def quantised(parameters: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A Bert's parameters, those of its linear layers and its words as int8 (R, C) beside their rows' factors (R,)."""
    whole = dict(parameters)
    for name, array in parameters.items():
        if array.ndim == 2 and name.startswith(("encoder.layer.", WORDS)):
            whole[name], whole[name + SCALE] = by_row(array)
    return whole


def restored(parameters: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """All in float32 again, for devices that have no product of whole numbers."""
    scales = {name for name in parameters if name.endswith(SCALE)}
    return {
        name: array.float() * parameters[name + SCALE][:, None] if name + SCALE in scales else array
        for name, array in parameters.items()
        if name not in scales
    }


def by_row(rows: "Tensor") -> "tuple[Tensor, Tensor]":
    """(R, C) float32 as int8 (R, C) and the factor of each row, float32 (R,)."""
    import torch

    scale = rows.abs().amax(1).clamp_min(TINY) / HIGHEST
    return (rows / scale[:, None]).round_().to(torch.int8), scale


def linear(states: "Tensor", weight: "Tensor", scale: "Tensor", bias: "Tensor") -> "Tensor":
    """states W' + b, on a CPU.

    states   (..., C) float32
    weight   (R, C) int8, as by_row makes it; scale (R,), bias (R,) float32
    returns  (..., R) float32
    """
    import torch

    pieces, factors = by_row(states.reshape(-1, states.shape[-1]))  # (N, C), (N,)
    product = torch._int_mm(pieces, weight.T)  # (N, R) int32
    return (product * factors[:, None]).mul_(scale).add_(bias).view(*states.shape[:-1], -1)


def embedding(ids: "Tensor", table: "Tensor", scale: "Tensor") -> "Tensor":
    """Rows of the table (R, C) int8 with factors (R,), as float32: ids (B, S) to (B, S, C)."""
    return table[ids] * scale[ids][..., None]
