"""Vectors for products that nobody has clicked yet."""

import numpy as np
import pytest
from numpy.typing import NDArray

from encoders.cold_start import fit
from encoders.next_click import Floats

D, F = 12, 4


def planted(count: int, *, noise: float, seed: int = 0) -> tuple[Floats, Floats, Floats, Floats]:
    """fused, context, offsets, biases: the learned vectors are a linear map of the fused ones."""
    random = np.random.default_rng(seed)
    fused = random.normal(1.0, 1.0, (count, D))
    to_context, to_offset = np.random.default_rng(99).normal(size=(2, D, F))
    context = fused @ to_context + 3.0 + noise * random.normal(size=(count, F))
    offsets = 0.1 * fused @ to_offset + 0.01 * noise * random.normal(size=(count, F))
    biases = random.normal(size=count)
    return tuple(array.astype(np.float32) for array in (fused, context, offsets, biases))


def clicks_of(count: int, clicks: int = 50) -> NDArray[np.int64]:
    return np.full(count, clicks, np.int64)


def test_one_product_in_the_middle_of_a_line() -> None:
    """Fused vectors on a line, context twice as far: half-way in, the context is half-way too."""
    along = np.linspace(-1.0, 1.0, 21, dtype=np.float32)[:, None]
    fused = along * np.array([[1.0, 0.0]], np.float32)
    map_ = fit(fused, 2 * along, along, clicks_of(21), np.arange(21, dtype=np.float32))
    context, target, bias = map_.predict(np.array([[0.5, 0.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(context, [[1.0], [0.0]], atol=1e-3)
    np.testing.assert_allclose(target, [[1.5], [0.0]], atol=1e-3)
    assert bias.tolist() == [10.0, 10.0]


def test_a_planted_linear_map_is_recovered() -> None:
    fused, context, offsets, biases = planted(400, noise=0.0)
    map_ = fit(fused[:300], context[:300], offsets[:300], clicks_of(300), biases[:300])
    found, target, bias = map_.predict(fused[300:])
    np.testing.assert_allclose(found, context[300:], atol=0.02)
    np.testing.assert_allclose(target, context[300:] + offsets[300:], atol=0.02)
    assert (found.dtype, target.dtype, bias.dtype) == (np.float32, np.float32, np.float32)
    assert bias[0] == np.median(biases[:300])
    assert map_.products == 300


def test_where_vectors_say_nothing_the_prediction_is_the_mean() -> None:
    random = np.random.default_rng(1)
    fused = random.normal(size=(200, D)).astype(np.float32)
    context = random.normal(2.0, 1.0, (200, F)).astype(np.float32)
    found, _, _ = fit(fused, context, 0 * context, clicks_of(200), context[:, 0]).predict(fused)
    assert np.abs(found - context.mean(axis=0)).max() < 0.35  # least squares without a ridge would be off by .7


def test_products_with_few_clicks_do_not_teach_and_many_clicks_count_as_fifty() -> None:
    fused, context, offsets, biases = planted(100, noise=1.0)
    clicks = clicks_of(100)
    clicks[:10] = 4
    context[:10] = 1e6
    of_all = fit(fused, context, offsets, clicks, biases)
    clicks[50:] = 5_000
    of_more = fit(fused, context, offsets, clicks, biases)
    assert of_all.products == 90
    assert np.abs(of_all.predict(fused)[0]).max() < 100
    np.testing.assert_array_equal(of_all.to_context, of_more.to_context)


def test_two_clicks_weigh_like_two_products() -> None:
    fused, context, offsets, biases = planted(60, noise=1.0)
    clicks = clicks_of(60, clicks=10)
    clicks[:30] = 20
    once_map = fit(fused, context, offsets, clicks, biases)
    fused_2, context_2, offsets_2, biases_2 = (np.r_[a, a[:30]] for a in (fused, context, offsets, biases))
    twice_map = fit(fused_2, context_2, offsets_2, clicks_of(90, clicks=10), biases_2)
    # Leave-one-out may choose another ridge: so close, not equal.
    np.testing.assert_allclose(once_map.predict(fused)[0], twice_map.predict(fused)[0], atol=0.5)


@pytest.mark.parametrize(("taught", "bias"), [(0, 0.0), (19, 9.0)])
def test_too_few_products_predict_zeros_and_the_median_bias(taught: int, bias: float) -> None:
    fused, context, offsets, _ = planted(30, noise=0.0)
    clicks = clicks_of(30, clicks=0)
    clicks[:taught] = 5
    map_ = fit(fused, context, offsets, clicks, np.arange(30, dtype=np.float32))
    found, target, biases = map_.predict(fused[:2])
    assert not found.any()
    assert not target.any()
    assert biases.tolist() == [bias, bias]
    assert map_.products == 0


def test_more_components_than_products_is_no_matter() -> None:
    fused = np.random.default_rng(2).normal(size=(25, 300)).astype(np.float32)
    context = fused[:, :F].copy()
    found, _, _ = fit(fused, context, context, clicks_of(25), context[:, 0]).predict(fused)
    assert np.isfinite(found).all()
