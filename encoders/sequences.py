"""Fusion over sequences: attention over every word piece and every place of the picture instead of two pooled vectors.

    Attention(X, Y) = sum_j a_j Y_j        a_j = softmax_j(score(X, Y_j) + log p_j)

Y_j are the tokens of both modalities, mapped and scaled by importance as encoders.fusion does it, X is the sum of what
their modalities are pooled. The score is one of encoders.fusion.

p_j is the token's share of its modality; the shares of a modality add up to 1. Without it, importance would be a
matter of counting: if all tokens of a modality had the score s, n of them would weigh n exp(s) together, so that 49
places of a picture would outvote a title of five words ten to one, whatever the recipe says. With log p_j they weigh
sum_j p_j exp(s) = exp(s), for any n: a token that is split into equal ones changes nothing, and a modality whose
tokens are all alike weighs as much as its pooled vector does in encoders.fusion.Fusion. Where the p_j are equal,
log p_j is the bias -log n; the words of a headline and of details have other shares, those of the recipe.

Shapes: R places of a picture, S word pieces, W the width of one of both (V or T), D the width of the fused vector.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import Fusion, Score, attention_weights, unit_rows
from encoders.weights import FUSION_RECIPE, FusionRecipe

Vectors = NDArray[np.float32]


class TokenSet(NamedTuple):
    """A modality's tokens, scaled so that sum_j share_j state_j is its pooled vector, of unit length."""

    states: Vectors  # (S, W), of a batch (B, S, W)
    shares: Vectors  # (S,), of a batch (B, S): >= 0, add up to 1; 0 is padding, all 0 a modality that is missing


class Attended(NamedTuple):
    """Fused vectors, and what each rests on: the weights of a product add up to 1."""

    vectors: Vectors  # (B, D) of unit length, zeros where there is no token
    image: Vectors  # (B, R), exactly 0 where the share is
    text: Vectors  # (B, S), the same


class SequenceFusion:
    """The maps and importances of encoders.fusion.Fusion, on sequences."""

    def __init__(
        self,
        widths: Mapping[str, int],
        recipe: FusionRecipe = FUSION_RECIPE,
        *,
        score: Score = "cosine",
        matrix: Vectors | None = None,
    ) -> None:
        """As Fusion."""
        pooled = Fusion(widths, recipe, score=score, matrix=matrix)
        self.width = pooled.width
        self._maps, self._importances = pooled.maps, pooled.importances
        self._score: Score = score
        self._matrix = matrix

    def fuse(self, image: TokenSet, text: TokenSet) -> Attended:
        """The fused vectors and the weights of every token.

        image  of a batch: (B, R, V) and (B, R)
        text   of a batch: (B, S, T) and (B, S)

        Takes 4 (R + S) D bytes a product: 250 kB for 49 places, 50 word pieces and D 640.
        Raises FloatingPointError if a result is not finite.
        """
        sets = [self._mapped("image", image), self._mapped("text", text)]
        tokens, shares = (
            np.concatenate(parts, axis=1) for parts in zip(*sets, strict=True)
        )  # (B, R + S, D), (B, R + S)
        query = np.einsum("bs,bsd->bd", shares, tokens)
        present = shares > 0
        weights = attention_weights(query, tokens, present, self._score, self._matrix) * shares
        weights /= np.maximum(weights.sum(1, keepdims=True), np.float32(1e-30))
        attended = np.einsum("bs,bsd->bd", weights, tokens)
        vectors = np.zeros_like(attended)
        some = present.any(1)
        vectors[some] = unit_rows(attended[some])
        R = image.shares.shape[1]
        return Attended(vectors, weights[:, :R], weights[:, R:])

    def contributions(self, image: TokenSet, text: TokenSet, attended: Attended) -> tuple[Vectors, Vectors]:
        """How much of its fused vector each token makes: (B, R) and (B, S), those of a product add up to 1.

        a_j Y_j . v / |sum_i a_i Y_i|, v being the fused vector: a weight says nothing of how long its token is, and the
        places of a plain background are short. Below 0 for a token that points away.
        Source: Kobayashi and others, EMNLP 2020, who take lengths; lengths along the sum can be added.
        """
        tokens, _ = self._joined(image, text)
        weights = np.concatenate([attended.image, attended.text], axis=1)
        along = weights * np.einsum("bsd,bd->bs", tokens, attended.vectors)  # (B, R + S), rows sum to |sum_i a_i Y_i|
        sums = along.sum(1, keepdims=True)
        shares = along / np.where(sums > 0, sums, np.float32(1.0))
        R = image.shares.shape[1]
        return shares[:, :R], shares[:, R:]

    def _joined(self, image: TokenSet, text: TokenSet) -> tuple[Vectors, Vectors]:
        """The tokens (B, R + S, D) and their shares (B, R + S)."""
        sets = [self._mapped("image", image), self._mapped("text", text)]
        tokens = np.concatenate([mapped.states for mapped in sets], axis=1)
        return tokens, np.concatenate([mapped.shares for mapped in sets], axis=1)

    def _mapped(self, modality: str, tokens: TokenSet) -> TokenSet:
        """(B, S, W) to (B, S, D), so that the pooled vector is as long as the modality's importance."""
        known = np.where(tokens.shares[..., None] > 0, tokens.states, np.float32(0.0))  # padding may hold anything
        mapped = known @ self._maps[modality]
        lengths = np.linalg.norm(np.einsum("bs,bsd->bd", tokens.shares, mapped), axis=1)  # (B,), below 1 if projected
        scale = self._importances[modality] / np.maximum(lengths, np.float32(1e-12))
        return TokenSet((mapped * scale[:, None, None]).astype(np.float32), tokens.shares)


def region_tokens(regions: Vectors, centre: Vectors) -> TokenSet:
    """The places of a picture as tokens with equal shares.

    regions  (R, V), as encoders.image has them; centre (V,) of the same encoder

    Raises FloatingPointError if they cannot be pooled.
    """
    centred = regions - centre
    R = len(centred)
    return TokenSet(_scaled(centred, centred.mean(axis=0)), np.full(R, 1 / R, np.float32))


def word_tokens(parts: Sequence[tuple[Vectors, float]]) -> TokenSet | None:
    """The word pieces of a text's parts as tokens; None if there are no parts.

    parts  states (S, T) of each part and its weight beside the others, which its pieces share equally

    Raises FloatingPointError if they cannot be pooled.
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


def _scaled(states: Vectors, pooled: Vectors) -> Vectors:
    """The states divided by the length of what they are pooled to."""
    length = float(np.linalg.norm(pooled))
    if not (np.isfinite(length) and length > 0):
        raise FloatingPointError("tokens pool to zero or are not finite: are the weights whole and the input sound?")
    return (states / np.float32(length)).astype(np.float32)
