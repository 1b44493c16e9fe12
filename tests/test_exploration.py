"""A share of the positions for new products: near users first, and less of it the more is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders import exploration, exploration_step
from encoders.exploration import Exploration
from encoders.exploration_step import Rule

KNOWN = 1_000  # clicks of a product that is not new
NOBODY = np.empty(0, np.int32)
ALWAYS = Rule(share=0.05, nearest=1.0, per_user=255)  # one product a list of 20, whoever comes


class Shop:
    """The first `new` rows are new; the 20 rows behind them are known, and make every list."""

    def __init__(self, new: int, rule: Rule, seed: int = 0) -> None:
        self.policy = Exploration(rule, seed=seed)
        self.clicks = np.array([0] * new + [KNOWN] * 20, np.int64)
        self.listable = np.ones(new + 20, np.bool_)
        self.births = np.zeros(new + 20, np.int64)
        self.listed = np.arange(new, new + 20, dtype=np.int32)
        self.chance = np.random.default_rng(seed)
        self.explored = np.zeros(new + 20, np.int64)

    def list_for(self, user: int, affinity: np.ndarray | None = None) -> tuple[list[int], list[int]]:
        """Positions and rows of one list, which then counts; random affinities where none are given."""
        rows = self.policy.new_rows(self.listable, self.clicks, self.births)
        given_or_random = self.chance.standard_normal(len(rows)) if affinity is None else affinity
        places, chosen = self.policy.choose(
            user, rows, given_or_random.astype(np.float32), self.listed, self.listable, self.clicks, 20
        )
        self.policy.count(np.concatenate((chosen, self.listed))[:20], self.clicks)
        self.explored[chosen] += 1
        return places.tolist(), chosen.tolist()

    def lists(self, count: int) -> int:
        """How many new products stood in so many lists of as many users."""
        before = self.explored.sum()
        for user in range(count):
            self.list_for(user)
        return int(self.explored.sum() - before)


# --- evidence --------------------------------------------------------------------------------------------------------


def test_the_index_is_mean_and_deviation_of_the_posterior_in_clicks_of_an_average_product() -> None:
    policy, clicks = Exploration(), np.array([50, 7], np.int64)
    for _ in range(30):
        policy.count(np.array([0], np.int32), clicks)
    for _ in range(10):
        policy.count(np.array([1], np.int32), clicks)
    clicks += [3, 1]  # 4 clicks of 40 impressions: a tenth on average
    both = policy.new_rows(np.ones(2, np.bool_), clicks, np.zeros(2, np.int64))
    assert both.tolist() == [1]  # row 0 has clicks enough to be known
    gained, expected = policy.evidence(np.array([0, 1], np.int32), clicks)
    np.testing.assert_allclose(gained, [3, 1])
    np.testing.assert_allclose(expected, [3, 1])
    index = exploration_step.upper_bounds(policy._products, 0.1, np.array([0, 1], np.int32), clicks, 1.0)
    np.testing.assert_allclose(index, [(4 + 2) / 4, (2 + 2**0.5) / 2], rtol=1e-6)


def test_clicks_from_before_the_first_impression_are_no_evidence() -> None:
    policy, clicks = Exploration(), np.array([9], np.int64)
    policy.count(np.array([0], np.int32), clicks)
    assert policy.evidence(np.array([0], np.int32), clicks)[0].tolist() == [0]
    assert policy.evidence(np.array([0], np.int32), clicks - 3)[0].tolist() == [0]  # a learner went back


def test_after_its_impressions_a_product_without_clicks_asks_no_more() -> None:
    shop = Shop(1, ALWAYS._replace(impressions=50))
    while shop.explored[0] < 60:  # as long as nobody clicks anything, it goes on
        shop.list_for(int(shop.chance.integers(1_000_000)))
    shop.clicks[1:] += 50
    shop.list_for(0)
    assert shop.lists(500) == 0


def test_first_impressions_are_owed_even_to_a_product_that_nobody_clicks() -> None:
    shop = Shop(1, ALWAYS._replace(impressions=50))
    shop.list_for(0)
    shop.clicks[1:] += 1_000
    shop.lists(500)
    assert shop.explored[0] == 50


def test_the_share_falls_as_evidence_grows() -> None:
    rule = Rule(impressions=50, nearest=0.2, per_user=255, clicks=10_000)
    shop = Shop(1, rule)
    shop.list_for(0)
    shares = []
    for _ in range(6):
        shares.append(shop.lists(1_000))
        # Twice the average rate: it goes on asking, but the more seldom the more impressions it had.
        shop.clicks[1:] += 50
        shop.clicks[0] = round(2 * 1_000 / 20_000 * shop.explored[0])
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 2 * shares[-1] > 0


def test_a_product_with_enough_clicks_is_not_new_however_few_its_impressions() -> None:
    shop = Shop(1, ALWAYS)
    assert shop.lists(40) > 0
    shop.clicks[0] = 20
    assert shop.lists(100) == 0


def test_what_has_become_known_since_the_candidates_were_gathered_is_not_chosen() -> None:
    shop = Shop(40, ALWAYS._replace(impressions=1))
    shop.lists(35)
    shop.clicks[40:] += 100  # far more than a click an impression, on average
    shop.clicks[:20] = 20  # row 0 to 19 have clicks enough, the others had their impression and were not clicked
    rows = np.arange(40, dtype=np.int32)
    shop.policy.new_rows(shop.listable, shop.clicks, shop.births)
    for user in range(100):
        affinity = shop.chance.standard_normal(40).astype(np.float32)
        chosen = shop.policy.choose(user, rows, affinity, NOBODY, shop.listable, shop.clicks, 20)[1]
        assert all(row >= 20 and shop.explored[row] == 0 for row in chosen)


# --- nearness --------------------------------------------------------------------------------------------------------


def test_nobody_is_near_by_the_very_first_affinities() -> None:
    shop = Shop(1, ALWAYS)
    assert [shop.list_for(user)[1] for user in range(9)] == [[]] * 9
    assert shop.lists(50) > 0


def test_the_product_that_this_user_is_nearest_to_goes_first() -> None:
    shop = Shop(2, ALWAYS)
    for user in range(50):
        shop.list_for(user)
    assert shop.list_for(99, np.array([3.0, 1.0]))[1] == [0]
    assert shop.list_for(99, np.array([1.0, 3.0]))[1] == [1]


def test_the_two_that_she_is_nearest_to_stand_in_a_list_with_two_positions() -> None:
    shop = Shop(4, ALWAYS._replace(share=0.1))
    for user in range(50):
        shop.list_for(user)
    assert shop.list_for(99, np.array([6.0, 9.0, -1.0, 12.0]))[1] == [3, 1]


def test_of_two_as_near_the_one_with_more_clicks_goes_first() -> None:
    for better in (0, 1):
        shop = Shop(2, ALWAYS)
        for user in range(60):
            shop.list_for(user, np.full(2, user % 7))
        shop.clicks[better] = 8
        assert [shop.list_for(user, np.full(2, user % 7))[1] for user in range(100, 105)] == [[better]] * 5


def test_a_product_has_its_impressions_with_the_nearest_twentieth_in_twenty_times_as_many_lists() -> None:
    shop = Shop(1, Rule(per_user=1))
    affinities = 7.0 + 0.3 * shop.chance.gumbel(size=2_600)  # skew: no normal distribution is taken for granted
    chosen = [user for user, affinity in enumerate(affinities) if shop.list_for(user, np.array([affinity]))[1]]
    chosen = chosen[:100]
    assert 1_800 < chosen[-1] < 2_200
    standings = np.searchsorted(np.sort(affinities), affinities[chosen]) / len(affinities)
    assert np.median(standings) > 0.95
    assert standings.min() > 0.85


def test_each_new_product_gets_its_impressions_where_they_compete() -> None:
    shop = Shop(40, Rule(impressions=20, nearest=0.5))
    shop.list_for(0)
    shop.clicks[40:] += 1_000  # nobody clicks the new ones: each ends after what it is owed
    assert shop.lists(1_000) in (799, 800)
    assert shop.explored[:40].tolist() == [20] * 40


def test_the_unit_of_the_affinity_does_not_matter() -> None:
    one, other = Shop(12, Rule(nearest=0.2)), Shop(12, Rule(nearest=0.2))
    affinities = one.chance.standard_normal((300, 12))
    chosen = [one.list_for(user, affinities[user]) for user in range(300)]
    assert [other.list_for(user, 1_024.0 * affinities[user]) for user in range(300)] == chosen
    assert sum(len(rows) for _, rows in chosen) > 100


# --- caps ------------------------------------------------------------------------------------------------------------


def test_a_user_sees_the_same_explored_product_so_many_times_and_no_more() -> None:
    shop = Shop(3, ALWAYS._replace(per_user=2))
    for _ in range(200):
        shop.list_for(-5)
    assert shop.explored[:3].tolist() == [2, 2, 2]
    assert shop.lists(50) > 0  # others do see them


def test_the_cap_holds_for_the_pairs_of_half_a_table_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exploration, "SLOTS", 8)
    shop = Shop(12, ALWAYS._replace(per_user=1, impressions=10_000))
    shown = [rows[0] for _ in range(400) if (rows := shop.list_for(1)[1])]
    assert len(shown) > 100
    assert all(len(set(shown[begin : begin + 5])) == 5 for begin in range(len(shown) - 5))


def test_half_a_position_a_list_is_one_in_every_second_list() -> None:
    policy = Exploration(ALWAYS)
    clicks, listable, affinity = np.zeros(30, np.int64), np.ones(30, np.bool_), np.arange(30, dtype=np.float32)
    rows = policy.new_rows(listable, clicks, np.zeros(30, np.int64))
    counts = [len(policy.choose(0, rows, affinity, NOBODY, listable, clicks, 10)[1]) for _ in range(6)]
    assert counts == [0, 1, 0, 1, 0, 1]


def test_the_first_positions_stay_the_rankings() -> None:
    shop = Shop(30, ALWAYS)
    places = [place for user in range(400) for place in shop.list_for(user)[0]]
    assert set(places) == set(range(4, 20))


def test_a_list_that_is_all_top_has_none() -> None:
    shop = Shop(30, ALWAYS._replace(top=20, share=1.0))
    assert shop.lists(50) == 0


def test_a_share_of_nothing_explores_nothing() -> None:
    assert Shop(30, ALWAYS._replace(share=0.0)).lists(50) == 0


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_that_has_become_another_products_is_new_again() -> None:
    shop = Shop(1, ALWAYS._replace(impressions=10, per_user=1))
    shop.list_for(0)
    shop.clicks[1:] += 1_000
    shop.lists(100)
    assert shop.explored[0] == 10
    shop.births[0] = 1
    shop.lists(100)
    assert shop.explored[0] == 20


def test_what_a_user_was_shown_of_the_product_before_does_not_count() -> None:
    shop = Shop(1, ALWAYS._replace(per_user=1))
    for birth in range(3):
        shop.births[0] = birth
        for _ in range(60):
            shop.list_for(7)
        assert shop.explored[0] == birth + 1


def test_a_row_that_comes_later_is_a_candidate_at_once() -> None:
    shop = Shop(1, ALWAYS)
    shop.lists(10)
    rows = shop.policy.new_rows(
        np.ones(3_000, np.bool_), np.array([KNOWN] * 2_999 + [0], np.int64), np.zeros(3_000, np.int64)
    )
    assert rows.tolist() == [2_999]


def test_more_new_products_than_a_list_compares_take_turns() -> None:
    policy, new = Exploration(), 1_000
    shelf = np.ones(new, np.bool_), np.zeros(new, np.int64), np.zeros(new, np.int64)
    seen = np.concatenate([policy.new_rows(*shelf) for _ in range(new)])
    offered = np.bincount(seen, minlength=new)
    assert offered.min() > 0.9 * offered.max()
    assert len(set(policy.new_rows(*shelf).tolist())) == exploration.OFFERED_MAX


def test_the_same_calls_make_the_same_choices_and_another_seed_other_positions() -> None:
    runs = []
    for seed in (1, 1, 2):
        shop = Shop(30, ALWAYS)
        shop.policy = Exploration(ALWAYS, seed=seed)
        runs.append([shop.list_for(user) for user in range(100)])
    assert runs[0] == runs[1]
    assert [places for places, _ in runs[0]] != [places for places, _ in runs[2]]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.0, 1.0),
    per_list=st.integers(1, 12),
    top=st.integers(0, 12),
    length=st.integers(1, 24),
)
def test_only_what_may_be_listed_is_chosen_once_below_the_top_and_within_the_share(
    seed: int, share: float, per_list: int, top: int, length: int
) -> None:
    chance = np.random.default_rng(seed)
    policy = Exploration(Rule(share, per_list=per_list, top=top, nearest=0.5), seed=seed)
    clicks, births = chance.integers(0, 30, 40).astype(np.int64), np.zeros(40, np.int64)
    spent = 0
    for number in range(1, 30):
        listable = chance.random(40) < 0.8
        rows = policy.new_rows(chance.random(40) < 0.9, clicks, births)
        affinity = np.where(chance.random(len(rows)) < 0.1, np.nan, chance.standard_normal(len(rows)))
        unwanted = chance.integers(0, 40, 5).astype(np.int32)
        places, chosen = policy.choose(
            int(chance.integers(2**63)), rows, affinity.astype(np.float32), unwanted, listable, clicks, length
        )
        policy.count(chosen, clicks)
        allowed = {
            row
            for row, value in zip(rows.tolist(), affinity, strict=True)
            if listable[row] and clicks[row] < 20 and np.isfinite(value) and row not in unwanted
        }
        assert set(chosen.tolist()) <= allowed
        assert len(set(chosen.tolist())) == len(chosen) == len(places) <= per_list
        assert sorted(set(places.tolist())) == places.tolist()
        assert all(top <= place < length for place in places.tolist())
        spent += len(chosen)
        assert spent <= share * length * number + 1e-6


# --- failure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("share", -0.1), ("share", 1.5), ("impressions", 0), ("nearest", 0.0), ("nearest", 1.1), ("per_list", 0),
        ("per_user", 0), ("per_user", 256), ("top", -1), ("clicks", 0), ("optimism", -1.0), ("share", float("nan")),
    ],
)  # fmt: skip
def test_a_rule_out_of_bounds_is_refused_with_the_bounds(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value} is out of bounds: give \S+ to \S+"):
        Exploration(Rule()._replace(**{name: value}))
