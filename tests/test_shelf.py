"""The shelf: records in, aligned arrays out, never turned back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelves import factors, offer, vectors, weights

from streams.shelf import Shelf


def test_a_product_has_one_row_for_offer_vector_and_factors() -> None:
    shelf = Shelf()
    shelf.put_offer(b"lamp", offer(title="Brass lamp"), ())
    shelf.put_vectors(b"lamp", vectors([0.6, 0.8]), ())
    shelf.put_factors(b"lamp", factors([1.0, 2.0, 3.0], bias=0.5, clicks=7), ())
    row = shelf.rows["lamp"]
    assert (shelf.titles[row], shelf.listable[row], shelf.clicks[row]) == ("Brass lamp", True, 7)
    np.testing.assert_array_equal(shelf.fused[row], np.array([0.6, 0.8], np.float32))
    np.testing.assert_array_equal(shelf.context[row], np.array([1, 2, 3], np.float32))


def test_what_sold_out_is_not_listable() -> None:
    shelf = Shelf()
    shelf.put_offer(b"lamp", offer(1), ())
    shelf.put_offer(b"lamp", offer(2, state="sold_out"), ())
    assert not shelf.listable[shelf.rows["lamp"]]


def test_an_older_offer_does_not_bring_back_what_was_deleted() -> None:
    shelf = Shelf()
    shelf.put_offer(b"lamp", offer(4), ())
    shelf.put_offer(b"lamp", None, [("revision", b"5")])
    shelf.put_offer(b"lamp", offer(4), ())
    assert not shelf.listable.any()
    shelf.put_offer(b"lamp", offer(6), ())
    assert shelf.listable[shelf.rows["lamp"]]


def test_a_late_delete_does_not_take_what_came_back() -> None:
    shelf = Shelf()
    shelf.put_offer(b"lamp", offer(6), ())
    shelf.put_offer(b"lamp", None, [("revision", b"5")])
    assert shelf.listable[shelf.rows["lamp"]]


def test_a_row_is_given_away_only_when_nothing_is_left_of_its_product() -> None:
    shelf = Shelf()
    shelf.put_offer(b"lamp", offer(1), ())
    shelf.put_factors(b"lamp", factors([1.0], clicks=9), ())
    row = shelf.rows["lamp"]
    shelf.put_offer(b"lamp", None, [("revision", b"2")])
    assert shelf.rows["lamp"] == row
    shelf.put_factors(b"lamp", None, ())
    assert "lamp" not in shelf.rows
    assert shelf.product_ids[row] is None
    # Rows are swept together, so that it takes some more of them.
    for number in range(1_000):
        name = f"rug-{number}"
        shelf.put_offer(name.encode(), offer(1, title="Rug"), ())
        if shelf.rows[name] == row:
            break
        shelf.put_offer(name.encode(), None, [("revision", b"2")])
    assert shelf.rows[name] == row
    assert shelf.clicks[row] == 0
    assert not shelf.has_factors[row]


def test_factors_of_an_older_learner_are_dropped() -> None:
    shelf = Shelf()
    shelf.put_factors(b"lamp", factors([2.0], epoch=2, sequence=1), ())
    shelf.put_factors(b"lamp", factors([1.0], epoch=1, sequence=9), ())
    assert shelf.context[shelf.rows["lamp"], 0] == 2.0


def test_weights_take_the_shape_of_their_factors() -> None:
    shelf = Shelf()
    shelf.put_weights(b"next-click", weights(3, positions=4, sequence=7), ())
    shelf.put_weights(b"next-click", weights(3, positions=4, sequence=6), ())
    assert shelf.weights is not None
    assert shelf.weights.position_weights.shape == (4, 3)
    assert shelf.weights_version == (1, 7)


@pytest.mark.parametrize("products", [1, 1_500])
def test_rows_keep_their_values_when_the_arrays_grow(products: int) -> None:
    shelf = Shelf()
    for number in range(products):
        shelf.put_factors(b"p%d" % number, factors([number], clicks=number), ())
    assert shelf.context[:products, 0].tolist() == list(range(products))
    assert shelf.clicks[:products].tolist() == list(range(products))


@given(st.permutations(range(1, 8)), st.integers(1, 7))
def test_whatever_the_order_the_highest_revision_stays(order: list[int], deleted: int) -> None:
    shelf = Shelf()
    for revision in order:
        if revision == deleted:
            shelf.put_offer(b"lamp", None, [("revision", str(revision).encode())])
        else:
            shelf.put_offer(b"lamp", offer(revision, title=f"revision {revision}"), ())
    row = shelf.rows.get("lamp")
    if deleted == 7:
        assert row is None or not shelf.listable[row]
    else:
        assert row is not None
        assert shelf.titles[row] == "revision 7"
        assert shelf.listable[row]
