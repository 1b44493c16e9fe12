"""The baselines that count clicks: popularity, item-kNN, user-kNN, transitions, VMIS-kNN."""

import math
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import pytest
from evaluation_models import goes_on_alike_from_its_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.baselines.fading_counts import FadingCounts
from encoders.baselines.item_knn import ItemKnn
from encoders.baselines.popularity import RecentPopularity
from encoders.baselines.transitions import Transitions
from encoders.baselines.user_knn import UserKnn
from encoders.baselines.vmis_knn import VmisKnn
from encoders.next_click import Floats
from encoders.recommender import Recommender, Request

ANNA, BOB, CLEO, DORA = range(4)
MINUTE_S, DAY_S = 60.0, 86_400.0

BASELINES: list[Callable[[], Recommender]] = [RecentPopularity, ItemKnn, UserKnn, Transitions, VmisKnn]
every_baseline = pytest.mark.parametrize("make", BASELINES)


def asking(user: int, *history: int, ages_s: list[float] | None = None) -> Request:
    """The history newest first, a minute between any two clicks where no ages are given."""
    ages = [MINUTE_S * (place + 1) for place in range(len(history))] if ages_s is None else ages_s
    return Request(user, np.array(history, np.int32), np.array(ages, np.float32), 0.0, np.array(history, np.int32))


def taught(recommender: Recommender, *clicks: tuple[int, list[int]], products: int = 4) -> Recommender:
    """Teach each user's products, oldest first, one user after the other."""
    recommender.grow(products)
    for user, rows in clicks:
        for count, row in enumerate(rows):
            recommender.learn(asking(user, *reversed(rows[:count])), row)
    return recommender


def scores(recommender: Recommender, request: Request, products: int = 4) -> Floats:
    out = np.full(products, np.nan, np.float32)
    recommender.score(request, out)
    return out


def test_popularity_halves_with_each_half_life() -> None:
    # Product 0 was clicked now and two clicks ago, 1 a click ago: 1 + 1/4 and 1/2.
    fading = taught(RecentPopularity(1), (ANNA, [0, 1, 0]))
    np.testing.assert_allclose(scores(fading, asking(BOB)), [1.25, 0.5, 0, 0])


def test_popularity_without_fading_counts() -> None:
    plain = taught(RecentPopularity(math.inf), (ANNA, [0, 1, 0]))
    np.testing.assert_array_equal(scores(plain, asking(BOB)), [2, 1, 0, 0])


def test_popularity_is_named_after_its_half_life() -> None:
    names = [RecentPopularity(clicks).name for clicks in (200, 2_000, math.inf)]
    assert names == ["popularity-200", "popularity-2000", "popularity"]


def test_fading_counts_do_not_overflow() -> None:
    # A click on every turn, halved each turn: 1 + 1/2 + 1/4 + ... = 2, over many divisions.
    counts = FadingCounts(1, pairs=True)
    counts.grow(2)
    divisions = 0
    for _ in range(300):
        divisions += counts.advance()
        counts.singles[0] += counts.weight
        counts.pairs[0, 1] += np.float32(counts.weight)
    assert divisions == 4
    assert counts.singles[0] / counts.weight == pytest.approx(2)
    assert counts.pairs[0, 1] / counts.weight == pytest.approx(2)


def item_knn(exponent: float = 0.5, half_life_clicks: float = math.inf) -> ItemKnn:
    return ItemKnn(last=2, score_fall=1, reach=2, learn_fall=1, exponent=exponent, half_life_clicks=half_life_clicks)


SHOPPERS = ((ANNA, [0, 1, 2]), (BOB, [0, 1]), (CLEO, [1, 3]))
# Clicks:            n_0 = 2, n_1 = 3, n_2 = 1, n_3 = 1
# A click before:    n_01 = 1 (Anna) + 1 (Bob), n_12 = 1, n_13 = 1; two clicks before: n_02 = 1/2


