"""What a training command runs with: options resolved, processes connected, bars of the first one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.progress import Progress

from encoders.product import use_device
from encoders.training.processes import Processes, training_processes
from streams.cli_encoders import read_shop
from streams.evaluation.features import Features
from streams.evaluation.labelled import Labelled, NotLabelled, read_columns, read_labelled
from streams.evaluation.tokens import KeptTokens, tokens_of
from streams.settings import Settings
from streams.terminal import Failure, progress_bars
from streams.training.runs import Options

Read = TypeVar("Read")


class Session(NamedTuple):
    """One training command in one of its processes."""

    settings: Settings
    options: Options
    processes: Processes
    bars: Progress

    def shop(self, folder: Path, columns: str) -> tuple[Labelled, Features]:
        """The products and what frozen encoders see of them. Raises Failure."""
        return self._first_then_others(lambda: read_shop(folder, columns, self.settings, self.bars))

    def tokens(self, labelled: Labelled, folder: Path) -> KeptTokens:
        """What frozen encoders see of the products' parts."""
        bar = self.bars.add_task("encoding parts", total=len(labelled.products))
        told = lambda done, _: self.bars.update(bar, completed=done)  # noqa: E731
        kept = self.settings.home / "encoders"
        return self._first_then_others(lambda: tokens_of(labelled.products, folder, kept, self.settings, told))

    def products(self, folder: Path, columns: str) -> Labelled:
        """The products alone. Raises Failure."""
        try:
            return read_labelled(folder, read_columns(columns))
        except NotLabelled as error:
            raise Failure(str(error)) from error

    def _first_then_others(self, read: Callable[[], Read]) -> Read:
        """What is read, by the first process first: it keeps the features that the others find."""
        if self.processes.is_first:
            found = read()
            self.processes.wait()
        else:
            self.processes.wait()
            found = read()
        return found


@contextmanager
def session(
    settings: Settings, task: str, options: Options, device: str | None, folder: Path | None
) -> Iterator[Session]:
    """A session of this task.

    device  None: that of the settings
    folder  of the run; None: one of the task's name
    """
    named = use_device(device or settings.device, settings.encode_threads)
    with training_processes(named) as processes:
        if named == "cuda" and processes.world > 1:
            named = f"cuda:{processes.local_rank}"
        where = folder or settings.home / "training" / task
        resolved = replace(options, device=named, threads=settings.encode_threads, folder=where)
        with progress_bars(is_shown=processes.is_first) as bars:
            yield Session(settings, resolved, processes, bars)
