"""Teaches the cross-modal encoder on a catalogue itself, without labels.

    loss = InfoNCE(one view, another view) + apart * InfoNCE(picture alone, words alone)

A view of a product lacks a share of its word pieces and places, another share each time, and half of the views have
their places turned left to right. Source: InfoNCE (van den Oord, Li, Vinyals, arXiv 1807.03748) in both directions;
two views of the same thing that lack parts as in Gao, Yao, Chen, SimCSE, EMNLP 2021.

Shapes as in encoders.cross_modal; n products. Imports torch.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from encoders.cross_modal import CrossModalEncoder, CrossModalShape
from encoders.sequences import TokenSet
from encoders.training.align import contrast, sharpness_of
from encoders.training.processes import ALONE

Told = Callable[[int, float], None]
"""Called after each epoch with how many there were, and the mean loss of its batches."""
Tokens = tuple[Tensor, Tensor, Tensor, Tensor]
"""image, image_shares, text, text_shares, as CrossModalEncoder.forward takes them."""

PRODUCTS_MIN = 8


class TooFewProducts(ValueError):
    """There is too little to learn from."""


class CrossModalRule(NamedTuple):
    """How the encoder learns."""

    epochs: int = 10
    batch: int = 128  # products: each is told from all others of its batch
    learning_rate: float = 3e-4  # at its highest: it rises for a tenth of the steps, then falls
    weight_decay: float = 1e-2
    dropout: float = 0.1
    unseen: float = 0.3  # share of the word pieces and places that a view lacks
    apart: float = 0.5  # weight of the second loss; 0 = without
    temperature: float = 0.07  # to begin with


def train_cross_modal(
    image: TokenSet,
    text: TokenSet,
    *,
    shape: CrossModalShape | None = None,
    rule: CrossModalRule = CrossModalRule(),  # noqa: B008
    seed: int = 0,
    threads: int = 1,
    told: Told = lambda *_: None,
) -> CrossModalEncoder:
    """The encoder after so many epochs; the same seed gives the same on a CPU.

    image  (n, R, V) float16 or float32 and (n, R); a missing picture has shares of 0
    text   (n, S, T) and (n, S)
    shape  the default for these widths if there is none, R being a square

    4,000 products of 49 places made shorter to 256, and 80 word pieces of 384, are .35 GB as float16. Besides, the
    default takes 2.5 GB at a batch of 128 and 200 s of a core an epoch; one layer of the width 128 1.2 GB and 30 s.
    Raises TooFewProducts below PRODUCTS_MIN, ValueError if a token is not finite.
    """
    rows = np.flatnonzero(image.shares.any(axis=1) | text.shares.any(axis=1))
    if len(rows) < PRODUCTS_MIN:
        raise TooFewProducts(f"{len(rows)} products have a picture or words: give at least {PRODUCTS_MIN}")
    if not all(np.isfinite(product).all() for tokens in (image, text) for product in tokens.states):
        raise ValueError("a token is not finite: encode the products again")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)  # of dropout
    chance = torch.Generator().manual_seed(seed)
    side = int(image.states.shape[1] ** 0.5)
    shape = shape or CrossModalShape(image.states.shape[2], text.states.shape[2], rows=side, columns=side)
    encoder = CrossModalEncoder(shape, seed=seed, dropout=rule.dropout)
    sharpness = sharpness_of(rule.temperature)
    batch = min(rule.batch, len(rows))
    batches = len(rows) // batch
    steps = rule.epochs * batches
    parameters = [*encoder.parameters(), sharpness]
    optimizer = torch.optim.AdamW(parameters, lr=rule.learning_rate, weight_decay=rule.weight_decay)
    rising = min(max(0.1, 2 / steps), 0.75)  # a rise that ends with the first step divides by zero
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, rule.learning_rate, total_steps=steps, pct_start=rising)
    encoder.train()
    for epoch in range(rule.epochs):
        order = rows[torch.randperm(len(rows), generator=chance).numpy()]
        losses = 0.0
        for begin in range(0, batches * batch, batch):
            some = order[begin : begin + batch]
            tokens = tuple(torch.from_numpy(array[some]).float() for array in (*image, *text))
            loss = training_loss(encoder, tokens, sharpness, rule, chance)  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pace.step()
            losses += loss.item()
        told(epoch + 1, losses / batches)
    return encoder.eval()


def training_loss(
    encoder: CrossModalEncoder, tokens: Tokens, sharpness: Tensor, rule: CrossModalRule, chance: torch.Generator
) -> Tensor:
    """The loss of a batch, a scalar; sharpness is the logarithm of 1 / temperature."""
    one, other = (encoder(*_view(tokens, rule.unseen, encoder.shape, chance)).vectors for _ in range(2))
    loss = contrast(one, other, sharpness, ALONE)
    image, image_shares, text, text_shares = tokens
    both = (image_shares.any(1) & text_shares.any(1)).nonzero()[:, 0]
    if rule.apart and len(both) > 1:
        image, image_shares, text, text_shares = (part[both] for part in tokens)
        pictures = encoder(image, image_shares, text[:, :0], text_shares[:, :0]).vectors
        words = encoder(image[:, :0], image_shares[:, :0], text, text_shares).vectors
        loss = loss + rule.apart * contrast(pictures, words, sharpness, ALONE)
    return loss


def _view(tokens: Tokens, unseen: float, shape: CrossModalShape, chance: torch.Generator) -> Tokens:
    """The products with a share of their tokens left out, half of them turned left to right."""
    image, image_shares, text, text_shares = tokens
    B, R, V = image.shape
    turned = (torch.rand(B, generator=chance) < 0.5).to(image.device)
    mirrored = image.view(B, shape.rows, shape.columns, V).flip(2).reshape(B, R, V)
    image = torch.where(turned[:, None, None], mirrored, image)
    return image, _left(image_shares, unseen, chance), text, _left(text_shares, unseen, chance)


def _left(shares: Tensor, unseen: float, chance: torch.Generator) -> Tensor:
    """The shares (B, S) without some tokens, those left scaled to the same sum; all stay where none would be left."""
    left = shares * (torch.rand(shares.shape, generator=chance) >= unseen).to(shares.device)
    sums = left.sum(1, keepdim=True)
    return torch.where(sums > 0, left * shares.sum(1, keepdim=True) / sums.clamp(min=1e-12), shares)
