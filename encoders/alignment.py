"""Two heads that bring pictures and words into one space, learned from a catalogue's own pairs, without labels.

    a = unit(W_p (p - mean_p) / spread_p + c_p)          p a picture's feature, of the frozen picture encoder
    b = unit(W_w (w - mean_w) / spread_w + c_w)          w the words' feature, of the frozen text encoder
    loss = (CE(a b' / tau) + CE(b a' / tau)) / 2         over the pairs of a batch; tau is learned

Source: InfoNCE (van den Oord, Li, Vinyals, arXiv 1807.03748) in both directions, as in CLIP (Radford and others, ICML
2021, figure 3). One linear layer a head: with few thousand pairs, hidden layers learned the pairs by heart.

Shapes: n pairs, A views of each picture, V and T widths of the features, D of the common space, B pairs of a batch.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.retrieval import unit_or_zero

Vectors = NDArray[np.float32]
Told = Callable[[int, float], None]
"""Called after each epoch with how many there were, and the mean loss of its batches."""

PAIRS_MIN = 8
TEMPERATURE_MIN = 0.01


class TooFewPairs(ValueError):
    """There is too little to learn from."""


class AlignmentRule(NamedTuple):
    """How the heads learn."""

    width: int = 512  # D
    epochs: int = 60
    batch: int = 1_000
    learning_rate: float = 2e-3  # at its highest: it rises for a tenth of the steps, then falls
    weight_decay: float = 1e-2
    dropout: float = 0.5  # share of a feature's values that a step does not see
    temperature: float = 0.05  # tau, to begin with


class Head(NamedTuple):
    """One side: features to the common space."""

    mean: Vectors  # (V,) or (T,)
    spread: Vectors  # the same
    weight: Vectors  # (D, V) or (D, T)
    bias: Vectors  # (D,)

    def __call__(self, features: Vectors) -> Vectors:
        """(n, V) or (n, T) to (n, D) of unit length, zeros for zeros: nothing is known there."""
        known = ((features - self.mean) / self.spread).astype(np.float32)
        mapped = unit_or_zero(known @ self.weight.T + self.bias)
        mapped[~features.any(axis=1)] = 0.0
        return mapped


class Alignment(NamedTuple):
    """Both heads, as they are saved."""

    pictures: Head
    words: Head

    def state(self) -> dict[str, Vectors]:
        """Arrays by name."""
        sides = self._asdict()
        return {f"{side}.{name}": array for side, head in sides.items() for name, array in head._asdict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Vectors]) -> Self:
        """The inverse of state. Raises KeyError for what is missing."""
        return cls(*(Head(*(state[f"{side}.{name}"] for name in Head._fields)) for side in cls._fields))


def align(
    pictures: Vectors,
    words: Vectors,
    *,
    rule: AlignmentRule = AlignmentRule(),  # noqa: B008
    seed: int = 0,
    threads: int = 1,
    told: Told = lambda *_: None,
) -> Alignment:
    """The heads after so many epochs; the same seed gives the same on a CPU.

    pictures  (A, n, V) float32, A >= 1 views of the same picture (mirrored, for instance): a batch sees one of them
    words     (n, T) float32

    Raises TooFewPairs below PAIRS_MIN, ValueError if a feature is not finite.
    """
    if len(words) < PAIRS_MIN or pictures.shape[1] != len(words):
        raise TooFewPairs(f"{pictures.shape[1]} pictures and {len(words)} words: give at least {PAIRS_MIN} pairs")
    if not (np.isfinite(pictures).all() and np.isfinite(words).all()):
        raise ValueError("a feature is not finite: encode the products again")
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy, normalize

    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    chance = np.random.default_rng(seed)
    sides = [_moments(pictures.reshape(-1, pictures.shape[2])), _moments(words)]
    views = [torch.from_numpy((view - sides[0][0]) / sides[0][1]) for view in pictures]  # A of (n, V)
    texts = torch.from_numpy((words - sides[1][0]) / sides[1][1])  # (n, T)
    heads = [nn.Linear(len(mean), rule.width) for mean, _ in sides]
    drop = nn.Dropout(rule.dropout)
    sharpness = nn.Parameter(torch.tensor(-np.log(rule.temperature), dtype=torch.float32))
    parameters = [sharpness, *heads[0].parameters(), *heads[1].parameters()]
    batch = min(rule.batch, len(words))
    batches = len(words) // batch
    optimizer = torch.optim.AdamW(parameters, lr=rule.learning_rate, weight_decay=rule.weight_decay)
    steps = rule.epochs * batches
    rising = min(max(0.1, 2 / steps), 0.75)  # a rise that ends with the first step divides by zero
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, rule.learning_rate, total_steps=steps, pct_start=rising)
    for epoch in range(rule.epochs):
        order = chance.permutation(len(words))
        losses = 0.0
        for begin in range(0, batches * batch, batch):
            rows = order[begin : begin + batch]
            view = views[int(chance.integers(len(views)))]
            a = normalize(heads[0](drop(view[rows])), dim=1)  # (B, D)
            b = normalize(heads[1](drop(texts[rows])), dim=1)  # (B, D)
            cosines = a @ b.T * sharpness.exp().clamp(max=1 / TEMPERATURE_MIN)  # (B, B)
            own = torch.arange(batch)
            loss = (cross_entropy(cosines, own) + cross_entropy(cosines.T, own)) / 2
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pace.step()
            losses += loss.item()
        told(epoch + 1, losses / batches)
    learned = [(head.weight.detach().numpy(), head.bias.detach().numpy()) for head in heads]
    return Alignment(*(Head(*moments, *pair) for moments, pair in zip(sides, learned, strict=True)))


def _moments(features: Vectors) -> tuple[Vectors, Vectors]:
    """Mean and standard deviation of each value of the features (n, V)."""
    return features.mean(axis=0), features.std(axis=0) + np.float32(1e-6)
