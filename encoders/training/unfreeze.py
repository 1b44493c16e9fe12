"""Teaches the last layers of the text network together with the heads, end to end, after the heads were taught alone.

    words = unit of the mean of the title's, of the headline's and of the details' states, joined; then as in
    encoders.training.align, with pictures from a frozen network

Shapes: n products, A views of each picture, V and T widths of the features, D of the common space, b products of a
batch that are this process's, S word pieces of the longest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize

from encoders.alignment import Alignment
from encoders.training.align import check_pairs, contrast, head_of, layer_of, sharpness_of
from encoders.training.language import SPECIAL, WORD_PIECES
from encoders.training.loop import Batch, CannotTrain, Optimizer, Precision, Run, train
from encoders.training.towers import TextTower, padded

Vectors = NDArray[np.float32]
PARTS = 3  # title, headline, details


class UnfreezeRule(NamedTuple):
    """How the layers and the heads learn."""

    layers: int = 1  # of the text network, the last ones
    epochs: int = 2
    batch: int = 64
    learning_rate: float = 5e-5
    weight_decay: float = 1e-2
    dropout: float = 0.1  # in the text network
    temperature: float = 0.05  # tau, to begin with
    optimizer: Optimizer = "adamw"
    precision: Precision = "auto"


def unfreeze(
    start: Alignment,
    files: tuple[Path, Path, Path],
    texts: Sequence[tuple[str, str, str]],
    pictures: Vectors,
    rule: UnfreezeRule = UnfreezeRule(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
) -> tuple[Alignment, dict[str, Vectors]]:
    """The heads, and the text network's parameters as its checkpoint names them; the same seed, the same on a CPU.

    start     heads of the features of the network as it is
    files     parameters in safetensors, config.json, tokenizer.json of a BERT
    texts     n of title, headline and details
    pictures  (A, n, V) float32, A views

    Raises TooFewPairs, CannotTrain if there are fewer layers, and what train raises.
    """
    check_pairs(pictures.shape[1], len(texts))
    if not np.isfinite(pictures).all():
        raise CannotTrain("a feature is not finite: encode the products again")
    device, chance = run.seeded()
    tokenizer = Tokenizer.from_file(str(files[2]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(WORD_PIECES)
    pieces = [[tokenizer.encode(text).ids for text in parts] for parts in texts]  # n of PARTS
    known = [torch.from_numpy(part).to(device) for part in (start.words.mean, start.words.spread)]  # (3 T,) each
    views = [
        torch.from_numpy(((view - start.pictures.mean) / start.pictures.spread).astype(np.float32)).to(device)
        for view in pictures
    ]  # A of (n, V)

    class EndToEnd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = TextTower(files[0], files[1], layers=rule.layers, drop=rule.dropout)
            self.pictures, self.words = layer_of(start.pictures), layer_of(start.words)
            self.sharpness = sharpness_of(rule.temperature)

        def forward(self, batch: Batch) -> Tensor:
            view = views[int(batch.chance.integers(len(views)))]
            said = [self.read([pieces[row][part] for row in batch.own]) for part in range(PARTS)]
            words = (torch.cat(said, dim=1) - known[0]) / known[1]  # (b, 3 T)
            return contrast(self.pictures(view[batch.own]), self.words(words), self.sharpness, batch.processes)

        def read(self, own: list[list[int]]) -> Tensor:
            """(b, T) of unit length, zeros for a text without a word."""
            ids, mask = padded(own, self.sharpness.device)  # (b, S)
            has_words = mask.sum(1, keepdim=True) > SPECIAL
            return normalize(self.tower.pooled(ids, mask), dim=1) * has_words

    task = EndToEnd()
    train(task, len(texts), rule, run, chance)
    heads = Alignment(
        head_of(task.pictures, (start.pictures.mean, start.pictures.spread)),
        head_of(task.words, (start.words.mean, start.words.spread)),
    )
    return heads, task.tower.arrays()
