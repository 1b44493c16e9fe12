"""The baselines that factorise or fit: mf-sgd, ALS, EASE, two towers."""

import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from evaluation_models import goes_on_alike_from_its_pickle
from hypothesis import given, settings
from hypothesis import strategies as st

from encoders.baselines.als import AlternatingLeastSquares, fold_in
from encoders.baselines.ease import Ease
from encoders.baselines.interactions import Interactions, places_of_products
from encoders.baselines.mf_sgd import IncrementalFactorization, learn_click
from encoders.baselines.two_towers import (
    TowerWeights,
    TrainingRule,
    TwoTowers,
    grown,
    product_embeddings,
    start_weights,
    user_embedding,
)
from encoders.baselines.two_towers_training import product_tower, user_tower
from encoders.next_click import Floats
from encoders.next_click_training import FactorsDiverged
from encoders.recommender import Recommender, Request

NOBODY = 1_000_000
REFIT_EVERY = 40
SMALL = TrainingRule(batch=16, negatives=16, dropout=0.0)


def mf_sgd(seed: int = 0) -> Recommender:
    return IncrementalFactorization(factors=8, negatives=2, seed=seed)


def als(seed: int = 0) -> Recommender:
    return AlternatingLeastSquares(REFIT_EVERY, factors=4, alpha=10, pull=1, seed=seed)


def ease(seed: int = 0) -> Recommender:  # noqa: ARG001
    return Ease(REFIT_EVERY, pull=1)


def two_towers(seed: int = 0) -> Recommender:
    return TwoTowers(REFIT_EVERY, factors=8, width=8, rule=SMALL, seed=seed)


BASELINES: list[Callable[..., Recommender]] = [mf_sgd, als, ease, two_towers]
REFITTED = [als, ease, two_towers]
every_baseline = pytest.mark.parametrize("make", BASELINES)
every_refitted = pytest.mark.parametrize("make", REFITTED)


def asking(user: int, *history: int) -> Request:
    """The history newest first, a minute between any two clicks."""
    rows = np.array(history, np.int32)
    return Request(user, rows, 60.0 * np.arange(1, len(rows) + 1, dtype=np.float32), 0.0, np.unique(rows))


def scores(recommender: Recommender, request: Request, products: int) -> Floats:
    out = np.full(products, np.nan, np.float32)
    recommender.score(request, out)
    return out


def stream(seed: int, clicks: int = 120, products: int = 12, users: int = 5) -> Iterator[tuple[Request, int]]:
    random = np.random.default_rng(seed)
    history: dict[int, list[int]] = {user: [] for user in range(users)}
    for _ in range(clicks):
        user, row = int(random.integers(users)), int(random.integers(products))
        yield asking(user, *history[user][:200]), row
        history[user].insert(0, row)


def taught(recommender: Recommender, seed: int = 3) -> Recommender:
    recommender.grow(12)
    for request, row in stream(seed):
        recommender.learn(request, row)
    return recommender


