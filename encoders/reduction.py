"""Shorter vectors that find as well: principal components, or the directions that tell categories apart.

Both are scikit-learn's; what they learn is a mean and a matrix, so that a worker that reduces needs neither.

Shapes: n vectors to learn from, D their width, W the width that is left.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.retrieval import unit_or_zero

Vectors = NDArray[np.float32]


class CannotReduce(ValueError):
    """There is too little to learn from, or the width is too large; str() says what there is."""


class Reduction(NamedTuple):
    """A fitted map."""

    mean: Vectors  # (D,)
    axes: Vectors  # (D, W)

    def __call__(self, vectors: Vectors) -> Vectors:
        """(n, D) to (n, W) of unit length, zeros for zeros."""
        reduced = unit_or_zero(((vectors - self.mean) @ self.axes).astype(np.float32))
        reduced[~vectors.any(axis=1)] = 0.0
        return reduced


FLOOR = 1e-3  # of the largest variance: what varies less is not blown up to noise


def fit_pca(vectors: Vectors, width: int, *, whitening: float = 1.0, seed: int = 0) -> Reduction:
    """The principal components; whitened, each counts the same however much varies along it.

    vectors    (n, D) float32, finite, n > width
    whitening  0 none, 1 all, between them a power of the spectrum

    Raises CannotReduce. Source: Tipping, Bishop, Neural Computation 1999; as sklearn.decomposition.PCA has it.
    """
    _check(vectors, width, most=min(len(vectors) - 1, vectors.shape[1]))
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]

    fitted = PCA(width, random_state=seed).fit(vectors)
    largest = max(float(fitted.explained_variance_[0]), 1e-12)  # all the same: zeros, not a division by nothing
    variances, scale = fitted.explained_variance_ / largest, np.sqrt(largest) ** whitening
    axes = fitted.components_.T / (scale * (variances + FLOOR) ** (whitening / 2))
    return Reduction(fitted.mean_.astype(np.float32), axes.astype(np.float32))


def principal_axes(vectors: Vectors, width: int) -> Vectors:
    """(D, W) orthonormal, along which the vectors (n, D) are longest; W is the width, or D where that is less.

    No mean is taken off, as fit_pca does it: so a linear map of what is left is one of the whole vectors.
    """
    squares = vectors.astype(np.float64).T @ vectors.astype(np.float64)
    axes: Vectors = np.linalg.eigh(squares)[1][:, ::-1][:, :width].astype(np.float32)
    return axes


def fit_lda(vectors: Vectors, categories: Sequence[str], width: int) -> Reduction:
    """The directions along which categories differ most, measured by how much their own products differ.

    vectors     (n, D) float32, finite
    categories  n names; products of none, and the only ones of theirs, teach nothing

    Raises CannotReduce: C categories leave C - 1 directions. Source: Fisher, Annals of Eugenics 1936; as
    sklearn.discriminant_analysis.LinearDiscriminantAnalysis has it, its covariance shrunk (Ledoit, Wolf 2004).
    """
    sizes = Counter(categories)
    teaches = np.array([name != "" and sizes[name] > 1 for name in categories], np.bool_)
    names = [name for name, taught in zip(categories, teaches.tolist(), strict=True) if taught]
    _check(vectors[teaches], width, most=len(set(names)) - 1)
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # type: ignore[import-untyped]

    fitted = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(vectors[teaches], names)
    axes = fitted.scalings_[:, :width]
    return Reduction(vectors[teaches].mean(axis=0), axes.astype(np.float32))


def _check(vectors: Vectors, width: int, *, most: int) -> None:
    if not np.isfinite(vectors).all():
        raise CannotReduce("a vector is not finite: encode the products again")
    if not 1 <= width <= most:
        raise CannotReduce(
            f"{len(vectors)} vectors leave at most {max(0, most)} directions, {width} are asked for: take fewer"
        )
