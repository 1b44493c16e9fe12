"""Teaches the cross-modal encoder on a catalogue itself, without labels.

    loss = InfoNCE(one view, another view) + apart * InfoNCE(picture alone, words alone)

A view of a product lacks a share of its word pieces and places, another share each time, and half of the views have
their places turned left to right. Source: InfoNCE (van den Oord, Li, Vinyals, arXiv 1807.03748) in both directions;
two views of the same thing that lack parts as in Gao, Yao, Chen, SimCSE, EMNLP 2021.

Shapes as in encoders.cross_modal; n products, B of them a batch, b of them this process's. Imports torch.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.cross_modal import CrossModalEncoder, CrossModalShape
from encoders.sequences import Ragged
from encoders.training.align import contrast, sharpness_of
from encoders.training.loop import Batch, CannotTrain, Optimizer, Precision, Run, train

Rows = NDArray[np.int64]
Tokens = tuple[Tensor, Tensor, Tensor, Tensor]
"""image, image_shares, text, text_shares, as CrossModalEncoder.forward takes them."""

PRODUCTS_MIN = 8


class CrossModalRule(NamedTuple):
    """What the encoder is, and how it learns."""

    layers: int = 1
    width: int = 128  # D
    heads: int = 4
    dropout: float = 0.1
    unseen: float = 0.3  # share of the word pieces and places that a view lacks
    apart: float = 0.5  # weight of the second loss; 0 = without
    temperature: float = 0.07  # to begin with; it is learned
    epochs: int = 4
    batch: int = 128  # products: each is told from all others of its batch
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    optimizer: Optimizer = "adamw"
    precision: Precision = "auto"


def teach_cross_modal(
    image: Ragged,
    text: Ragged,
    grid: tuple[int, int],
    rows: Rows,
    rule: CrossModalRule = CrossModalRule(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
) -> CrossModalEncoder:
    """The encoder after so many epochs of these rows; the same seed gives the same on a CPU.

    image  places of the pictures, as many as the grid has or none of a product
    grid   rows and columns
    rows   of the products that it may learn from; those of which nothing is known teach nothing

    The rule's own takes 1.2 GB and 30 s of a core for an epoch of 4,000 products of 49 places made shorter to 256, and
    50 word pieces of 384; two layers of the width 256 take 2.5 GB and 200 s.
    Raises CannotTrain for too few products, widths that heads do not divide or tokens that are not finite, and what
    train raises.
    """
    if rule.width % rule.heads:
        raise CannotTrain(f"{rule.heads} heads do not divide the width {rule.width}: take one that they divide")
    rows = rows[(image.counts[rows] > 0) | (text.counts[rows] > 0)]
    both = ((image.counts[rows] > 0) & (text.counts[rows] > 0)).sum()
    if both < PRODUCTS_MIN:
        raise CannotTrain(f"{both} products have a picture and words: give at least {PRODUCTS_MIN}")
    if not (np.isfinite(image.states).all() and np.isfinite(text.states).all()):
        raise CannotTrain("a token is not finite: encode the products again")
    _, chance = run.seeded()
    widths = (image.states.shape[1], text.states.shape[1])
    shape = CrossModalShape(*widths, rule.width, rule.layers, rule.heads, *grid)
    task = _Views(CrossModalEncoder(shape, seed=run.seed, dropout=rule.dropout), image, text, rows, rule)
    train(task, len(rows), rule, run, chance)
    return task.encoder.eval()


class _Views(nn.Module):
    def __init__(self, encoder: CrossModalEncoder, image: Ragged, text: Ragged, rows: Rows, rule: CrossModalRule):
        super().__init__()
        self.encoder, self.rule = encoder, rule
        self.sharpness = sharpness_of(rule.temperature)
        self.image, self.text, self.rows = image, text, rows
        self.both = (image.counts > 0) & (text.counts > 0)  # (n,)

    def forward(self, batch: Batch) -> Tensor:
        rows = self.rows[batch.rows]  # (B,)
        tokens = self._tokens(rows[batch.part])
        one, other = (self.encoder(*self._view(tokens, rows, batch)).vectors for _ in range(2))  # (b, D)
        loss = contrast(one, other, self.sharpness, batch.processes)
        # Which have both is known of the whole batch, so that each process has as many.
        there = rows[self.both[rows]]
        share = len(there) // batch.processes.world
        if self.rule.apart and share > 1:
            part = batch.processes.part(share * batch.processes.world)
            image, image_shares, text, text_shares = self._tokens(there[part])
            pictures = self.encoder(image, image_shares, text[:, :0], text_shares[:, :0]).vectors
            words = self.encoder(image[:, :0], image_shares[:, :0], text, text_shares).vectors
            loss = loss + self.rule.apart * contrast(pictures, words, self.sharpness, batch.processes)
        return loss

    def _tokens(self, rows: Rows) -> Tokens:
        shape, device = self.encoder.shape, self.sharpness.device
        sets = (*self.image.of(rows, shape.rows * shape.columns), *self.text.of(rows))
        image, image_shares, text, text_shares = (torch.from_numpy(array).to(device) for array in sets)
        return image, image_shares, text, text_shares

    def _view(self, tokens: Tokens, rows: Rows, batch: Batch) -> Tokens:
        """The products with a share of their tokens left out, half of them turned left to right."""
        image, image_shares, text, text_shares = tokens
        shape = self.encoder.shape
        grids = image.view(len(image), shape.rows, shape.columns, -1)  # (b, rows, columns, V)
        turned = torch.from_numpy(batch.chance.random(len(rows))[batch.part] < 0.5).to(image.device)
        image = torch.where(turned[:, None, None, None], grids.flip(2), grids).flatten(1, 2)
        longest = int(self.text.counts[rows].max(initial=1))  # of all processes' products: all draw the same
        seen = [
            torch.from_numpy(batch.chance.random((len(rows), of))[batch.part] >= self.rule.unseen).to(image.device)
            for of in (image.shape[1], longest)
        ]
        return image, left(image_shares, seen[0]), text, left(text_shares, seen[1][:, : text.shape[1]])


def left(shares: Tensor, seen: Tensor) -> Tensor:
    """The shares (b, S) of the tokens that are seen, scaled to the same sum; all stay where none would be left.

    seen  (b, S) bool
    """
    kept = shares * seen
    sums = kept.sum(1, keepdim=True)
    return torch.where(sums > 0, kept * shares.sum(1, keepdim=True) / sums.clamp(min=1e-12), shares)
