"""The forward pass of BERT on a safetensors file, without the 12 s that importing transformers costs each start.

Source: Devlin et al., BERT, NAACL 2019 (arXiv 1810.04805); parameter names as in the published checkpoints.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from encoders import int8
from encoders.arrays_on_disk import names_and_shapes

if TYPE_CHECKING:
    from torch import Tensor

KNOWN = ("bert", "gelu", "absolute")
BFLOAT16 = ("avx512_bf16", "amx_bf16")  # what a CPU is capable of that multiplies it by itself


class Bert:
    """The encoder's layers; the pooler, which mean pooling does not need, is left out."""

    def __init__(self, parameters: Path, config: Path, *, device: str) -> None:
        """Raises ValueError if the configuration is of another architecture, ValueError or KeyError for lost arrays."""
        import torch
        from safetensors.torch import load_file

        settings = json.loads(config.read_bytes())
        if (kind := _kind(settings)) != KNOWN:
            raise ValueError(f"{config} is {kind}: only BERT with gelu and absolute positions is known")
        self._layers: int = settings["num_hidden_layers"]
        # A pruned layer has fewer heads than the configuration says, of the width that they had.
        self.head_width: int = settings["hidden_size"] // settings["num_attention_heads"]
        self._epsilon: float = settings["layer_norm_eps"]
        arrays = load_file(parameters, device=device)
        self._parameters = {
            name: array if array.dtype == torch.int8 else array.float() for name, array in arrays.items()
        }
        self._device = torch.device(device)
        if self._device.type != "cpu":
            self._parameters = int8.restored(self._parameters)
        for layer in range(self._layers):  # one product instead of three
            for part in ("weight", f"weight{int8.SCALE}", "bias"):
                names = [f"{_at(layer)}attention.self.{name}.{part}" for name in ("query", "key", "value")]
                if names[0] in self._parameters:
                    joined = torch.cat([self._parameters.pop(name) for name in names])
                    self._parameters[f"{_at(layer)}attention.self.{part}"] = joined
        if lacking := [name for name in _names(self._layers) if name not in self._parameters]:
            raise ValueError(f"{parameters} lacks {', '.join(lacking[:3])}")

    def multiply_in_bfloat16(self) -> bool:
        """Its linear layers do from now on, sums in float32, if this is a CPU that does so by itself; False if not."""
        import torch

        told: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch tells none
        if self._device.type != "cpu" or not any(map(told.get, BFLOAT16)):
            return False
        for name, array in self._parameters.items():
            if array.ndim == 2 and array.dtype == torch.float32 and name.startswith("encoder.layer."):
                bias = name.removesuffix("weight") + "bias"
                self._parameters[name], self._parameters[bias] = array.bfloat16(), self._parameters[bias].bfloat16()
        return True

    @property
    def layers(self) -> int:
        """How many there are."""
        return self._layers

    @staticmethod
    def knows(parameters: Path, config: Path) -> bool:
        """True if this file can be read here, False if only transformers can: by its kind and its arrays' names."""
        whole = parameters.suffix == ".safetensors" and "-of-" not in parameters.name
        return (
            whole
            and _kind(json.loads(config.read_bytes())) == KNOWN
            and {"embeddings.LayerNorm.weight", f"{_at(0)}attention.self.query.weight"}
            <= set(names_and_shapes(parameters))
        )

    @property
    def parameters(self) -> "dict[str, Tensor]":
        """By the published names, but query, key and value are joined, as "attention.self.weight" and the like."""
        return self._parameters

    def states(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        """The last layer's state of each word piece.

        ids      (B, S) int64, word pieces
        mask     (B, S) bool, False on padding
        returns  (B, S, T); on padding without meaning
        """
        table = self._parameters
        states = self._embedded(ids)
        states = states + table["embeddings.position_embeddings.weight"][: ids.shape[1]]
        states = self._normed(states + table["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
        for layer in range(self._layers):
            states = self._layer(states, mask, _at(layer))
        return states

    def _layer(self, states: "Tensor", mask: "Tensor", at: str) -> "Tensor":
        """(B, S, T) to (B, S, T)."""
        from torch.nn.functional import gelu, scaled_dot_product_attention

        B, S, _ = states.shape
        joined = self._linear(states, f"{at}attention.self").view(B, S, 3, -1, self.head_width)
        query, key, value = joined.permute(2, 0, 3, 1, 4)  # each (B, heads, S, head width)
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        attended = self._linear(attended.transpose(1, 2).flatten(2), f"{at}attention.output.dense")
        states = self._normed(states + attended, f"{at}attention.output.LayerNorm")
        raised = gelu(self._linear(states, f"{at}intermediate.dense"))  # (B, S, 4 T)
        return self._normed(states + self._linear(raised, f"{at}output.dense"), f"{at}output.LayerNorm")

    def _linear(self, states: "Tensor", name: str) -> "Tensor":
        from torch.nn.functional import linear

        weight, bias = self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]
        scale = self._parameters.get(f"{name}.weight{int8.SCALE}")
        if scale is not None:
            return int8.linear(states, weight, scale, bias)
        return linear(states.to(weight.dtype), weight, bias).to(states.dtype)

    def _embedded(self, ids: "Tensor") -> "Tensor":
        """(B, S) to (B, S, T)."""
        from torch.nn.functional import embedding

        table, scale = self._parameters[int8.WORDS], self._parameters.get(int8.WORDS + int8.SCALE)
        return embedding(ids, table) if scale is None else int8.embedding(ids, table, scale)

    def _normed(self, states: "Tensor", name: str) -> "Tensor":
        from torch.nn.functional import layer_norm

        weight, bias = self._parameters[f"{name}.weight"], self._parameters[f"{name}.bias"]
        return layer_norm(states, weight.shape, weight, bias, self._epsilon)


def _names(layers: int) -> list[str]:
    """Of the arrays, query, key and value joined."""
    parts = ("self", "output.dense", "output.LayerNorm")
    sublayers = [*(f"attention.{part}" for part in parts), "intermediate.dense", "output.dense", "output.LayerNorm"]
    owners = ["embeddings.LayerNorm", *(_at(layer) + name for layer in range(layers) for name in sublayers)]
    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    return tables + [f"{owner}.{part}" for owner in owners for part in ("weight", "bias")]


def _kind(settings: dict[str, Any]) -> tuple[str, ...]:
    names = ("model_type", "hidden_act", "position_embedding_type")
    return tuple(settings.get(name, default) for name, default in zip(names, KNOWN, strict=True))


def _at(layer: int) -> str:
    return f"encoder.layer.{layer}."
