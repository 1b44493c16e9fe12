"""Ranks, measures and comparisons: worked by hand, then against a plain reference."""

import math

import numpy as np
import pytest
from evaluation_models import Constant, Fixed, Forgetful, evaluated, stream_of
from hypothesis import given
from hypothesis import strategies as st

from streams.evaluation.comparison import compare, pairs
from streams.evaluation.measures import (
    LISTED,
    centred,
    judge,
    likeness_of,
    mean,
    measured,
    measured_by_history,
    value_of,
)
from streams.evaluation.prequential import ScoresBroken
from streams.evaluation.schedules import Plan

A_SHOP = ("A", "B", "C", "D")
NAN, INF = math.nan, math.inf


def judged(
    scores: list[float], excluded: list[int], target: int, clicks: list[int]
) -> tuple[float, float, int, list[int]]:
    """Rank, rank on the new shelf, place, and the first LISTED rows."""
    top = np.zeros(LISTED, np.int32)
    marks = np.zeros(len(scores), np.int64)
    rank, shelf_rank, place, listed = judge(
        np.array(scores, np.float32),
        np.array(excluded, np.int32),
        target,
        np.array(clicks, np.int32),
        marks,
        1,
        top,
    )
    return rank, shelf_rank, place, top[:listed].tolist()


# --- one list ----------------------------------------------------------------------------------------------------


def test_ties_count_half_and_excluded_products_do_not() -> None:
    scores, clicks = [3.0, 2.0, 2.0, 1.0], [9, 4, 1, 5]
    assert judged(scores, [], 2, clicks) == (2.5, 1.5, 3, [0, 1, 2, 3])
    assert judged(scores, [0], 2, clicks) == (1.5, 1.5, 2, [1, 2, 3])
    assert judged(scores, [0, 1], 2, clicks) == (1.0, 1.0, 1, [2, 3])
    rank, shelf_rank, place, _ = judged(scores, [], 3, clicks)
    assert (rank, place) == (4.0, 4)
    assert math.isnan(shelf_rank)  # it has 5 clicks


def test_without_a_target_there_is_a_list_all_the_same() -> None:
    assert judged([1.0, 2.0], [], -1, [0, 0]) == (INF, INF, 0, [1, 0])


def test_a_score_that_is_no_number_gives_no_rank() -> None:
    assert math.isnan(judged([1.0, NAN], [], 0, [0, 0])[0])


some_scores = st.lists(st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0, INF]), min_size=1, max_size=40)


@given(some_scores, st.data())
def test_ranks_are_those_of_a_plain_reference(scores: list[float], data: st.DataObject) -> None:
    rows = range(len(scores))
    target = data.draw(st.sampled_from(rows))
    excluded = data.draw(st.sets(st.sampled_from(rows))) - {target}
    clicks = data.draw(st.lists(st.integers(0, 8), min_size=len(scores), max_size=len(scores)))
    others = [row for row in rows if row not in excluded and row != target]

    def rank_among(rivals: list[int]) -> float:
        higher = sum(scores[row] > scores[target] for row in rivals)
        return 1 + higher + sum(scores[row] == scores[target] for row in rivals) / 2

    rank, shelf_rank, place, top = judged(scores, sorted(excluded), target, clicks)
    ordered = sorted([*others, target], key=lambda row: (-scores[row], row))
    assert rank == rank_among(others)
    assert place == 1 + ordered.index(target)
    assert top == ordered[:LISTED]
    if clicks[target] < 5:
        assert shelf_rank == rank_among([row for row in others if clicks[row] < 5])
    else:
        assert math.isnan(shelf_rank)


# --- five clicks on four products, worked by hand ----------------------------------------------------------------


