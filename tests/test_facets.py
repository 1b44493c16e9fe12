"""Facets: what is counted is what a search under that value finds."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.conditions import Conditions, PriceRange
from streams.facets import PRICE_RANGES, VALUES_MAX, count_facets
from streams.shelf_offers import ShelfOffers

PRICES = st.none() | st.builds(
    lambda amount, currency: {"amount": float(amount), "currency": currency},
    st.integers(0, 12),
    st.sampled_from(["EUR", "USD"]),
)
OFFERS = st.fixed_dictionaries(
    {
        "title": st.just("A thing"),
        "brand": st.sampled_from([None, "Lux", "Nord"]),
        "category": st.sampled_from([[], ["All"], ["All", "Lamps"], ["All", "All"]]),
        "availability": st.sampled_from(["in_stock", "preorder"]),
        "price": PRICES,
    }
)


def offers_of(values: list[dict[str, Any]]) -> ShelfOffers:
    offers = ShelfOffers()
    offers.grow(max(1, len(values)))
    for row, value in enumerate(values):
        offers.put(row, value)
    return offers


def test_eight_prices_are_four_ranges_of_two_and_equal_ones_stay_together() -> None:
    prices = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0]
    values = [{"title": "A", "price": {"amount": amount, "currency": "EUR"}} for amount in prices]
    ranges = count_facets(offers_of(values), np.arange(8, dtype=np.int32), ["price"])["price"]
    assert [(one["price_min"], one["price_max"], one["count"]) for one in ranges] == [
        (10.0, 20.0, 2), (30.0, 40.0, 2), (50.0, 60.0, 2), (70.0, 80.0, 2),
    ]  # fmt: skip
    same = [{"title": "A", "price": {"amount": 5.0, "currency": "EUR"}}] * 6 + values[:2]
    ranges = count_facets(offers_of(same), np.arange(8, dtype=np.int32), ["price"])["price"]
    assert [(one["price_min"], one["price_max"], one["count"]) for one in ranges] == [(5.0, 5.0, 6), (10.0, 20.0, 2)]


def test_of_many_values_the_commonest_are_told() -> None:
    values = [{"title": "A", "brand": f"brand {n:03}"} for n in range(VALUES_MAX + 5)] + [
        {"title": "A", "brand": "z"}
    ] * 2
    told = count_facets(offers_of(values), np.arange(len(values), dtype=np.int32), ["brand"])["brand"]
    assert (len(told), told[0], told[1]) == (
        VALUES_MAX, {"value": "z", "count": 2}, {"value": "brand 000", "count": 1},
    )  # fmt: skip


@given(st.lists(OFFERS, max_size=20), st.data())
def test_each_count_is_that_of_the_products_which_the_value_as_a_condition_leaves(
    values: list[dict[str, Any]], data: st.DataObject
) -> None:
    offers = offers_of(values)
    chosen = data.draw(st.sets(st.integers(0, len(values) - 1))) if values else set()
    rows = np.array(sorted(chosen), np.int32)
    facets = count_facets(offers, rows, ["brand", "category", "availability", "price", "brand"])
    for name in ("brand", "category", "availability"):
        for one in facets[name]:
            left = offers.meeting(Conditions(**{name: one["value"]}))
            assert one["count"] == int(left[rows].sum()) > 0
    brands = Counter(values[row]["brand"] for row in chosen if values[row]["brand"])
    assert {one["value"]: one["count"] for one in facets["brand"]} == brands
    for one in facets["price"]:
        price = PriceRange(one["currency"], one["price_min"], one["price_max"])
        assert one["count"] == int(offers.meeting(Conditions(price=price))[rows].sum()) > 0
    assert sum(one["count"] for one in facets["price"]) == sum(values[row]["price"] is not None for row in chosen)
    assert all(n <= PRICE_RANGES for n in Counter(one["currency"] for one in facets["price"]).values())