def test_item_knn_by_cosines_worked_by_hand() -> None:
    # Dora has 1, and 0 before it, which counts half.
    np.testing.assert_allclose(
        scores(taught(item_knn(), *SHOPPERS), asking(DORA, 1, 0)),
        [2 / 6**0.5, 0.5 * 2 / 6**0.5, 1 / 3**0.5 + 0.5 * 0.5 / 2**0.5, 1 / 3**0.5],
        rtol=1e-6,
    )


def test_item_knn_with_an_exponent_divides_by_one_side_only() -> None:
    np.testing.assert_allclose(
        scores(taught(item_knn(0), *SHOPPERS), asking(DORA, 1)), [2 / 3, 0, 1 / 3, 1 / 3], rtol=1e-6
    )
    np.testing.assert_allclose(scores(taught(item_knn(1), *SHOPPERS), asking(DORA, 1)), [2 / 2, 0, 1, 1], rtol=1e-6)


def test_item_knn_forgets_old_clicks() -> None:
    # Weights 1/8, 1/4, 1/2, 1: n_01 = 1/4, n_02 = 1, n_0 = 1/8 + 1/2, n_1 = 1/4, n_2 = 1.
    fading = taught(item_knn(half_life_clicks=1), (ANNA, [0, 1]), (BOB, [0, 2]))
    np.testing.assert_allclose(
        scores(fading, asking(CLEO, 0)), [0, 0.25 / (0.625 * 0.25) ** 0.5, 1 / 0.625**0.5, 0], rtol=1e-6
    )


def test_item_knn_scores_alike_when_its_counts_have_been_divided() -> None:
    # At the 61st click all counts are; 2 was clicked before and not since: n_0 = 2/3, n_2 = n_02 = 1/4.
    fading = taught(item_knn(half_life_clicks=1), *[(ANNA, [0, 1])] * 29, (BOB, [0, 2]), (ANNA, [0, 1]))
    assert scores(fading, asking(CLEO, 0))[2] == pytest.approx(0.25 / (2 / 3 * 0.25) ** 0.5)


def test_item_knn_counts_a_repeated_product_at_its_newer_place() -> None:
    knn = taught(item_knn(), *SHOPPERS)
    np.testing.assert_array_equal(scores(knn, asking(DORA, 1, 1)), scores(knn, asking(DORA, 1)))
    # A repeated click goes with nothing but what is another product: n_0 = 2, n_1 = 1, n_01 = 1 and not 1 + 1/2.
    repeated = taught(item_knn(), (ANNA, [0, 0, 1]))
    np.testing.assert_allclose(scores(repeated, asking(BOB, 0)), [0, 1 / 2**0.5, 0, 0], rtol=1e-6)


def transitions() -> Transitions:
    return Transitions(last=2, score_fall=1, reach=2, learn_fall=1, smoothing=1, half_life_clicks=math.inf)


def test_transitions_worked_by_hand() -> None:
    # From 0: to 1 twice, to 2 a half; from 1: to 2 once, to 3 once. n_0 = 2.5, n_1 = 2.
    np.testing.assert_allclose(
        scores(taught(transitions(), *SHOPPERS), asking(DORA, 1, 0)),
        [0, 0.5 * 2 / 3.5, 1 / 3 + 0.5 * 0.5 / 3.5, 1 / 3],
        rtol=1e-6,
    )


def test_transitions_are_directed() -> None:
    np.testing.assert_array_equal(scores(taught(transitions(), *SHOPPERS), asking(DORA, 2)), [0, 0, 0, 0])


def test_transitions_forget_old_clicks() -> None:
    # 0 to 1 two clicks ago, 0 to 2 now: 1/4 and 1, of 1 + 1/4, and 1 for the smoothing.
    fading = Transitions(last=1, reach=1, smoothing=1, half_life_clicks=1)
    taught(fading, (ANNA, [0, 1]), (BOB, [0, 2]))
    np.testing.assert_allclose(scores(fading, asking(CLEO, 0)), [0, 1 / 9, 4 / 9, 0], rtol=1e-6)


