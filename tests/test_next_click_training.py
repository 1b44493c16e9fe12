"""The next-click model as it learns."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.next_click import ABSENT, Floats, Rows, best, embed, score
from encoders.next_click_replays import draw_candidates
from encoders.next_click_step import Parameters, Rule, step
from encoders.next_click_training import FactorsDiverged, NextClickModel

F = 8
RULE = Rule(negatives=20, recent_clicks=60, recent_scale=30.0, ring_examples=150, positions=3, memory_length=6)
Examples = tuple[Rows, Rows, Floats]


def model_with(products: int, *, rule: Rule = RULE, seed: int = 1) -> NextClickModel:
    model = NextClickModel(F, seed=seed, rule=rule)
    for _ in range(products):
        model.add_product()
    return model


def random_examples(count: int, products: int, *, seed: int = 0) -> Examples:
    random = np.random.default_rng(seed)
    histories = random.integers(-1, products, (count, RULE.memory_length)).astype(np.int32)
    ages_s = random.exponential(1e5, histories.shape).astype(np.float32)
    return random.integers(0, products, count).astype(np.int32), histories, ages_s


def assert_same(state: Mapping[str, NDArray[Any]], other: Mapping[str, NDArray[Any]]) -> None:
    assert state.keys() == other.keys()
    for name in state:
        np.testing.assert_array_equal(state[name], other[name], err_msg=name)


# --- one step ----------------------------------------------------------------------------------------------------

HISTORY = np.array([3, ABSENT, 5, 6], np.int32)
GAPS = np.array([1, 0, 4], np.int8)
CANDIDATES = np.array([0, 1, 2, 7, 9], np.int32)  # 9 is the clicked product
KEEP = np.array([2, 0, 2, 2, 0, 2, 0, 2], np.float32)
STEP_RULE = RULE._replace(learning_rate=0.01, shared_rate=0.01, bias_rate=0.01, pull=0.05)


def random_parameters() -> Parameters:
    random = np.random.default_rng(3)
    products, positions = 10, RULE.positions

    def normal(*shape: int) -> Floats:
        return random.normal(0, 0.5, shape).astype(np.float32)

    def full(count: int) -> Floats:
        return np.full(count, 0.1, np.float32)

    return Parameters(
        context=normal(products, F),
        context_squares=full(products),
        offset=normal(products, F),
        offset_squares=full(products),
        bias=normal(products),
        bias_squares=full(products),
        position_weights=normal(positions, F),
        position_squares=full(positions),
        gap_weights=normal(6, F),
        gap_squares=full(6),
        memory_weights=normal(1, F),
        memory_squares=full(1),
        change=np.zeros(products, np.float32),
    )


def loss_of(p: Mapping[str, NDArray[Any]], log_expected: NDArray[Any], *, pull: float) -> float:
    """The loss of the module's first lines, written down again in numpy."""
    context, known = p["context"], [place for place, row in enumerate(HISTORY) if row != ABSENT]
    decays = np.array([RULE.memory_decay**place for place in known])
    z = p["memory_weights"][0] * (decays @ context[HISTORY[known]]) / decays.sum()
    for place in known:
        if place < RULE.positions:
            z = z + p["position_weights"][place] * p["gap_weights"][GAPS[place]] * context[HISTORY[place]]
    target = context + p["offset"]
    logits = p["bias"][CANDIDATES] + target[CANDIDATES] @ (z * KEEP) - log_expected
    pulled = [context[CANDIDATES], p["offset"][CANDIDATES], context[HISTORY[known]]]
    return float(np.log(np.exp(logits).sum()) - logits[-1] + pull / 2 * sum((rows**2).sum() for rows in pulled))


@pytest.mark.parametrize("name", ["context", "offset", "bias", "position_weights", "gap_weights", "memory_weights"])
def test_a_step_goes_down_the_gradient_of_the_sampled_softmax_loss(name: str) -> None:
    log_expected = np.array([0.3, -0.2, 0.1, 0.5, 0.0], np.float32)
    before = {key: array.astype(np.float64) for key, array in random_parameters()._asdict().items()}
    p = random_parameters()
    loss = step(p, STEP_RULE, HISTORY, GAPS, CANDIDATES, log_expected, KEEP, 1.0)
    assert loss == pytest.approx(loss_of(before, log_expected, pull=0.0), rel=1e-5)

    numeric = np.zeros_like(before[name])
    for place in np.ndindex(numeric.shape):
        sides = []
        for nudge in (1e-5, -1e-5):
            nudged = before | {name: before[name].copy()}
            nudged[name][place] += nudge
            sides.append(loss_of(nudged, log_expected, pull=STEP_RULE.pull))
        numeric[place] = (sides[0] - sides[1]) / 2e-5
    # Adagrad: the way is rate * gradient / sqrt(sum), and the sum has grown by the row's mean square.
    squares = getattr(p, name.removesuffix("_weights") + "_squares")
    grown = (numeric**2).reshape(len(numeric), -1).mean(axis=1)
    np.testing.assert_allclose(squares, 0.1 + grown, rtol=1e-4)
    way = (getattr(p, name) - before[name]).reshape(len(numeric), -1)
    gradient = -way * np.sqrt(squares)[:, None] / 0.01
    np.testing.assert_allclose(gradient, numeric.reshape(len(numeric), -1), atol=1e-4)


