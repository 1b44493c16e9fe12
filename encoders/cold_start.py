"""Where a product stands in the next-click model before anybody has clicked it.

Ridge regression from the PCA of the fused vectors to the learned vectors (Hoerl, Kennard, Technometrics 1970), each
product weighted by its clicks. The strength of the ridge is the one whose leave-one-out error is the smallest.
Shapes: n products, D width of a fused vector, F factors, C components.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.next_click import Floats

MIN_CLICKS = 5  # a product with fewer teaches nothing yet
FULL_WEIGHT_CLICKS = 50
MIN_PRODUCTS = 20
COMPONENTS = 96
_RIDGES = tuple(10.0**power for power in range(-4, 4))  # times the mean strength of a component

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class ColdStart:
    """A fitted map; `products` is how many taught it.

    With 0 it predicts zeros and the median bias: enough to rank with, but leave the model's own rows as they are,
    because a model in which every vector is zero has no gradient and never learns.
    """

    mean: Floats  # (D,) of the fused vectors
    to_context: Floats  # (D, F)
    to_offset: Floats  # (D, F)
    base_context: Floats  # (F,) prediction at the mean
    base_offset: Floats  # (F,)
    bias: float
    products: int

    def predict(self, fused: Floats) -> tuple[Floats, Floats, Floats]:
        """Return context (m, F), target (m, F) and bias (m,) float32 of products with fused vectors (m, D)."""
        centred = fused - self.mean
        context = (self.base_context + centred @ self.to_context).astype(np.float32)
        offset = (self.base_offset + centred @ self.to_offset).astype(np.float32)
        return context, context + offset, np.full(len(fused), self.bias, np.float32)


def fit(fused: Floats, context: Floats, offsets: Floats, clicks: NDArray[np.int64], biases: Floats) -> ColdStart:
    """Return the map from fused to learned vectors; the PCA is that of all n products.

    fused    (n, D) float32, finite: leave out products without a vector
    context  (n, F) and offsets (n, F) float32, as learned; biases (n,) float32
    clicks   (n,) learned clicks; only products with at least 5 teach, with weight min(clicks, 50)

    With fewer than 20 such products there is nothing to learn from: the map is then zero, and so is what it predicts,
    except the bias, the median over the products that were clicked at all (0 without any).
    """
    teaches = clicks >= MIN_CLICKS
    taught, width, factors = int(teaches.sum()), fused.shape[1], context.shape[1]
    if taught < MIN_PRODUCTS:
        median = float(np.median(biases[clicks > 0])) if (clicks > 0).any() else 0.0
        nothing, nowhere = np.zeros((width, factors), np.float32), np.zeros(factors, np.float32)
        return ColdStart(np.zeros(width, np.float32), nothing, nothing, nowhere, nowhere, median, 0)
    mean = fused.mean(axis=0)
    axes = _principal_axes(fused - mean)
    learned = np.hstack([context[teaches], offsets[teaches]])
    weights = np.minimum(clicks[teaches], FULL_WEIGHT_CLICKS).astype(np.float64)
    slopes, base = _ridge((fused[teaches] - mean) @ axes, learned, weights)
    to_learned = (axes @ slopes).astype(np.float32)
    base_context, base_offset = np.split(base.astype(np.float32), 2)
    return ColdStart(
        mean,
        np.ascontiguousarray(to_learned[:, :factors]),
        np.ascontiguousarray(to_learned[:, factors:]),
        base_context,
        base_offset,
        float(np.median(biases[teaches])),
        taught,
    )


def _principal_axes(centred: Floats) -> Floats:
    """(D, C): the directions in which the catalogue varies most."""
    _, axes = np.linalg.eigh(centred.T @ centred)  # ascending
    return axes[:, ::-1][:, : min(COMPONENTS, len(centred) - 1)]


def _ridge(inputs: Floats, outputs: Floats, weights: Doubles) -> tuple[Doubles, Doubles]:
    """Slopes (C, 2F) and base (2F,) of the weighted regression of outputs (n, 2F) on inputs (n, C).

    Leave-one-out needs no second fit: a residual divided by one minus its leverage is the error without that product.
    """
    shares = weights / weights.sum()
    input_mean, output_mean = shares @ inputs, shares @ outputs
    x, y = inputs - input_mean, outputs - output_mean
    strengths, basis = np.linalg.eigh(x.T @ (x * weights[:, None]))
    rotated = x @ basis
    onto = rotated.T @ (y * weights[:, None])
    best, lowest = np.zeros_like(onto), np.inf
    for ridge in _RIDGES:
        damped = 1.0 / (np.maximum(strengths, 0.0) + ridge * max(float(strengths.mean()), 1e-12))
        leverage = shares + weights * (rotated**2 @ damped)
        errors = (y - (rotated * damped) @ onto) / np.maximum(1.0 - leverage, 1e-6)[:, None]
        if (error := float(shares @ (errors**2).sum(axis=1))) < lowest:
            best, lowest = damped[:, None] * onto, error
    slopes = basis @ best
    return slopes, output_mean - input_mean @ slopes
