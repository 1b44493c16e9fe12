"""The commands `freshet encoders ...`: what the encoders are worth on a shop's own products.

Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from pathlib import Path
from typing import Annotated

import typer

from streams.terminal import Failure, progress_bars, read_settings

app = typer.Typer(no_args_is_help=True, help="What the encoders are worth on your products.")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A folder with a file of products and their pictures.")],
    columns: Annotated[
        str,
        typer.Option(
            help="Which column is what, where the folder is not known: file=products.csv,id=sku,title=name,"
            "description=text,brand=maker,category=a+b,attributes=c+d,image=pictures/{sku}.jpg,type=kind,colour=colour."
        ),
    ] = "",
    epochs: Annotated[int, typer.Option(min=1, help="Of the heads that are taught.")] = 60,
    seed: Annotated[int, typer.Option(help="Of what is held out and of the teaching.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Teach two heads to match pictures and words, and tell what finds what among products that they never saw.

    Nothing is published. Features are kept in FRESHET_HOME, so that the next time takes seconds.
    """
    import orjson

    from encoders.alignment import AlignmentRule, TooFewPairs
    from encoders.weights import UnknownSource
    from streams.evaluation import report
    from streams.evaluation.encoder_figures import figures, markdown
    from streams.evaluation.features import features_of
    from streams.evaluation.labelled import NotLabelled, read_columns, read_labelled

    settings = read_settings()
    with progress_bars() as bars:
        try:
            labelled = read_labelled(folder, read_columns(columns))
            if labelled.skipped:
                typer.echo(f"{labelled.skipped} rows skipped, the first: {labelled.first_problem}", err=True)
            encoding = bars.add_task("encoding", total=len(labelled.products))
            features = features_of(
                labelled.products,
                folder,
                settings.home / "encoders",
                settings,
                lambda done, _: bars.update(encoding, completed=done),
            )
            teaching = bars.add_task("teaching", total=epochs)
            found = figures(
                labelled,
                features,
                rule=AlignmentRule(epochs=epochs),
                seed=seed,
                told=lambda epoch, loss: bars.update(
                    teaching, completed=epoch, description=f"teaching, loss {loss:.3f}"
                ),
            )
        except (NotLabelled, TooFewPairs, UnknownSource) as error:
            raise Failure(str(error)) from error
    if as_json:
        printed = found | {"commit": report.commit(), "command": report.command()}
        typer.echo(orjson.dumps(printed, option=orjson.OPT_NON_STR_KEYS).decode())
    else:
        typer.echo(markdown(found))
