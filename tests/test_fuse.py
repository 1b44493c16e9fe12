"""The fusion is taught by clicks, by pictures with their words, and by categories: first by hand, then the effect."""

import math

import numpy as np
import pytest
import torch

from encoders.retrieval import same_label_at_1, unit_or_zero
from encoders.training.fuse import NO_CATEGORY, FuseRule, Taught, _Terms, fuse, terms_of
from encoders.training.loop import Batch, CannotTrain, Run
from encoders.training.processes import Processes

RULE = FuseRule(align=0.1, pull=1e-3, epochs=40, batch=40, learning_rate=1e-2, dropout=0.0)
NO_CLICKS = np.zeros((0, 2), np.int64)


def unit(*shape: int, seed: int = 0) -> np.ndarray:
    return unit_or_zero(
        np.random.default_rng(seed).normal(size=shape).reshape(-1, shape[-1]).astype(np.float32)
    ).reshape(shape)


def made(count: int = 80, width: int = 12) -> Taught:
    """Products whose kind is told by the last three of their values, softly, and hidden by all others."""
    kinds = np.arange(count) % 4
    loud = unit(count, width - 3, seed=1)
    quiet = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)[kinds] * 0.15
    rows = unit_or_zero(np.concatenate([loud, quiet], axis=1))
    return Taught(np.stack([rows, rows]), np.zeros_like(rows), rows, kinds, NO_CLICKS)


def batch_of(count: int, processes: Processes = Processes(), seed: int = 0) -> Batch:  # noqa: B008
    return Batch(np.arange(count), processes.part(count), np.random.default_rng(seed), processes)


# --- terms -------------------------------------------------------------------------------------------------------


def test_the_category_term_is_that_of_the_paper() -> None:
    x = np.eye(3, 4, dtype=np.float32)
    x[1] = [0.6, 0.8, 0, 0]  # cosines: 0 with 1: .6, 0 with 2: 0, 1 with 2: 0
    taught = Taught(x[None], 0 * x, 0 * x, np.array([7, 7, 8]), NO_CLICKS)
    terms = _Terms(taught, np.eye(4, dtype=np.float32), RULE._replace(temperature=0.5), torch.device("cpu")).eval()
    found = terms._of_categories(terms.fused[0], batch_of(3))
    assert found.item() == pytest.approx(-math.log(math.exp(1.2) / (math.exp(1.2) + 1)), abs=1e-5)


def test_the_clicks_term_passes_over_what_is_no_wrong_answer() -> None:
    x = np.eye(3, dtype=np.float32)
    taught = Taught(x[None], 0 * x, 0 * x, np.full(3, NO_CATEGORY), np.array([[0, 1]]))
    terms = _Terms(taught, np.eye(3, dtype=np.float32), RULE, torch.device("cpu")).eval()
    assert terms._of_clicks(terms.fused[0], batch_of(3)).item() == 0  # the only other answers are the right one


