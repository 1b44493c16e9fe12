"""Pictures and words in one space: measures worked by hand, then heads that learn what is there to learn."""

import math

import numpy as np
import pytest

from encoders.alignment import Alignment
from encoders.retrieval import recall_at, same_label_at_1, unit_or_zero
from encoders.training.align import PAIRS_MIN, AlignmentRule, TooFewPairs, align
from encoders.training.loop import CannotTrain, Progress, Run

RULE = AlignmentRule(width=16, epochs=30, batch=100, dropout=0.1)


def pairs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (2, n, 40) and words (n, 30) that tell of the same six facts, each in its own way and with noise."""
    chance = np.random.default_rng(7)
    to_picture, to_words = chance.normal(size=(6, 40)), chance.normal(size=(6, 30))
    chance = np.random.default_rng(seed)
    facts = chance.normal(size=(count, 6))
    pictures = facts @ to_picture + 0.3 * chance.normal(size=(2, count, 40))
    return pictures.astype(np.float32), (facts @ to_words + 0.3 * chance.normal(size=(count, 30))).astype(np.float32)


def test_recall_is_the_share_of_answers_among_the_nearest() -> None:
    queries = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    answers = np.array([[1, 0.1], [1, 0], [1, 0.9]], np.float32)
    assert recall_at(queries, answers, 1) == pytest.approx(1 / 3)  # the third has its own; the first finds the second
    assert recall_at(queries, answers, 2) == pytest.approx(2 / 3)
    assert recall_at(queries, answers, 3) == 1
    assert recall_at(queries, 5 * answers, 2) == pytest.approx(2 / 3)
    same = np.ones((4, 2), np.float32)  # nothing can be told apart: an answer stands in the middle
    assert (recall_at(same, same, 1), recall_at(same, same, 2)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="each query has one answer"):
        recall_at(queries, answers[:2], 1)


def test_the_nearest_other_product_has_the_same_label_or_not() -> None:
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0, 0]], np.float32)
    labels = ["cup", "cup", "lamp", "", "cup"]
    every = np.arange(5)
    assert same_label_at_1(vectors, labels, every) == pytest.approx(2 / 3)  # the lamp's nearest has no label
    assert same_label_at_1(vectors, labels, every[:2]) == 1
    assert math.isnan(same_label_at_1(vectors, labels, every[3:]))


def test_heads_find_the_words_of_pictures_that_they_have_never_seen() -> None:
    pictures, words = pairs(400)
    new_pictures, new_words = pairs(100, seed=1)
    told: list[Progress] = []
    alignment = align(pictures, words, RULE, Run(told=told.append))
    found = recall_at(alignment.words(new_words), alignment.pictures(new_pictures[0]), 1)
    assert found > 0.6  # chance is .01
    assert [(at.step, at.steps) for at in told] == [(step, 4 * RULE.epochs) for step in range(1, 121)]
    losses = [epoch["loss"] for epoch in told[-1].epochs]
    assert len(losses) == RULE.epochs
    assert losses[-1] < losses[0] / 2
    shuffled = align(pictures, words[np.random.default_rng(0).permutation(400)], RULE)
    assert recall_at(shuffled.words(new_words), shuffled.pictures(new_pictures[0]), 1) < 0.1


def test_what_was_learned_and_the_regression_stand_side_by_side_as_long_as_the_rule_says() -> None:
    pictures, words = pairs(200)
    rule = RULE._replace(regressed=0.5, regressed_width=6)
    both, learned = align(pictures, words, rule), align(pictures, words, rule._replace(regressed=0.0))
    assert both.pictures.weight.shape == (16 + 6, 40)
    for side, features in (("pictures", pictures[0]), ("words", words)):
        head, before = getattr(both, side), getattr(learned, side)
        reached = ((features - head.mean) / head.spread) @ head.weight.T + head.bias
        lengths = np.linalg.norm(reached[:, :16], axis=1), np.linalg.norm(reached[:, 16:], axis=1)
        assert [length.mean() for length in lengths] == pytest.approx([1.0, 0.5], abs=1e-4)
        np.testing.assert_allclose(unit_or_zero(reached[:, :16]), before(features), atol=1e-4)
    # Six facts are all that pictures and words share: the regression alone finds pairs that were never seen.
    (new_pictures, *_), new_words = pairs(100, seed=1)
    found = recall_at(both.words(new_words), both.pictures(new_pictures), 1)
    assert found > recall_at(learned.words(new_words), learned.pictures(new_pictures), 1)


def test_the_same_seed_gives_the_same_heads_and_they_can_be_kept() -> None:
    pictures, words = pairs(100)
    one, same, other = (align(pictures, words, RULE, Run(seed=seed)) for seed in (3, 3, 4))
    for name, array in one.state().items():
        np.testing.assert_array_equal(array, same.state()[name])
    assert not np.array_equal(one.words.weight, other.words.weight)
    again = Alignment.from_state(one.state())
    np.testing.assert_array_equal(again.pictures(pictures[0]), one.pictures(pictures[0]))
    np.testing.assert_allclose(np.linalg.norm(one.words(words), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 9, 10, 11, 19, 20, 21])
def test_any_number_of_epochs_will_do(epochs: int) -> None:
    pictures, words = pairs(50)
    heads = align(pictures, words, RULE._replace(epochs=epochs))
    assert np.isfinite(heads.words.weight).all()


def test_what_is_not_there_stays_nowhere() -> None:
    pictures, words = pairs(50)
    alignment = align(pictures, words, RULE)
    assert not alignment.pictures(np.zeros((1, 40), np.float32)).any()


def test_too_few_pairs_and_broken_features_are_refused() -> None:
    pictures, words = pairs(PAIRS_MIN)
    assert align(pictures, words, RULE._replace(epochs=1)).words.weight.shape == (16 + PAIRS_MIN - 1, 30)
    with pytest.raises(TooFewPairs, match="7 pictures and 7 words: give at least 8 pairs"):
        align(pictures[:, :7], words[:7], RULE)
    with pytest.raises(TooFewPairs, match="8 pictures and 7 words"):
        align(pictures, words[:7], RULE)
    words[0, 0] = np.nan
    with pytest.raises(CannotTrain, match="not finite: encode the products again"):
        align(pictures, words, RULE)
