"""Networks of torch to ONNX, in floating point or in eight bits. Needs onnx, onnxscript and onnxruntime.

The quantised picture network is a static one: the ranges of its values are measured on pictures of the shop. The
quantised text network has weights of eight bits in blocks of 32 and rounds states by block when they come: a scale for
the whole batch, which onnxruntime's dynamic quantisation takes, makes a text's vector depend on its neighbours.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.networks import PictureNetwork, TextNetwork
from encoders.onnx_networks import INSTALL, PICTURE_INPUTS, TEXT_INPUTS

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32  # weights that share a factor
OPSET = 20  # the first with Gelu
EXAMPLE_BATCH, EXAMPLE_LENGTH = 3, 11  # nothing that is another size of a network


class CannotExport(RuntimeError):
    """The network is none that can be written as ONNX, or the packages are missing."""


def text_to_onnx(network: TextNetwork) -> bytes:
    """An ONNX file that encoders.onnx_networks reads, of any batch and length. Raises CannotExport."""
    import torch

    ids = torch.ones(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.int64)
    mask = torch.ones(EXAMPLE_BATCH, EXAMPLE_LENGTH, dtype=torch.bool)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    return _export(network.states, (ids, mask), TEXT_INPUTS, ("states",), (any_size, any_size))


def pictures_to_onnx(network: PictureNetwork, side_px: int, *, pools_places: bool) -> bytes:
    """An ONNX file that encoders.onnx_networks reads, of any batch.

    pools_places  what is pooled is the mean of the places: one pass gives both, else only what is pooled is written

    Raises CannotExport.
    """
    import torch

    def both(pixels: "Tensor") -> "tuple[Tensor, ...]":
        places = network.places(pixels)
        return places, places.mean((2, 3))

    pixels = torch.zeros(EXAMPLE_BATCH, 3, side_px, side_px)
    outputs = ("places", "pooled") if pools_places else ("pooled",)
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    return _export(both if pools_places else network.pooled, (pixels,), PICTURE_INPUTS, outputs, sizes)


def text_to_int8(model: bytes) -> bytes:
    """The ONNX text network with weights of eight bits. Raises CannotExport if packages are missing."""
    onnx = _onnx()
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        # The accuracy level 4 asks for products of whole numbers.
        quantizer = MatMulNBitsQuantizer(
            onnx.load_from_string(model), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4
        )
        quantizer.process()
    written: bytes = quantizer.model.model.SerializeToString()
    return written


def pictures_to_int8(model: bytes, pictures: Iterable[NDArray[np.float32]]) -> bytes:
    """The ONNX picture network in eight bits.

    pictures  batches (b, 3, side, side) as the network reads them, on which ranges are measured

    Raises CannotExport if packages are missing.
    """
    _onnx()
    with TemporaryDirectory(prefix="freshet-int8-") as folder, _quiet():
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        exported, prepared, whole = (Path(folder) / name for name in ("exported.onnx", "prepared.onnx", "int8.onnx"))
        exported.write_bytes(model)
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
        types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(prepared, whole, _Batches(iter(pictures)), per_channel=True, **types)
        return whole.read_bytes()


class _Batches:
    """What onnxruntime calls a calibration data reader."""

    def __init__(self, batches: Iterator[NDArray[np.float32]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {PICTURE_INPUTS[0]: batch}


def _export(
    function: "Callable[..., Any]",
    examples: "tuple[Tensor, ...]",
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    sizes: tuple[dict[int, Any], ...],
) -> bytes:
    _onnx()
    import torch

    class Network(torch.nn.Module):
        def forward(self, *tensors: "Tensor") -> Any:
            return function(*tensors)

    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                Network().eval(),
                examples,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=(sizes,),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise CannotExport(f"the network cannot be written as ONNX: {error}") from error
    assert program is not None
    written: bytes = program.model_proto.SerializeToString()
    return written


def _onnx() -> Any:
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise CannotExport(f"{error}: {INSTALL}") from error
    assert onnxruntime
    assert onnxscript
    return onnx


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that these packages log and warn of on every call."""
    level, handlers, disabled = logging.root.level, [*logging.root.handlers], logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.setLevel(level)  # onnxruntime.quantization sets up the root logger when it is imported
        logging.root.handlers[:] = handlers
