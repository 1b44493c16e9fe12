"""The commands `freshet train ...`: teach on a shop's own products.

By hand on one processor or GPU; on several by torchrun: torchrun --nproc-per-node 2 --no-python freshet train ...
Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from streams.cli_encoders import Columns, Folder, Seed
from streams.terminal import read_settings

train_app = typer.Typer(no_args_is_help=True, help="Teach on your own products.")

OptimizerName = Literal["adam", "adamw", "adagrad"]
ObjectiveName = Literal["masked", "contrastive"]
MethodName = Literal["grid", "random", "tpe"]
ReductionName = Literal["pca", "pca-whitened", "lda"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]
Out = Annotated[Path, typer.Argument(help="Folder to write.")]
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
Search = Annotated[
    MethodName | None, typer.Option(help="Choose what it learns with, on a fifth of what is taught. Needs Optuna.")
]
Trials = Annotated[int, typer.Option(min=1, help="Of the search.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's file too.")]


@train_app.command()
def align(
    folder: Folder,
    out: Out,
    columns: Columns = "",
    unfreeze: Annotated[
        int, typer.Option(min=0, help="So many last layers of the text network learn too, after the heads; slow.")
    ] = 0,
    unfreeze_epochs: Annotated[int, typer.Option(min=1, help="Of those layers.")] = 2,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    optimizer: Optimizer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = None,
    run: RunFolder = None,
    fresh: Fresh = False,
    tensorboard: TensorBoard = False,
    search: Search = None,
    trials: Trials = 20,
) -> None:
    """Teach two heads to bring pictures and words into one space, from a catalogue's own pairs, without labels.

    A fifth of the products is held out, and tells what the heads are worth. A run that was killed goes on.
    """
    from encoders.training.align import AlignmentRule
    from encoders.training.unfreeze import UnfreezeRule
    from streams.training.aligning import train_align
    from streams.training.runs import Options
    from streams.training.session import session

    options = Options(
        optimizer, learning_rate, batch, epochs, precision, seed,
        is_fresh=fresh, tensorboard=tensorboard, search=search, trials=trials,
    )  # fmt: skip
    onward = UnfreezeRule(layers=unfreeze, epochs=unfreeze_epochs) if unfreeze else None
    with session(read_settings(), "align", options, device, run) as its:
        tell(train_align(its, folder, columns, out, options.applied(AlignmentRule()), onward))


@train_app.command()
def language(
    folder: Folder,
    out: Out,
    columns: Columns = "",
    objective: Annotated[
        ObjectiveName, typer.Option(help="Guess hidden word pieces, or find a text again.")
    ] = "masked",
    layers: Annotated[int | None, typer.Option(min=1, help="The last so many learn; else all.")] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    optimizer: Optimizer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = None,
    run: RunFolder = None,
    fresh: Fresh = False,
    tensorboard: TensorBoard = False,
    search: Search = None,
    trials: Trials = 20,
) -> None:
    """Continue the text network on a shop's own titles and descriptions, without labels.

    OUT/text is a source: `freshet encoders add --text path:OUT/text`. A fifth of the products is held out, and tells
    what titles find before and after: look at it before you switch, a network may forget more than it learns.
    """
    from encoders.training.language import LanguageRule
    from streams.training.language import train_language
    from streams.training.runs import Options
    from streams.training.session import session

    options = Options(
        optimizer, learning_rate, batch, epochs, precision, seed,
        is_fresh=fresh, tensorboard=tensorboard, search=search, trials=trials,
    )  # fmt: skip
    rule = options.applied(LanguageRule(objective=objective, layers=layers))
    with session(read_settings(), "language", options, device, run) as its:
        tell(train_language(its, folder, columns, out, rule))


@train_app.command()
def fuse(
    folder: Folder,
    out: Out,
    columns: Columns = "",
    version: Annotated[
        Path | None,
        typer.Option(help="Folder of `freshet train align` to begin with; without it heads are taught first."),
    ] = None,
    clicks: Annotated[Path | None, typer.Option(help="clicks.jsonl: what users clicked one after the other.")] = None,
    clicks_weight: Annotated[float | None, typer.Option(min=0, help="Of the term of clicks.")] = None,
    align_weight: Annotated[float | None, typer.Option(min=0, help="Of that of pictures with their words.")] = None,
    category_weight: Annotated[float | None, typer.Option(min=0, help="Of that of the column type=.")] = None,
    pull: Annotated[float | None, typer.Option(min=0, help="Toward the fusion that it begins with.")] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    optimizer: Optimizer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = None,
    run: RunFolder = None,
    fresh: Fresh = False,
    tensorboard: TensorBoard = False,
    search: Search = None,
    trials: Trials = 20,
) -> None:
    """Teach the fusion for recommendation: what is clicked one after the other, or is of one category, comes near.

    The category is the column type= of --columns. Without clicks and categories the other terms teach alone.
    """
    from encoders.training.fuse import FuseRule
    from streams.training.fusing import train_fuse
    from streams.training.runs import Options
    from streams.training.session import session

    options = Options(
        optimizer, learning_rate, batch, epochs, precision, seed,
        is_fresh=fresh, tensorboard=tensorboard, search=search, trials=trials,
    )  # fmt: skip
    more = {"clicks": clicks_weight, "align": align_weight, "category": category_weight, "pull": pull}
    with session(read_settings(), "fuse", options, device, run) as its:
        tell(train_fuse(its, folder, columns, out, options.applied(FuseRule(), **more), version, clicks))


@train_app.command("cross-modal")
def cross_modal(
    folder: Folder,
    out: Out,
    columns: Columns = "",
    version: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `freshet train align` or `fuse`, to compare with: learns from what that has seen."
        ),
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Of the transformer; 1 where nothing is said.")] = None,
    width: Annotated[int | None, typer.Option(min=8, help="Of its vectors, a multiple of 4; 128.")] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    optimizer: Optimizer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = None,
    run: RunFolder = None,
    fresh: Fresh = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Teach an encoder that reads word pieces and picture places together, without labels, on the catalogue itself.

    What the networks see of each part is kept in FRESHET_HOME. The version is added and switched to like any other.
    """
    from encoders.training.cross_modal import CrossModalRule
    from streams.training.crossing import train_cross_modal
    from streams.training.runs import Options
    from streams.training.session import session

    options = Options(optimizer, learning_rate, batch, epochs, precision, seed, is_fresh=fresh, tensorboard=tensorboard)
    rule = options.applied(CrossModalRule(), layers=layers, width=width)
    with session(read_settings(), "cross-modal", options, device, run) as its:
        tell(train_cross_modal(its, folder, columns, out, rule, version))


