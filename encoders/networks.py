"""Weights to the network that they are: the one place that knows which code runs which architecture.

Every network keeps one of two protocols, so that encoders, regions, tokens and compressed networks meet.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.bert import Bert
from encoders.efficientnet_lite import EfficientNetLite
from encoders.recipes import UnknownSource, Weights
from encoders.torchvision_files import PREFIX
from encoders.torchvision_networks import TorchvisionNetwork
from encoders.transformers_networks import load_picture_network, load_text_network

if TYPE_CHECKING:
    from torch import Tensor


class PictureNetwork(Protocol):
    """Reads pictures as the recipe prepares them: (B, 3, side, side) float32, normalised."""

    @property
    def centre(self) -> NDArray[np.float32]:
        """(V,) the mean of pooled features where it is known without data, else zeros."""

    def places(self, pixels: "Tensor") -> "Tensor":
        """(B, V, H, W): what is seen at each place of a grid."""

    def pooled(self, pixels: "Tensor") -> "Tensor":
        """(B, V) float32: what is seen in all."""


class TextNetwork(Protocol):
    """Reads word pieces."""

    def states(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        """(B, S, T) the last state of each word piece, without meaning on padding.

        ids   (B, S) int64, the tokenizer's; on padding its own padding
        mask  (B, S) bool, False on padding
        """


def picture_network(weights: Weights, device: str) -> PictureNetwork:
    """On the device, ready to read. Raises UnknownSource if the files do not hold what they should."""
    with _readable(weights):
        if weights.architecture == "efficientnet-lite0":
            return EfficientNetLite(weights.files[0], device=device)
        if weights.architecture.startswith(PREFIX):
            return TorchvisionNetwork(weights, device=device)
        return load_picture_network(weights, device=device)


def text_network(weights: Weights, device: str) -> TextNetwork:
    """On the device, ready to read. Raises UnknownSource if the files do not hold what they should."""
    with _readable(weights):
        config = weights.file("config.json")
        if weights.architecture == "bert" and config is not None and Bert.knows(weights.files[0], config):
            return Bert(weights.files[0], config, device=device)
        return load_text_network(weights, device=device)


@contextmanager
def _readable(weights: Weights) -> Iterator[None]:
    """What a file's reader raises becomes UnknownSource."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except (UnknownSource, torch.OutOfMemoryError):
        raise
    except (SafetensorError, pickle.UnpicklingError, EOFError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise UnknownSource(
            f"{weights.source!r}: {weights.files[0]} is no whole {weights.architecture} ({error}): get it again"
        ) from error
