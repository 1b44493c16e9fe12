"""Fusion: attention over the modalities, known by hand and by its properties."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.fusion import (
    SCORES,
    Fusion,
    Modalities,
    Score,
    attend,
    attention_scores,
    attention_weights,
    orthonormal_maps,
    unit_rows,
)
from encoders.weights import FusionRecipe

WIDTHS = {"image": 12, "text": 5}
RECIPE = FusionRecipe(
    image_width=4, text_width=5, image_importance=0.5, text_importance=1.0, attributes_importance=0.5, seed=3
)


def fusion_of(recipe: FusionRecipe) -> Fusion:
    return Fusion(WIDTHS, recipe, attributes=3)


def unit(seed: int, count: int, width: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def test_the_attention_of_two_tokens_is_the_one_worked_by_hand() -> None:
    # Tokens (3, 0) and (0, 4), query (3, 4): cosines 3/5 and 4/5, softmax 1 / (1 + e^.2) = .4502 and .5498.
    tokens = np.array([[[3.0, 0.0], [0.0, 4.0]]], np.float32)
    weights = attention_weights(np.array([[3.0, 4.0]], np.float32), tokens, np.array([[True, True]]))
    assert weights == pytest.approx(np.array([[0.450166, 0.549834]]), abs=1e-6)


def test_the_four_scores_of_two_tokens_are_those_worked_by_hand() -> None:
    """Query (3, 4) with the tokens (3, 0) and (0, 4)."""
    query, tokens = np.array([[3.0, 4.0]], np.float32), np.array([[[3.0, 0.0], [0.0, 4.0]]], np.float32)
    swap = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    assert attention_scores(query, tokens, "cosine")[0] == pytest.approx([0.6, 0.8])
    assert attention_scores(query, tokens, "euclidean")[0] == pytest.approx([-4.0, -3.0])
    assert attention_scores(query, tokens, "dot")[0] == pytest.approx([9 / np.sqrt(2), 16 / np.sqrt(2)])
    assert attention_scores(query, tokens, "learned", swap)[0] == pytest.approx([12 / np.sqrt(2)] * 2)
    for score, matrix in (("learned", None), ("dot", swap)):
        with pytest.raises(ValueError, match="only the learned one has a matrix, and it needs one"):
            attention_scores(query, tokens, score, matrix)  # type: ignore[arg-type]


@pytest.mark.parametrize("score", SCORES)
@given(seed=st.integers(0, 10_000), size=st.floats(0.01, 1_000))
def test_whatever_the_score_weights_are_shares_of_what_is_there(score: Score, seed: int, size: float) -> None:
    chance = np.random.default_rng(seed)
    query, tokens = chance.normal(size=(5, 4)).astype(np.float32), chance.normal(size=(5, 3, 4)).astype(np.float32)
    query, tokens = query * np.float32(size), tokens * np.float32(size)
    present = chance.random((5, 3)) < 0.6
    matrix = chance.normal(size=(4, 4)).astype(np.float32) if score == "learned" else None
    weights = attention_weights(query, tokens, present, score, matrix)
    assert np.isfinite(weights).all()
    assert (weights[~present] == 0).all()
    assert weights.sum(axis=1) == pytest.approx(present.any(axis=1).astype(float), abs=1e-5)
    order = chance.permutation(3)
    moved = attention_weights(query, tokens[:, order], present[:, order], score, matrix)
    assert moved == pytest.approx(weights[:, order], abs=1e-5)
    scores = np.where(present, attention_scores(query, tokens, score, matrix), -np.inf)
    some = present.any(axis=1)
    assert (weights[some].max(axis=1) == weights[some, scores[some].argmax(axis=1)]).all()


def test_a_missing_modality_has_weight_exactly_zero() -> None:
    tokens = np.array([[[3.0, 0.0], [0.0, 4.0]]] * 3, np.float32)
    present = np.array([[True, False], [False, True], [False, False]])
    weights = attention_weights(np.ones((3, 2), np.float32), tokens, present)
    assert weights.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_a_missing_modality_leaves_its_block_empty_and_the_others_as_they_are() -> None:
    fusion = fusion_of(RECIPE)
    words_alone = fusion.fuse(Modalities(np.zeros((1, 12), np.float32), unit(1, 1, 5), np.zeros((1, 3), np.float32)))
    assert words_alone[0, :5] == pytest.approx(unit(1, 1, 5)[0], abs=1e-6)
    assert not words_alone[0, 5:].any()


def test_a_product_of_which_nothing_is_known_is_fused_to_zeros() -> None:
    products = Modalities(np.zeros((2, 12), np.float32), np.zeros((2, 5), np.float32), unit(1, 2, 3) * [[0], [1]])
    fused = fusion_of(RECIPE).fuse(products)
    assert not fused[0].any()
    assert np.linalg.norm(fused[1]) == pytest.approx(1.0, abs=1e-6)


def test_the_maps_are_orthonormal_and_their_images_orthogonal() -> None:
    maps = orthonormal_maps({"text": 5, "image": 12}, {"text": 5, "image": 4}, seed=3)
    assert maps["text"] @ maps["text"].T == pytest.approx(np.eye(5), abs=1e-6)
    assert maps["text"] @ maps["image"].T == pytest.approx(np.zeros((5, 12)), abs=1e-6)
    projection = maps["image"].T @ maps["image"]  # onto the 4 dimensions that the text leaves
    assert projection @ projection == pytest.approx(projection, abs=1e-6)
    assert np.trace(projection) == pytest.approx(4.0, abs=1e-5)


def test_the_same_seed_gives_the_same_maps_and_another_seed_others() -> None:
    first, again, other = (orthonormal_maps({"image": 12}, {"image": 4}, seed=seed)["image"] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_fused_cosine_is_the_weighted_mean_of_the_modalities_cosines() -> None:
    # Wide enough that nothing is projected away. Weights: cosines .5, 1, .5 over sqrt(1.5), softmax, times importance.
    fusion = fusion_of(dataclasses.replace(RECIPE, image_width=12))
    products = Modalities(unit(1, 2, 12), unit(2, 2, 5), unit(3, 2, 3))
    fused = fusion.fuse(products)
    importances = np.array([0.5, 1.0, 0.5])
    attention = np.exp(importances / np.sqrt(1.5))
    share = (attention / attention.sum() * importances) ** 2
    expected = sum(part * rows[0] @ rows[1] for part, rows in zip(share, products, strict=True)) / share.sum()
    assert fused[0] @ fused[1] == pytest.approx(expected, abs=1e-5)


@given(st.permutations(range(6)), st.lists(st.tuples(*[st.booleans()] * 3), min_size=6, max_size=6))
def test_the_batch_order_permutes_the_output_and_a_batch_equals_singles(
    order: list[int], flags: list[tuple[bool, bool, bool]]
) -> None:
    fusion, present = fusion_of(RECIPE), np.array(flags, np.float32)
    whole = [unit(1, 6, 12), unit(2, 6, 5), unit(3, 6, 3)]
    rows = [vectors * present[:, [place]] for place, vectors in enumerate(whole)]
    together = fusion.fuse(Modalities(*rows))
    assert fusion.fuse(Modalities(*(each[order] for each in rows))) == pytest.approx(together[order], abs=1e-6)
    singles = [fusion.fuse(Modalities(*(each[[i]] for each in rows)))[0] for i in range(6)]
    assert np.stack(singles) == pytest.approx(together, abs=1e-6)


def test_of_several_pictures_the_odd_one_counts_least_and_one_alone_is_itself() -> None:
    alike, odd = np.array([1.0, 0.0, 0.0], np.float32), np.array([0.0, 1.0, 0.0], np.float32)
    assert attend(alike[None]) == pytest.approx(alike)
    # The mean of two alike and one odd is (2, 1, 0) / 3: cosines 2 / sqrt(5) and 1 / sqrt(5), softmax.
    raised = np.exp([2 / np.sqrt(5), 1 / np.sqrt(5)])
    expected = unit_rows(np.array([[2 * raised[0], raised[1], 0.0]], np.float32))[0]
    for order in ([0, 1, 2], [2, 0, 1]):
        assert attend(np.stack([alike, alike, odd])[order]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_that_is_not_finite_or_zero_raises(value: float) -> None:
    with pytest.raises(FloatingPointError, match="zero or not finite"):
        unit_rows(np.full((1, 3), value, np.float32))
