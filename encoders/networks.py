"""Weights to the network that they are: the one place that knows which code runs which architecture.

Every network keeps one of two protocols, so that encoders, regions, tokens and compressed networks meet.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from encoders.bert import Bert
from encoders.compressed_folders import BERT, CENTRE, ONNX
from encoders.efficientnet_lite import EfficientNetLite
from encoders.onnx_networks import OnnxPictures, OnnxText
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
    with _readable(weights, device):
        if weights.architecture == "efficientnet-lite0":
            return EfficientNetLite(weights.files[0], device=device)
        if weights.architecture == ONNX:
            from safetensors.numpy import load_file

            centre = load_file(_there(weights, CENTRE))
            return OnnxPictures(weights.files[0], centre["centre"], device=device)
        if weights.architecture.startswith(PREFIX):
            return TorchvisionNetwork(weights, device=device)
        return load_picture_network(weights, device=device)


def text_network(weights: Weights, device: str) -> TextNetwork:
    """On the device, ready to read. Raises UnknownSource if the files do not hold what they should."""
    with _readable(weights, device):
        if weights.architecture == ONNX:
            return OnnxText(weights.files[0], device=device)
        config = weights.file("config.json")
        is_known = weights.architecture == "bert" and config is not None and Bert.knows(weights.files[0], config)
        if config is not None and (is_known or weights.architecture == BERT):
            return Bert(weights.files[0], config, device=device)
        return load_text_network(weights, device=device)


def _there(weights: Weights, name: str) -> Path:
    file = weights.file(name)
    if file is None:
        raise UnknownSource(f"{weights.source!r} has no {name}: get it again")
    return file


@contextmanager
def _readable(weights: Weights, device: str) -> Iterator[None]:
    """What a file's reader raises becomes UnknownSource."""
    import torch
    from safetensors import SafetensorError

    torch.empty(1, device=device)  # what is wrong with the device is no fault of the files
    try:
        yield
    except (UnknownSource, torch.OutOfMemoryError):
        raise
    except (SafetensorError, pickle.UnpicklingError, EOFError, KeyError, ValueError, RuntimeError, OSError) as error:
        raise UnknownSource(
            f"{weights.source!r}: {weights.files[0]} is no whole {weights.architecture} ({error}): get it again"
        ) from error