NEIGHBOURS = ((ANNA, [0, 1, 2]), (BOB, [0, 3]), (CLEO, [3]))
# U = 3; U_0 = 2, U_1 = 1, U_2 = 1, U_3 = 2


def test_user_knn_by_cosines_of_sets_worked_by_hand() -> None:
    # Dora has 1 and 0: two of Anna's three, one of Bob's two, none of Cleo's.
    anna, bob = 2 / (2 * 3) ** 0.5, 1 / (2 * 2) ** 0.5
    rare, common = math.log(3), math.log(3 / 2)
    knn = taught(UserKnn(last=2, fall=0, neighbours=2), *NEIGHBOURS)
    np.testing.assert_allclose(
        scores(knn, asking(DORA, 1, 0)), [common * (anna + bob), rare * anna, rare * anna, common * bob], rtol=1e-6
    )
    nearest = taught(UserKnn(last=2, fall=0, neighbours=1), *NEIGHBOURS)
    expected = [common * anna, rare * anna, rare * anna, 0]
    np.testing.assert_allclose(scores(nearest, asking(DORA, 1, 0)), expected, rtol=1e-6)


def test_user_knn_weighs_newer_products_more() -> None:
    # 1 weighs 1 and 0 weighs 1/2: of length sqrt(1.25).
    anna, bob = 1.5 / (1.25 * 3) ** 0.5, 0.5 / (1.25 * 2) ** 0.5
    knn = taught(UserKnn(last=2, fall=1, neighbours=2), *NEIGHBOURS)
    expected = [math.log(1.5) * (anna + bob), math.log(3) * anna, math.log(3) * anna, math.log(1.5) * bob]
    np.testing.assert_allclose(scores(knn, asking(DORA, 1, 0)), expected, rtol=1e-6)


def test_user_knn_leaves_the_user_out_and_what_fell_out_of_a_set() -> None:
    knn = taught(UserKnn(last=1, kept=2), (ANNA, [0, 1, 2]), (BOB, [2, 3]))
    # Anna's set is {1, 2} by now: nobody has 0, she alone has 1, and with 2 she meets Bob but not herself.
    np.testing.assert_array_equal(scores(knn, asking(CLEO, 0)), [0, 0, 0, 0])
    np.testing.assert_array_equal(scores(knn, asking(ANNA, 1)), [0, 0, 0, 0])
    np.testing.assert_allclose(scores(knn, asking(ANNA, 2)), [0, 0, 0, math.log(2) / 2**0.5], rtol=1e-6)


def test_user_knn_keeps_a_product_that_is_clicked_again() -> None:
    # 0 again before 2: so 1 is the one that falls out.
    knn = taught(UserKnn(last=1, kept=2), (ANNA, [0, 1, 0, 2]), (BOB, [1]))
    anna = math.log(2) / 2**0.5
    np.testing.assert_allclose(scores(knn, asking(CLEO, 0)), [anna, 0, anna, 0], rtol=1e-6)
    np.testing.assert_allclose(scores(knn, asking(CLEO, 1)), [0, math.log(2), 0, 0], rtol=1e-6)  # Bob's alone


def test_user_knn_lists_the_latest_users_of_a_product_only() -> None:
    knn = taught(UserKnn(last=1, list_length=1), (ANNA, [0, 1]), (BOB, [0, 2]), (CLEO, [3]))
    assert (scores(knn, asking(DORA, 0)) > 0).tolist() == [True, False, True, False]


