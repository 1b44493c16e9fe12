"""A product's pictures, words and facts as the tokens that fusion over sequences attends to, and where each stands."""

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.attributes import Fact
from encoders.image import Regions
from encoders.sequences import TokenSet, fact_tokens, part_tokens, region_tokens
from encoders.text import Tokens
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
    """Tokens of each modality; None where one is missing."""

    image: TokenSet | None  # the places of the first picture row by row, then those of the second
    grid: tuple[int, int, int]  # pictures, rows and columns of the places
    text: TokenSet | None
    pieces: list[Piece]  # one for each token of the text
    attributes: TokenSet | None
    facts: list[Fact]  # one for each token of the attributes, each fact once


def product_tokens(
    batch: "Sequence[ProductContent]", regions: Regions, centre: Vectors, read: Sequence[Tokens | None]
) -> list[ProductTokens]:
    """The tokens of each product, in the batch's order, the same whatever else is in the batch.

    regions  of all pictures of the batch, in its order
    centre   (V,) of the encoder that saw them
    read     of the products' texts, then of their details

    Marks of beginning and end, which are no word of the product, are left out. Raises FloatingPointError.
    """
    states = iter(regions.states)
    found = []
    for product, headline, details in zip(batch, read[: len(batch)], read[len(batch) :], strict=True):
        image = region_tokens(list(islice(states, len(product.pictures))), centre)
        parts, pieces = [], []
        for is_detail, tokens, weight in ((False, headline, 1.0), (True, details, TEXT_RECIPE.details_weight)):
            words, spans = _without_marks(tokens)
            if len(words):
                parts.append((words, weight))
                pieces += [Piece(is_detail, begin, end) for begin, end in spans.tolist()]
        grid = (len(product.pictures), regions.rows, regions.columns)
        facts = sorted(set(product.facts))
        found.append(ProductTokens(image, grid, part_tokens(parts), pieces, fact_tokens(facts), facts))
    return found


def _without_marks(tokens: Tokens | None) -> tuple[Vectors, NDArray[np.int64]]:
    if tokens is None:
        return np.zeros((0, 0), np.float32), np.zeros((0, 2), np.int64)
    words = tokens.spans[:, 1] > tokens.spans[:, 0]
    return tokens.states[words], tokens.spans[words]
