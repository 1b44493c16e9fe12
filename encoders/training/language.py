"""Continues a text network on a shop's own titles and descriptions, without labels.

masked       a share of the word pieces is hidden, and guessed from the others. Of those to be guessed, 80 % are
             replaced by [MASK], 10 % by any word piece, 10 % stay (Devlin and others, NAACL 2019, section 3.1).
contrastive  a text, read twice with other values dropped, is to be nearer to itself than to the batch's others (SimCSE,
             Gao, Yao, Chen, EMNLP 2021, section 3).

Shapes: n texts, B of a batch, b of them this process's, S word pieces of the longest, T width, W words known.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, layer_norm

from encoders.training.align import contrast
from encoders.training.loop import Batch, CannotTrain, Optimizer, Precision, Run, train
from encoders.training.towers import TextTower, padded

Arrays = dict[str, NDArray[np.float32]]
Objective = Literal["masked", "contrastive"]

TEXTS_MIN = 8
WORD_PIECES = 128  # of a text; what is longer is cut
SPECIAL = 2  # word pieces that every text has: its begin and its end


class LanguageRule(NamedTuple):
    """How the network learns."""

    objective: Objective = "masked"
    epochs: int = 1
    batch: int = 64
    learning_rate: float = 2e-5
    weight_decay: float = 1e-2
    dropout: float = 0.1
    temperature: float = 0.05  # tau of the contrastive objective
    hidden: float = 0.15  # share of the word pieces that the masked objective guesses
    layers: int | None = None  # how many of the last ones learn; None: all, and the embeddings
    optimizer: Optimizer = "adamw"
    precision: Precision = "auto"


def continue_language(
    files: tuple[Path, Path, Path],
    texts: Sequence[str],
    rule: LanguageRule = LanguageRule(),  # noqa: B008
    run: Run = Run(),  # noqa: B008
) -> Arrays:
    """The network's parameters after so many epochs, as its checkpoint names them; the same seed, the same on a CPU.

    files  parameters in safetensors, config.json, tokenizer.json of a BERT
    texts  those without a word, and those that come again, teach nothing

    Raises CannotTrain below TEXTS_MIN texts, and what train raises.
    """
    device, chance = run.seeded()
    tokenizer = Tokenizer.from_file(str(files[2]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(WORD_PIECES)
    encoded = [tokenizer.encode(text).ids for text in dict.fromkeys(texts)]
    pieces = [ids for ids in encoded if len(ids) > SPECIAL]  # n
    if len(pieces) < TEXTS_MIN:
        raise CannotTrain(f"{len(pieces)} different texts with words: give at least {TEXTS_MIN}")
    tower = TextTower(files[0], files[1], layers=rule.layers, drop=rule.dropout)
    task = _Masked(tower, pieces, rule, tokenizer) if rule.objective == "masked" else _Twice(tower, pieces, rule)
    task.to(device)
    train(task, len(pieces), rule, run, chance)
    return tower.arrays()


class _Twice(nn.Module):
    def __init__(self, tower: TextTower, pieces: list[list[int]], rule: LanguageRule) -> None:
        super().__init__()
        if rule.dropout == 0:
            raise CannotTrain("without dropout a text is the same twice: take a dropout above 0")
        self.tower, self.pieces = tower, pieces
        self.sharpness = torch.tensor(-np.log(rule.temperature), dtype=torch.float32)

    def forward(self, batch: Batch) -> Tensor:
        ids, mask = padded([self.pieces[row] for row in batch.own], self.tower.words.device)  # (b, S)
        once, again = self.tower.pooled(ids, mask), self.tower.pooled(ids, mask)  # (b, T)
        return contrast(once, again, self.sharpness, batch.processes)


class _Masked(nn.Module):
    def __init__(self, tower: TextTower, pieces: list[list[int]], rule: LanguageRule, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tower, self.pieces, self.share = tower, pieces, rule.hidden
        mask_piece = tokenizer.token_to_id("[MASK]")
        if mask_piece is None:
            raise CannotTrain("the tokenizer has no [MASK]: take the contrastive objective")
        self.mask_piece: int = mask_piece
        known, width = tower.words.shape
        # From a state to the embedding of its word: as it is to begin with, few texts would not teach one from nothing.
        self.to_word = nn.Linear(width, width)
        nn.init.eye_(self.to_word.weight)
        nn.init.zeros_(self.to_word.bias)
        self.frequency = nn.Parameter(torch.zeros(known))

    def forward(self, batch: Batch) -> Tensor:
        ids, mask = padded([self.pieces[row] for row in batch.rows], self.tower.words.device)  # (B, S)
        lengths = mask.sum(1, keepdim=True)
        places = torch.arange(ids.shape[1], device=ids.device)[None, :]
        is_word = (places > 0) & (places < lengths - 1)  # (B, S), neither begin nor end nor padding
        draw, fate = (torch.from_numpy(batch.chance.random(ids.shape)).to(ids.device) for _ in range(2))
        any_piece = torch.from_numpy(batch.chance.integers(len(self.frequency), size=ids.shape)).to(ids.device)
        # One of each text at least, so that no batch is empty.
        first = torch.where(is_word, draw, torch.inf).amin(1, keepdim=True)
        guessed = is_word & ((draw < self.share) | (draw == first))  # (B, S)
        read = torch.where(guessed & (fate < 0.8), self.mask_piece, ids)
        read = torch.where(guessed & (fate >= 0.9), any_piece, read)
        all_guessed = int(guessed.sum())
        ids, mask, guessed, read = (rows[batch.part] for rows in (ids, mask, guessed, read))  # (b, S)
        states = self.to_word(self.tower.states(read, mask)[guessed])  # (guessed, T)
        logits = layer_norm(states, states.shape[1:]) @ self.tower.words.T + self.frequency  # (guessed, W)
        total = cross_entropy(logits.float(), ids[guessed], reduction="sum")
        return total * batch.processes.world / all_guessed  # the mean over processes is that over the batch
