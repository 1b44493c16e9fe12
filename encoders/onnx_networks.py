"""Networks in ONNX, run by onnxruntime: they keep the protocols of encoders.networks.

A text network maps ids (B, S) int64 and mask (B, S) bool to states (B, S, T); a picture network pixels
(B, 3, side, side) float32 to pooled (B, V), and to places (B, V, H, W) where these are what is pooled.
onnxruntime takes as many threads as torch has when a network is loaded.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.recipes import UnknownSource

if TYPE_CHECKING:
    from torch import Tensor

TEXT_INPUTS, PICTURE_INPUTS = ("ids", "mask"), ("pixels",)
INSTALL = "pip install '.[onnx]' in Freshet's folder"


class OnnxText:
    """Word pieces to states."""

    def __init__(self, model: Path, *, device: str) -> None:
        """Raises UnknownSource if the file is none, or onnxruntime is not installed."""
        self._session = _session(model, device, TEXT_INPUTS, "states")

    def states(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        """(B, S, T), on the device of the ids."""
        return _run(self._session, "states", {"ids": ids, "mask": mask})


class OnnxPictures:
    """Pictures to what is seen at each place, and in all."""

    def __init__(self, model: Path, centre: NDArray[np.float32], *, device: str) -> None:
        """centre (V,) is taken off pooled features. Raises UnknownSource as OnnxText does."""
        self._session = _session(model, device, PICTURE_INPUTS, "pooled")
        self._model = model
        self.centre = centre

    def places(self, pixels: "Tensor") -> "Tensor":
        """(B, 3, side, side) to (B, V, H, W). Raises UnknownSource where the network pools something else."""
        if "places" not in [each.name for each in self._session.get_outputs()]:
            raise UnknownSource(f"{self._model} holds no places of a picture: take the encoder that it was made of")
        return _run(self._session, "places", {"pixels": pixels})

    def pooled(self, pixels: "Tensor") -> "Tensor":
        """(B, 3, side, side) to (B, V)."""
        return _run(self._session, "pooled", {"pixels": pixels})


def _session(model: Path, device: str, inputs: tuple[str, ...], output: str) -> Any:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as told
    except ImportError as error:
        raise UnknownSource(f"{model} needs onnxruntime: {INSTALL}") from error
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; they come as exceptions, too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the cores between batches
    wanted = ["CUDAExecutionProvider"] if torch.device(device).type == "cuda" else []
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in onnxruntime.get_available_providers()]
    broken = (told.Fail, told.InvalidArgument, told.InvalidGraph, told.InvalidProtobuf, told.NoSuchFile,
              told.NotImplemented, told.RuntimeException)  # fmt: skip
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except broken as error:
        raise UnknownSource(f"{model} is no whole ONNX network ({error}): make it again") from error
    taken, given = ([each.name for each in some] for some in (session.get_inputs(), session.get_outputs()))
    if taken != [*inputs] or output not in given:
        raise UnknownSource(f"{model} maps {taken} to {given}, not {[*inputs]} to {output}: make it again")
    return session


def _run(session: Any, output: str, inputs: "dict[str, Tensor]") -> "Tensor":
    import torch

    arrays = {name: tensor.contiguous().cpu().numpy() for name, tensor in inputs.items()}
    device = next(iter(inputs.values())).device
    return torch.from_numpy(session.run([output], arrays)[0]).to(device)
