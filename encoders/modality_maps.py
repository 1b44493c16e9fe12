"""What a picture alone, or words alone, tell of the whole product: linear maps to where fused vectors lie.

    R = argmin |Y - X R|^2 + pull m |R|^2            X features, Y fused vectors, both centred; m = |X|^2 / V
    own = unit((x - mean) R P)                       P the softly whitened principal axes of X R

So the neighbours of a picture are those that its words and facts would have, too, as far as it shows them; and what has
been taught of whole products, by clicks or categories, is taught of each modality.
Sources: Hoerl, Kennard, Technometrics 1970; of reduced rank as in Izenman, Journal of Multivariate Analysis 1975; what
is known besides while learning as in Lopez-Paz and others, ICLR 2016 (generalized distillation).

Shapes: n products, A views of each picture, V and T widths of the features, D of the targets, W of what is left.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from encoders.reduction import CannotReduce, Reduction, fit_pca
from encoders.retrieval import unit_or_zero

Vectors = NDArray[np.float32]
WIDTHS = {"image": 192, "text": 128}  # at most
PULL = 0.03  # toward nothing: of the mean square of the features' values
WHITENING = 0.3
KIND_WIDTH = 256


class ModalityMaps(NamedTuple):
    """Both, as they are saved."""

    image: Reduction  # (V,) to its own vector
    text: Reduction  # (3 T,), encoders.taught_fusion.Words.joined, to its own vector

    def state(self) -> dict[str, Vectors]:
        """Arrays by name."""
        sides = self._asdict()
        return {f"{side}.{name}": array for side, own in sides.items() for name, array in own._asdict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Vectors]) -> Self:
        """The inverse of state. Raises KeyError for what is missing."""
        return cls(*(Reduction(*(state[f"{side}.{name}"] for name in Reduction._fields)) for side in cls._fields))


def fit_modality_maps(views: Vectors, words: Vectors, targets: Vectors) -> ModalityMaps:
    """The maps of these products.

    views    (A, n, V) float32, zeros where there is no picture: those teach nothing of pictures
    words    (n, 3 T) float32, zeros where there are none
    targets  (n, D) float32, zeros where nothing is known

    Raises CannotReduce below three products with a picture, or with words.
    """
    for name, features in (("a picture", views[0]), ("words", words)):
        if (count := int(features.any(axis=1).sum())) < 3:
            raise CannotReduce(f"{count} products have {name}: give at least 3")
    return ModalityMaps(
        _fitted(views.reshape(-1, views.shape[2]), np.tile(targets, (len(views), 1)), WIDTHS["image"]),
        _fitted(words, targets, WIDTHS["text"]),
    )


def with_kinds(targets: Vectors, kinds: NDArray[np.int64]) -> Vectors:
    """(n, D + KIND_WIDTH) the targets, and beside them a code of each product's kind, as long as a fused vector.

    kinds  (n,) numbers, below 0 for none: zeros

    Codes are random and nearly orthogonal, so that thousands of kinds cost no more than ten.
    """
    codes = np.random.default_rng(0).normal(size=(max(1, int(kinds.max(initial=0)) + 1), KIND_WIDTH))
    own = unit_or_zero(codes.astype(np.float32))[kinds] * (kinds >= 0)[:, None]
    return np.concatenate([targets, own], axis=1, dtype=np.float32)


def ridge(features: Vectors, targets: Vectors, pull: float = PULL) -> Vectors:
    """(V, D) the map of centred features (n, V) to centred targets (n, D) that errs least, pulled toward nothing.

    pull  > 0, beside the mean square of the features' values
    """
    centred = features - features.mean(axis=0)
    gram = (centred.T @ centred).astype(np.float64)
    gram[np.diag_indices_from(gram)] += max(pull * float(np.trace(gram)) / len(gram), 1e-12)
    found: Vectors = np.linalg.solve(gram, centred.T @ (targets - targets.mean(axis=0))).astype(np.float32)
    return found


def _fitted(features: Vectors, targets: Vectors, width: int) -> Reduction:
    known = features.any(axis=1) & targets.any(axis=1)
    features, targets = features[known], targets[known]
    mean, regression = features.mean(axis=0), ridge(features, targets)
    told = (features - mean) @ regression  # (n, D)
    axes = fit_pca(told, min(width, len(told) - 1, *regression.shape), whitening=WHITENING).axes
    return Reduction(mean, regression @ axes)
