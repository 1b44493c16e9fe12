"""The command `freshet compress`: a smaller or faster encoder, and what it costs.

Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streams.cli_encoders import Columns
from streams.terminal import Failure, progress_bars, read_settings

if TYPE_CHECKING:
    from streams.evaluation.labelled import Labelled

app = typer.Typer()
OF_TEXT_ALONE = ("int8", "pruned")
SIDES = {"text": ("text",), "image": ("image",), "both": ("text", "image")}


@app.command(rich_help_panel="Bring data")
def compress(
    folder: Annotated[Path, typer.Argument(help="Products and pictures to calibrate, teach and measure on.")],
    out: Annotated[Path, typer.Argument(help="Holds the folders text and image afterwards.")],
    method: Annotated[
        Literal["int8", "pruned", "onnx", "onnx-int8"],
        typer.Option(help="int8 and pruned are for text; the others need the extra `onnx`."),
    ] = "int8",
    side: Annotated[
        Literal["text", "image", "both"] | None, typer.Option(help="Which encoder (what the method is for).")
    ] = None,
    columns: Columns = "",
    sparsity: Annotated[
        float, typer.Option(min=0.0, max=0.95, help="Share of the heads and neurons that are pruned.")
    ] = 0.5,
    epochs: Annotated[int, typer.Option(min=0, help="Of teaching what is left after pruning.")] = 3,
    products: Annotated[int, typer.Option(min=10, help="At most so many are read, drawn by the seed.")] = 5_000,
    seed: Annotated[int, typer.Option(help="Of what is drawn, held out and taught in which order.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make the encoders of the settings smaller or faster; tell size, speed and quality beside what they were.

    The result is a version of its own: `freshet encoders add --text path:OUT/text --image path:OUT/image`, then fill
    and switch. A new shop may begin with FRESHET_TEXT_ENCODER=path:OUT/text, FRESHET_IMAGE_ENCODER=path:OUT/image.
    """
    import orjson

    from encoders.compression import CannotCompress
    from encoders.onnx_export import CannotExport
    from encoders.product import use_device
    from encoders.pruning import DistillationRule, TooFewTexts
    from encoders.weights import find_weights
    from streams.evaluation import report
    from streams.evaluation.compressed import AlreadyThere, Job, markdown
    from streams.evaluation.compressed import compress as make
    from streams.evaluation.encoder_figures import split

    settings = read_settings()
    labelled = _read(folder, columns, products, seed)
    use_device("cpu", 1)
    chosen = side or ("text" if method in OF_TEXT_ALONE else "both")
    sources: dict[str, str] = {"text": settings.text_encoder, "image": settings.image_encoder}
    found: list[dict[str, Any]] = []
    with progress_bars() as bars:
        for each in SIDES[chosen]:
            task = bars.add_task(each, total=1.0)
            weights = find_weights(sources[each], each, pickled_weights=settings.pickled_weights)  # type: ignore[arg-type]
            job = Job(weights, method, labelled, folder, split(len(labelled.products), seed), sparsity,
                      DistillationRule(epochs=epochs), seed)  # fmt: skip
            told = lambda doing, share, task=task, each=each: bars.update(  # noqa: E731
                task, completed=share, description=f"{each}: {doing}"
            )
            try:
                found.append(make(job, out / each, told))
            except (AlreadyThere, CannotCompress, CannotExport, TooFewTexts) as error:
                raise Failure(str(error)) from error
    if as_json:
        printed = {"sides": found, "commit": report.commit(), "command": report.command()}
        typer.echo(orjson.dumps(printed).decode())
    else:
        typer.echo(f"{report.where()}\n\n{markdown(found)}\n")
        for each in SIDES[chosen]:
            typer.echo(f"FRESHET_{each.upper()}_ENCODER=path:{(out / each).absolute()}")


def _read(folder: Path, columns: str, products: int, seed: int) -> "Labelled":
    """At most so many of the folder's products."""
    import numpy as np

    from streams.evaluation.labelled import NotLabelled, read_columns, read_labelled

    try:
        labelled = read_labelled(folder, read_columns(columns))
    except NotLabelled as error:
        raise Failure(str(error)) from error
    if labelled.skipped:
        typer.echo(f"{labelled.skipped} rows skipped, the first: {labelled.first_problem}", err=True)
    if len(labelled.products) <= products:
        return labelled
    rows = np.sort(np.random.default_rng(seed).permutation(len(labelled.products))[:products]).tolist()
    return replace(
        labelled,
        products=[labelled.products[row] for row in rows],
        types=[labelled.types[row] for row in rows],
        colours=[labelled.colours[row] for row in rows],
    )
