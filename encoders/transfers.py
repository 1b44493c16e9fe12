"""Arrays between this machine's memory and the device's, so that neither waits for the other.

A GPU copies from and to page-locked memory while it computes; from other memory the copy holds up the thread, and
whatever that thread would have started next.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def room(shape: tuple[int, ...], dtype: "torch.dtype", device: "torch.device") -> "Tensor":
    """Uninitialised, in this machine's memory; page-locked if it is to go to a GPU."""
    import torch

    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def send(array: "Tensor", device: "torch.device") -> "Tensor":
    """The array on the device; what comes from `room` is still on its way to a GPU, which waits where it must."""
    return array.to(device, non_blocking=device.type == "cuda")


class Coming:
    """Rows that the device may still be computing. One thread sends for them, any may have them."""

    def __init__(self, rows: "Tensor") -> None:
        """rows  float32, on any device"""
        import torch

        is_cuda = rows.device.type == "cuda"
        self._rows = rows.to("cpu", non_blocking=is_cuda)  # into page-locked memory, then
        self._there = torch.cuda.Event(blocking=True) if is_cuda else None  # type: ignore[no-untyped-call]
        if self._there is not None:
            self._there.record(torch.cuda.current_stream(rows.device))

    def numpy(self) -> NDArray[np.float32]:
        """Their values, waited for."""
        if self._there is not None:
            self._there.synchronize()
        values: NDArray[np.float32] = self._rows.numpy()
        return values