def vmis_knn(**more: float) -> VmisKnn:
    """Anna's session of 0, 1, 2; her session of 3 on the next day; Bob's of 1, 3."""
    knn = VmisKnn(**cast("dict[str, int]", {"neighbours": 2, "recent": 2, "last": 2} | more))
    taught(knn, (ANNA, [0, 1, 2]))
    knn.learn(asking(ANNA, 2, 1, 0, ages_s=[DAY_S, DAY_S + 60, DAY_S + 120]), 3)
    return cast(VmisKnn, taught(knn, (BOB, [1, 3])))


# N = 3; N_0 = 1, N_1 = 2, N_2 = 1, N_3 = 2. A match with the newest product weighs .9.
RARE, COMMON = math.log(3), math.log(3 / 2)


def test_vmis_knn_worked_by_hand() -> None:
    # Dora has 1, and 0 before it: Anna's first session shares 2/2 + 1/2, Bob's 2/2.
    anna, both = 0.9 * 1.5, 0.9 * 2.5
    two, nearest = (scores(vmis_knn(neighbours=count), asking(DORA, 1, 0)) for count in (2, 1))
    np.testing.assert_allclose(two, [RARE * anna, COMMON * both, RARE * anna, COMMON * 0.9], rtol=1e-6)
    np.testing.assert_allclose(nearest, [RARE * anna, COMMON * anna, RARE * anna, 0], rtol=1e-6)


def test_vmis_knn_weighs_a_match_by_its_newest_place() -> None:
    # 3 leads to Bob's (2/2, at the first place) and Anna's second; 2 to Anna's first (1/2, at the second place).
    np.testing.assert_allclose(
        scores(vmis_knn(neighbours=3, recent=3), asking(DORA, 3, 2)),
        [RARE * 0.8 * 0.5, COMMON * (0.9 + 0.8 * 0.5), RARE * 0.8 * 0.5, COMMON * 0.9 * 2],
        rtol=1e-6,
    )


def test_vmis_knn_compares_the_most_recent_sessions_only() -> None:
    # 0 leads to Anna's first session (2/2), 1 to Bob's (1/2), which is the later.
    bob = COMMON * 0.8 * 0.5
    later = scores(vmis_knn(neighbours=1, recent=1), asking(DORA, 0, 1))
    np.testing.assert_allclose(later, [0, bob, 0, bob], rtol=1e-6)


@pytest.mark.parametrize("since_s", [MINUTE_S, 7 * DAY_S])
def test_vmis_knn_looks_at_the_last_session_also_when_the_next_has_not_begun(since_s: float) -> None:
    # Anna's session is that of 3 alone, which Bob shares; it is not compared with itself.
    returning = asking(ANNA, 3, 2, 1, 0, ages_s=[since_s + age_s for age_s in (0, DAY_S, DAY_S + 60, DAY_S + 120)])
    np.testing.assert_allclose(scores(vmis_knn(), returning), [0, COMMON * 0.9, 0, COMMON * 0.9], rtol=1e-6)


def test_vmis_knn_without_a_gap_takes_all_clicks_of_a_user_for_one_session() -> None:
    # N = 2, Anna's is 0, 1, 2, 3: 1 and 3 are in both and say nothing.
    np.testing.assert_allclose(
        scores(vmis_knn(gap_s=math.inf), asking(DORA, 3)), [math.log(2) * 0.9, 0, math.log(2) * 0.9, 0], rtol=1e-6
    )


def test_vmis_knn_forgets_sessions_beyond_those_kept() -> None:
    # Bob's session took the place of Anna's first.
    np.testing.assert_allclose(
        scores(vmis_knn(kept_sessions=2), asking(DORA, 1, 0)), [0, COMMON * 0.9, 0, COMMON * 0.9], rtol=1e-6
    )


def test_vmis_knn_begins_anew_where_the_own_session_is_forgotten() -> None:
    knn = VmisKnn(kept_sessions=1)
    taught(knn, (ANNA, [0]), (BOB, [1]))
    knn.learn(asking(ANNA, 0), 2)  # not into Bob's session, which has the place now, but instead of it
    np.testing.assert_array_equal(scores(knn, asking(DORA, 1)), [0, 0, 0, 0])