@train_app.command()
def transfer(
    folder: Folder,
    out: Out,
    version: Annotated[Path, typer.Option(help="Folder of `freshet train` on another shop.")],
    columns: Columns = "",
    shots: Annotated[str, typer.Option(help="How many pairs a few are.")] = "1,4,16,64",
    pull: Annotated[float | None, typer.Option(min=0, help="Toward the other shop's heads.")] = None,
    epochs: Epochs = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    optimizer: Optimizer = None,
    precision: Precision = "auto",
    seed: Seed = 0,
    device: Device = None,
    run: RunFolder = None,
    fresh: Fresh = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Carry what another shop taught over to this one, and tell what none, a few and all of its pairs give."""
    from encoders.training.transfer import TransferRule
    from streams.training.runs import Options
    from streams.training.session import session
    from streams.training.transferring import train_transfer

    options = Options(optimizer, learning_rate, batch, epochs, precision, seed, is_fresh=fresh, tensorboard=tensorboard)
    rule, counts = options.applied(TransferRule(), pull=pull), read_shots(shots)
    with session(read_settings(), "transfer", options, device, run) as its:
        tell(train_transfer(its, folder, columns, out, rule, version, counts))


@train_app.command()
def shorten(
    folder: Folder,
    out: Out,
    version: Annotated[Path, typer.Option(help="Folder of `freshet train align` or `fuse`.")],
    columns: Columns = "",
    width: Annotated[int, typer.Option(min=2, help="Values that are left of a fused vector.")] = 128,
    method: Annotated[
        ReductionName, typer.Option(help="Principal components, the same whitened, or what tells categories apart.")
    ] = "pca",
    seed: Seed = 0,
) -> None:
    """Make a version's fused vectors shorter, which saves memory in every store and role, and tell what that costs.

    lda is told the column type= of --columns; of C categories it leaves C - 1 values at most.
    """
    from streams.training import shortening
    from streams.training.runs import Options
    from streams.training.session import session

    with session(read_settings(), "shorten", Options(seed=seed), None, None) as its:
        tell(shortening.shorten(its, folder, columns, out, version, width, method))


def read_shots(text: str) -> tuple[int, ...]:
    """Whole numbers, rising, from 1,4,16. Raises BadParameter."""
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = (0,)
    if counts[0] < 1:
        raise typer.BadParameter(f"--shots {text}: write whole numbers from 1 on, like 1,4,16,64")
    return counts


def tell(text: str) -> None:
    """Prints it; of several processes the first alone has something to tell."""
    if text:
        typer.echo(text)
