"""Teaches the fusion for recommendation: a map W of the fused vectors, by up to three terms.

    clicks     products that a user clicked one after the other are near, those of the batch's other pairs far: InfoNCE
    align      the vector of a picture alone is near to that of its words alone: InfoNCE in both directions
    category   products of one category are near, all others far: supervised contrastive learning (Khosla and others,
               NeurIPS 2020, eq. 2)
    pull       |W - I|^2, so that what no term tells stays as it is

    loss = sum of the terms, each times its weight; a term without anything to learn from is left out

Shapes: n products, A views of a product's picture, D width, c pairs of clicks, B products of a batch, b of them this
process's.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, normalize

from encoders.training.align import contrast, sharpness_of
from encoders.training.loop import Batch, CannotTrain, Optimizer, Precision, Run, train

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

PRODUCTS_MIN = 8
NO_CATEGORY = -1


class FuseRule(NamedTuple):
    """How W learns."""

    clicks: float = 1.0  # weights of the terms
    align: float = 2.0
    category: float = 1.0
    pull: float = 3e-3  # without clicks and categories: .2, or the kinds of products drift apart
    temperature: float = 0.1  # of clicks and categories; that of align is learned
    dropout: float = 0.1  # share of a vector's values that a step does not see
    epochs: int = 20
    batch: int = 1_000
    learning_rate: float = 1e-3
    weight_decay: float = 0.0  # toward zero: the pull is toward the start
    optimizer: Optimizer = "adamw"
    precision: Precision = "auto"


class Taught(NamedTuple):
    """What there is to learn from: vectors of a fusion without W, of unit length, zeros where nothing is known."""

    fused: Vectors  # (A, n, D), A views
    pictures: Vectors  # (n, D) of the picture alone
    words: Vectors  # (n, D) of the words alone
    categories: Rows  # (n,) numbers, NO_CATEGORY for none; those of one product teach nothing
    clicked: Rows  # (c, 2) rows of products, the second clicked after the first


def fuse(
    taught: Taught,
    start: Vectors | None = None,
    rule: FuseRule = FuseRule(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
) -> Vectors:
    """W (D, D) after so many epochs of the products; the same seed gives the same on a CPU.

    start  W to begin with, and to be pulled toward; None: the identity

    Raises CannotTrain below PRODUCTS_MIN products, without a term to learn by, if a vector is not finite, and what
    train raises.
    """
    n, D = taught.words.shape
    if n < PRODUCTS_MIN:
        raise CannotTrain(f"{n} products: give at least {PRODUCTS_MIN}")
    if not all(np.isfinite(part).all() for part in taught):
        raise CannotTrain("a vector is not finite: encode the products again")
    if not (set(terms_of(taught, rule)) - {"pull"}):
        raise CannotTrain("there is nothing to learn from: give clicks, categories or products with picture and words")
    device, chance = run.seeded()
    task = _Terms(taught, np.eye(D, dtype=np.float32) if start is None else start, rule, device)
    train(task, n, rule, run, chance)
    mix: Vectors = task.mix.detach().cpu().numpy()
    return mix


def terms_of(taught: Taught, rule: FuseRule) -> dict[str, float]:
    """The weights of the terms that there is something for."""
    known, sizes = np.unique(taught.categories[taught.categories != NO_CATEGORY], return_counts=True)
    both = taught.pictures.any(axis=1) & taught.words.any(axis=1)
    there = {
        "clicks": len(taught.clicked) > 1,
        "align": both.sum() > 1,
        "category": (sizes > 1).any() and len(known) > 1,
    }
    weights = {name: float(getattr(rule, name)) for name, is_there in there.items() if is_there}
    return {name: weight for name, weight in weights.items() if weight > 0}


class _Terms(nn.Module):
    def __init__(self, taught: Taught, start: Vectors, rule: FuseRule, device: torch.device) -> None:
        super().__init__()
        self.rule, self.weights = rule, terms_of(taught, rule)
        self.start = torch.from_numpy(start).to(device)  # (D, D)
        self.mix = nn.Parameter(self.start.clone())
        if "align" in self.weights:
            self.sharpness = sharpness_of(rule.temperature)
        self.fused, self.pictures, self.words = (torch.from_numpy(part).to(device) for part in taught[:3])
        self.both = self.pictures.any(1) & self.words.any(1)
        self.categories = torch.from_numpy(taught.categories).to(device)  # (n,)
        self.clicked = taught.clicked

    def forward(self, batch: Batch) -> Tensor:
        view = self.fused[int(batch.chance.integers(len(self.fused)))]  # (n, D)
        loss = self.rule.pull * (self.mix - self.start).square().sum()
        if "clicks" in self.weights:
            loss = loss + self.weights["clicks"] * self._of_clicks(view, batch)
        if "category" in self.weights:
            loss = loss + self.weights["category"] * self._of_categories(view, batch)
        if "align" in self.weights:
            loss = loss + self.weights["align"] * self._of_pairs(batch)
        return loss

    def _mapped(self, x: Tensor) -> Tensor:
        """(b, D) to (b, D) of unit length."""
        return normalize((dropout(x, self.rule.dropout, self.training) @ self.mix.T).float(), dim=1)

    def _of_clicks(self, view: Tensor, batch: Batch) -> Tensor:
        pairs = self.clicked[batch.chance.integers(len(self.clicked), size=len(batch.rows))]  # (B, 2)
        firsts, seconds = (torch.from_numpy(side).to(view.device) for side in pairs.T)
        own = torch.arange(len(batch.own), device=view.device) + batch.part.start
        asked, answers = self._mapped(view[firsts[batch.part]]), self._mapped(view[seconds[batch.part]])  # (b, D)
        cosines = asked @ batch.processes.gathered(answers).T / self.rule.temperature  # (b, B)
        # The product itself, or the right one for another pair too, is no wrong answer.
        same = (seconds[None, :] == firsts[batch.part, None]) | (seconds[None, :] == seconds[batch.part, None])
        same[torch.arange(len(own), device=view.device), own] = False
        return cross_entropy(cosines.masked_fill(same, -torch.inf), own)

    def _of_categories(self, view: Tensor, batch: Batch) -> Tensor:
        mapped = self._mapped(view[batch.own])  # (b, D)
        labels = self.categories[batch.rows]  # (B,)
        cosines = mapped @ batch.processes.gathered(mapped).T / self.rule.temperature  # (b, B)
        own = torch.arange(len(mapped), device=view.device)
        itself = torch.zeros_like(cosines, dtype=torch.bool)
        itself[own, own + batch.part.start] = True
        alike = (labels[batch.part, None] == labels[None, :]) & ~itself & (labels[batch.part, None] != NO_CATEGORY)
        chances = torch.log_softmax(cosines.masked_fill(itself, -torch.inf), dim=1)
        counts = alike.sum(1)  # (b,)
        of_each = -torch.where(alike, chances, 0.0).sum(1) / counts.clamp(min=1)
        all_asked = ((labels[:, None] == labels[None, :]).sum(1) > 1) & (labels != NO_CATEGORY)  # (B,)
        return of_each.sum() * batch.processes.world / all_asked.sum().clamp(min=1)

    def _of_pairs(self, batch: Batch) -> Tensor:
        # Which rows have both is known of the whole batch, so that each process has as many.
        there = self.both[batch.rows].nonzero().flatten().cpu().numpy()
        share = len(there) // batch.processes.world
        if share == 0:
            return self.mix.sum() * 0 + self.sharpness * 0
        rows = batch.rows[there][batch.processes.part(share * batch.processes.world)]
        return contrast(
            self._mapped(self.pictures[rows]), self._mapped(self.words[rows]), self.sharpness, batch.processes
        )
