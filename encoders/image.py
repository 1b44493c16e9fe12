"""Pictures to vectors: a network, pooled, centred, of unit length."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.fusion import unit_rows
from encoders.networks import picture_network
from encoders.recipes import IMAGE_RECIPE, ImageRecipe, Values, Weights
from encoders.transfers import Coming, room, send

if TYPE_CHECKING:
    from torch import Tensor

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]

AT_ONCE_CPU = 8  # pictures per forward pass: more fall out of the cache (measured: 45/s with 8, 29/s with 32)
AT_ONCE_GPU = 64


class Over(Protocol):
    """As the built-in `map`, which an executor's spreads over its threads."""

    def __call__(self, call: Callable[[int], None], places: Iterable[int], /) -> Iterable[None]: ...


class BadPicture(ValueError):
    """The array is not a decoded picture."""


class Regions(NamedTuple):
    """The places of the network's last feature map, row by row from the upper left; R = rows * columns."""

    states: Vectors  # (B, R, V), not centred; their mean over R is the pooled feature of a network that pools so
    rows: int
    columns: int


class ImageEncoder:
    """A picture network and its recipe. One thread at a time may use it, but as prepare and collect say."""

    def __init__(self, weights: Weights, *, device: str = "cpu", recipe: ImageRecipe | None = None) -> None:
        """recipe  in place of the weights' own. Raises UnknownSource if the files do not hold what they should."""
        import torch

        chosen = recipe or weights.recipe
        if not isinstance(chosen, ImageRecipe):
            raise ValueError(f"{weights.source!r} was found as weights of {weights.modality}: find them as image's")
        self.width = weights.width
        self._recipe = chosen
        self._device = torch.device(device)
        self._subtract, self._divide = (self._channels(values) for values in (chosen.subtract, chosen.divide))
        self._network = picture_network(weights, device)
        self.centre: Vectors = self._network.centre  # (V,), what is taken off a pooled feature

    def encode(self, pictures: Sequence[Pixels]) -> Vectors:
        """One unit vector a picture, the same whatever else is in the batch.

        pictures  B arrays (H, W, 3) uint8, RGB
        returns   (B, V) float32

        Raises BadPicture if an array has another shape or type, FloatingPointError if a result is not finite.
        """
        if not len(pictures):
            return np.empty((0, self.width), np.float32)
        return self.collect(self.launch(self.prepare(pictures)))

    def prepare(self, pictures: Sequence[Pixels], over: Over = map) -> "Tensor":
        """All that is done before the device is needed: (B, side, side, 3) uint8. Any thread may, at any time.

        over  resizes the pictures side by side

        Raises BadPicture.
        """
        import torch

        side = self._recipe.side_px
        squares = room((len(pictures), side, side, 3), torch.uint8, self._device)
        rows: Pixels = squares.numpy()

        def put(place: int) -> None:
            rows[place] = square(pictures[place], self._recipe)

        for _ in over(put, range(len(pictures))):
            pass
        return squares

    def launch(self, squares: "Tensor") -> Coming:
        """The pooled features of what was prepared, (B, V): computed on a CPU, begun on a GPU."""
        import torch

        passes = list(self._passes(squares, self._network.pooled))
        return Coming(torch.cat(passes) if passes else torch.zeros((0, self.width)))

    def collect(self, launched: Coming) -> Vectors:
        """As encode; any thread may, at any time. Raises FloatingPointError."""
        return unit_rows(launched.numpy() - self.centre)

    def regions(self, pictures: Sequence[Pixels]) -> Regions:
        """What the network sees at each place of a picture, the same whatever else is in the batch.

        pictures  as in encode; none have the grid (0, 0)

        Raises BadPicture. 49 places of 1,280 values are 250 kB a picture.
        """
        passes = [
            places.permute(0, 2, 3, 1).cpu().numpy()
            for places in self._passes(self.prepare(pictures), self._network.places)
        ]
        grids = np.concatenate(passes) if passes else np.zeros((0, 0, 0, self.width), np.float32)
        B, rows, columns, V = grids.shape
        return Regions(np.ascontiguousarray(grids.reshape(B, rows * columns, V)), rows, columns)

    def encode_with_regions(self, pictures: Sequence[Pixels]) -> tuple[Vectors, Regions]:
        """What encode and regions return, of one pass where the vector is the mean over the places, else of two."""
        found = self.regions(pictures)
        if self._recipe.pooling != IMAGE_RECIPE.pooling or not pictures:
            return self.encode(pictures), found
        return unit_rows(found.states.mean(axis=1) - self.centre), found

    def _passes(self, squares: "Tensor", read: "Callable[[Tensor], Tensor]") -> "Iterator[Tensor]":
        """What read tells of a few pictures at once, float32, b of each adding up to B."""
        at_once = AT_ONCE_GPU if self._device.type == "cuda" else AT_ONCE_CPU
        return (self._pass(squares[i : i + at_once], read) for i in range(0, len(squares), at_once))

    def _channels(self, values: Values) -> "Tensor":
        """A number for all channels, or one each, as (1, 1, 1) or (3, 1, 1)."""
        import torch

        return torch.tensor(values, device=self._device).reshape(-1, 1, 1)

    def _pass(self, squares: "Tensor", read: "Callable[[Tensor], Tensor]") -> "Tensor":
        """What read tells of (b, side, side, 3), normalised."""
        import torch

        with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, self._device.type == "cuda"):
            pixels = send(squares, self._device).permute(0, 3, 1, 2)  # (b, 3, side, side)
            return read(pixels.float().sub(self._subtract).div(self._divide)).float()


def square(picture: Pixels, recipe: ImageRecipe = IMAGE_RECIPE) -> Pixels:
    """The picture as (side, side, 3) uint8. Raises BadPicture unless it is (H, W, 3) uint8 with H, W >= 1."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise BadPicture(f"a picture is {picture.dtype} {picture.shape}: pass RGB as uint8 (height, width, 3)")
    if picture.shape[:2] == (recipe.side_px, recipe.side_px):
        return picture
    method = Image.Resampling[recipe.resampling.upper()]
    resized = Image.fromarray(picture).resize((recipe.side_px, recipe.side_px), method)
    return np.asarray(resized)
