"""What a version that attends to tokens makes of products: by a score alone, or by the cross-modal encoder.

    sequences.score   (1,) a place in encoders.fusion.SCORES        sequences.matrix  (D, D) or (D,), of the learned one
    cross_modal....   the state of encoders.cross_modal.CrossModalEncoder, of whole regions

Shapes: B products, R places of all their pictures, S word pieces, C facts, V and T widths. Imports torch only for the
cross-modal encoder, and not before there is one.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import SCORES, Fusion, Score
from encoders.product_tokens import ProductTokens
from encoders.sequences import Attended, SequenceFusion, TokenSet, padded
from encoders.weights import ATTRIBUTES_RECIPE

if TYPE_CHECKING:
    from encoders.cross_modal import CrossModalEncoder

Vectors = NDArray[np.float32]
SEQUENCES, CROSS_MODAL = "sequences.", "cross_modal."
RECIPES = {  # the tokens and the forward pass; change the fingerprint when they change
    SEQUENCES: "tokens 1, attention over sequences 1",
    CROSS_MODAL: "tokens 1, cross-modal encoder 1",
}


def score_of(state: Mapping[str, Vectors]) -> Score:
    """The score of a state under SEQUENCES. Raises KeyError, ValueError for what is none."""
    told = state["score"]
    if told.shape != (1,) or float(told[0]) not in range(len(SCORES)):
        raise ValueError(f"the score is {told.tolist()}: write the place of one in {', '.join(SCORES)}")
    return SCORES[int(told[0])]


def sequences_state(score: Score, matrix: Vectors | None = None) -> dict[str, Vectors]:
    """The inverse: what a version keeps, by name."""
    state = {"score": np.array([SCORES.index(score)], np.float32)}
    return state if matrix is None else {**state, "matrix": matrix}


class TokenFusion:
    """One of the two; the cross-modal encoder reads no facts. One thread at a time may use it."""

    def __init__(
        self, widths: Mapping[str, int], *, sequences: SequenceFusion | None, cross: "CrossModalEncoder | None"
    ) -> None:
        self._widths, self.sequences, self._cross = widths, sequences, cross

    def fuse(self, products: Sequence[ProductTokens]) -> Attended:
        """The fused vectors and the weight of every token, the same whatever else is in the batch.

        Raises OtherShape if the pictures' grid is not the encoder's, FloatingPointError if a result is not finite.
        """
        image = padded([product.image for product in products], self._widths["image"])
        text = padded([product.text for product in products], self._widths["text"])
        facts = padded([product.attributes for product in products], ATTRIBUTES_RECIPE.width)
        if self.sequences is not None:
            return self.sequences.fuse(image, text, facts)
        assert self._cross is not None
        places = self._cross.shape.rows * self._cross.shape.columns
        laid = [None if product.image is None else laid_over(product.image, product.grid) for product in products]
        merged = padded(laid, self._widths["image"], places)
        found = self._cross.encode(merged, text)
        weights = np.zeros_like(image.shares)  # (B, R)
        for row, product in enumerate(products):
            if product.image is not None:
                pictures = product.grid[0]
                own = product.image.shares.reshape(pictures, -1)
                weights[row, : own.size] = (found.image[row] * own / own.sum(axis=0)).ravel()
        return Attended(found.vectors, weights, found.text, np.zeros_like(facts.shares))


def token_fusion(arrays: Mapping[str, Vectors], widths: Mapping[str, int], device: str = "cpu") -> TokenFusion | None:
    """The fusion of a version's arrays; None if it has none that attends to tokens. As Version has checked them."""
    of = {prefix: under(arrays, prefix) for prefix in (SEQUENCES, CROSS_MODAL)}
    if own := of[CROSS_MODAL]:
        from encoders.cross_modal import CrossModalEncoder

        return TokenFusion(widths, sequences=None, cross=CrossModalEncoder.from_state(own).to(device))
    if own := of[SEQUENCES]:
        fusion = SequenceFusion(Fusion(widths, score=score_of(own), matrix=own.get("matrix")))
        return TokenFusion(widths, sequences=fusion, cross=None)
    return None


def under(arrays: Mapping[str, Vectors], prefix: str) -> dict[str, Vectors]:
    """The arrays whose names begin so, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def laid_over(image: TokenSet, grid: tuple[int, int, int]) -> TokenSet:
    """The places of several pictures as those of one: means by share, so that they pool to the same vector."""
    shares = image.shares.reshape(grid[0], -1)  # (pictures, places)
    states = image.states.reshape(*shares.shape, -1)
    sums = shares.sum(axis=0)
    means = np.einsum("pr,prv->rv", shares, states) / sums[:, None]
    return TokenSet(means.astype(np.float32), sums)
