"""The command `freshet explain`: what the fused vector of a product rests on.

Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from streams.cli_ask import Json, print_json, print_table
from streams.terminal import Failure, read_settings

if TYPE_CHECKING:
    from streams.explain import Explanation, Floats

app = typer.Typer()

PARTS_SHOWN = 20


@app.command(rich_help_panel="Ask")
def explain(
    product: Annotated[str, typer.Argument(help="The id of a product.")],
    catalog: Annotated[
        Path | None,
        typer.Option(help="JSON lines that have it, instead of the shop's database; paths of pictures lie beside it."),
    ] = None,
    score: Annotated[
        Literal["cosine", "euclidean", "dot"],
        typer.Option(help="How a word, fact or place is likened to the whole."),
    ] = "cosine",
    check: Annotated[
        bool,
        typer.Option("--check", help="Encode it again without each word, fact and place: does the vector move?"),
    ] = False,
    encoder: Annotated[
        Path | None,
        typer.Option(help="A version's folder, instead of what serves (of a --catalog: what the settings name)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A heat map to write, FILE.png.")] = None,
    as_json: Json = False,
) -> None:
    """Tell which words and facts, and which places of its pictures, the fused vector of a product rests on."""
    if out is not None:
        _require_drawing(out)
    from encoders.version import read_version
    from streams.events import BadEvent
    from streams.explain import NothingToExplain
    from streams.explain import explain as explained_by
    from streams.explained_product import NoSuchProduct, content_of, fields_from_catalog, fields_from_shop
    from streams.version_files import load_encoder, serving_version

    settings = read_settings()
    try:
        fields = fields_from_catalog(product, catalog) if catalog else fields_from_shop(product, settings)
        content, missing = content_of(fields, settings, catalog.resolve().parent if catalog else None)
        if missing is not None:
            typer.echo(f"without its picture: {missing.reason}", err=True)
        version = read_version(encoder) if encoder else None if catalog else serving_version(settings)
        explained = explained_by(content, load_encoder(settings, version), score=score, check=check)
    except (NoSuchProduct, BadEvent, NothingToExplain, ArithmeticError) as error:
        raise Failure(str(error)) from error
    if out is not None:
        from streams.explanation_drawing import draw_explanation

        draw_explanation(explained, fields["title"], out)
    if as_json:
        print_json(as_object(product, explained))
    else:
        _print(product, fields["title"], explained)
        if out is not None:
            typer.echo(f"\nthe heat map is {out}")


def as_object(product_id: str, explained: "Explanation") -> dict[str, Any]:
    """The explanation as JSON values; null for what was not checked."""
    return {
        "product_id": product_id,
        "encoder": explained.encoder,
        "score": explained.score,
        "modalities": {
            name: {"weight": weight, "contribution": explained.contributions[name]}
            for name, weight in explained.weights.items()
        },
        "parts": [
            {
                "text": part.text,
                "where": part.where,
                "weight": part.weight,
                "contribution": part.contribution,
                "move": part.move,
            }
            for part in explained.parts
        ],
        "places": {
            "weights": explained.places.tolist(),
            "contributions": explained.place_contributions.tolist(),
            "moves": None if explained.place_moves is None else explained.place_moves.tolist(),
        },
        "rank_correlation": {
            of: {name: None if value != value else value for name, value in found.items()}
            for of, found in explained.agreement.items()
        },
        "cosine_to_serving": explained.cosine,
    }


def _print(product_id: str, title: str, explained: "Explanation") -> None:
    typer.echo(f"{product_id}: {title}\n")
    pictures, rows, columns = explained.places.shape
    facts = sum(part.where == "facts" for part in explained.parts)
    counts = {
        "image": f"{pictures} x {rows} x {columns} places",
        "text": f"{len(explained.parts) - facts} words",
        "attributes": f"{facts} facts",
    }
    modalities = [
        (f"{explained.contributions[name]:.1%}", f"{weight:.1%}", name, counts[name])
        for name, weight in explained.weights.items()
    ]
    print_table(("contribution", "weight", "modality", ""), modalities)
    _print_parts(explained)
    for number in range(pictures):
        named = f" of picture {number + 1}" if pictures > 1 else " of the picture"
        _print_grid(f"places{named}, contribution in %:", 100 * explained.place_contributions[number])
        if explained.place_moves is not None:
            _print_grid("1 - cosine without the place, in thousandths:", 1_000 * explained.place_moves[number])
    typer.echo()
    for of, found in explained.agreement.items():
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.items() if value == value)
        if told:
            typer.echo(f"{of}: rank correlation of 1 - cosine with {told}")
    if explained.cosine is None:
        typer.echo("the fusion that serves was taught: weights and contributions are of attention before that")
    else:
        typer.echo(f"the vector that these weights make has the cosine {explained.cosine:.3f} to the one that serves")


def _print_parts(explained: "Explanation") -> None:
    most = sorted(explained.parts, key=lambda part: -part.contribution)[:PARTS_SHOWN]
    if not most:
        return
    checked = ("1 - cosine without",) if most[0].move is not None else ()
    rows = []
    for part in most:
        move = [] if part.move is None else [f"{part.move:.4f}"]
        rows.append((f"{part.contribution:.1%}", f"{part.weight:.1%}", *move, part.text, part.where))
    typer.echo()
    print_table(("contribution", "weight", *checked, "word or fact", "of the"), rows)


def _print_grid(title: str, values: "Floats") -> None:
    typer.echo(f"\n{title}")
    for row in values.tolist():
        typer.echo(" ".join(f"{value:5.1f}" for value in row))


def _require_drawing(out: Path) -> None:
    from importlib.util import find_spec

    if out.suffix.lower() != ".png":
        raise typer.BadParameter(f"{out}: the heat map is a PNG, name it so", param_hint="--out")
    if find_spec("matplotlib") is None:
        raise Failure("a heat map needs matplotlib, which is not there: pip install '.[evaluate]' in Freshet's folder")
