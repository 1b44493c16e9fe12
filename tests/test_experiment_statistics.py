"""Intervals and tests of an experiment's counts: known answers, and how often the intervals hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from encoders.experiment_statistics import (
    Estimate,
    rate,
    rate_difference,
    ratio,
    ratio_difference,
    ratio_interval,
    sign_p,
    split_p,
)


def test_the_intervals_of_rates_are_those_of_newcombe_s_examples() -> None:
    assert rate(81, 263)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert rate(0, 20)[1:] == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert rate_difference(rate(56, 70), rate(48, 80)) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert rate(0, 0) == Estimate(0.0, 0.0, 1.0), "of nobody nothing is known"


def test_a_ratio_and_its_variance_are_those_worked_by_hand() -> None:
    """Lists 1, 1, 2 and clicks 0, 1, 1: half a click a list, off by -1/2, 1/2, 0. Their variance is 1/4, the mean has
    4/3 lists: 1/4 / 3 / (4/3)^2 = 3/64."""
    made = ratio(3, 4, 2, 6, 2, 3)
    assert made == pytest.approx((0.5, 3 / 64))
    assert made is not None
    assert ratio_interval(made) == pytest.approx((0.5, 0.5 - 1.959964 * (3 / 64) ** 0.5, 0.5 + 1.959964 * 0.216506))
    assert ratio_difference(made, made) == pytest.approx((0.0, -1.959964 * (3 / 32) ** 0.5, 1.959964 * 0.306186))
    assert ratio(1, 4, 2, 6, 2, 3) is None, "of one user no variance is known"
    assert ratio(3, 0, 0, 0, 0, 0) is None


@given(wins=st.integers(0, 60), losses=st.integers(0, 60), users=st.lists(st.integers(1, 999), min_size=2, max_size=5))
def test_the_tests_are_those_of_scipy(wins: int, losses: int, users: list[int]) -> None:
    weights = [1.0 + place for place in range(len(users))]
    expected = np.array(weights) * sum(users) / sum(weights)
    assert split_p(users, weights) == pytest.approx(stats.chisquare(users, expected).pvalue, abs=1e-9)
    if wins + losses:
        assert sign_p(wins, losses) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue, abs=1e-9)
        interval = stats.binomtest(wins, wins + losses).proportion_ci(method="wilson")
        assert rate(wins, wins + losses)[1:] == pytest.approx(tuple(interval), abs=1e-9)


def test_without_users_nothing_is_off() -> None:
    assert split_p([0, 0], [1.0, 1.0]) == 1.0
    assert sign_p(0, 0) == 1.0


def test_the_intervals_hold_the_truth_in_95_of_100_experiments() -> None:
    chance, times, users = np.random.default_rng(3), 1_000, 150
    held = np.zeros(3)
    for _ in range(times):
        one, other = (rate(int(chance.binomial(users, p)), users) for p in (0.08, 0.13))
        lists = chance.geometric(0.3, users)
        # A taste of each user's own: her clicks depend on each other, which the variance must not overlook.
        clicks = chance.binomial(lists, chance.beta(1, 4, users))
        made = ratio(users, lists.sum(), clicks.sum(), (lists**2).sum(), (clicks**2).sum(), (lists * clicks).sum())
        assert made is not None
        truths = (0.08, one), (0.05, rate_difference(other, one)), (0.2, ratio_interval(made))
        held += [low <= true <= high for true, (_, low, high) in truths]
    assert (np.abs(held / times - 0.95) < 0.02).all(), held / times