def test_the_parts_of_two_processes_mean_what_one_means() -> None:
    class Two(Processes):
        """The other's rows are the same map of known vectors: they can be had without it."""

        everyone: torch.Tensor

        def gathered(self, rows: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
            return type(self).everyone

    taught = made(8)
    terms = _Terms(taught, np.eye(12, dtype=np.float32), RULE, torch.device("cpu")).eval()
    view = terms.fused[0]
    Two.everyone = terms._mapped(view)
    whole = terms._of_categories(view, batch_of(8)).item()
    halves = [terms._of_categories(view, batch_of(8, Two(rank, 2))).item() for rank in range(2)]
    assert np.mean(halves) == pytest.approx(whole, abs=1e-6)


def test_a_term_without_anything_to_learn_from_is_left_out() -> None:
    taught = made(12)
    assert terms_of(taught, RULE) == {"category": 1.0}
    alone = taught._replace(categories=np.arange(12))  # each the only one of its category
    assert terms_of(alone, RULE) == {}
    assert terms_of(taught._replace(clicked=np.array([[0, 1], [2, 3]])), RULE._replace(clicks=0.5)) == {
        "clicks": 0.5, "category": 1.0,
    }  # fmt: skip
    assert terms_of(alone._replace(pictures=alone.words), RULE._replace(align=0.2)) == {"align": 0.2}
    for nothing in (alone, taught._replace(categories=np.full(12, NO_CATEGORY))):
        with pytest.raises(
            CannotTrain, match="nothing to learn from: give clicks, categories or products with picture"
        ):
            fuse(nothing, rule=RULE)


# --- what is learned ---------------------------------------------------------------------------------------------


def test_categories_bring_products_of_a_kind_together_that_were_never_seen() -> None:
    whole = made(160)
    taught = Taught(whole.fused[:, :80], whole.pictures[:80], whole.words[:80], whole.categories[:80], NO_CLICKS)
    names, asked = [f"kind {kind}" for kind in whole.categories], np.arange(80, 160)
    mix = fuse(taught, rule=RULE)
    before = same_label_at_1(whole.fused[0], names, asked)
    after = same_label_at_1(whole.fused[0] @ mix.T, names, asked)
    assert before < 0.5 < 0.8 < after


def test_categories_of_one_product_do_no_harm() -> None:
    taught = made(80)
    odd = taught.categories.copy()
    odd[:2] = [98, 99]
    assert np.isfinite(fuse(taught._replace(categories=odd), rule=RULE._replace(batch=10))).all()


def test_what_is_clicked_one_after_the_other_comes_near() -> None:
    taught = made(80)
    pairs = np.stack([np.arange(0, 80, 2), np.arange(1, 80, 2)], axis=1)
    rule = RULE._replace(category=0.0, align=0.0)
    mix = fuse(taught._replace(clicked=pairs), rule=rule)

    def gap(rows: np.ndarray) -> float:
        units = unit_or_zero(rows)
        cosines = units @ units.T
        return float(cosines[pairs[:, 0], pairs[:, 1]].mean() - cosines.mean())

    assert gap(taught.fused[0] @ mix.T) > gap(taught.fused[0]) + 0.2


def test_a_picture_alone_comes_near_to_its_words_alone() -> None:
    words = unit(60, 12, seed=2)
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 6)))[0].astype(np.float32)
    pictures = words.copy()
    words[:, 6:], pictures[:, :6] = 0.0, 0.0
    pictures[:, 6:] = words[:, :6] @ turned  # in a block of its own
    pictures[:5] = 0.0  # without one
    taught = Taught(words[None], unit_or_zero(pictures), unit_or_zero(words), np.full(60, NO_CATEGORY), NO_CLICKS)
    mix = fuse(taught, rule=RULE._replace(align=1.0, pull=0.0))

    def own(mix: np.ndarray) -> float:
        a, b = (unit_or_zero(rows @ mix.T)[5:] for rows in (taught.pictures, taught.words))
        return float((a * b).sum(1).mean() - (a @ b.T).mean())

    assert own(np.eye(12, dtype=np.float32)) == pytest.approx(0, abs=1e-6)
    assert own(mix) > 0.3


def test_a_strong_pull_leaves_the_start_as_it_is() -> None:
    taught, start = made(80), unit(12, 12, seed=5)
    free = fuse(taught, start, RULE._replace(pull=0.0))
    held = fuse(taught, start, RULE._replace(pull=100.0))
    assert np.abs(held - start).max() < 0.1 * np.abs(free - start).max()
    np.testing.assert_array_equal(free, fuse(taught, start, RULE._replace(pull=0.0)))
    assert not np.array_equal(free, fuse(taught, start, RULE._replace(pull=0.0), Run(1)))


def test_too_few_products_and_broken_vectors_are_refused() -> None:
    taught = made(80)
    with pytest.raises(CannotTrain, match="7 products: give at least 8"):
        fuse(made(7))
    broken = taught._replace(words=taught.words * np.float32("nan"))
    with pytest.raises(CannotTrain, match="a vector is not finite: encode the products again"):
        fuse(broken)
