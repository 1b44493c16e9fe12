"""The encoders' networks as something that learns: their last blocks, by the names of their published checkpoints."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import dropout

from encoders.bert import Bert
from encoders.training.loop import CannotTrain

PARTS = ("query", "key", "value")


class TextTower(nn.Module):
    """BERT whose last layers learn."""

    def __init__(self, parameters: Path, config: Path, *, layers: int | None = None, drop: float = 0.0) -> None:
        """
        layers  how many of the last ones learn; None: all, and the embeddings
        drop    share of the values of each sublayer's result, and of the embeddings, that a step does not see
        """
        super().__init__()
        self._network = _Dropping(parameters, config, device="cpu")
        self._network.drop = drop
        table = self._network.parameters
        if layers is not None and not 1 <= layers <= self._network.layers:
            raise CannotTrain(f"the text network has {self._network.layers} layers: unfreeze 1 to all of them")
        first = 0 if layers is None else self._network.layers - layers
        for name, tensor in list(table.items()):
            _, _, after = name.partition("encoder.layer.")
            taught = int(after.partition(".")[0]) >= first if after else layers is None and name.startswith("embed")
            if taught and tensor.is_floating_point():
                parameter = nn.Parameter(tensor)
                self.register_parameter(name.replace(".", "/"), parameter)
                table[name] = parameter

    @property
    def words(self) -> Tensor:
        """(words of the vocabulary, T), their embeddings."""
        return self._network.parameters["embeddings.word_embeddings.weight"]

    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, S, T) of word pieces (B, S) and which of them are none of the padding (B, S)."""
        return self._network.states(ids, mask)

    def pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T), the mean over the word pieces of each text."""
        weights = mask[..., None].float()
        return (self.states(ids, mask).float() * weights).sum(1) / weights.sum(1)

    def train(self, mode: bool = True) -> "TextTower":
        """Values are dropped while it learns, and never else."""
        self._network.is_learning = mode
        return super().train(mode)

    def _apply(self, move: Callable[[Tensor], Tensor], recurse: bool = True) -> "TextTower":
        """Moved as a module is; what does not learn is no parameter of it, and goes along."""
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self._network.parameters.items():
            if name.replace(".", "/") not in self._parameters:
                self._network.parameters[name] = move(tensor)
        return self

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """All parameters, as a published checkpoint names them."""
        return apart(self._network.parameters)


class _Dropping(Bert):
    """Drops values where BERT does while it learns: of the embeddings, and of what each sublayer adds."""

    drop = 0.0
    is_learning = True

    def _linear(self, states: Tensor, name: str) -> Tensor:
        mapped = super()._linear(states, name)
        return self._dropped(mapped) if name.endswith("output.dense") else mapped

    def _normed(self, states: Tensor, name: str) -> Tensor:
        normed = super()._normed(states, name)
        return self._dropped(normed) if name == "embeddings.LayerNorm" else normed

    def _dropped(self, states: Tensor) -> Tensor:
        return dropout(states, self.drop, training=self.is_learning)


def apart(table: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """The table of a Bert with query, key and value by themselves again."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, tensor in table.items():
        array = tensor.detach().cpu().numpy()
        before, at, part = name.rpartition("attention.self.")
        if at:
            thirds = np.split(array, 3)
            found |= {f"{before}{at}{third}.{part}": rows for third, rows in zip(PARTS, thirds, strict=True)}
        else:
            found[name] = array
    return found


def padded(pieces: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """B lists of word pieces to ids (B, S) int64 and mask (B, S) bool."""
    longest = max(map(len, pieces))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in pieces], device=device)
    lengths = torch.tensor([len(row) for row in pieces], device=device)[:, None]
    return ids, torch.arange(longest, device=device)[None, :] < lengths
