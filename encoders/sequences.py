"""Fusion over sequences: attention over every place of the pictures, every word piece and every fact.

    Attention(X, Y) = sum_j a_j Y_j        a_j = softmax_j(score(X, Y_j) + log p_j)

Y_j are the tokens of all modalities, mapped and scaled by importance as encoders.fusion does it with pooled vectors, X
is the sum of what the modalities are when they are pooled. The score is one of encoders.fusion.

p_j is the token's share of its modality; the shares of a modality add up to 1. Without it, importance would be a
matter of counting: if all tokens of a modality had the score s, n of them would weigh n exp(s) together, so that 49
places of a picture would outvote a title of five words ten to one, whatever the recipe says. With log p_j they weigh
sum_j p_j exp(s) = exp(s), for any n: a token that is split into equal ones changes nothing, and a modality whose
tokens are all alike weighs as much as its pooled vector does in encoders.fusion.Fusion. Where the p_j are equal,
log p_j is the bias -log n; headline and details, several pictures and kinds of facts have the shares of their recipes.

Shapes: R places of pictures, S word pieces, C facts, N all of them, W the width of a modality (V, T or A), D the width
of the fused vector.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.attributes import Fact, encode_facts
from encoders.fusion import Fusion, attention_weights, unit_rows
from encoders.weights import ATTRIBUTES_RECIPE, AttributesRecipe

Vectors = NDArray[np.float32]


class TokenSet(NamedTuple):
    """A modality's tokens, scaled so that sum_j share_j state_j is its pooled vector, of unit length."""

    states: Vectors  # (S, W), of a batch (B, S, W)
    shares: Vectors  # (S,), of a batch (B, S): >= 0, add up to 1; 0 is padding, all 0 a modality that is missing


class Ragged(NamedTuple):
    """The tokens of n products, one product's after the other's; a product whose modality is missing has none."""

    states: NDArray[np.floating]  # (sum of the counts, W), scaled as those of a TokenSet
    shares: Vectors  # (sum of the counts,)
    counts: NDArray[np.int64]  # (n,)

    @classmethod
    def joined(cls, sets: "Sequence[TokenSet | None]", width: int) -> Self:
        """Of n products, None where the modality is missing."""
        there = [tokens for tokens in sets if tokens is not None]
        counts = np.array([0 if tokens is None else len(tokens.shares) for tokens in sets], np.int64)
        states = np.concatenate([np.zeros((0, width), np.float32), *(tokens.states for tokens in there)])
        return cls(states, np.concatenate([np.zeros(0, np.float32), *(tokens.shares for tokens in there)]), counts)

    def of(self, rows: NDArray[np.int64], at_least: int = 1) -> TokenSet:
        """Those of B products as a batch, float32 (B, S, W) and (B, S), filled up as padded does it."""
        counts = self.counts[rows]
        places = np.arange(max(at_least, counts.max(initial=0)))  # (S,)
        there = places[None, :] < counts[:, None]  # (B, S)
        begins = (np.cumsum(self.counts) - self.counts)[rows]
        taken = (begins[:, None] + places[None, :])[there]
        states = np.zeros((*there.shape, self.states.shape[1]), np.float32)
        shares = np.zeros(there.shape, np.float32)
        states[there], shares[there] = self.states[taken], self.shares[taken]
        return TokenSet(states, shares)


class Attended(NamedTuple):
    """Fused vectors, and what each rests on: the weights of a product add up to 1."""

    vectors: Vectors  # (B, D) of unit length, zeros where there is no token
    image: Vectors  # (B, R), exactly 0 where the share is
    text: Vectors  # (B, S), the same
    attributes: Vectors  # (B, C), the same