def test_five_clicks_on_four_products() -> None:
    """Scores are A 1, B 1, C 2, D 0.5, and all four are known from the beginning."""
    stream = stream_of(
        [
            ("ann", "A", "view_item", 1),  # C above, B equal: 2.5
            ("ann", "A", "purchase", 2),  # a repeat
            ("ann", "C", "view_item", 3),  # A is excluded: 1
            ("bob", "B", "purchase", 4),  # C above, A equal: 2.5
            ("bob", "D", "view_item", 5),  # B is excluded, A and C above: 3
        ],
        catalog=A_SHOP,
    )
    standing = evaluated(Fixed([1.0, 1.0, 2.0, 0.5]), stream, Plan(warm_up=0.0, judged_list="both"))
    np.testing.assert_array_equal(standing.ranks, [2.5, NAN, 1, 2.5, 3])
    np.testing.assert_array_equal(standing.shelf_ranks, [2.5, NAN, 1, 2.5, 3])
    # The list on the topic: none before a first click; after ann's purchase B C D; after bob's C A D.
    np.testing.assert_array_equal(standing.published_ranks, [INF, NAN, 1, INF, 3])
    found = measured(standing.ranks, stream.users)
    assert found["events"] == 4
    assert found["hr_at_10"] == found["hr_at_20"] == 1.0
    assert found["mrr"] == pytest.approx((1 / 2.5 + 1 + 1 / 2.5 + 1 / 3) / 4)
    assert found["ndcg_at_10"] == pytest.approx((2 / math.log2(3.5) + 1 + 1 / 2) / 4)
    assert standing.shown.all()
    # Mean clicks of the listed, over those of a known product: none yet; 0; 3/4 over 3/4; 1 over 4/4.
    assert standing.popularity == pytest.approx(2.0)
    assert standing.lists == 4


def test_the_new_shelf_is_ranked_among_itself() -> None:
    """B is clicked 5 times and then stands above A everywhere but on the new shelf."""
    clicks = [(f"user {n}", "B", "view_item", float(n)) for n in range(5)]
    stream = stream_of([*clicks, ("ann", "A", "view_item", 9.0)], catalog=["A", "B"])
    standing = evaluated(Fixed([1.0, 2.0]), stream, Plan(warm_up=0.0))
    assert standing.ranks[-1] == 2.0
    assert standing.shelf_ranks[-1] == 1.0


def test_a_list_is_covered_by_what_it_shows_first() -> None:
    products = [f"p{n}" for n in range(25)]
    stream = stream_of([("ann", "p20", "view_item", 1.0)], catalog=products)
    standing = evaluated(Constant(), stream, Plan(warm_up=0.0))
    assert standing.shown.sum() == 10
    assert standing.ranks[0] == 13.0  # in the middle of 25


def test_a_list_is_as_alike_as_its_pairs() -> None:
    """Of A, A and B, seen from their mean, the pairs AA, AB, AB have the cosines 1, -1, -1; zeros do not count."""
    units = centred(np.array([[3, 1], [3, 1], [0, 1], [0, 0]], np.float32))
    np.testing.assert_allclose(units, [[1, 0], [1, 0], [-1, 0], [0, 0]], atol=1e-6)
    assert likeness_of(units) == pytest.approx(-1 / 3)
    assert likeness_of(units[:2]) == pytest.approx(1)
    assert math.isnan(likeness_of(units[2:]))
    np.testing.assert_array_equal(centred(np.zeros((2, 2), np.float32)), np.zeros((2, 2)))


def test_a_place_that_the_model_forgets_ends_the_run() -> None:
    stream = stream_of([("ann", "A", "view_item", 1.0)], catalog=A_SHOP)
    with pytest.raises(ScoresBroken, match="forgetful gave no number as the score of row 3, at click 0 with 4 known"):
        evaluated(Forgetful(), stream, Plan(warm_up=0.0))


# --- measures ----------------------------------------------------------------------------------------------------


def test_a_hit_is_a_rank_of_ten_and_not_of_ten_and_a_half() -> None:
    ranks = np.array([1, 10, 10.5, 20, 20.5, INF], np.float32)
    assert value_of("hr_at_10", ranks).tolist() == [1, 1, 0, 0, 0, 0]
    assert value_of("hr_at_20", ranks).tolist() == [1, 1, 1, 1, 0, 0]
    assert value_of("ndcg_at_10", ranks).tolist() == [1, 1 / math.log2(11), 0, 0, 0, 0]
    assert value_of("mrr", ranks) == pytest.approx([1, 0.1, 1 / 10.5, 0.05, 1 / 20.5, 0])
    with pytest.raises(ValueError, match="there is no measure 'auc': take one of hr_at_10, hr_at_20"):
        value_of("auc", ranks)


