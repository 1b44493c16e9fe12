"""What is asked for as filters, and which offers of a shelf meet it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from shelves import offer

from store.conditions import Conditions, PriceRange
from streams.filters import BadQuery, Filters
from streams.shelf import Shelf


def test_filters_come_to_conditions_and_attributes_may_stand_in_an_address() -> None:
    told = {"brand": "Lux", "price_max": "9.5", "attributes.colour": "red", "attributes[size]": "M"}
    attributes = (("colour", "red"), ("size", "M"))
    expected = Conditions("Lux", price=PriceRange("EUR", None, 9.5), attributes=attributes)
    assert Filters.model_validate(told).conditions(lambda: ["EUR"]) == expected
    in_a_body = Filters(brand="Lux", price_max=9.5, attributes={"size": "M", "colour": "red"})
    assert in_a_body.conditions(lambda: ["EUR"]) == expected


def test_currencies_are_looked_up_only_where_a_price_counts() -> None:
    def fail() -> list[str]:
        raise AssertionError

    assert Filters(category="Lamps").conditions(fail) == Conditions(category="Lamps")


@pytest.mark.parametrize(
    ("told", "known", "reason"),
    [
        ({"price_min": 2, "price_max": 1}, ["EUR"], "price_min 2 is above price_max 1: exchange them"),
        ({"price_min": 2}, ["USD", "EUR"], "prices are in EUR, USD: say in which with currency"),
        ({"price_min": 2}, [], "prices are in none: say in which with currency"),
        ({"currency": "JPY"}, ["EUR"], "no product has its price in JPY: there are EUR"),
    ],
)
def test_a_price_that_cannot_be_meant_says_what_to_change(
    told: Mapping[str, Any], known: list[str], reason: str
) -> None:
    with pytest.raises(BadQuery, match=reason):
        Filters(**told).conditions(lambda: known)


@pytest.mark.parametrize(
    "told", [{"price_mni": 2}, {'attributes.a"b': "x"}, {"attributes.a\\b": "x"}, {"attributes": "red"}]
)
def test_a_misspelled_filter_is_refused(told: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Filters.model_validate(told)


# --- on a shelf --------------------------------------------------------------------------------------------------


def met(shelf: Shelf, conditions: Conditions) -> set[str]:
    assert shelf.offers is not None
    found = shelf.listable & shelf.offers.meeting(conditions)
    return {product_id for row in np.flatnonzero(found) if (product_id := shelf.product_ids[row]) is not None}


def test_an_offer_is_told_as_it_came_last_and_not_at_all_once_it_is_gone() -> None:
    shelf = Shelf()
    offers = shelf.keep_offers()
    lamp = {"category": ["Home", "Lamps"], "price": {"amount": 19.99, "currency": "EUR"}, "availability": "preorder"}
    links = ["https://x/1", "https://x/2"]
    shelf.put_offer(b"lamp", offer(brand="Lux", image_links=links, attributes={"colour": "red"}, **lamp), ())
    row = shelf.rows["lamp"]
    assert offers.told(row) == {"brand": "Lux", "image_link": "https://x/1", **lamp}
    assert list(offers.currencies()) == ["EUR"]
    red = Conditions(attributes=(("colour", "red"),))
    assert met(shelf, red) == {"lamp"}
    shelf.put_offer(b"lamp", offer(2, attributes={"colour": "blue"}), ())
    assert offers.told(row) == {
        "brand": None, "category": [], "price": None, "availability": "in_stock", "image_link": None
    }  # fmt: skip
    assert (met(shelf, red), list(offers.currencies())) == (set(), [])
    shelf.put_offer(b"lamp", None, [("revision", b"3")])
    shelf.put_offer(b"rug", offer(), ())
    assert met(shelf, Conditions(attributes=(("colour", "blue"),))) == set()
    assert met(shelf, Conditions()) == {"rug"}


def test_a_shelf_that_has_products_cannot_begin_to_keep_offers() -> None:
    shelf = Shelf()
    shelf.put_offer(b"lamp", offer(), ())
    with pytest.raises(AssertionError, match="not known any more"):
        shelf.keep_offers()


def any_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([*values, None])


OFFERS = st.fixed_dictionaries(
    {
        "brand": any_of("Lux", "Nord"),
        "category": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
        "price": st.none()
        | st.fixed_dictionaries({"amount": st.integers(0, 9), "currency": st.sampled_from(["EUR", "USD"])}),
        "availability": st.sampled_from(["in_stock", "preorder"]),
        "attributes": st.dictionaries(st.sampled_from("xy"), st.sampled_from("12")),
    }
)
CONDITIONS = st.builds(
    Conditions,
    any_of("Lux", "Nord", "Other"),
    any_of("a", "c", "d"),
    any_of("preorder", "backorder"),
    st.none() | st.builds(PriceRange, st.sampled_from(["EUR", "USD", "JPY"]), any_of(3.0, 5.0), any_of(5.0, 8.0)),
    st.dictionaries(st.sampled_from("xyz"), st.sampled_from("12"), max_size=2).map(lambda one: tuple(one.items())),
)


def meets(one: Mapping[str, Any], conditions: Conditions) -> bool:
    price, wanted = one["price"], conditions.price
    return (
        conditions.brand in (None, one["brand"])
        and (conditions.category is None or conditions.category in one["category"])
        and conditions.availability in (None, one["availability"])
        and (
            wanted is None
            or (
                price is not None
                and price["currency"] == wanted.currency
                and (wanted.lowest is None or price["amount"] >= wanted.lowest)
                and (wanted.highest is None or price["amount"] <= wanted.highest)
            )
        )
        and all(one["attributes"].get(name) == value for name, value in conditions.attributes)
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.none() | OFFERS), max_size=12), CONDITIONS)
def test_whatever_came_and_went_exactly_those_are_met_whose_last_offer_meets_all(
    puts: list[tuple[int, Any]], conditions: Conditions
) -> None:
    shelf, last = Shelf(), {}
    shelf.keep_offers()
    for revision, (number, fields) in enumerate(puts):
        key = f"p{number}"
        if fields is None:
            shelf.put_offer(key.encode(), None, [("revision", str(revision).encode())])
            last.pop(key, None)
        else:
            shelf.put_offer(key.encode(), offer(revision + 1, **fields), ())
            last[key] = fields
    assert met(shelf, conditions) == {key for key, fields in last.items() if meets(fields, conditions)}


@pytest.mark.parametrize("told", [None, "red", {"size": "S"}])
def test_attributes_told_in_two_ways_are_refused(told: object) -> None:
    with pytest.raises(ValidationError, match="attributes: tell them in one way"):
        Filters.model_validate({"attributes": told, "attributes.colour": "red"})
    with pytest.raises(ValidationError, match="attributes: tell them in one way"):
        Filters.model_validate({"attributes[colour]": "red", "attributes.colour": "red"})
