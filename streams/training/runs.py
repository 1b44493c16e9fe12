"""How a training is run from the command line: its options, its folder, and what it tells meanwhile."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from encoders.training.loop import Optimizer, OtherStanding, Precision, Progress, Run
from encoders.training.processes import ALONE, Processes
from streams.training.checkpoints import REMEDY, Checkpoint, OtherCheckpoint
from streams.training.logs import TensorBoard, write_metrics
from streams.training.search import Method, forget

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Rule = TypeVar("Rule", bound=Any)


@dataclass(frozen=True)
class Options:
    """What every task takes; None leaves what the task's rule has.

    folder  of the run: checkpoint and metrics.csv; None keeps nothing
    device  as torch names it
    """

    optimizer: Optimizer | None = None
    learning_rate: float | None = None
    batch: int | None = None
    epochs: int | None = None
    precision: Precision | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    folder: Path | None = None
    is_fresh: bool = False
    tensorboard: bool = False
    search: Method | None = None
    trials: int = 20

    def applied(self, rule: Rule, **more: Any) -> Rule:
        """The rule with what is given here, and in more."""
        names = ("optimizer", "learning_rate", "batch", "epochs", "precision")
        given = {name: getattr(self, name) for name in names} | more
        applied: Rule = rule._replace(**{name: value for name, value in given.items() if value is not None})
        return applied


@contextmanager
def run_of(
    options: Options,
    identity: Mapping[str, Any],
    *,
    processes: Processes = ALONE,
    bars: "Bars | None" = None,
    name: str = "teaching",
) -> Iterator[Run]:
    """A run that goes on from the folder's checkpoint, told on a bar and in the folder. Raises NoTensorBoard.

    identity  what the weights depend on: the task, its rule, shapes, the checksum of what it learns from
    """
    identity = dict(identity) | {"seed": options.seed, "processes": processes.world}
    kept = None if options.folder is None else Checkpoint(options.folder, identity)
    if kept is not None and options.is_fresh and processes.is_first:
        kept.remove()
    processes.wait()
    is_told = options.folder is not None and processes.is_first
    board = TensorBoard(options.folder) if options.tensorboard and options.folder and processes.is_first else None
    bar = None if bars is None else bars.add_task(name, total=None)
    written = 0

    def told(at: Progress) -> None:
        nonlocal written
        if bars is not None and bar is not None:
            bars.update(bar, total=at.steps, completed=at.step, description=f"{name}, loss {at.loss:.3f}")
        if is_told and len(at.epochs) > written:
            assert options.folder is not None
            write_metrics(options.folder, at.epochs)
            for epoch in at.epochs[written or -1 :] if board is not None else ():
                board.add(epoch)  # type: ignore[union-attr]
            written = len(at.epochs)

    try:
        yield Run(options.seed, options.device, options.threads, processes, kept, told)
    except OtherStanding as error:
        assert kept is not None
        raise OtherCheckpoint(f"{kept.path} is of another training ({error}): {REMEDY}") from error
    finally:
        if board is not None:
            board.close()


def finished(options: Options) -> None:
    """What was learned is written: neither checkpoint nor trial is left, and the next run begins anew."""
    if options.folder is not None:
        Checkpoint(options.folder, {}).remove()
        forget(options.folder)


def checksum(*arrays: NDArray[Any]) -> str:
    """16 hexadecimal digits, of the arrays' shapes, types and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
