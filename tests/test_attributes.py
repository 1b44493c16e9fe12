"""Facts of a product as a vector."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.attributes import Fact, encode_facts, price_band, product_facts
from encoders.weights import AttributesRecipe


def test_the_facts_of_a_product_are_its_path_its_brand_its_attributes_and_two_price_bands() -> None:
    facts = product_facts(category=["Home", "Lamps"], brand="Nord", attributes={"colour": "red"}, price_band=3)
    assert facts == (
        Fact("category: Home", "category"),
        Fact("category: Home > Lamps", "category"),
        Fact("brand: Nord", "brand"),
        Fact("colour: red", "attribute"),
        Fact("price band: 3", "price"),
        Fact("price band: 4", "price"),
    )


@pytest.mark.parametrize(
    ("amount", "band"),
    [(1.0, 0), (1.49, 0), (1.51, 1), (100.0, 11), (0.5, -2), (0.0, None), (None, None), (math.nan, None)],
)
def test_a_price_band_is_a_factor_wide(amount: float | None, band: int | None) -> None:
    assert price_band(amount) == band  # ln 100 / ln 1.5 = 11.36


def test_products_are_as_alike_as_the_facts_they_share() -> None:
    """With wide codes the cosine is the share: of 1, .5 and .2 (squared) all but the brand are shared."""
    recipe = AttributesRecipe(width=20_000)
    one = product_facts(category=["Lamps"], brand="Nord", attributes={"colour": "red"})
    other = product_facts(category=["Lamps"], brand="Süd", attributes={"colour": "red"})
    a, b, none = encode_facts([one, other, ()], recipe)
    expected = (1.0 + recipe.attribute_weight**2) / (1.0 + recipe.brand_weight**2 + recipe.attribute_weight**2)
    assert a @ b == pytest.approx(expected, abs=0.02)
    assert not none.any()


def test_neighbouring_price_bands_are_half_alike_and_distant_ones_not() -> None:
    recipe = AttributesRecipe(width=20_000)
    near, next_to, far = encode_facts([product_facts(price_band=band) for band in (3, 4, 9)], recipe)
    assert near @ next_to == pytest.approx(0.5, abs=0.03)
    assert near @ far == pytest.approx(0.0, abs=0.03)


@given(st.permutations(product_facts(category=["a", "b"], brand="c", attributes={"d": "e", "f": "g"}, price_band=1)))
def test_the_order_of_facts_changes_nothing_and_a_batch_equals_singles(facts: list[Fact]) -> None:
    straight = encode_facts([tuple(sorted(facts))])
    together = encode_facts([tuple(facts), ()])
    np.testing.assert_array_equal(together[:1], straight)
    assert np.linalg.norm(together[0]) == pytest.approx(1.0, abs=1e-6)


def test_codes_are_the_same_on_every_machine() -> None:
    (vector,) = encode_facts([(Fact("brand: Nord", "brand"),)])
    assert np.sign(vector[:12]).astype(int).tolist() == [-1, 1, 1, -1, 1, 1, -1, -1, 1, -1, -1, -1]
