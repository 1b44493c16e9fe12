"""Carries heads that another shop taught over to this one, by as few pairs as there are.

    loss = InfoNCE of the pairs, as in encoders.training.align, + pull |W - W_0|^2 over the heads' parameters

The pull toward where they began (L2-SP: Li, Grandvalet, Davoine, ICML 2018) keeps what few pairs would overwrite.

Shapes: n pairs, A views of each picture, V and T widths of the features, D of the common space, b pairs of a batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.alignment import Alignment, Head
from encoders.training.align import contrast, head_of, layer_of, sharpness_of
from encoders.training.loop import Batch, CannotTrain, Optimizer, Precision, Run, train

Vectors = NDArray[np.float32]


class TransferRule(NamedTuple):
    """How the heads learn on."""

    pull: float = 1e-2
    epochs: int = 60
    batch: int = 1_000
    learning_rate: float = 5e-4
    weight_decay: float = 0.0  # toward zero: the pull is toward the start
    dropout: float = 0.5
    temperature: float = 0.05
    optimizer: Optimizer = "adamw"
    precision: Precision = "auto"


def transfer(
    start: Alignment,
    pictures: Vectors,
    words: Vectors,
    rule: TransferRule = TransferRule(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
) -> Alignment:
    """The heads after so many epochs of this shop's pairs; of one pair, which has nothing to be told from, the start.

    pictures  (A, n, V) float32, A views
    words     (n, T) float32

    Raises CannotTrain if the widths are not the heads', if a feature is not finite, and what train raises.
    """
    wanted = (start.pictures.weight.shape[1], start.words.weight.shape[1])
    if (widths := (pictures.shape[2], words.shape[1])) != wanted:
        raise CannotTrain(f"features of the widths {widths} and heads for {wanted}: take the heads' own encoders")
    if not (np.isfinite(pictures).all() and np.isfinite(words).all()):
        raise CannotTrain("a feature is not finite: encode the products again")
    if len(words) < 2:
        return start
    device, chance = run.seeded()
    views = [_known(start.pictures, view).to(device) for view in pictures]  # A of (n, V)
    texts = _known(start.words, words).to(device)  # (n, T)

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pictures, self.words = layer_of(start.pictures), layer_of(start.words)
            self.drop = nn.Dropout(rule.dropout)
            self.sharpness = sharpness_of(rule.temperature)
            began = [*self.pictures.parameters(), *self.words.parameters()]
            self.began = [parameter.detach().clone().to(device) for parameter in began]

        def forward(self, batch: Batch) -> Tensor:
            view = views[int(batch.chance.integers(len(views)))]
            a = self.pictures(self.drop(view[batch.own]))  # (b, D)
            b = self.words(self.drop(texts[batch.own]))  # (b, D)
            now = (*self.pictures.parameters(), *self.words.parameters())
            moved = sum((one - other).square().sum() for one, other in zip(now, self.began, strict=True))
            return contrast(a, b, self.sharpness, batch.processes) + rule.pull * moved

    heads = Pairs()
    train(heads, len(words), rule, run, chance)
    return Alignment(
        head_of(heads.pictures, (start.pictures.mean, start.pictures.spread)),
        head_of(heads.words, (start.words.mean, start.words.spread)),
    )


def _known(head: Head, features: Vectors) -> Tensor:
    """(n, V) as the head reads them."""
    return torch.from_numpy(((features - head.mean) / head.spread).astype(np.float32))