def test_the_standard_error_of_one_value_a_user_is_the_usual_one() -> None:
    values = np.array([1.0, 0.0, 1.0, 0.0])
    found = mean(values, np.arange(4, dtype=np.int32))
    assert found.value == 0.5
    assert found.stderr == pytest.approx(values.std(ddof=1) / 2)


def test_the_standard_error_allows_for_users_who_are_all_hits_or_none() -> None:
    """Two users, two values each: the four values tell as much as two."""
    found = mean(np.array([1.0, 1.0, 0.0, 0.0]), np.array([7, 7, 9, 9], np.int32))
    assert found == (0.5, pytest.approx(0.5))


def test_one_user_tells_no_standard_error() -> None:
    assert mean(np.array([1.0, 0.0]), np.array([3, 3], np.int32)) == (0.5, None)


def test_nothing_judged_measures_nothing() -> None:
    found = measured(np.array([NAN], np.float32), np.array([0], np.int32))
    assert found["events"] == 0
    assert found["hr_at_10"] is None
    assert found["hr_at_10_stderr"] is None


def test_measures_are_told_apart_by_the_length_of_the_history() -> None:
    ranks = np.array([1, 1, 99, 99, 1, 99, 1], np.float32)
    lengths = np.array([0, 1, 4, 5, 19, 20, 500])
    found = measured_by_history(ranks, np.arange(7, dtype=np.int32), lengths)
    assert {name: (each["events"], each["hr_at_10"]) for name, each in found.items()} == {
        "0": (1, 1.0),
        "1-4": (2, 0.5),
        "5-19": (2, 0.5),
        "20+": (2, 0.5),
    }


# --- comparisons -------------------------------------------------------------------------------------------------


def test_a_paired_difference_has_the_interval_of_its_differences() -> None:
    """On the four clicks that both were judged on, the differences are 1, 0, 1, 0."""
    first = np.array([1, 1, 1, 99, 1, NAN], np.float32)
    second = np.array([99, 1, 99, 99, NAN, 1], np.float32)
    found = compare(first, second, np.arange(6, dtype=np.int32))
    assert found is not None
    reach = 1.959964 * math.sqrt(1 / 3) / 2
    assert found == ("hr_at_10", 4, 0.5, pytest.approx(0.5 - reach), pytest.approx(0.5 + reach))


def test_what_both_get_alike_differs_by_nothing_however_it_varies() -> None:
    ranks = np.array([1, 99, 1, 99], np.float32)
    assert compare(ranks, ranks, np.arange(4, dtype=np.int32)) == ("hr_at_10", 4, 0.0, 0.0, 0.0)


def test_no_click_in_common_is_no_comparison() -> None:
    first, second = np.array([1, NAN], np.float32), np.array([NAN, 1], np.float32)
    assert compare(first, second, np.arange(2, dtype=np.int32)) is None


def test_clicks_of_one_user_tell_no_interval() -> None:
    found = compare(np.array([1, 1], np.float32), np.array([1, 99], np.float32), np.zeros(2, np.int32))
    assert found is not None
    assert found.difference == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_each_is_compared_with_the_best_and_delays_with_the_shortest() -> None:
    assert pairs(["a", "b", "c"], [0.1, 0.3, 0.2], ["a", "b", "c"]) == [("c", "b"), ("a", "b")]
    assert pairs(["a+0", "a+1h", "b+0", "b+1h"], [0.3, 0.1, 0.2, None], ["a", "a", "b", "b"]) == [
        ("a+1h", "a+0"),
        ("b+1h", "b+0"),
    ]
    assert pairs(["a"], [0.1], ["a"]) == []
