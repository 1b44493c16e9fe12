"""Two rankings in one list, and which users get which variant."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from encoders.experiment_statistics import split_p
from encoders.team_draft import draft
from encoders.user_split import fractions_of, part_of

USERS = [f"user-{number}" for number in range(20_000)]


def test_teams_pick_in_turn_their_best_that_is_left_and_a_coin_says_who_begins() -> None:
    """The first toss is the second team's turn, the next one the first's."""
    picks = draft("abcd", "bdae", 4, coins=0b10)
    assert picks == [(1, 0), (0, 0), (0, 2), (1, 1)]
    assert [("abcd", "bdae")[team][place] for team, place in picks] == ["b", "a", "c", "d"]
    assert draft("ab", "", 4, coins=0) == [(0, 0), (0, 1)], "who has nothing left takes nothing"
    assert draft("", "", 4, coins=0) == []


rankings = st.lists(st.integers(0, 30), unique=True, max_size=25)


@given(first=rankings, second=rankings, count=st.integers(0, 25), coins=st.integers(0, 2**13 - 1))
def test_a_drawn_list_is_full_and_holds_each_item_once_in_both_orders_with_as_many_of_each_team(
    first: list[int], second: list[int], count: int, coins: int
) -> None:
    picks = draft(first, second, count, coins)
    items = [(first, second)[team][place] for team, place in picks]
    assert len(items) == len(set(items)) == min(count, len({*first, *second}))
    for team, ranking in enumerate((first, second)):
        own = [place for picked, place in picks if picked == team]
        assert own == sorted(own)
        if own:  # what stands above in its ranking is in the list already
            assert set(ranking[: own[-1]]) <= set(items)
    if len(first) == len(second) >= count:
        teams = [team for team, _ in picks]
        assert all(abs(2 * sum(teams[:at]) - at) <= 1 for at in range(len(teams) + 1))


@given(ranking=rankings, coins=st.integers(0, 2**13 - 1))
def test_two_equal_rankings_give_the_same(ranking: list[int], coins: int) -> None:
    picks = draft(ranking, ranking, len(ranking), coins)
    assert [ranking[place] for _, place in picks] == ranking


def test_a_user_s_fractions_are_those_that_b2sum_tells() -> None:
    """`printf 'fewer-alike\\nann' | b2sum -l 128`"""
    assert fractions_of("fewer-alike", "ann") == pytest.approx(
        (0xDCF4AF5D30C6699F / 2**64, 0x8393834F5E9BD1F5 / 2**64), abs=1e-15
    )
    assert [part_of(x, [1.0, 2.0, 1.0]) for x in (0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53)] == [0, 0, 1, 1, 2, 2]


@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), fraction=st.floats(0, 1, exclude_max=True))
def test_a_part_is_as_wide_as_its_weight(weights: list[float], fraction: float) -> None:
    part, total = part_of(fraction, weights), sum(weights)
    assert sum(weights[:part]) <= fraction * total * (1 + 1e-12)
    assert fraction * total <= sum(weights[: part + 1]) * (1 + 1e-12)


def test_users_are_split_as_the_weights_say_and_of_two_experiments_each_for_itself() -> None:
    weights = [1.0, 1.0, 2.0]
    fractions = {name: np.array([fractions_of(name, user) for user in USERS]) for name in ("one", "other")}
    parts = {name: np.array([part_of(x, weights) for x in both[:, 1].tolist()]) for name, both in fractions.items()}
    for name, both in fractions.items():
        assert split_p(np.bincount(parts[name]).tolist(), weights) > 0.001
        assert stats.kstest(both[:, 0], "uniform").pvalue > 0.001
        assert abs(np.corrcoef(both.T)[0, 1]) < 0.03, "who takes part says nothing of her variant"
    table = np.histogram2d(parts["one"], parts["other"], bins=3)[0]
    assert stats.chi2_contingency(table).pvalue > 0.001
