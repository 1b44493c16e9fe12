"""Heads of another shop learn on by few pairs, and are held to where they began."""

import numpy as np
import pytest

from encoders.retrieval import recall_at
from encoders.training.align import AlignmentRule, align
from encoders.training.loop import CannotTrain, Run
from encoders.training.transfer import TransferRule, transfer
from tests.test_alignment import pairs

START = align(*pairs(300), AlignmentRule(width=16, epochs=30, batch=100, dropout=0.1))
RULE = TransferRule(epochs=60, learning_rate=5e-3, dropout=0.1, pull=1e-3)


def other_shop(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Words that lie elsewhere than in the first shop, by a turn that is not far."""
    pictures, words = pairs(count, seed)
    turn = np.linalg.qr(np.eye(30) + 0.12 * np.random.default_rng(11).normal(size=(30, 30)))[0]
    turn *= np.sign(np.diag(turn))
    return pictures, (words @ turn).astype(np.float32)


def test_few_pairs_help_and_more_help_more() -> None:
    new_pictures, new_words = other_shop(100, seed=8)
    pictures, words = other_shop(200, seed=9)
    found = []
    for count in (0, 20, 200):
        heads = transfer(START, pictures[:, :count], words[:count], RULE)
        found.append(recall_at(heads.words(new_words), heads.pictures(new_pictures[0]), 1))
    assert found[0] < found[1] < found[2]


def test_the_pull_holds_the_heads_where_they_began() -> None:
    pictures, words = other_shop(20, seed=9)
    free, held, stiff = (transfer(START, pictures, words, RULE._replace(pull=pull)) for pull in (0.0, 0.1, 100.0))
    moved = [float(np.abs(heads.words.weight - START.words.weight).mean()) for heads in (free, held, stiff)]
    assert moved[0] > moved[1] > moved[2]
    assert moved[2] < 0.1 * moved[0]
    np.testing.assert_array_equal(free.words.mean, START.words.mean)


def test_one_pair_changes_nothing_and_the_same_seed_the_same() -> None:
    pictures, words = other_shop(20, seed=9)
    assert transfer(START, pictures[:, :1], words[:1], RULE) is START
    one, same = (transfer(START, pictures, words, RULE, Run(2)) for _ in range(2))
    np.testing.assert_array_equal(one.words.weight, same.words.weight)


def test_features_of_other_encoders_are_refused() -> None:
    pictures, words = other_shop(20, seed=9)
    with pytest.raises(
        CannotTrain, match=r"features of the widths \(40, 29\) and heads for \(40, 30\): take the heads'"
    ):
        transfer(START, pictures, words[:, :29], RULE)
    words[3, 3] = np.inf
    with pytest.raises(CannotTrain, match="not finite: encode the products again"):
        transfer(START, pictures, words, RULE)
