"""The command `freshet encoders evaluate`: what encoders are worth on a shop's products.

Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.terminal import Failure, progress_bars, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress

    from encoders.alignment import Alignment
    from encoders.taught_fusion import TaughtFusion
    from streams.evaluation.encoder_figures import Figures, Split
    from streams.evaluation.features import Features
    from streams.evaluation.labelled import Labelled
    from streams.settings import Settings

encoders_app = typer.Typer(
    no_args_is_help=True, help="What the encoders are worth on your products, and which version of them serves."
)

Folder = Annotated[Path, typer.Argument(help="A folder with a file of products and their pictures.")]
Columns = Annotated[
    str,
    typer.Option(
        help="Which column is what, where the folder is not known: file=products.csv,id=sku,title=name,"
        "description=text,brand=maker,category=a+b,attributes=c+d,image=pictures/{sku}.jpg,type=kind,colour=colour."
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Of the heads that are taught.")]
Seed = Annotated[int, typer.Option(help="Of what is held out and of the teaching.")]


@encoders_app.command()
def evaluate(
    folder: Folder,
    columns: Columns = "",
    version: Annotated[
        Path | None, typer.Option(help="Folder of `freshet train`, on these products or on another shop's.")
    ] = None,
    epochs: Epochs = 60,
    seed: Seed = 0,
    sequences: Annotated[
        bool, typer.Option("--sequences", help="Ask fusion by attention over word pieces and picture places instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell what finds what among a shop's products: words and pictures each other, and others of the same kind.

    Without --version heads are taught on four fifths of the products, and asked for the others. Features are kept in
    FRESHET_HOME, so that the next time takes seconds.
    """
    import orjson

    from streams.evaluation import report
    from streams.evaluation.encoder_figures import figures, markdown
    from streams.evaluation.sequence_figures import sequence_markdown

    settings = read_settings()
    with progress_bars() as bars:
        labelled, features = read_shop(folder, columns, settings, bars)
        if sequences:
            found = _by_sequences(folder, labelled, features, version, seed, settings, bars)
        elif version is None:
            heads, parts, told = _taught(features, epochs, seed, settings.encode_threads, bars)
            found = figures(labelled, features, heads, parts) | told
        else:
            fusion, parts, told = _given(version, features, settings)
            found = figures(labelled, features, fusion.heads, parts, fusion) | told
    if as_json:
        printed = found | {"commit": report.commit(), "command": report.command()}
        typer.echo(orjson.dumps(printed, option=orjson.OPT_NON_STR_KEYS).decode())
    else:
        typer.echo(sequence_markdown(found) if sequences else markdown(found))


def read_shop(folder: Path, columns: str, settings: "Settings", bars: "Progress") -> "tuple[Labelled, Features]":
    """The products and their features. Raises Failure."""
    from streams.evaluation.features import features_of
    from streams.evaluation.labelled import NotLabelled, read_columns, read_labelled

    try:
        labelled = read_labelled(folder, read_columns(columns))
        if labelled.skipped:
            typer.echo(f"{labelled.skipped} rows skipped, the first: {labelled.first_problem}", err=True)
        task = bars.add_task("encoding", total=len(labelled.products))
        told = lambda done, _: bars.update(task, completed=done)  # noqa: E731
        return labelled, features_of(labelled.products, folder, settings.home / "encoders", settings, told)
    except NotLabelled as error:
        raise Failure(str(error)) from error


def _taught(
    features: "Features", epochs: int, seed: int, threads: int, bars: "Progress"
) -> "tuple[Alignment, Split, dict[str, Any]]":
    """Heads taught now, on four fifths."""
    from encoders.training.align import AlignmentRule
    from encoders.training.loop import CannotTrain
    from streams.evaluation.encoder_figures import split, teach
    from streams.training.runs import Options, run_of

    parts = split(len(features.title), seed)
    try:
        with run_of(Options(seed=seed, threads=threads), {}, bars=bars) as run:
            learned = teach(features, parts.taught, AlignmentRule(epochs=epochs), run)
    except CannotTrain as error:
        raise Failure(str(error)) from error
    return learned, parts, {"taught_on": f"on {len(parts.taught):,} of these products", "seed": seed}


def _given(folder: Path, features: "Features", settings: "Settings") -> "tuple[TaughtFusion, Split, dict[str, Any]]":
    """The fusion of a version; what is asked for is what it was not taught on."""
    from streams.evaluation.taught import read_taught

    fusion, about = read_taught(folder, settings, features)
    parts = _not_seen(features, about["taught"])
    taught = f"on {len(parts.taught):,} of these products" if len(parts.taught) else "on another shop's products"
    return fusion, parts, {"taught_on": taught}


def _not_seen(features: "Features", taught: "Sequence[str]") -> "Split":
    """What is asked for is what is none of the products of these hashes."""
    import numpy as np

    from streams.evaluation.encoder_figures import Split
    from streams.evaluation.taught import hashes

    is_taught = np.isin(hashes(features), taught)
    return Split(np.flatnonzero(is_taught), np.flatnonzero(~is_taught))


def _by_sequences(
    folder: Path,
    labelled: "Labelled",
    features: "Features",
    version: Path | None,
    seed: int,
    settings: "Settings",
    bars: "Progress",
) -> "Figures":
    """The figures of fusion over word pieces and places, and of a version that may read them."""
    from streams.evaluation.encoder_figures import split
    from streams.evaluation.sequence_figures import row_of, sequence_figures
    from streams.evaluation.taught import read_fitting
    from streams.evaluation.tokens import served_vectors, tokens_of

    task = bars.add_task("encoding parts", total=len(labelled.products))
    told = lambda done, _: bars.update(task, completed=done)  # noqa: E731
    shop, kept = (labelled.products, folder), settings.home / "encoders"
    tokens = tokens_of(*shop, kept, settings, told)
    asked, versions = split(len(features.title), seed).held_out, {}
    if version is not None:
        own = read_fitting(version, settings)
        asked = _not_seen(features, own.about.get("taught", ())).held_out
        versions[row_of(own)] = served_vectors(*shop, kept, settings, own, told)
    return sequence_figures(labelled, features, tokens, asked, versions)
