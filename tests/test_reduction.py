"""Shorter vectors: directions worked by hand, then what must hold of any."""

import numpy as np
import pytest

from encoders.reduction import CannotReduce, fit_lda, fit_pca, principal_axes


def cloud(spreads: list[float], count: int = 400) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(count, len(spreads))) * spreads + 3).astype(np.float32)


def test_principal_components_are_the_directions_of_most_variance() -> None:
    vectors = cloud([0.1, 5.0, 1.0])
    plain = fit_pca(vectors, 2, whitening=0)
    np.testing.assert_allclose(np.abs(plain.axes), [[0, 0], [1, 0], [0, 1]], atol=0.1)
    np.testing.assert_allclose(plain.mean, vectors.mean(axis=0), atol=1e-4)
    whitened = fit_pca(vectors, 2)
    np.testing.assert_allclose(((vectors - whitened.mean) @ whitened.axes).std(axis=0), [1, 1], atol=0.02)


def test_categories_are_told_apart_along_the_direction_in_which_they_differ() -> None:
    """Along the first axis all varies most and the categories do not differ; along the second it is the other way."""
    vectors = cloud([9.0, 0.2, 0.2])
    names = ["cup" if number % 2 else "lamp" for number in range(len(vectors))]
    vectors[::2, 1] += 2
    axis = fit_lda(vectors, names, 1).axes[:, 0]
    assert np.abs(axis).argmax() == 1
    assert abs(axis[0]) < 0.05 * abs(axis[1])
    assert np.abs(fit_pca(vectors, 1).axes[:, 0]).argmax() == 0


def test_products_of_no_category_and_the_only_ones_of_theirs_teach_nothing() -> None:
    vectors = cloud([1.0, 1.0, 1.0], 60)
    names = ["cup", "lamp"] * 30
    taught = fit_lda(vectors, names, 1)
    strangers = np.concatenate([vectors, 50 + cloud([1.0, 1.0, 1.0], 2)])
    np.testing.assert_allclose(fit_lda(strangers, [*names, "", "chair"], 1).axes, taught.axes, rtol=1e-4)


def test_reduced_vectors_have_length_one_and_what_is_not_there_stays_zero() -> None:
    vectors = cloud([1.0, 2.0, 3.0, 4.0])
    reduced = fit_pca(vectors, 3)(np.concatenate([vectors, np.zeros((1, 4), np.float32)]))
    assert reduced.shape == (401, 3)
    np.testing.assert_allclose(np.linalg.norm(reduced[:-1], axis=1), 1, atol=1e-5)
    assert not reduced[-1].any()


def test_what_cannot_be_reduced_is_told() -> None:
    vectors = cloud([1.0, 1.0, 1.0], 10)
    with pytest.raises(CannotReduce, match="10 vectors leave at most 3 directions, 4 are asked for"):
        fit_pca(vectors, 4)
    with pytest.raises(CannotReduce, match="4 vectors leave at most 1 directions, 2 are asked for"):
        fit_lda(vectors, ["cup", "cup", "lamp", "lamp", *["only one " + letter for letter in "abcdef"]], 2)
    with pytest.raises(CannotReduce, match="0 vectors leave at most 0 directions"):
        fit_lda(vectors, [""] * 10, 1)
    vectors[0, 0] = np.inf
    with pytest.raises(CannotReduce, match="not finite"):
        fit_pca(vectors, 1)


def test_principal_axes_are_those_of_the_longest_vectors_and_take_no_mean_off() -> None:
    vectors = np.array([[0, 3, 0], [0, 3, 0], [1, 0, 0], [-1, 0, 0]], np.float32)
    axes = principal_axes(vectors, 2)
    assert np.abs(axes) == pytest.approx(np.array([[0, 1], [1, 0], [0, 0]]), abs=1e-6)
    assert principal_axes(vectors, 9).shape == (3, 3)