class SequenceFusion:
    """The maps and importances of encoders.fusion.Fusion, on sequences."""

    def __init__(self, pooled: Fusion) -> None:
        self._pooled = pooled
        self.score = pooled.score

    def fuse(self, image: TokenSet, text: TokenSet, attributes: TokenSet | None = None) -> Attended:
        """The fused vectors and the weights of every token.

        image       of a batch: (B, R, V) and (B, R)
        text        of a batch: (B, S, T) and (B, S)
        attributes  of a batch: (B, C, A) and (B, C)

        Takes 4 N D bytes a product: 300 kB for 49 places, 50 word pieces and D 768.
        Raises FloatingPointError if a result is not finite.
        """
        tokens, shares = self._joined(image, text, attributes)
        query = np.einsum("bn,bnd->bd", shares, tokens)
        present = shares > 0
        weights = attention_weights(query, tokens, present, self.score, self._pooled.matrix) * shares
        weights /= np.maximum(weights.sum(1, keepdims=True), np.float32(1e-30))
        attended = np.einsum("bn,bnd->bd", weights, tokens)
        vectors = np.zeros_like(attended)
        some = present.any(1)
        vectors[some] = unit_rows(attended[some])
        return Attended(vectors, *_split(weights, image, text))

    def contributions(
        self, image: TokenSet, text: TokenSet, attributes: TokenSet | None, attended: Attended
    ) -> tuple[Vectors, Vectors, Vectors]:
        """How much of its fused vector each token makes, as (B, R), (B, S) and (B, C); a product's add up to 1.

        a_j Y_j . v / |sum_i a_i Y_i|, v being the fused vector: a weight says nothing of how long its token is, and the
        places of a plain background are short. Below 0 for a token that points away.
        Source: Kobayashi and others, EMNLP 2020, who take lengths; lengths along the sum can be added.
        """
        tokens, _ = self._joined(image, text, attributes)
        weights = np.concatenate([attended.image, attended.text, attended.attributes], axis=1)
        along = weights * np.einsum("bnd,bd->bn", tokens, attended.vectors)  # (B, N), rows sum to |sum_i a_i Y_i|
        sums = along.sum(1, keepdims=True)
        return _split(along / np.where(sums > 0, sums, np.float32(1.0)), image, text)

    def _joined(self, image: TokenSet, text: TokenSet, attributes: TokenSet | None) -> tuple[Vectors, Vectors]:
        """The tokens (B, N, D) and their shares (B, N)."""
        sets = [self._mapped("image", image), self._mapped("text", text)]
        sets += [] if attributes is None else [self._mapped("attributes", attributes)]
        tokens = np.concatenate([mapped.states for mapped in sets], axis=1)
        return tokens, np.concatenate([mapped.shares for mapped in sets], axis=1)

    def _mapped(self, modality: str, tokens: TokenSet) -> TokenSet:
        """(B, S, W) to (B, S, D), so that the pooled vector is as long as the modality's importance."""
        known = np.where(tokens.shares[..., None] > 0, tokens.states, np.float32(0.0))  # padding may hold anything
        mapped = known @ self._pooled.maps[modality]
        lengths = np.linalg.norm(np.einsum("bs,bsd->bd", tokens.shares, mapped), axis=1)  # (B,), below 1 if projected
        scale = self._pooled.importances[modality] / np.maximum(lengths, np.float32(1e-12))
        return TokenSet((mapped * scale[:, None, None]).astype(np.float32), tokens.shares)


def region_tokens(pictures: Sequence[Vectors], centre: Vectors) -> TokenSet | None:
    """The places of a product's pictures as tokens, in the pictures' order; None if there is none.

    pictures  each (R, V), as encoders.image has the places of one
    centre    (V,) of the same encoder

    A picture has the share that it has in the pooled vector (encoders.fusion.attend), its places share equally.
    Raises FloatingPointError if they cannot be pooled.
    """
    if not pictures:
        return None
    centred = [regions - centre for regions in pictures]
    tokens = unit_rows(np.stack([regions.mean(axis=0) for regions in centred]))[None]  # (1, P, V)
    weights = attention_weights(tokens.mean(1), tokens, np.ones(tokens.shape[:2], np.bool_))[0]
    return part_tokens(list(zip(centred, weights.tolist(), strict=True)))


def fact_tokens(facts: Sequence[Fact], recipe: AttributesRecipe = ATTRIBUTES_RECIPE) -> TokenSet | None:
    """A product's facts as tokens, in their order, with the weights of the recipe as shares; None if there is none."""
    weights = [float(getattr(recipe, f"{fact.kind}_weight")) for fact in facts]
    codes = encode_facts([[fact] for fact in facts], recipe)  # (C, A)
    return part_tokens([(code[None], weight) for code, weight in zip(codes, weights, strict=True)])


def part_tokens(parts: Sequence[tuple[Vectors, float]]) -> TokenSet | None:
    """The tokens of a modality's parts, a headline and details for instance; None if there are no parts.

    parts  states (S, W) of each part and its weight beside the others, which its tokens share equally

    Pooled, it is unit(sum_i weight_i unit(mean_i)). Raises FloatingPointError if that cannot be had.
    """
    if not parts:
        return None
    total = sum(weight for _, weight in parts)
    states = np.concatenate([_scaled(part, part.mean(axis=0)) for part, _ in parts])
    shares = np.concatenate([np.full(len(part), weight / total / len(part), np.float32) for part, weight in parts])
    return TokenSet(_scaled(states, shares @ states), shares)


def padded(sets: Sequence[TokenSet | None], width: int, at_least: int = 1) -> TokenSet:
    """The sets as a batch, (B, S, W) and (B, S), filled up with tokens of share 0; None has no others.

    width     W
    at_least  that S is, however short the sets are; the places of a grid where pictures may be missing
    """
    longest = max(at_least, *(len(tokens.shares) for tokens in sets if tokens is not None), 0)
    states, shares = np.zeros((len(sets), longest, width), np.float32), np.zeros((len(sets), longest), np.float32)
    for row, tokens in enumerate(sets):
        if tokens is not None:
            states[row, : len(tokens.shares)] = tokens.states
            shares[row, : len(tokens.shares)] = tokens.shares
    return TokenSet(states, shares)


def _split(values: Vectors, image: TokenSet, text: TokenSet) -> tuple[Vectors, Vectors, Vectors]:
    """(B, N) by modality."""
    R, S = image.shares.shape[1], text.shares.shape[1]
    return values[:, :R], values[:, R : R + S], values[:, R + S :]


def _scaled(states: Vectors, pooled: Vectors) -> Vectors:
    """The states divided by the length of what they are pooled to."""
    length = float(np.linalg.norm(pooled))
    if not (np.isfinite(length) and length > 0):
        raise FloatingPointError("tokens pool to zero or are not finite: are the weights whole and the input sound?")
    return (states / np.float32(length)).astype(np.float32)
