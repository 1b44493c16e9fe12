"""What a shop says of a product in fields, as a vector: category, brand, price band and attributes.

Each fact has a code of its own, A random signs drawn from its hash, and a product is the sum of its facts' codes. So
products are as alike as they share facts, new facts need no table, and every machine draws the same.
Source: random indexing (Kanerva, Kristofersson, Holst, CogSci 2000); codes by hashing as in Weinberger and others,
Feature Hashing for Large Scale Multitask Learning, ICML 2009.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.weights import ATTRIBUTES_RECIPE, AttributesRecipe

Vectors = NDArray[np.float32]


class Fact(NamedTuple):
    """One thing that is known."""

    name: str
    kind: str  # category, brand, price or attribute


def product_facts(
    *,
    category: Sequence[str] = (),
    brand: str | None = None,
    attributes: Mapping[str, str] | None = None,
    price_band: int | None = None,
) -> tuple[Fact, ...]:
    """The facts of a product with these fields.

    category    from the widest to the narrowest: each beginning of the path is a fact
    price_band  as price_band() has it; neighbouring bands share one of their two facts
    """
    paths = [" > ".join(category[: depth + 1]) for depth in range(len(category))]
    facts = [Fact(f"category: {path}", "category") for path in paths]
    facts += [Fact(f"brand: {brand}", "brand")] if brand else []
    facts += [Fact(f"{name}: {value}", "attribute") for name, value in (attributes or {}).items()]
    if price_band is not None:
        facts += [Fact(f"price band: {band}", "price") for band in (price_band, price_band + 1)]
    return tuple(facts)


def price_band(amount: float | None, recipe: AttributesRecipe = ATTRIBUTES_RECIPE) -> int | None:
    """The band of an amount of money: bands are a factor of the recipe wide.

    None for no price, for 0 and for what is not finite.
    """
    if amount is None or not math.isfinite(amount) or amount <= 0:
        return None
    return math.floor(math.log(amount) / math.log(recipe.price_factor))


def encode_facts(products: Sequence[Sequence[Fact]], recipe: AttributesRecipe = ATTRIBUTES_RECIPE) -> Vectors:
    """(B, A) float32 of unit length, zeros where nothing is known; in whatever order the facts come."""
    weights = {
        "category": recipe.category_weight,
        "brand": recipe.brand_weight,
        "price": recipe.price_weight,
        "attribute": recipe.attribute_weight,
    }
    vectors = np.zeros((len(products), recipe.width), np.float32)
    for vector, facts in zip(vectors, products, strict=True):
        for fact in sorted(set(facts)):
            vector += weights[fact.kind] * _code(fact.name, recipe.width)
        if facts:
            vector /= max(float(np.linalg.norm(vector)), 1e-12)
    return vectors


def _code(name: str, width: int) -> Vectors:
    """(A,) signs that hang on the name alone."""
    bits = np.frombuffer(hashlib.shake_128(name.encode()).digest((width + 7) // 8), np.uint8)
    signs: Vectors = (2.0 * np.unpackbits(bits)[:width] - 1.0).astype(np.float32)
    return signs
