"""What a picture or words alone tell of the whole: first by hand, then that it is learned, then what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.modality_maps import KIND_WIDTH, ModalityMaps, fit_modality_maps, ridge, with_kinds
from encoders.reduction import CannotReduce
from encoders.retrieval import same_label_at_1, unit_or_zero


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_regression_of_one_value_is_its_slope_shortened_by_the_pull() -> None:
    features = np.array([[1.0], [2.0], [3.0]], np.float32)
    targets = 5 + 4 * features
    # slope 4, times sum of squares 2 over itself and the pull of as much
    assert ridge(features, targets, pull=1.0) == pytest.approx(np.array([[2.0]]), abs=1e-5)
    assert ridge(features, targets, pull=1e-6) == pytest.approx(np.array([[4.0]]), abs=1e-4)
    assert not ridge(np.ones((3, 2), np.float32), targets).any(), "what never varies tells nothing"


def test_a_kind_is_as_long_as_a_fused_vector_and_none_is_zeros() -> None:
    targets = unit_or_zero(noise(4, 6))
    found = with_kinds(targets, np.array([2, 0, 2, -1]))
    assert found.shape == (4, 6 + KIND_WIDTH)
    np.testing.assert_array_equal(found[:, :6], targets)
    kinds = found[:, 6:]
    assert np.linalg.norm(kinds, axis=1) == pytest.approx([1, 1, 1, 0], abs=1e-5)
    assert kinds[0] @ kinds[2] == pytest.approx(1, abs=1e-5)
    assert abs(kinds[0] @ kinds[1]) < 0.25
    assert with_kinds(targets, np.full(4, -1))[:, 6:].any() == np.False_


def products(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Views of pictures and words that each whisper what the targets say aloud, and their kinds."""
    kinds = np.arange(count) % 4
    told = unit_or_zero(noise(4, 3, seed=7)[kinds] + 0.1 * noise(count, 3, seed=seed))
    image = np.stack([np.hstack([0.3 * told, noise(count, 17, seed=seed + view)]) for view in (1, 2)])
    return unit_or_zero(image.reshape(-1, 20)).reshape(2, count, 20), told, kinds


def test_what_is_hidden_in_a_modality_is_what_its_map_shows() -> None:
    image, told, _ = products(400, seed=1)
    maps = fit_modality_maps(image, image[0], told)
    new, _, kinds = products(80, seed=5)
    names = [str(kind) for kind in kinds.tolist()]
    before = same_label_at_1(new[0], names, np.arange(80))
    for own in maps:
        assert same_label_at_1(own(new[0]), names, np.arange(80)) > before + 0.3
    again = ModalityMaps.from_state(maps.state())
    np.testing.assert_array_equal(again.image(new[0]), maps.image(new[0]))


@given(st.integers(1, 60))
def test_a_product_without_a_picture_teaches_nothing_of_pictures_and_stays_nowhere(without: int) -> None:
    image, told, _ = products(100, seed=1)
    gone = image.copy()
    gone[:, -without:] = 0
    maps = fit_modality_maps(gone, image[0], told)
    fewer = fit_modality_maps(image[:, :-without], image[0][:-without], told[:-without])
    np.testing.assert_allclose(maps.image(image[0]), fewer.image(image[0]), atol=1e-3)
    assert not maps.image(gone[0])[-without:].any()


def test_too_few_products_are_refused() -> None:
    image, told, _ = products(9, seed=1)
    two = np.vstack([image[0][:2], np.zeros((7, 20), np.float32)])
    with pytest.raises(CannotReduce, match=r"2 products have words: give at least 3"):
        fit_modality_maps(image, two, told)
    with pytest.raises(CannotReduce, match=r"2 products have a picture: give at least 3"):
        fit_modality_maps(np.stack([two, two]), image[0], told)
