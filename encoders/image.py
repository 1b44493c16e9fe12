"""Pictures to vectors: a convolutional network, pooled, centred, of unit length."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.fusion import unit_rows
from encoders.weights import IMAGE_RECIPE, ImageRecipe, Weights

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

AT_ONCE_CPU = 8  # pictures per forward pass: more fall out of the cache (measured: 45/s with 8, 29/s with 32)
AT_ONCE_GPU = 64


class BadPicture(ValueError):
    """The array is not a decoded picture."""


class Regions(NamedTuple):
    """The places of the network's last feature map, row by row from the upper left; R = rows * columns."""

    states: Vectors  # (B, R, V); their mean over R is the pooled feature, not yet centred
    rows: int
    columns: int


class ImageEncoder:
    """EfficientNet-lite0 without its classifier. One thread at a time may use it."""

    def __init__(self, weights: Weights, *, device: str = "cpu", recipe: ImageRecipe = IMAGE_RECIPE) -> None:
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        self.width = weights.width
        self.centre: Vectors  # (V,), what is taken off a pooled feature
        self._recipe = recipe
        self._device = torch.device(device)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights.files[0], map_location="cpu", weights_only=True))
        network.eval()
        self.centre = expected_relu6(network._bn1.weight.detach().numpy(), network._bn1.bias.detach().numpy())
        self._network = _fold_batch_norms(network).to(self._device, memory_format=torch.channels_last)

    def encode(self, pictures: Sequence[Pixels]) -> Vectors:
        """One unit vector a picture, the same whatever else is in the batch.

        pictures  B arrays (H, W, 3) uint8, RGB
        returns   (B, V) float32

        Raises BadPicture if an array has another shape or type, FloatingPointError if a result is not finite.
        """
        passes = [places.mean((2, 3)).cpu().numpy() for places in self._passes(pictures)]
        pooled = np.concatenate(passes) if passes else np.zeros((0, self.width), np.float32)
        return unit_rows(pooled - self.centre)

    def regions(self, pictures: Sequence[Pixels]) -> Regions:
        """What the network sees at each place of a picture, the same whatever else is in the batch.

        pictures  as in encode; none give the grid (0, 0)

        Raises BadPicture. 49 places of 1,280 values are 250 kB a picture.
        """
        passes = [
            places.permute(0, 2, 3, 1).cpu().numpy() for places in self._passes(pictures)
        ]  # (B, rows, columns, V)
        grids = np.concatenate(passes) if passes else np.zeros((0, 0, 0, self.width), np.float32)
        B, rows, columns, V = grids.shape
        return Regions(np.ascontiguousarray(grids.reshape(B, rows * columns, V)), rows, columns)

    def _passes(self, pictures: Sequence[Pixels]) -> "Iterator[Tensor]":
        """The feature maps (b, V, rows, columns) float32 of a few pictures at once, b adding up to B."""
        squares = [square(picture, self._recipe) for picture in pictures]
        at_once = AT_ONCE_GPU if self._device.type == "cuda" else AT_ONCE_CPU
        return (self._places(np.stack(squares[i : i + at_once])) for i in range(0, len(squares), at_once))

    def _places(self, squares: Pixels) -> "Tensor":
        """(B, side, side, 3) to (B, V, rows, columns)."""
        import torch

        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, self._device.type == "cuda"):
            pixels = torch.from_numpy(squares).to(self._device).permute(0, 3, 1, 2)  # (B, 3, side, side)
            inputs = pixels.float().sub(self._recipe.subtract).div(self._recipe.divide)
            places: Tensor = self._network.extract_features(inputs.contiguous(memory_format=torch.channels_last))
            return places.float()


def square(picture: Pixels, recipe: ImageRecipe = IMAGE_RECIPE) -> Pixels:
    """The picture as (side, side, 3) uint8. Raises BadPicture unless it is (H, W, 3) uint8 with H, W >= 1."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise BadPicture(f"a picture is {picture.dtype} {picture.shape}: pass RGB as uint8 (height, width, 3)")
    method = Image.Resampling[recipe.resampling.upper()]
    resized = Image.fromarray(picture).resize((recipe.side_px, recipe.side_px), method)
    return np.asarray(resized)


def expected_relu6(scale: Vectors, shift: Vectors) -> Vectors:
    """E[min(max(y, 0), 6)] of y ~ N(shift, scale^2), per channel: (V,) float32.

    After a batch norm y has these moments on the images that the network learned from, so this is the mean of the
    pooled feature, known without any data.
    """
    spread = np.abs(scale.astype(np.float64)) + 1e-12
    low, high = -shift / spread, (6.0 - shift) / spread
    inside = shift * (_below(high) - _below(low)) + spread * (_density(low) - _density(high))
    expected: Vectors = (inside + 6.0 * (1.0 - _below(high))).astype(np.float32)
    return expected


def _density(z: NDArray[np.float64]) -> NDArray[np.float64]:
    density: NDArray[np.float64] = np.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return density


def _below(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """P(a standard normal <= z)."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in z])


def _fold_batch_norms(network: Any) -> Any:
    """The same function with each batch norm folded into its convolution: 1.2 times as fast on a CPU."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))
    block_pairs = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))
    for owner, convolution, norm in (
        *((network, *pair) for pair in pairs),
        *((block, *pair) for block in network._blocks for pair in block_pairs if hasattr(block, pair[0])),
    ):
        setattr(owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return network
