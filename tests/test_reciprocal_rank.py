"""Orders fused by reciprocal rank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.reciprocal_rank import fuse_ranks

ORDERS = st.lists(st.integers(0, 8), unique=True)


def test_of_two_orders_the_sums_are_those_worked_out_by_hand() -> None:
    """b: 1/62 + 1/61; a: 1/61; c: 1/62. The most that can be had is 2/61."""
    fused = fuse_ranks({"words": ["a", "b"], "vectors": ["b", "c"]}, {"words": 1.0, "vectors": 1.0})
    assert [(one.thing, one.ranks) for one in fused] == [
        ("b", {"words": 2, "vectors": 1}), ("a", {"words": 1}), ("c", {"vectors": 2}),
    ]  # fmt: skip
    expected = [(1 / 62 + 1 / 61) / (2 / 61), (1 / 61) / (2 / 61), (1 / 62) / (2 / 61)]
    assert [one.score for one in fused] == pytest.approx(expected)


def test_weights_decide_and_an_order_of_weight_0_is_left_out() -> None:
    orders = {"words": ["a", "b"], "vectors": ["b", "a"]}
    assert [one.thing for one in fuse_ranks(orders, {"words": 1.0, "vectors": 1.0})] == ["a", "b"]
    assert [one.thing for one in fuse_ranks(orders, {"words": 1.0, "vectors": 2.0})] == ["b", "a"]
    alone = fuse_ranks({**orders, "vectors": ["c"]}, {"words": 1.0, "vectors": 0.0})
    assert [(one.thing, one.score) for one in alone] == [("a", 1.0), ("b", pytest.approx(61 / 62))]
    assert fuse_ranks({}, {}) == fuse_ranks({"words": ["a"]}, {"words": 0.0}) == []


@given(ORDERS, ORDERS, st.floats(0.1, 10))
def test_everything_is_there_once_and_what_is_better_in_all_orders_stays_before(
    one: list[int], other: list[int], scale: float
) -> None:
    fused = fuse_ranks({"one": one, "other": other}, {"one": scale, "other": scale})
    places = {found.thing: place for place, found in enumerate(fused)}
    assert len(fused) == len(places)
    assert places.keys() == {*one, *other}
    assert all(0 < found.score <= 1 + 1e-12 for found in fused)
    for better in {*one} & {*other}:
        for worse in {*one} & {*other}:
            if one.index(better) < one.index(worse) and other.index(better) < other.index(worse):
                assert places[better] < places[worse]
    assert [f.thing for f in fuse_ranks({"one": one}, {"one": scale})] == one