# Twelve users, even and odd ones with tastes that share nothing: six products each. Each user misses one of them.
TASTES = [list(range(6)), list(range(6, 12))]
MISSING = {user: TASTES[user % 2][user // 2] for user in range(12)}


def tastes_learned(recommender: Recommender) -> dict[int, list[int]]:
    """Teach all users, their clicks in turns, what is theirs without what they miss; return the histories."""
    recommender.grow(12)
    random = np.random.default_rng(1)
    history: dict[int, list[int]] = {user: [] for user in range(12)}
    for _ in range(8):
        orders = {
            user: random.permutation([row for row in TASTES[user % 2] if row != MISSING[user]]) for user in history
        }
        for turn in range(5):
            for user in random.permutation(12).tolist():
                row = int(orders[user][turn])
                recommender.learn(asking(user, *history[user]), row)
                history[user].insert(0, row)
    return history


@every_baseline
def test_what_a_user_misses_of_her_taste_beats_every_product_of_the_other(make: Callable[[], Recommender]) -> None:
    recommender = make()
    for user, history in tastes_learned(recommender).items():
        found = scores(recommender, asking(user, *history), 12)
        assert found[MISSING[user]] > found[TASTES[1 - user % 2]].max()


def test_ease_finds_the_closed_form_worked_out_by_hand() -> None:
    # Users {0, 1}, {0, 1}, {0}, {2}: with a pull of 1, G = [[4, 2, 0], [2, 3, 0], [0, 0, 2]], and of its inverse
    # Q_00 = 3/8, Q_01 = -2/8, Q_11 = 4/8. So B_01 = 2/4 and B_10 = 2/3. The second click on 0 changes nothing.
    recommender = Ease(7, pull=1, fall=1)
    recommender.grow(3)
    for user, row in [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 0), (3, 2)]:
        recommender.learn(asking(user), row)
    np.testing.assert_allclose(scores(recommender, asking(NOBODY, 0), 3), [0, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(scores(recommender, asking(NOBODY, 1), 3), [2 / 3, 0, 0], atol=1e-6)
    # Product 0 at place 1 has half the weight; its second click, at place 2, has none.
    np.testing.assert_allclose(scores(recommender, asking(NOBODY, 1, 0, 0), 3), [2 / 3, 0.25, 0], atol=1e-6)


def test_one_step_of_mf_sgd_is_the_one_worked_out_by_hand() -> None:
    p, q = np.array([1, 0], np.float32), np.array([[0.5, 0.5]], np.float32)
    following, previous = np.array([0, 0], np.int32), np.array([0, -1], np.int32)
    # r = .5, so p moves by .1 * (.5 * q - .1 * p) = (.015, .025), then q by .1 * (.5 * p - .1 * q).
    r = learn_click(p, q, following, previous, 0, 3, 1, 0.1, 0.1)
    np.testing.assert_allclose(p, [1.015, 0.025], rtol=1e-6)
    np.testing.assert_allclose(q, [[0.54575, 0.49625]], rtol=1e-6)
    assert r == pytest.approx(1.015 * 0.54575 + 0.025 * 0.49625)


def test_mf_sgd_takes_the_product_whose_last_click_is_the_oldest_for_disliked() -> None:
    p, q = np.array([1, 0], np.float32), np.array([[0.5, 0.5], [1, 0], [0, 1]], np.float32)
    following, previous = np.array([3, 0, 0, 2], np.int32), np.array([2, -1, 3, 0], np.int32)  # product 2, then 1
    # Product 2 is liked as little as it should be, only the pull moves p: to .99, 0. Then r = .495 of product 0, and
    # p += .1 * (.505 * q - .1 * p).
    learn_click(p, q, following, previous, 0, 1, 1, 0.1, 0.1)
    np.testing.assert_allclose(p, [0.99 + 0.02525 - 0.0099, 0.02525], rtol=1e-6)
    np.testing.assert_array_equal(q[1:], [[1, 0], [0, 1]])
    order, place = [], following[0]
    while place:
        order.append(int(place) - 1)
        place = following[place]
    assert order == [1, 2, 0]  # 2 went to the end, and the click behind it


@given(st.integers(0, 10_000), st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_the_queue_of_mf_sgd_holds_each_clicked_product_once_in_both_directions(seed: int, negatives: int) -> None:
    following, previous = np.zeros(13, np.int32), np.array([0, *[-1] * 12], np.int32)
    random = np.random.default_rng(seed)
    p, q = random.normal(0, 0.1, (5, 2)).astype(np.float32), random.normal(0, 0.1, (12, 2)).astype(np.float32)
    clicked = set()
    for request, row in stream(seed, clicks=40):
        learn_click(p[request.user], q, following, previous, row, negatives, 1, 0.1, 0.1)
        clicked.add(row)
        places = [int(following[0])]
        while places[-1]:
            assert following[previous[places[-1]]] == places[-1]
            places.append(int(following[places[-1]]))
        assert sorted(places) == [0, *sorted(row + 1 for row in clicked)]
        assert places[-2] == row + 1


def test_a_user_is_folded_in_as_worked_out_by_hand() -> None:
    # (gram + (3 - 1) y y' + 1) x = 3 y with y = (1, 0): 5 x_0 = 3.
    item, gram = np.array([[1, 0]], np.float32), np.array([[2, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(fold_in(item, np.array([3], np.float32), gram, pull=1), [0.6, 0], rtol=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_folded_in_user_has_the_least_squares(seed: int) -> None:
    random = np.random.default_rng(seed)
    items = random.normal(size=(9, 3)).astype(np.float32)
    confidences = np.array([*(1 + random.random(4)), *np.ones(5)], np.float32)  # the first four are clicked
    clicked = np.arange(9) < 4

    def squares(user: Floats) -> float:
        return float(confidences @ (clicked - items @ user) ** 2 + 0.5 * user @ user)

    user = fold_in(items[:4], confidences[:4], items.T @ items, pull=0.5)
    for direction in np.eye(3, dtype=np.float32):
        assert squares(user) < min(squares(user + 0.05 * direction), squares(user - 0.05 * direction))


def test_clicks_become_a_matrix_in_which_the_same_are_added_up() -> None:
    clicks = Interactions()
    for user, row in [(2, 1), (0, 0), (2, 1), (0, 3)]:
        clicks.add(user, row)
    assert len(clicks) == 4
    np.testing.assert_array_equal(clicks.matrix(4).toarray(), [[1, 0, 0, 1], [0, 0, 0, 0], [0, 2, 0, 0]])
    assert Interactions().matrix(4).shape == (0, 4)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 35), st.integers(0, 12))
def test_each_product_of_a_history_is_found_at_its_newest_place(history: list[int], last: int, products: int) -> None:
    newest = {row: place for place, row in reversed(list(enumerate(history[:last]))) if row < products}
    found = places_of_products(np.array(history, np.int32), last, products)
    assert found.tolist() == sorted(newest.values())


@pytest.fixture
def weights() -> TowerWeights[Floats]:
    """Of 3 users and 5 products, with content of width 2; none of them zero."""
    random = np.random.default_rng(5)
    fitted = grown(start_weights(random, 4, 6, 2), random, 3, 5, np.array([0, 1], np.int32))
    return TowerWeights(*(random.normal(0, 1, array.shape).astype(np.float32) for array in fitted))


def test_a_new_bias_starts_at_the_log_of_the_share_of_clicks(weights: TowerWeights[Floats]) -> None:
    # 7 products: half a click each, and one for each target. The old five keep what they have learned.
    more = grown(weights, np.random.default_rng(0), 4, 7, np.array([0, 5, 5], np.int32))
    np.testing.assert_allclose(more.bias[5:], [math.log(2.5 / 6.5), math.log(0.5 / 6.5)], rtol=1e-6)
    np.testing.assert_array_equal(more.bias[:5], weights.bias)
    assert (more.users.shape, more.context.shape, more.offset.shape) == ((5, 4), (7, 4), (7, 4))
    np.testing.assert_array_equal(more.users[:4], weights.users)


def test_the_towers_that_learn_are_those_that_score(weights: TowerWeights[Floats]) -> None:
    content = np.random.default_rng(6).normal(size=(7, 2)).astype(np.float32)  # of two products that came later
    p = TowerWeights(*map(torch.from_numpy, weights))
    place_weights = np.array([1, 0.5, 0.25], np.float32)
    for user, row, history in [(0, 1, [4, 2, 4]), (2, 3, [1]), (1, 2, []), (NOBODY, 0, [3, 0])]:
        padded = torch.tensor([history + [-1] * (3 - len(history))])
        shares = place_weights[: len(history)]
        np.testing.assert_allclose(
            user_embedding(weights, user, np.array(history, np.int32), shares),
            user_tower(p, torch.tensor([row]), padded, torch.from_numpy(place_weights))[0],
            rtol=1e-5,
        )
    shown = torch.ones(5, 1)
    fitted = product_tower(p, torch.arange(5), torch.from_numpy(content), shown)
    embeddings = product_embeddings(weights, content)
    np.testing.assert_allclose(embeddings[:5], fitted, rtol=1e-5)
    later = p._replace(context=torch.zeros(7, 4), offset=torch.zeros(7, 4))
    unseen = product_tower(later, torch.tensor([5, 6]), torch.from_numpy(content), torch.ones(2, 1))
    np.testing.assert_allclose(embeddings[5:], unseen, rtol=1e-5)


@pytest.mark.parametrize("uniform_share", [0.1, 1.0])
def test_two_towers_learn_the_odds_of_a_click_however_negatives_are_drawn(uniform_share: float) -> None:
    rule = TrainingRule(batch=32, negatives=64, uniform_share=uniform_share, visits=200, passes_max=200)
    recommender = TwoTowers(80, factors=2, width=2, rule=rule)
    recommender.grow(4)
    for _ in range(10):
        for row in (0, 0, 0, 0, 0, 1, 2, 3):
            recommender.learn(asking(0), row)
    found = scores(recommender, asking(NOBODY), 4)
    # 5 to 3, and 1 to 7 for each of the others; a bias starts at the shares, 5 to 1.
    np.testing.assert_allclose(found[0] - found[1:], math.log(5 / 3) - math.log(1 / 7), atol=0.2)


def test_two_towers_score_a_new_product_by_its_content() -> None:
    content = np.zeros((14, 2), np.float32)
    content[[*TASTES[0], 12], 0] = 1.0  # 12 and 13 are clicked by nobody
    content[[*TASTES[1], 13], 1] = 1.0
    rule = SMALL._replace(unknown_products=0.5)
    recommender = TwoTowers(REFIT_EVERY, content=content, factors=8, width=8, rule=rule)
    histories = tastes_learned(recommender)
    recommender.grow(14)
    for user, history in histories.items():
        found = scores(recommender, asking(user, *history), 14)
        assert (found[12] > found[13]) == (user % 2 == 0)


@every_refitted
def test_what_came_after_the_last_refit_is_listed_last_or_neutral(make: Callable[[], Recommender]) -> None:
    recommender = taught(make())
    before = scores(recommender, asking(2, 4, 5), 12)
    recommender.grow(15)
    found = scores(recommender, asking(2, 4, 13, 5), 15)
    expected = found[:12].min() if make is two_towers else 0.0
    np.testing.assert_array_equal(found[12:], expected)
    assert before.any()
    np.testing.assert_array_equal(scores(recommender, asking(2, 4, 5), 15)[:12], before)


@every_baseline
def test_before_anything_is_learned_all_products_are_alike(make: Callable[[], Recommender]) -> None:
    recommender = make()
    recommender.grow(4)
    np.testing.assert_array_equal(scores(recommender, asking(NOBODY, 2, 1), 4), [0, 0, 0, 0])


@every_refitted
def test_scores_change_with_the_refit_only(make: Callable[[], Recommender]) -> None:
    recommender = make()
    recommender.grow(12)
    asked = asking(2, 4, 5)
    last, changes = scores(recommender, asked, 12), []
    for count, (request, row) in enumerate(stream(3), 1):
        recommender.learn(request, row)
        now = scores(recommender, asked, 12)
        if not np.array_equal(now, last):
            changes.append(count)
        last = now
    assert changes == [40, 80, 120]


@every_baseline
@given(seed=st.integers(0, 10_000))
@settings(max_examples=5, deadline=None)
def test_a_copy_from_the_pickle_goes_on_alike_and_scoring_learns_nothing(
    make: Callable[[], Recommender], seed: int
) -> None:
    goes_on_alike_from_its_pickle(make(), stream(seed), products=12)


@pytest.mark.parametrize("make", [mf_sgd, als, two_towers])
def test_the_seed_decides(make: Callable[[int], Recommender]) -> None:
    first, again, other = (scores(taught(make(seed)), asking(2, 4, 5), 12) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_leaves_the_number_of_torch_threads_as_it_was() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        taught(two_towers())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_two_towers_forget_clicks_beyond_the_window() -> None:
    def fitted(window: int, start: int) -> Floats:
        recommender = TwoTowers(120, factors=4, width=4, rule=SMALL, window=window)
        recommender.grow(12)
        for count, (request, row) in enumerate(stream(3)):
            recommender.learn(request, row if count >= start else 0)
        return scores(recommender, asking(2, 4, 5), 12)

    np.testing.assert_array_equal(fitted(50, 0), fitted(50, 70))
    assert not np.array_equal(fitted(51, 0), fitted(51, 70))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlternatingLeastSquares(0), "a refit every 0 clicks: give 1 or more"),
        (lambda: AlternatingLeastSquares(1, factors=0), "0 factors: give 1 or more"),
        (lambda: AlternatingLeastSquares(1, alpha=0), "alpha is 0 and the pull toward zero 100.0: give more than 0"),
        (lambda: AlternatingLeastSquares(1, pull=math.nan), "the pull toward zero nan: give more than 0"),
        (lambda: AlternatingLeastSquares(1, last=0), "0 clicks of the history are read: give 1 or more"),
        (lambda: Ease(-1), "a refit every -1 clicks: give 1 or more"),
        (lambda: Ease(1, pull=0), "the pull toward zero is 0: give more than 0"),
        (lambda: Ease(1, fall=11), "fall with the exponent 11: give 0 to 10"),
        (lambda: IncrementalFactorization(factors=0), "0 factors: give 1 or more"),
        (lambda: IncrementalFactorization(learning_rate=0), "the learning rate is 0, the pull 0.1: give more than 0"),
        (lambda: IncrementalFactorization(pull=-1), "the pull -1: give more than 0, and 0 or more"),
        (lambda: IncrementalFactorization(negatives=-1), "-1 negatives and 5 steps at each click: give 0 or more"),
        (lambda: IncrementalFactorization(steps=0), "30 negatives and 0 steps at each click: give 0 or more, and 1"),
        (lambda: IncrementalFactorization(deviation=0), "a deviation of 0: give more than 0"),
        (lambda: TwoTowers(0), "a refit every 0 clicks: give 1 or more"),
        (lambda: TwoTowers(1, width=0), "64 factors and layers of 0: give 1 or more of each"),
        (lambda: TwoTowers(1, window=0), "the newest 0 clicks are trained on: give 1 or more"),
        (lambda: TwoTowers(1, rule=TrainingRule(learning_rate=0)), "the learning rate is 0: give more than 0"),
        (lambda: TwoTowers(1, rule=TrainingRule(negatives=0)), "must be 1 or more each: .*negatives=0"),
        (lambda: TwoTowers(1, rule=TrainingRule(dropout=1)), "dropout below 1 .*dropout=1"),
        (lambda: TwoTowers(1, rule=TrainingRule(uniform_share=0)), "uniform_share above 0: .*uniform_share=0"),
    ],
)
def test_a_parameter_out_of_bounds_is_named_with_its_limit(make: Callable[[], Recommender], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_product_without_content_and_too_many_products_are_refused() -> None:
    with pytest.raises(ValueError, match="3 products, but content of 2: give a row for each"):
        TwoTowers(1, content=np.zeros((2, 4), np.float32)).grow(3)
    with pytest.raises(ValueError, match=r"20,001 products: .* 20,000 at most; leave this baseline out"):
        Ease(1).grow(20_001)


def test_steps_that_are_too_long_are_told() -> None:
    recommender = IncrementalFactorization(factors=4, learning_rate=50)
    with pytest.raises(FactorsDiverged, match=r"not finite any more: lower learning_rate=50, or raise pull=0.1"):
        taught(recommender)


@pytest.mark.parametrize(
    ("make", "module", "package"), [(als, "implicit.cpu.als", "implicit"), (ease, "scipy.sparse", "scipy")]
)
def test_what_to_install_is_told_where_a_package_is_missing(
    make: Callable[[], Recommender], module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ImportError, match=rf"the package {package} is needed .* pip install '\.\[evaluate\]' in Freshet's folder"
    ):
        taught(make())
