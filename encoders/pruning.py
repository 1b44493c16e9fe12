"""A smaller BERT of the same width: whole heads and neurons leave, and what is left learns to say the same.

What leaves is what varies least in its effect, over the shop's own word pieces: of a neuron j with activations a_j and
outgoing weights w_j that is Var(a_j) |w_j|^2, of a head the sum over its columns. Its mean effect E(a_j) w_j stays, in
the bias. Source: An and others, FLAP, AAAI 2024 (arXiv 2312.11983), sections 3.2 and 3.3; then distillation as in Sanh
and others, DistilBERT (arXiv 1910.01108), by the cosine of the pooled vector and of each word piece's state.

Shapes: T the width of a state, C columns of an outgoing weight: neurons, or heads times their width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from encoders.bert import Bert
from encoders.text import pool

if TYPE_CHECKING:
    from torch import Tensor

Told = Callable[[int, float], None]
"""Called after each epoch with how many there were, and the mean loss of its batches."""

Pieces = Sequence[Sequence[int]]
"""Texts as word pieces, of one length or more each."""

TEXTS_MIN = 64
AT_ONCE = 32
EMBEDDINGS = "embeddings."


class TooFewTexts(ValueError):
    """There is too little to learn from."""


class DistillationRule(NamedTuple):
    """How the pruned network learns."""

    epochs: int = 3
    learning_rate: float = 3e-4  # at its highest: it rises for a tenth of the steps, then falls
    weight_decay: float = 1e-2


class Effects(NamedTuple):
    """Of the columns of an outgoing weight."""

    mean: "Tensor"  # (C,) of the activation
    variance: "Tensor"  # (C,)


class _Watched(Bert):
    """Sums up what goes into each outgoing weight, padding left out."""

    def __init__(self, parameters: Path, config: Path) -> None:
        super().__init__(parameters, config, device="cpu")
        self._sums: dict[str, tuple[Tensor, Tensor, int]] = {}

    def watch(self, ids: "Tensor", mask: "Tensor") -> None:
        self._mask = mask
        self.states(ids, mask)

    def effects(self) -> dict[str, Effects]:
        """By the name of the outgoing weight."""
        return {
            name: Effects((total / count).float(), (squares / count - (total / count) ** 2).float().clamp_min(0))
            for name, (total, squares, count) in self._sums.items()
        }

    def _linear(self, states: "Tensor", name: str) -> "Tensor":
        if name.endswith("output.dense"):
            seen = states[self._mask].double()  # (N, C)
            total, squares, count = self._sums.get(name, (0, 0, 0))
            self._sums[name] = (total + seen.sum(0), squares + (seen * seen).sum(0), count + len(seen))
        return super()._linear(states, name)


def effects_of(parameters: Path, config: Path, texts: Pieces) -> dict[str, Effects]:
    """How the activations before each outgoing weight of a BERT behave on these texts. Raises TooFewTexts."""
    if len(texts) < TEXTS_MIN:
        raise TooFewTexts(f"{len(texts)} texts: give at least {TEXTS_MIN}")
    import torch

    watched = _Watched(parameters, config)
    with torch.inference_mode():
        for ids, mask, _ in _batches(texts, np.random.default_rng(0)):
            watched.watch(ids, mask)
    return watched.effects()


def pruned(network: Bert, effects: Mapping[str, Effects], *, sparsity: float) -> "dict[str, Tensor]":
    """The parameters of the network with so many heads and neurons fewer, by the published names.

    sparsity  0 to 1, the share of each layer's heads and of its neurons that leaves; at least one of each stays
    """
    parameters = dict(network.parameters)
    for name, effect in effects.items():
        at = name.removesuffix("output.dense")
        weight = parameters[f"{name}.weight"]  # (T, C)
        at_once = network.head_width if at.endswith("attention.") else 1
        score = (effect.variance * weight.square().sum(0)).view(-1, at_once).sum(1)  # (heads,) or (neurons,)
        left = max(1, round(len(score) * (1 - sparsity)))
        stays = score.new_zeros(len(score)).bool()
        stays[score.argsort(descending=True)[:left]] = True
        columns = stays.repeat_interleave(at_once)  # (C,)
        parameters[f"{name}.bias"] = parameters[f"{name}.bias"] + weight[:, ~columns] @ effect.mean[~columns]
        parameters[f"{name}.weight"] = weight[:, columns].contiguous()
        for part in ("weight", "bias"):
            if at_once == 1:
                incoming = f"{at}intermediate.dense.{part}"
                parameters[incoming] = parameters[incoming][columns].contiguous()
            else:
                joined = parameters.pop(f"{at}self.{part}")
                for which, rows in zip(("query", "key", "value"), joined.chunk(3), strict=True):
                    parameters[f"{at}self.{which}.{part}"] = rows[columns].contiguous()
    return parameters


def distil(
    student: Bert,
    teacher: Bert,
    texts: Pieces,
    *,
    pooling: str,
    rule: DistillationRule = DistillationRule(),  # noqa: B008
    seed: int = 0,
    told: Told = lambda *_: None,
) -> None:
    """The student's parameters, but for its embeddings, have learned to give the teacher's vectors and states.

    The loss is 1 - cosine of the pooled vectors, and the same of each word piece's state. The same seed gives the same
    on a CPU. Raises TooFewTexts.
    """
    if len(texts) < TEXTS_MIN:
        raise TooFewTexts(f"{len(texts)} texts: give at least {TEXTS_MIN}")
    if not rule.epochs:
        return
    import torch
    from torch.nn.functional import cosine_similarity

    taught = [array for name, array in student.parameters.items() if not name.startswith(EMBEDDINGS)]
    for array in taught:
        array.requires_grad_(True)
    chance = np.random.default_rng(seed)
    steps = rule.epochs * -(-len(texts) // AT_ONCE)
    rising = min(max(0.1, 2 / steps), 0.75)  # a rise that ends with the first step divides by zero
    optimizer = torch.optim.AdamW(taught, lr=rule.learning_rate, weight_decay=rule.weight_decay)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, rule.learning_rate, total_steps=steps, pct_start=rising)
    goals: dict[int, Tensor] = {}  # the teacher's states, in two bytes a value, after the first epoch
    for epoch in range(rule.epochs):
        losses = []
        for ids, mask, rows in _batches(texts, chance):
            with torch.no_grad():
                if not epoch:
                    states = teacher.states(ids, mask).half()
                    goals |= {row: states[place][mask[place]] for place, row in enumerate(rows)}
                goal = torch.nn.utils.rnn.pad_sequence([goals[row] for row in rows], batch_first=True).float()
            states = student.states(ids, mask)  # (B, S, T)
            whole = cosine_similarity(pool(states, mask, pooling), pool(goal, mask, pooling), dim=1)  # (B,)
            each = cosine_similarity(states[mask], goal[mask], dim=1)  # (N,)
            loss = 2 - whole.mean() - each.mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pace.step()
            losses.append(loss.item())
        told(epoch + 1, float(np.mean(losses)))
    for array in taught:
        array.requires_grad_(False)


def separate(parameters: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Parameters of a Bert by the published names alone: query, key and value apart."""
    apart: dict[str, Tensor] = {}
    for name, array in parameters.items():
        at, joined, kind = name.partition("attention.self.")
        if not joined or "." in kind:
            apart[name] = array.contiguous()
            continue
        for which, rows in zip(("query", "key", "value"), array.chunk(3), strict=True):
            apart[f"{at}attention.self.{which}.{kind}"] = rows.contiguous()
    return apart


def _batches(texts: Pieces, chance: np.random.Generator) -> "Iterator[tuple[Tensor, Tensor, list[int]]]":
    """Word pieces (B, S), their mask (B, S) and the texts' rows, once each, those of like length together."""
    import torch

    order = sorted(chance.permutation(len(texts)).tolist(), key=lambda row: len(texts[row]))
    batches = [order[begin : begin + AT_ONCE] for begin in range(0, len(order), AT_ONCE)]
    for number in chance.permutation(len(batches)).tolist():
        rows = batches[number]
        longest = max(len(texts[row]) for row in rows)
        ids = torch.tensor([[*texts[row], *[0] * (longest - len(texts[row]))] for row in rows])
        lengths = torch.tensor([len(texts[row]) for row in rows])[:, None]
        yield ids, torch.arange(longest)[None, :] < lengths, rows
