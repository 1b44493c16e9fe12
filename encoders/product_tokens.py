"""A product's picture and words as the tokens that fusion over sequences attends to, and where each stands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.image import ImageEncoder
from encoders.sequences import TokenSet, region_tokens, word_tokens
from encoders.text import TextEncoder, Tokens
from encoders.weights import TEXT_RECIPE

if TYPE_CHECKING:
    from encoders.product import ProductContent

Vectors = NDArray[np.float32]


class Piece(NamedTuple):
    """Where a word piece stands."""

    is_detail: bool  # in ProductContent.details, else in its text
    begin: int  # characters
    end: int


class ProductTokens(NamedTuple):
    """Tokens of both modalities; None where one is missing."""

    image: TokenSet | None  # the places row by row
    grid: tuple[int, int]  # rows and columns of the places
    text: TokenSet | None
    pieces: list[Piece]  # one for each token of the text


def product_tokens(
    image_encoder: ImageEncoder, text_encoder: TextEncoder, batch: "Sequence[ProductContent]"
) -> list[ProductTokens]:
    """The tokens of each product, in the batch's order, the same whatever else is in the batch.

    Marks of beginning and end, which are no word of the product, are left out: with them the nearest product was of the
    same kind less often (.814 for .819, 1,000 products). Raises BadPicture, and FloatingPointError.
    """
    pictures = [product.picture for product in batch if product.picture is not None]
    regions = image_encoder.regions(pictures)
    states = iter(regions.states)
    read = text_encoder.tokens([product.text for product in batch] + [product.details for product in batch])
    found = []
    for product, headline, details in zip(batch, read[: len(batch)], read[len(batch) :], strict=True):
        image = None if product.picture is None else region_tokens(next(states), image_encoder.centre)
        parts, pieces = [], []
        for is_detail, tokens, weight in ((False, headline, 1.0), (True, details, TEXT_RECIPE.details_weight)):
            words, spans = _without_marks(tokens)
            if len(words):
                parts.append((words, weight))
                pieces += [Piece(is_detail, begin, end) for begin, end in spans.tolist()]
        grid = (0, 0) if image is None else (regions.rows, regions.columns)
        found.append(ProductTokens(image, grid, word_tokens(parts), pieces))
    return found


def _without_marks(tokens: Tokens | None) -> tuple[Vectors, NDArray[np.int64]]:
    if tokens is None:
        return np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64)
    words = tokens.spans[:, 1] > tokens.spans[:, 0]
    return tokens.states[words], tokens.spans[words]
