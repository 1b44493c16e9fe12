"""The next-click model as it serves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.next_click import ABSENT, Floats, Rows, Weights, best, embed, gap_bucket, score

DAY_S = 86_400.0


def floats(*values: object) -> Floats:
    return np.array(values, np.float32)


def rows(*values: object) -> Rows:
    return np.array(values, np.int32)


def two_factors() -> Weights:
    """L = 2, LM = 3, d = .5; the gap weights of the second factor count the bucket."""
    gap_weights = np.stack([np.ones(6), np.arange(6)], axis=1).astype(np.float32)
    return Weights(floats([1.0, 2.0], [0.5, 1.0]), gap_weights, floats(0.3, 0.6), 3, 0.5)


CONTEXT = floats([1.0, 2.0], [3.0, -1.0], [10.0, 10.0])


def test_an_embedding_worked_by_hand() -> None:
    # Newest: product 0, 30 s ago (bucket 0); before it product 1, two days ago (bucket 4).
    #   W_0 G_0 c_0 = (1, 2) (1, 0) (1, 2) = (1, 0);   W_1 G_4 c_1 = (.5, 1) (1, 4) (3, -1) = (1.5, -4)
    #   m = ((1, 2) + .5 (3, -1)) / 1.5 = (5/3, 1);    Wm m = (.5, .6)
    z = embed(two_factors(), CONTEXT, rows([0, 1, ABSENT]), floats([30.0, 2 * DAY_S, 0.0]), rows(2))
    np.testing.assert_allclose(z, [[3.0, -3.4]], rtol=1e-6)


def test_an_unknown_click_adds_nothing_but_those_behind_it_keep_their_places() -> None:
    # Product 1 stands at place 1 still: W_1 G_0 c_1 = (1.5, 0), m = c_1, Wm m = (.9, -.6).
    z = embed(two_factors(), CONTEXT, rows([ABSENT, 1]), floats([5.0, 5.0]), rows(2))
    np.testing.assert_allclose(z, [[2.4, -0.6]], rtol=1e-6)


def test_clicks_behind_the_memory_or_the_stated_length_are_not_read() -> None:
    long = embed(two_factors(), CONTEXT, rows([0, 1, 0, 2]), np.zeros((1, 4), np.float32), rows(4))
    short = embed(two_factors(), CONTEXT, rows([0, 1, 0]), np.zeros((1, 3), np.float32), rows(3))
    cut = embed(two_factors(), CONTEXT, rows([0, 1, 0, 2]), np.zeros((1, 4), np.float32), rows(3))
    np.testing.assert_array_equal(long, short)
    np.testing.assert_array_equal(cut, short)


def test_no_history_embeds_to_zero() -> None:
    z = embed(two_factors(), CONTEXT, rows([ABSENT, ABSENT]), np.zeros((1, 2), np.float32), rows(0))
    np.testing.assert_array_equal(z, [[0.0, 0.0]])


@pytest.mark.parametrize(
    ("age_s", "bucket"),
    [(-5.0, 0), (0.0, 0), (60.0, 0), (60.1, 1), (600.0, 1), (3_600.0, 2), (DAY_S, 3), (7 * DAY_S, 4), (1e9, 5)],
)
def test_a_gap_falls_into_the_bucket_up_to_its_edge(age_s: float, bucket: int) -> None:
    assert gap_bucket(age_s) == bucket


def random_model(seed: int, products: int = 40, factors: int = 8) -> tuple[Weights, Floats, np.random.Generator]:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Floats:
        return random.normal(size=shape).astype(np.float32)

    weights = Weights(normal(3, factors), normal(6, factors), normal(factors), 5, 0.9)
    return weights, normal(products, factors), random


@given(seed=st.integers(0, 10_000), users=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_batch_embeds_exactly_like_its_users_one_by_one(seed: int, users: int) -> None:
    weights, context, random = random_model(seed)
    history = random.integers(-1, 40, (users, 7)).astype(np.int32)
    ages_s = random.exponential(1e5, (users, 7)).astype(np.float32)
    lengths = random.integers(0, 8, users).astype(np.int32)
    batch = embed(weights, context, history, ages_s, lengths)
    for user in range(users):
        one = slice(user, user + 1)
        np.testing.assert_array_equal(batch[one], embed(weights, context, history[one], ages_s[one], lengths[one]))


def test_a_score_is_the_bias_and_the_dot_product() -> None:
    target, bias, z = floats([1.0, 2.0], [0.0, 1.0]), floats(0.5, -1.0), floats([3.0, 4.0], [1.0, 0.0])
    expected = [[11.5, 3.0], [1.5, -1.0]]
    out = np.empty((2, 2), np.float32)
    np.testing.assert_allclose(score(target, bias, z), expected)
    assert score(target, bias, z, out=out) is out
    np.testing.assert_allclose(out, expected)


def test_the_best_come_first_and_ties_go_to_the_lower_row() -> None:
    scores = floats([1.0, 5.0, 3.0, 5.0, 9.0, np.nan])
    allowed = np.array([True, True, True, True, False, True])
    found, tops = best(scores, allowed, rows([2, ABSENT]), 3)
    assert found.tolist() == [[1, 3, 0]]
    assert tops.tolist() == [[5.0, 5.0, 1.0]]


def test_fewer_than_asked_for_are_filled_up_with_minus_one() -> None:
    found, tops = best(floats([1.0, 2.0], [4.0, 3.0]), np.ones(2, bool), rows([0], [7]), 3)
    assert found.tolist() == [[1, -1, -1], [0, 1, -1]]
    assert tops[0].tolist() == [2.0, -np.inf, -np.inf]


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    forbidden=st.sets(st.integers(0, 59)),
    excluded=st.lists(st.integers(-1, 70), max_size=10),
    count=st.integers(0, 12),
)
@settings(max_examples=200, deadline=None)
def test_best_is_the_sorted_list_without_what_is_forbidden(
    values: list[int], forbidden: set[int], excluded: list[int], count: int
) -> None:
    allowed = np.array([row not in forbidden for row in range(len(values))])
    scores = np.array([values, values], np.float32)
    found, tops = best(scores, allowed, np.array([excluded, [ABSENT] * len(excluded)], np.int32), count)
    for user, out in enumerate([set(excluded), set()]):
        listable = [row for row in range(len(values)) if allowed[row] and row not in out]
        expected = sorted(listable, key=lambda row: (-values[row], row))[:count]
        assert [row for row in found[user] if row != ABSENT] == expected
        assert tops[user, : len(expected)].tolist() == [values[row] for row in expected]
