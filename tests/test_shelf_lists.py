"""Lists from the shelf alone, of products that are few enough to work it out by hand."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelves import FullReplica, factors, neighbours, offer, stage, vectors

from encoders.reciprocal_rank import fuse_values
from encoders.trends import Trends, faded, rising
from store.vectors import UnknownProduct
from streams.filters import PageQuery
from streams.shelf import Shelf
from streams.shelf_lists import ShelfLists, UnknownBrand, first_of


def lists_of(shelf: Shelf) -> ShelfLists:
    return ShelfLists(shelf, FullReplica().check, keeps_one=True)


def ids(items: list[dict[str, Any]]) -> list[str]:
    return [item["product_id"] for item in items]


def clicked(shelf: Shelf, product_id: str, lately: float, recently: float, counted_at: int = 0) -> None:
    record = orjson.loads(factors([1.0], clicks=int(recently))) | {"lately": [lately, recently]}
    shelf.put_factors(product_id.encode(), orjson.dumps(record | {"counted_at": counted_at}), ())


# --- what is clicked, what is new --------------------------------------------------------------------------------


def test_a_count_fades_by_half_in_its_half_life_and_what_rises_is_beyond_the_longer_run() -> None:
    trends = Trends(np.array([[8, 8], [1, 10]], np.float32), np.array([0, 200]))
    np.testing.assert_allclose(faded(trends, np.array([0, 1], np.int32), 200), [[4, 8 * 2**-0.1], [1, 10]], rtol=1e-6)
    # Of 30 clicks with the half-life of 2,000, 3 are expected with that of 200: 7 are 4 more, and sqrt(3 + 1) is 2.
    np.testing.assert_allclose(rising(np.array([[7, 30], [3, 30], [0, 30]], np.float32)), [2, 0, -1.5])


def test_trending_is_what_rises_then_what_is_clicked_and_is_only_for_sale() -> None:
    shelf = Shelf()
    lists = lists_of(shelf)
    for at, product_id in enumerate(("steady", "rising", "gone", "quiet", "new")):
        shelf.put_offer(product_id.encode(), offer(title=product_id, created_at=at, brand="B" * (at % 2)), ())
    clicked(shelf, "steady", 20, 200)
    clicked(shelf, "rising", 8, 10)
    clicked(shelf, "gone", 99, 99)
    shelf.put_offer(b"gone", offer(2, state="sold_out"), ())
    items = lists.trending(PageQuery())
    assert ids(items) == ["rising", "steady", "new", "quiet"]
    assert [items[0]["score"], items[0]["clicks_lately"]] == pytest.approx([7 / 2**0.5, 8], abs=1e-5)
    assert ids(lists.trending(PageQuery(limit=2))) == ["rising", "steady"]
    assert ids(lists.trending(PageQuery(brand="B"))) == ["rising", "quiet"], "the page is filled from what passes"


def test_new_is_what_came_last_of_each_that_is_listed_twice_one() -> None:
    shelf = Shelf()
    lists = lists_of(shelf)
    for at, product_id in enumerate(("old", "twin", "other twin", "young")):
        title = "Brass lamp No 7" if "twin" in product_id else product_id
        shelf.put_offer(product_id.encode(), offer(title=title, created_at=at, brand="Lux"), ())
        shelf.put_vectors(product_id.encode(), vectors([1.0, 0.0], picture=b""), ())
    assert ids(lists.new(PageQuery(limit=3))) == ["young", "other twin", "old"]
    assert lists.new(PageQuery(limit=1))[0]["created_at"] == 3.0


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30),
    st.integers(1, 40),
)
def test_the_first_by_keys_are_those_that_a_sort_of_all_gives(pairs: list[tuple[int, int]], count: int) -> None:
    keys = [np.array([pair[at] for pair in pairs], np.float32) for at in range(2)]
    expected = sorted(range(len(pairs)), key=lambda at: (-pairs[at][0], -pairs[at][1], at))[:count]
    assert first_of(count, keys).tolist() == expected


# --- other brands ------------------------------------------------------------------------------------------------


def test_orders_are_fused_by_the_places_in_them() -> None:
    nan = np.float32(np.nan)
    fused = fuse_values(np.array([0.9, 0.8, nan, nan], np.float32), np.array([0.2, nan, 0.3, nan], np.float32))
    np.testing.assert_allclose(fused, [(1 + 61 / 62) / 2, 61 / 62 / 2, 1 / 2, 0], rtol=1e-6)
    np.testing.assert_allclose(fuse_values(np.array([5, 5, 1], np.float32)), [1, 1, 61 / 62], rtol=1e-6)


@pytest.fixture
def shelf() -> Shelf:
    """A lamp of Lux, and others that are more or less like it."""
    shelf = Shelf()
    shelf.keep_offers()
    products = {
        "lamp": ("Lux", [1.0, 0.0]),
        "same brand": ("LUX ", [1.0, 0.01]),
        "alike": ("Nord", [0.9, 0.1]),
        "clicked": ("Ost", [-1.0, 0.0]),
        "both": ("Nord", [0.8, 0.2]),
        "no brand": (None, [1.0, 0.0]),
        "far": ("Sud", [-0.9, 0.1]),
        "sold out": ("Nord", [1.0, 0.0]),
    }
    for product_id, (brand, fused) in products.items():
        state = "sold_out" if product_id == "sold out" else "listable"
        shelf.put_offer(product_id.encode(), offer(title=product_id, brand=brand, state=state), ())
        shelf.put_vectors(product_id.encode(), vectors(fused), ())
    shelf.put_neighbours(b"lamp", neighbours({}, {"clicked": 0.5, "both": 0.25, "same brand": 0.2}), ())
    shelf.put_weights(b"second-stage", stage(), ())
    return shelf


def test_across_brands_come_products_of_others_by_likeness_and_clicks_alike(shelf: Shelf) -> None:
    items = lists_of(shelf).across_brands("lamp", PageQuery())
    assert ids(items) == ["both", "clicked", "alike", "far"]
    both, clicked, alike, _ = items
    assert both["score"] == pytest.approx(61 / 62, abs=1e-6), "second in both orders"
    assert both["cosine"] == pytest.approx(0.8 / np.hypot(0.8, 0.2), abs=1e-5)
    assert (both["share"], alike["share"], clicked["share"]) == (0.25, 0.0, 0.5)
    assert both["offer"]["brand"] == "Nord"
    assert ids(lists_of(shelf).across_brands("lamp", PageQuery(brand="Nord"))) == ["both", "alike"]


def test_what_has_no_brand_goes_with_products_of_any(shelf: Shelf) -> None:
    items = lists_of(shelf).across_brands("no brand", PageQuery(limit=2))
    assert ids(items) == ["lamp", "same brand"]


def test_a_product_without_a_vector_goes_with_what_is_clicked_together_with_it(shelf: Shelf) -> None:
    shelf.put_vectors(b"lamp", None, ())
    items = lists_of(shelf).across_brands("lamp", PageQuery())
    assert [(item["product_id"], item["cosine"]) for item in items] == [("clicked", None), ("both", None)]


def test_related_brands_are_those_whose_products_go_with_this_brands(shelf: Shelf) -> None:
    brands = lists_of(shelf).related_brands("lux", 9)
    assert [one["brand"] for one in brands] == ["Nord", "Ost", "Sud"]
    assert [one["products"] for one in brands] == [2, 1, 1], "only what is for sale"
    assert [one["share"] for one in brands] == [0.125, 0.25, 0.0], "of two products, of which one has neighbours"
    assert brands[0]["cosine"] > 0.0 > brands[2]["cosine"]


def test_what_nobody_offers_is_unknown(shelf: Shelf) -> None:
    with pytest.raises(UnknownBrand, match="Never"):
        lists_of(shelf).related_brands("Never", 9)
    with pytest.raises(UnknownProduct, match="never"):
        lists_of(shelf).across_brands("never", PageQuery())
    with pytest.raises(UnknownProduct, match="never"):
        lists_of(shelf).neighbours("never", "next", PageQuery())


def test_neighbours_pass_the_filters(shelf: Shelf) -> None:
    lists = lists_of(shelf)
    assert ids(lists.neighbours("lamp", "together", PageQuery())) == ["clicked", "both", "same brand"]
    assert ids(lists.neighbours("lamp", "together", PageQuery(brand="Nord"))) == ["both"]