# --- negatives and replays ---------------------------------------------------------------------------------------


def test_negatives_are_drawn_as_often_as_expected_and_never_from_the_example() -> None:
    model = model_with(200)
    rows = np.repeat(np.array([0, 1, 2], np.int32), [40, 15, 5])
    model.learn_many(rows, np.full((60, 1), ABSENT, np.int32), np.zeros((60, 1), np.float32), replays=0)
    model.remove_product(11)
    model.learn(3, np.array([ABSENT]), np.array([0.0]), replays=0)  # as every learn, it looks up what is known
    candidates, log_expected = np.zeros(21, np.int32), np.zeros(21, np.float32)
    drawn, expected, history = np.zeros(200), np.zeros(200), np.array([9, ABSENT, 10], np.int32)
    for _ in range(3_000):
        count = draw_candidates(model._ring, RULE, model._random, 8, history, candidates, log_expected)
        assert count == 21
        assert (candidates[20], log_expected[20]) == (8, 0.0)
        np.add.at(drawn, candidates[:20], 1)
        expected[candidates[:20]] = np.exp(log_expected[:20])
    assert drawn[[8, 9, 10, 11]].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert expected[0] == pytest.approx(20 * (0.5 / 199 + 0.5 * 39 / 60))  # one of its 40 clicks is not recent any more
    # 3 of the 199 known products are refused, so the others come a little more often than the correction says.
    np.testing.assert_allclose(drawn[:3] / 3_000, expected[:3], rtol=0.05)
    np.testing.assert_allclose(drawn[12:].mean() / 3_000, expected[12:].mean(), rtol=0.05)


def recent_of(state: Mapping[str, NDArray[Any]]) -> list[int]:
    """How often each known product is among the last 60 targets, counted from the ring."""
    newest = int(state["counters"][0])
    places = np.arange(max(0, newest - RULE.recent_clicks), newest) % RULE.ring_examples
    targets = state["targets"][places]
    counts = np.bincount(targets[targets != ABSENT], minlength=len(state["known"]))
    return np.where(state["known"], counts, 0).tolist()


@pytest.mark.parametrize("count", [10, 60, 61, 149, 150, 151, 400])
def test_the_count_of_recent_clicks_stays_true(count: int) -> None:
    model = model_with(30)
    model.learn_many(*random_examples(count, 30), replays=0)
    model.remove_product(4)
    model.learn_many(np.array([5, 6]), np.full((2, 1), ABSENT), np.zeros((2, 1)), replays=0)
    state = model.state()
    assert state["recent"].tolist() == recent_of(state)
    assert state["counters"][1] == state["recent"].sum()


# --- the model ---------------------------------------------------------------------------------------------------


def test_a_planted_pattern_is_learned() -> None:
    """Whoever clicks an even product clicks the odd one behind it next."""
    model, random, pairs = model_with(20), np.random.default_rng(5), 10
    first = 2 * random.integers(0, pairs, 1_500).astype(np.int32)
    histories = np.column_stack([first, 2 * random.integers(0, pairs, 1_500)]).astype(np.int32)
    ages_s = np.full(histories.shape, 30.0, np.float32)
    early = model.learn_many(first[:100] + 1, histories[:100], ages_s[:100], replays=4)
    late = model.learn_many(first[100:] + 1, histories[100:], ages_s[100:], replays=4)
    assert late < early / 2

    rows = np.arange(20, dtype=np.int32)
    context, target, bias = model.vectors(rows)
    asked = rows[::2, None].copy()
    z = embed(model.weights(), context, asked, np.full(asked.shape, 30.0, np.float32), np.ones(pairs, np.int32))
    found, _ = best(score(target, bias, z), np.ones(20, bool), asked, 1)
    assert found[:, 0].tolist() == (asked[:, 0] + 1).tolist()
    assert model.clicks[:20].sum() == 1_500


def test_a_restart_equals_no_restart() -> None:
    first, second = random_examples(200, 30), random_examples(170, 30, seed=9)
    straight = model_with(30)
    straight.learn_many(*first, replays=3)
    file = io.BytesIO()
    np.savez(file, **straight.state())
    file.seek(0)
    with np.load(file) as saved:
        restarted = NextClickModel.from_state(dict(saved))
    for model in (straight, restarted):
        model.remove_product(int(model.add_product()))
        model.learn_many(*second, replays=2)
        assert model.add_product() == 31
    assert straight.examples == 370
    assert_same(straight.state(), restarted.state())


