"""torchvision's convolutional networks without their classifiers: the last feature map, and its mean."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.recipes import Weights
from encoders.torchvision_files import PREFIX

if TYPE_CHECKING:
    from torch import Tensor

AFTER_THE_LAST_MAP = ("AuxLogits", "avgpool", "dropout", "fc", "classifier")


class TorchvisionNetwork:
    """A picture network (encoders.networks): ResNet, Inception v3 or EfficientNet."""

    def __init__(self, weights: Weights, *, device: str) -> None:
        """Raises RuntimeError if the file's arrays are not the architecture's."""
        import torch
        import torchvision

        name = weights.architecture.removeprefix(PREFIX)
        # Inception would draw 27 million numbers by scipy's truncated normal, for nothing.
        more: dict[str, Any] = {"init_weights": False, "aux_logits": True} if name == "inception_v3" else {}
        with torch.device("meta"):
            whole = torchvision.models.get_model(name, weights=None, **more)
        whole.load_state_dict(_arrays(weights), assign=True)
        whole.eval()
        kept = [part for part_name, part in whole.named_children() if part_name not in AFTER_THE_LAST_MAP]
        network = torch.nn.Sequential(*kept)
        self._network = network.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.centre: NDArray[np.float32] = np.zeros(weights.width, np.float32)

    def places(self, pixels: "Tensor") -> "Tensor":
        """(B, 3, side, side) to (B, V, H, W)."""
        import torch

        places: Tensor = self._network(pixels.contiguous(memory_format=torch.channels_last))
        return places

    def pooled(self, pixels: "Tensor") -> "Tensor":
        """(B, 3, side, side) to (B, V)."""
        return self.places(pixels).float().mean((2, 3))


def _arrays(weights: Weights) -> "dict[str, Tensor]":
    import torch
    from safetensors.torch import load_file

    arrays: dict[str, Tensor] = {}
    for file in weights.parameters:
        if file.suffix == ".safetensors":
            arrays |= load_file(file)
        else:
            arrays |= torch.load(file, map_location="cpu", weights_only=True)
    return {name: array.float() if array.is_floating_point() else array for name, array in arrays.items()}
