"""The processes that train together, as torchrun starts them; without it, one.

Every process holds the same weights and the same order of the examples, and takes its part of each batch.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
PATIENCE = timedelta(days=1)  # the others wait while the first one encodes the catalogue


class Processes(NamedTuple):
    """Which of how many this one is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on this machine: which of its GPUs
    connected: bool = False  # by torch.distributed, also where torchrun started only this one

    @property
    def is_first(self) -> bool:
        """The first alone writes."""
        return self.rank == 0

    def part(self, batch: int) -> slice:
        """The part of a batch of this size, a multiple of `world`, that is this process's."""
        share = batch // self.world
        return slice(self.rank * share, (self.rank + 1) * share)

    def gathered(self, rows: "Tensor") -> "Tensor":
        """(B / world, D) of each process to (B, D) by rank; gradients go back to whose rows they are."""
        if not self.connected:
            return rows
        import torch
        from torch.distributed.nn.functional import all_gather

        return torch.cat(list(all_gather(rows)))  # type: ignore[no-untyped-call]

    def agreed(self, value: Value) -> Value:
        """What the first process has."""
        if not self.connected:
            return value
        from torch.distributed import broadcast_object_list

        held = [value]
        broadcast_object_list(held, src=0)
        return held[0]

    def from_all(self, value: Value) -> list[Value]:
        """What each process has, by rank."""
        if not self.connected:
            return [value]
        from torch.distributed import all_gather_object

        held: list[Value] = [value] * self.world
        all_gather_object(held, value)
        return held

    def wait(self) -> None:
        """Until all are here."""
        if self.connected:
            from torch.distributed import barrier

            barrier()


ALONE = Processes()


@contextmanager
def training_processes(device: str = "cpu") -> Iterator[Processes]:
    """The processes of this training, connected (by NCCL on GPUs, else by Gloo) until the end of the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and "TORCHELASTIC_RUN_ID" not in os.environ:  # torchrun sets both
        yield ALONE
        return
    from torch import cuda, distributed

    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    is_cuda = device.startswith("cuda")
    if is_cuda:  # NCCL sends what is no tensor through the current GPU, which else all processes would share
        cuda.set_device(local_rank if device == "cuda" else device)
    distributed.init_process_group("nccl" if is_cuda else "gloo", timeout=PATIENCE)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), local_rank, connected=True)
    finally:
        distributed.destroy_process_group()