def test_vmis_knn_keeps_the_newest_products_of_a_long_session() -> None:
    assert (scores(vmis_knn(session_length=2), asking(DORA, 1, 0)) > 0).tolist() == [False, True, True, True]


def stream(seed: int, clicks: int = 120, products: int = 12, users: int = 5) -> Iterator[tuple[Request, int]]:
    random = np.random.default_rng(seed)
    history: dict[int, list[tuple[int, float]]] = {user: [] for user in range(users)}
    at = 0.0
    for _ in range(clicks):
        at += float(random.exponential(900.0))
        user, row = int(random.integers(users)), int(random.integers(products))
        newest_first = history[user][:200]
        rows = np.array([clicked for clicked, _ in newest_first], np.int32)
        ages_s = np.array([at - then for _, then in newest_first], np.float32)
        yield Request(user, rows, ages_s, at, np.unique(rows)), row
        history[user].insert(0, (row, at))


@every_baseline
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_copy_from_the_pickle_goes_on_alike_and_scoring_learns_nothing(
    make: Callable[[], Recommender], seed: int
) -> None:
    goes_on_alike_from_its_pickle(make(), stream(seed), products=12)


@every_baseline
def test_more_products_change_no_score_and_have_none_of_their_own(make: Callable[[], Recommender]) -> None:
    few, many = make(), make()
    few.grow(12)
    many.grow(12)
    for count, (request, row) in enumerate(stream(3)):
        if count % 50 == 25:
            many.grow(12 + 20 * count)  # in the end beyond the room that arrays keep
        products = 12 if count < 25 else 12 + 20 * (25 + 50 * ((count - 25) // 50))
        after = scores(many, request, products)
        np.testing.assert_array_equal(after[:12], scores(few, request, 12))
        assert not after[12:].any()
        few.learn(request, row)
        many.learn(request, row)


@every_baseline
def test_before_the_first_click_all_products_are_alike(make: Callable[[], Recommender]) -> None:
    recommender = make()
    recommender.grow(4)
    np.testing.assert_array_equal(scores(recommender, asking(1_000_000, 2, 1)), [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecentPopularity(0), "the half-life is 0 clicks: give 1 or more"),
        (lambda: ItemKnn(last=0), "0 clicks of the history are read: give 1 or more"),
        (lambda: ItemKnn(score_fall=-0.1), "fall with the exponent -0.1: give 0 to 10"),
        (lambda: ItemKnn(exponent=1.5), r"the exponent of the product's own clicks is 1.5: give 0 to 1"),
        (lambda: Transitions(smoothing=-1), "the smoothing is -1 clicks: give 0 or more"),
        (lambda: UserKnn(last=9, kept=8), "8 products of each user are kept but 9 compared"),
        (lambda: UserKnn(neighbours=0), "0 users are asked: give 1 or more"),
        (lambda: UserKnn(list_length=0), "0 users are listed for each product: give 1 or more"),
        (lambda: VmisKnn(neighbours=0), "0 sessions are asked: give 1 or more"),
        (lambda: VmisKnn(neighbours=100, recent=99), "99 recent sessions are compared but 100 asked"),
        (lambda: VmisKnn(last=10), "10 products of the session are compared: give 1 to 9"),
        (lambda: VmisKnn(gap_s=-1), "a session ends after -1 s: give 0 or more"),
        (lambda: VmisKnn(session_length=0), "sessions of 0 products are kept: give 1 or more of each"),
    ],
)
def test_a_parameter_out_of_bounds_is_named_with_its_limit(make: Callable[[], Recommender], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [ItemKnn, Transitions])
def test_a_matrix_of_too_many_pairs_is_refused_with_advice(make: Callable[[], Recommender]) -> None:
    with pytest.raises(ValueError, match=r"20,001 products: .* 20,000 at most; leave this baseline out"):
        make().grow(20_001)
