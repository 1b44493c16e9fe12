"""Fusion of a product's modalities by attention, before any training at least as good as the better one alone.

    Attention(X, Y) = sum_j softmax_j(score(X, Y_j)) Y_j

The tokens Y_j are the modalities, each of unit length, mapped by rows that are orthonormal within a modality and
between them, and scaled by its importance. So the fused cosine of two products is a weighted mean of their modalities'
cosines. X is the sum of the tokens present. The score is one of

    cosine      x . y / (|x| |y|)
    euclidean   -|x - y|
    dot         x . y / sqrt(D)         scaled dot product (Vaswani and others, NeurIPS 2017, eq. 1)
    learned     x' A y / sqrt(D)        with a matrix A that is taught (Luong, Pham, Manning, EMNLP 2015, "general")
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from encoders.weights import ATTRIBUTES_RECIPE, FUSION_RECIPE, FusionRecipe

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]
Score = Literal["cosine", "euclidean", "dot", "learned"]
SCORES: tuple[Score, ...] = get_args(Score)


class Modalities(NamedTuple):
    """What is known of B products, of unit length, zeros where nothing is."""

    image: Vectors  # (B, V)
    text: Vectors  # (B, T)
    attributes: Vectors  # (B, A)

    @property
    def present(self) -> Mask:
        """(B, M)"""
        return np.stack([rows.any(axis=1) for rows in self], axis=1)


class Fusion:
    """Maps (V,), (T,) and (A,) into one (D,), with fixed, seeded maps."""

    def __init__(
        self,
        widths: Mapping[str, int],
        recipe: FusionRecipe = FUSION_RECIPE,
        *,
        attributes: int = ATTRIBUTES_RECIPE.width,
        score: Score = "cosine",
        matrix: Vectors | None = None,
    ) -> None:
        """
        widths      V and T by "image" and "text"
        attributes  A
        matrix      of the score "learned", (D, D) or the diagonal of it, (D,)
        """
        self.width = recipe.text_width + recipe.image_width + attributes
        self.score: Score = score
        self.matrix = matrix
        self.importances = {
            "image": recipe.image_importance,
            "text": recipe.text_importance,
            "attributes": recipe.attributes_importance,
        }
        blocks = {"text": recipe.text_width, "image": recipe.image_width, "attributes": attributes}
        self.maps = orthonormal_maps({**widths, "attributes": attributes}, blocks, seed=recipe.seed)

    def fuse(self, products: Modalities) -> Vectors:
        """(B, D) float32 of unit length, zeros where nothing is known. Raises FloatingPointError as unit_rows."""
        present = products.present  # (B, M)
        parts = zip(self.importances, products, strict=True)
        tokens = np.stack([self._token(modality, rows) for modality, rows in parts], axis=1)  # (B, M, D)
        weights = attention_weights(tokens.sum(1), tokens, present, self.score, self.matrix)  # (B, M)
        attended = np.einsum("bm,bmd->bd", weights, tokens)
        fused: Vectors = np.zeros_like(attended)
        some = present.any(1)
        fused[some] = unit_rows(attended[some])
        return fused

    def _token(self, modality: str, vectors: Vectors) -> Vectors:
        """(B, V), (B, T) or (B, A) to (B, D), each row as long as the modality's importance, zero rows zero."""
        mapped = vectors @ self.maps[modality]
        lengths = np.linalg.norm(mapped, axis=1, keepdims=True)
        # A map to fewer dimensions shortens: without this the picture would lose half its say.
        token: Vectors = self.importances[modality] * mapped / np.maximum(lengths, np.float32(1e-12))
        return token


def attention_weights(
    query: Vectors, tokens: Vectors, present: Mask, score: Score = "cosine", matrix: Vectors | None = None
) -> Vectors:
    """softmax over the present tokens of their scores with the query.

    query    (B, D)
    tokens   (B, M, D)
    present  (B, M) bool
    matrix   (D, D) or its diagonal (D,), for the score "learned" only
    returns  (B, M) float32; exactly 0 where absent, rows of present tokens add up to 1

    Raises ValueError if the score is learned and there is no matrix, or the other way round.
    """
    scores = attention_scores(query, tokens, score, matrix)
    if score != "cosine":  # cosines are at most 1: exp cannot overflow
        highest = np.where(present, scores, -np.inf).max(1, keepdims=True)
        scores = np.where(present, scores - np.where(np.isfinite(highest), highest, 0), 0)
    raised = np.where(present, np.exp(scores), np.float32(0.0))
    weights: Vectors = raised / np.maximum(raised.sum(1, keepdims=True), np.float32(1e-12))
    return weights


def attention_scores(query: Vectors, tokens: Vectors, score: Score, matrix: Vectors | None = None) -> Vectors:
    """(B, M) the score of each token with its query, as in attention_weights. Raises ValueError."""
    if (matrix is not None) != (score == "learned"):
        raise ValueError(f"the score is {score}: only the learned one has a matrix, and it needs one")
    scores: Vectors
    if score == "euclidean":
        scores = -np.linalg.norm(tokens - query[:, None, :], axis=2)
    elif score == "cosine":
        lengths = np.linalg.norm(tokens, axis=2) * np.linalg.norm(query, axis=1, keepdims=True)  # (B, M)
        scores = np.einsum("bd,bmd->bm", query, tokens) / np.maximum(lengths, np.float32(1e-12))
    else:
        asked = query if matrix is None else query * matrix if matrix.ndim == 1 else query @ matrix
        scores = np.einsum("bd,bmd->bm", asked, tokens) / np.float32(np.sqrt(query.shape[1]))
    return scores


def attend(vectors: Vectors) -> Vectors:
    """One unit vector (V,) of those of a product's pictures (P, V), P >= 1: what is unlike the others counts less.

    Attention with the mean as the query, so the order of the pictures changes nothing, and one alone is itself.
    """
    tokens = vectors[None]  # (1, P, V)
    weights = attention_weights(tokens.mean(1), tokens, np.ones(tokens.shape[:2], np.bool_))
    attended: Vectors = unit_rows(np.einsum("bp,bpv->bv", weights, tokens))[0]
    return attended


def orthonormal_maps(widths: Mapping[str, int], blocks: Mapping[str, int], *, seed: int) -> dict[str, Vectors]:
    """By modality a map (its width, D) into its block of D, the same for the same seed on every machine.

    widths  of each modality's vectors
    blocks  how much of D is each modality's; a vector that fits takes the first values of its block as it is, so its
            cosines stay; a wider one is projected along random orthonormal directions
    """
    maps, begin, D = {}, 0, sum(blocks.values())
    chance = np.random.default_rng(seed)
    for modality, room in blocks.items():
        width = widths[modality]
        kept = min(width, room)
        maps[modality] = np.zeros((width, D), np.float32)
        directions = np.eye(width) if width <= room else np.linalg.qr(chance.normal(size=(width, room)))[0]
        maps[modality][:, begin : begin + kept] = directions
        begin += room
    return maps


def rows_or_zeros(vectors: Sequence[Vectors | None], width: int) -> Vectors:
    """(B, width) float32, zeros where there is none."""
    rows = np.zeros((len(vectors), width), np.float32)
    for row, vector in zip(rows, vectors, strict=True):
        if vector is not None:
            row[:] = vector
    return rows


def unit_rows(rows: Vectors) -> Vectors:
    """Each row divided by its length, float32. Raises FloatingPointError if one is zero or not finite."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise FloatingPointError("a vector is zero or not finite: are the weights whole and the input sound?")
    unit: Vectors = (rows / lengths).astype(np.float32)
    return unit
