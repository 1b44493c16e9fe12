"""The commands `freshet train ...`: teach on a shop's own products.

By hand on one processor or GPU; on several by torchrun: torchrun --nproc-per-node 2 --no-python freshet train ...
Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeVar

import typer

from streams.cli_encoders import Columns, Folder, Seed, fingerprint, read_shop
from streams.terminal import progress_bars, read_settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from encoders.training.processes import Processes
    from streams.settings import Settings
    from streams.training.runs import Options

Read = TypeVar("Read")

train_app = typer.Typer(no_args_is_help=True, help="Teach on your own products.")

OptimizerName = Literal["adam", "adamw", "adagrad"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Annotated[OptimizerName | None, typer.Option(help="What takes the steps; adamw where nothing is said.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", min=0, help="At its highest: it rises, then falls.")]
Batch = Annotated[int | None, typer.Option(min=2, help="Examples of a step, over all processes.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="How often each example is seen.")]
Precision = Annotated[PrecisionName, typer.Option(help="Of products of matrices; auto: float32 on a CPU.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; FRESHET_DEVICE where nothing is said.")]
RunFolder = Annotated[
    Path | None,
    typer.Option("--run", help="Folder of checkpoint and metrics.csv; a folder of the task's name in FRESHET_HOME."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin again, though there is a checkpoint.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's file too.")]


@train_app.command()
def align(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="heads.safetensors to write.")],
    columns: Columns = "",
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    optimizer: Optimizer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = None,
    run_folder: RunFolder = None,
    fresh: Fresh = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Teach two heads to bring pictures and words into one space, from a catalogue's own pairs, without labels.

    A fifth of the products is held out, and tells what the heads are worth. A run that was killed goes on.
    """
    from encoders.training.align import AlignmentRule
    from streams.evaluation.encoder_figures import recalls, split, teach
    from streams.evaluation.heads import hashes, write_heads
    from streams.training.runs import Options, checksum, finished, run_of

    settings = read_settings()
    given = Options(optimizer, learning_rate, batch, epochs, precision, seed, is_fresh=fresh, tensorboard=tensorboard)
    with together(given, settings, "align", device, run_folder) as (options, processes, bars):
        _, features = first_then_others(processes, lambda: read_shop(folder, columns, settings, bars))
        parts = split(len(features.title), seed)
        rule = options.applied(AlignmentRule())
        learns_from = checksum(features.views[:, parts.taught], features.words[parts.taught])
        identity = {"task": "align", "rule": rule._asdict(), "data": learns_from}
        with run_of(options, identity, processes=processes, bars=bars) as run:
            learned = teach(features, parts.taught, rule, run)
        if not processes.is_first:
            return
        found = recalls(learned, features, parts)
        known = hashes(features)
        about = {"encoders": fingerprint(settings), "taught": [known[row] for row in parts.taught.tolist()]}
        about |= {"taught_on": f"on {len(parts.taught):,} of these products", "data": learns_from, "figures": found}
        write_heads(out, learned, about | {"rule": rule._asdict(), "seed": seed})
        finished(options)
    typer.echo(
        f"{out}: of {found['held_out']:,} products that the heads never saw, words find "
        f"{found['words_to_picture_r_at_1']:.3f} of the pictures first and {found['words_to_picture_r_at_10']:.3f} "
        "among ten"
    )


class Together(NamedTuple):
    """What a task runs with."""

    options: "Options"
    processes: "Processes"
    bars: "Progress"


@contextmanager
def together(
    given: "Options",
    settings: "Settings",
    task: str,
    device: str | None,
    run_folder: Path | None,
) -> Iterator[Together]:
    """The options with device, threads and folder resolved, the processes connected, and bars of the first one."""
    from dataclasses import replace

    from encoders.product import use_device
    from encoders.training.processes import training_processes

    named = use_device(device or settings.device, settings.encode_threads)
    with training_processes(named) as processes:
        if named == "cuda" and processes.world > 1:
            named = f"cuda:{processes.local_rank}"
        folder = run_folder or settings.home / "training" / task
        options = replace(given, device=named, threads=settings.encode_threads, folder=folder)
        with progress_bars(is_shown=processes.is_first) as bars:
            yield Together(options, processes, bars)


def first_then_others(processes: "Processes", read: Callable[[], Read]) -> Read:
    """What is read, by the first process first: it keeps the features that the others find."""
    if processes.is_first:
        found = read()
        processes.wait()
    else:
        processes.wait()
        found = read()
    return found
