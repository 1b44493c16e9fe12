"""Teaches pictures and words to lie in one space, on a catalogue's own pairs, without labels.

    a, b = heads of the picture's and of the words' features, each of unit length (encoders.alignment)
    loss = (CE(a b' / tau) + CE(b a' / tau)) / 2         over the pairs of a batch; tau is learned

Beside what was learned so, each head has a block that needs no steps: the words, whitened, and what a regression tells
of them by the picture. It errs elsewhere than what was learned, so that both together find more.

Sources: InfoNCE (van den Oord, Li, Vinyals, arXiv 1807.03748) in both directions, as in CLIP (Radford and others, ICML
2021, figure 3). One linear layer a head: with few thousand pairs, hidden layers learned the pairs by heart.
Whitened regression as in Vinod's canonical ridge, Journal of Econometrics 1976, on one side.

Shapes: n pairs, A views of each picture, V and T widths of the features, D of the common space, B pairs of a batch, b
of them this process's.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from encoders.alignment import Alignment, Head
from encoders.modality_maps import ridge
from encoders.reduction import fit_pca
from encoders.training.loop import Batch, CannotTrain, Optimizer, Precision, Run, train
from encoders.training.processes import Processes

Vectors = NDArray[np.float32]

PAIRS_MIN = 8
TEMPERATURE_MIN = 0.01
REGRESSION_PULL = 0.1  # as of encoders.modality_maps.ridge


class TooFewPairs(CannotTrain):
    """There is too little to learn from."""


class AlignmentRule(NamedTuple):
    """How the heads learn."""

    width: int = 512  # D
    epochs: int = 60
    batch: int = 1_000
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    dropout: float = 0.5  # share of a feature's values that a step does not see
    temperature: float = 0.05  # tau, to begin with
    regressed: float = 0.4  # length of the regression's block beside that of what was learned; 0 = without
    regressed_width: int = 256  # of it, at most
    optimizer: Optimizer = "adamw"
    precision: Precision = "auto"


def align(
    pictures: Vectors,
    words: Vectors,
    rule: AlignmentRule = AlignmentRule(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
) -> Alignment:
    """The heads after so many epochs; the same seed gives the same on a CPU.

    pictures  (A, n, V) float32, A >= 1 views of the same picture (mirrored, for instance): a batch sees one of them
    words     (n, T) float32

    Raises TooFewPairs below PAIRS_MIN, CannotTrain if a feature is not finite, and what train raises.
    """
    check_pairs(pictures.shape[1], len(words))
    if not (np.isfinite(pictures).all() and np.isfinite(words).all()):
        raise CannotTrain("a feature is not finite: encode the products again")
    device, chance = run.seeded()
    seen, said = moments(pictures.reshape(-1, pictures.shape[2])), moments(words)
    views = [torch.from_numpy((view - seen[0]) / seen[1]).to(device) for view in pictures]  # A of (n, V)
    texts = torch.from_numpy((words - said[0]) / said[1]).to(device)  # (n, T)

    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pictures = nn.Linear(pictures.shape[2], rule.width)
            self.words = nn.Linear(words.shape[1], rule.width)
            self.drop = nn.Dropout(rule.dropout)
            self.sharpness = sharpness_of(rule.temperature)

        def forward(self, batch: Batch) -> Tensor:
            view = views[int(batch.chance.integers(len(views)))]
            a = self.pictures(self.drop(view[batch.own]))  # (b, D)
            b = self.words(self.drop(texts[batch.own]))  # (b, D)
            return contrast(a, b, self.sharpness, batch.processes)

    heads = Pairs()
    train(heads, len(words), rule, run, chance)
    learned = Alignment(head_of(heads.pictures, seen), head_of(heads.words, said))
    return learned if rule.regressed == 0 else _with_regression(learned, pictures, words, rule)


def _with_regression(learned: Alignment, pictures: Vectors, words: Vectors, rule: AlignmentRule) -> Alignment:
    """Heads that are wider by the regression's block: D of what was learned, then at most regressed_width."""
    whitened = fit_pca(words, min(rule.regressed_width, len(words) - 1, words.shape[1]))
    seen = pictures.reshape(-1, pictures.shape[2])
    told = np.concatenate([(words - whitened.mean) @ whitened.axes] * len(pictures), dtype=np.float32)  # (A n, W)

    def joined(head: Head, map_: Vectors, features: Vectors) -> Head:
        known = (features - head.mean) / head.spread  # (n, V)
        weight, bias = map_.T * head.spread, np.zeros(map_.shape[1], np.float32)  # (W, V), (W,)
        blocks = []
        for part, shift, length in ((head.weight, head.bias, 1.0), (weight, bias, rule.regressed)):
            scale = length / max(float(np.linalg.norm(known @ part.T + shift, axis=1).mean()), 1e-12)
            blocks.append((scale * part, scale * shift))
        return Head(
            head.mean, head.spread, *(np.concatenate(both, dtype=np.float32) for both in zip(*blocks, strict=True))
        )

    return Alignment(
        joined(learned.pictures, ridge(seen, told, REGRESSION_PULL), pictures[0]),
        joined(learned.words, whitened.axes, words),
    )


def contrast(a: Tensor, b: Tensor, sharpness: Tensor, processes: Processes) -> Tensor:
    """InfoNCE in both directions: the mean over this process's pairs, whose negatives are the batch of all processes.

    a, b       (b, D), of any length
    sharpness  (), the logarithm of 1 / tau
    """
    ours, theirs = normalize(a.float(), dim=1), normalize(b.float(), dim=1)
    scale = sharpness.exp().clamp(max=1 / TEMPERATURE_MIN)
    own = torch.arange(len(a), device=a.device) + processes.rank * len(a)
    forth = ours @ processes.gathered(theirs).T * scale  # (b, B)
    back = theirs @ processes.gathered(ours).T * scale  # (b, B)
    return (cross_entropy(forth, own) + cross_entropy(back, own)) / 2


def sharpness_of(temperature: float) -> nn.Parameter:
    """(), the logarithm of 1 / tau, to be learned."""
    return nn.Parameter(torch.tensor(-np.log(temperature), dtype=torch.float32))


def moments(features: Vectors) -> tuple[Vectors, Vectors]:
    """Mean and standard deviation of each value of the features (n, V)."""
    return features.mean(axis=0), features.std(axis=0) + np.float32(1e-6)


def head_of(layer: nn.Linear, known: tuple[Vectors, Vectors]) -> Head:
    """The head of a layer that learned on features of these moments."""
    return Head(*known, layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy())


def layer_of(head: Head) -> nn.Linear:
    """The head's layer, to learn on."""
    layer = nn.Linear(head.weight.shape[1], head.weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight.copy()))
        layer.bias.copy_(torch.from_numpy(head.bias.copy()))
    return layer


def check_pairs(pictures: int, words: int) -> None:
    """Raises TooFewPairs unless there are as many pictures as words, and enough."""
    if words < PAIRS_MIN or pictures != words:
        raise TooFewPairs(f"{pictures} pictures and {words} words: give at least {PAIRS_MIN} pairs")