def test_a_restored_model_publishes_every_product_first() -> None:
    model = model_with(5)
    model.remove_product(2)
    model.mark_published(model.most_changed(10))
    assert NextClickModel.from_state(model.state()).most_changed(10).tolist() == [0, 1, 3, 4]


def test_many_examples_at_once_equal_one_after_the_other() -> None:
    together, one_by_one, (rows, histories, ages_s) = model_with(30), model_with(30), random_examples(40, 30)
    together.learn_many(rows, histories, ages_s, replays=3)
    for row, history, ages in zip(rows, histories, ages_s, strict=True):
        one_by_one.learn(int(row), history, ages, replays=3)
    assert_same(together.state(), one_by_one.state())


def test_the_seed_decides_everything() -> None:
    models = [model_with(30, seed=seed) for seed in (7, 7, 8)]
    for model in models:
        model.learn_many(*random_examples(30, 30))
    assert_same(models[0].state(), models[1].state())
    assert not np.array_equal(models[0].state()["context"], models[2].state()["context"])


def test_without_replays_each_example_is_still_learned_once() -> None:
    model = model_with(30)
    rows, histories, ages_s = random_examples(50, 30)
    before = model.vectors(rows)[0]
    assert np.isfinite(model.learn_many(rows, histories, ages_s, replays=0))
    assert model.examples == 50
    assert model.clicks[:30].tolist() == np.bincount(rows, minlength=30).tolist()
    assert not (model.vectors(rows)[0] == before).all(axis=1).any()


def test_a_removed_product_is_in_no_later_step() -> None:
    model = model_with(30)
    model.learn_many(*random_examples(100, 30), replays=3)
    model.remove_product(4)
    before = model.vectors(np.array([4]))
    rows, histories, ages_s = random_examples(200, 30, seed=2)
    model.learn_many(np.where(rows == 4, 5, rows), histories, ages_s, replays=6)
    for then, now in zip(before, model.vectors(np.array([4])), strict=True):
        np.testing.assert_array_equal(then, now)
    assert 4 not in model.most_changed(100)
    assert not (model.state()["histories"][-50:] == 4).any()
    with pytest.raises(ValueError, match=r"rows \[4\] are no known products"):
        model.learn(4, histories[0], ages_s[0])


def test_a_row_is_used_again_only_when_nothing_kept_refers_to_it() -> None:
    model = model_with(200)
    model.learn_many(*random_examples(100, 200), replays=0)
    for row in range(64):
        model.remove_product(row)
    assert model.add_product() == 200
    model.remove_product(100)  # the sweep
    state = model.state()
    gone = [*range(64), 100]
    assert not np.isin(state["histories"], gone).any()
    assert not np.isin(state["targets"], gone).any()
    assert [model.add_product() for _ in range(66)] == [*gone, 201]
    model.learn_many(*random_examples(200, 200, seed=4))
    state = model.state()
    assert state["recent"].tolist() == recent_of(state)


def test_what_changed_most_is_published_first_and_new_products_before_it() -> None:
    model = model_with(6)
    assert model.most_changed(4).tolist() == [0, 1, 2, 3]
    model.mark_published(np.arange(6))
    assert model.most_changed(6).tolist() == []
    rows, bias = np.array([1, 2], np.int32), np.array([0.1, 5.0], np.float32)
    context, target, _ = model.vectors(rows)
    model.place(rows, context, target, bias)
    assert model.most_changed(6).tolist() == [2, 1]
    assert model.vectors(rows)[2].tolist() == bias.tolist()
    new = model.add_product()
    assert model.most_changed(2).tolist() == [new, 2]


def test_a_shop_of_two_products_learns() -> None:
    model = model_with(2)
    assert model.learn(1, np.array([0]), np.array([5.0]), replays=8) == 0.0  # nothing to tell it from
    assert model.examples == 1


def test_divergence_is_an_error_that_says_what_to_do() -> None:
    model = model_with(30, rule=RULE._replace(learning_rate=1e38))
    with pytest.raises(FactorsDiverged, match=r"restore the last checkpoint.*lower learning_rate=1e"):
        model.learn_many(*random_examples(50, 30))
    with pytest.raises(FactorsDiverged, match="cold start's vectors are not finite"):
        model_with(1).place(
            np.array([0]), np.full((1, F), np.nan, np.float32), np.zeros((1, F), np.float32), np.zeros(1, np.float32)
        )


def test_recent_clicks_must_fit_into_the_ring() -> None:
    with pytest.raises(ValueError, match="recent_clicks=200 must be above 0 and below ring_examples=150"):
        NextClickModel(F, rule=RULE._replace(recent_clicks=200))
