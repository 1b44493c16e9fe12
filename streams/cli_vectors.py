"""The command `freshet vectors`: the vectors of a catalogue file's products, for whoever evaluates on them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.terminal import Failure, progress_bars, read_settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from streams.evaluation.vectors import Products
    from streams.settings import Settings

app = typer.Typer()


@app.command(rich_help_panel="Measure")
def vectors(
    catalog: Annotated[Path, typer.Argument(help="catalog.jsonl: each line a catalog-updates value.")],
    out: Annotated[Path, typer.Argument(help=".npz to write, for `freshet evaluate --vectors`.")],
) -> None:
    """Encode the products of a catalogue file, with the encoders of the settings."""
    from streams.evaluation.stream import NotEvaluable, read_catalog

    try:
        products = read_catalog(catalog).products
    except NotEvaluable as error:
        raise Failure(str(error)) from error
    with progress_bars() as bars:
        encode_catalog(out, products, read_settings(), bars)


def encode_catalog(path: Path, products: "Products", settings: "Settings", bars: "Progress") -> None:
    """path is the .npz of these products' vectors; a killed run goes on from it. Raises UnknownSource."""
    from streams.evaluation.vectors import encode_to

    task = bars.add_task("encoding", total=len(products))
    typer.echo(f"vectors of {len(products):,} products: {path}", err=True)
    encode_to(path, products, settings, lambda done, _: bars.update(task, completed=done))
