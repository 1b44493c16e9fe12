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

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from encoders.weights import FUSION_RECIPE, FusionRecipe

Vectors = NDArray[np.float32]
Mask = NDArray[np.bool_]
Score = Literal["cosine", "euclidean", "dot", "learned"]
SCORES: tuple[Score, ...] = get_args(Score)


class Fusion:
    """Maps (V,) and (T,) into one (D,), with fixed, seeded maps."""

    def __init__(
        self,
        widths: Mapping[str, int],
        recipe: FusionRecipe = FUSION_RECIPE,
        *,
        score: Score = "cosine",
        matrix: Vectors | None = None,
    ) -> None:
        """
        widths  V and T by "image" and "text"; T <= D - 1, so that some of D is left for the picture
        matrix  A (D, D) of the score "learned"
        """
        if not widths["text"] < recipe.width:
            raise ValueError(f"fused width {recipe.width} must be above the text's {widths['text']}: raise it")
        self.width = recipe.width
        self._score: Score = score
        self._matrix = matrix
        self.importances = {"image": recipe.image_importance, "text": recipe.text_importance}
        self.maps = orthonormal_maps(widths, width=recipe.width, seed=recipe.seed)

    def fuse(self, image: Vectors, text: Vectors, present: Mask) -> Vectors:
        """The fused vectors.

        image    (B, V) float32 of unit length, zeros where there is none
        text     (B, T) float32 of unit length, zeros where there is none
        present  (B, 2) bool, which of image and text there is
        returns  (B, D) float32 of unit length, zeros where neither is present

        Raises FloatingPointError if a result is not finite.
        """
        tokens = np.stack([self._token("image", image), self._token("text", text)], axis=1)  # (B, M, D)
        tokens[~present] = 0.0
        weights = attention_weights(tokens.sum(1), tokens, present, self._score, self._matrix)  # (B, M)
        attended = np.einsum("bm,bmd->bd", weights, tokens)
        fused: Vectors = np.zeros_like(attended)
        some = present.any(1)
        fused[some] = unit_rows(attended[some])
        return fused

    def _token(self, modality: str, vectors: Vectors) -> Vectors:
        """(B, V) or (B, T) to (B, D), each row as long as the modality's importance, zero rows zero."""
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
    matrix   (D, D), for the score "learned" only
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
        asked = query if matrix is None else query @ matrix
        scores = np.einsum("bd,bmd->bm", asked, tokens) / np.float32(np.sqrt(query.shape[1]))
    return scores


def orthonormal_maps(widths: Mapping[str, int], *, width: int, seed: int) -> dict[str, Vectors]:
    """A map (V, D) for the picture and (T, D) for the text, the same for the same seed on every machine.

    The text takes the first T of D as it is, so its cosines stay. The picture is projected onto the D - T that are
    left (V where they are more) along random orthonormal directions. The images are orthogonal subspaces of D.
    """
    T, V = widths["text"], widths["image"]
    room = min(V, width - T)
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(V, room)))[0]  # (V, room)
    maps = {"image": np.zeros((V, width), np.float32), "text": np.eye(T, width, dtype=np.float32)}
    maps["image"][:, T : T + room] = directions
    return maps


def unit_rows(rows: Vectors) -> Vectors:
    """Each row divided by its length, float32. Raises FloatingPointError if one is zero or not finite."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise FloatingPointError("a vector is zero or not finite: are the weights whole and the input sound?")
    unit: Vectors = (rows / lengths).astype(np.float32)
    return unit
