"""The commands `freshet experiments ...`: variants of the ranking tried on users, and what came of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli_ask import Json, print_json, print_table
from streams.terminal import Failure, read_settings

if TYPE_CHECKING:
    from store.experiments import ExperimentStore
    from streams.experiment_control import ExperimentControl
    from streams.experiments import Experiment

experiments_app = typer.Typer(no_args_is_help=True, help="Try variants of the ranking on users, one experiment a time.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="experiment.yaml: docs/guides/experiments.md has one.")]
BAR_WIDTH = 16


@experiments_app.command()
def check(file: File) -> None:
    """Say what the file tries, or what is wrong with it, line by line. Nothing is started."""
    experiment = _read(file)
    names = ", ".join(variant.name for variant in experiment.variants)
    typer.echo(f"{experiment.name}: {experiment.mode} {names}, of {experiment.traffic:.0%} of the users")


@experiments_app.command()
def start(file: File) -> None:
    """Start the experiment of a file: lists are made by its variants within a second."""
    experiment = _read(file)
    started = _control().start(experiment)
    typer.echo(f"{experiment.name} {'runs' if started.is_new else 'runs already, and was published again'}")


@experiments_app.command()
def stop() -> None:
    """End the experiment that runs: every list is made by the shop's settings again. Its counts stay."""
    name = _control().stop()
    typer.echo(f"{name} is stopped: `freshet experiments report` has its figures" if name else "no experiment runs")


@experiments_app.command()
def remove(name: Annotated[str, typer.Argument(help="As `freshet experiments show` lists it.")]) -> None:
    """Remove an experiment that is stopped, and all counts of its users."""
    _store().remove(name)
    typer.echo(f"{name} and its counts are removed")


@experiments_app.command()
def show(as_json: Json = False) -> None:
    """List the experiments, the one that was started last first."""
    from streams.experiment_report import experiment_of, summary

    told = [
        summary(row) | {"experiment": experiment_of(row).model_dump(exclude_defaults=True)} for row in _store().all()
    ]
    if as_json:
        print_json(told)
    elif told:
        rows = [
            (
                one["name"],
                one["mode"],
                ", ".join(variant["name"] for variant in one["experiment"]["variants"]),
                one["started_at"],
                one["stopped_at"] or "runs",
            )
            for one in told
        ]
        print_table(("experiment", "mode", "variants", "started at", "stopped at"), rows)
    else:
        typer.echo("no experiment was started yet: `freshet experiments start FILE` does")


@experiments_app.command()
def report(
    name: Annotated[str | None, typer.Argument(help="The experiment; the one started last without.")] = None,
    as_json: Json = False,
) -> None:
    """Rates by variant with 95 % intervals, their difference to the first one's, and whether the split is right."""
    from streams.experiment_report import UnknownExperiment, report_of

    try:
        made = report_of(_store(), name)
    except UnknownExperiment as unknown:
        raise Failure(str(unknown)) from unknown
    if as_json:
        print_json(made)
        return
    typer.echo(f"{made['name']}: {made['mode']}, {made['started_at']} to {made['stopped_at'] or 'now'}")
    for warning in made["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    if made["mode"] == "interleave":
        _show_interleaved(made)
    else:
        _show_variants(made)


def _show_variants(made: dict[str, Any]) -> None:
    columns = ("variant", "users", "expected", "lists", "clicks")
    print_table(
        columns, [(v["name"], v["users"], v["expected_users"], v["lists"], v["clicks"]) for v in made["variants"]]
    )
    typer.echo(f"split: p = {made['split']['p']:.3g}\n")
    measured = [(m, v["name"]) for v in made["variants"] for m in v["measures"]]
    order = list(dict.fromkeys(measure["measure"] for measure, _ in measured))
    rows = []
    for name in order:
        same = [(measure, variant) for measure, variant in measured if measure["measure"] == name]
        least, most = min(m["low"] for m, _ in same), max(m["high"] for m, _ in same)
        for place, (measure, variant) in enumerate(same):
            words = measure["words"] if place == 0 else ""
            is_rate = measure["users"] is not None
            rows.append(
                (
                    *(words, variant, _number(measure["value"], is_rate), _interval(measure, is_rate)),
                    *(_bar(measure, least, most), _difference(measure["difference"], is_rate)),
                )
            )
    print_table(("measure", "variant", "value", "95 % interval", "", "beside the first"), rows)


def _show_interleaved(made: dict[str, Any]) -> None:
    preference = made["preference"]
    print_table(("variant", "users won"), [(v["name"], v["users_won"]) for v in made["variants"]])
    typer.echo(f"{made['ties']} ties; {made['clicks']} clicks of {made['users']} users on {made['lists']} lists\n")
    share = f"{preference['value']:.1%} [{preference['low']:.1%}, {preference['high']:.1%}]"
    typer.echo(f"{preference['variant']} wins {share} of those that are no tie, p = {preference['p']:.3g}")
    typer.echo(f"0 % {_bar(preference, 0.0, 1.0)} 100 %")


def _bar(measure: dict[str, Any], least: float, most: float) -> str:
    """The interval on a line from the least to the most of all variants, and the value in it."""
    breadth = (most - least) or 1.0

    def place(value: float) -> int:
        return round((value - least) / breadth * (BAR_WIDTH - 1))

    low, high = place(measure["low"]), place(measure["high"])
    drawn = [" "] * low + ["─"] * (high - low + 1) + [" "] * (BAR_WIDTH - 1 - high)
    drawn[min(max(place(measure["value"]), low), high)] = "●"
    return "".join(drawn)


def _interval(measure: dict[str, Any], is_rate: bool) -> str:
    return f"{_number(measure['low'], is_rate)} to {_number(measure['high'], is_rate)}"


def _number(value: float, is_rate: bool) -> str:
    return f"{value:.2%}" if is_rate else f"{value:.4f}"


def _difference(difference: dict[str, Any] | None, is_rate: bool) -> str:
    if difference is None:
        return ""
    low, value, high = (
        f"{difference[name] * (100 if is_rate else 1):+.{2 if is_rate else 4}f}" for name in ("low", "value", "high")
    )
    points = " points" if is_rate else ""
    return f"{value} [{low}, {high}]{points}{'' if difference['is_clear'] else ', not clear'}"


def _read(file: Path) -> "Experiment":
    from streams.experiments import Experiment
    from streams.yaml_documents import BadDocument, load_document

    try:
        return load_document(file, Experiment)
    except BadDocument as bad:
        raise Failure(str(bad)) from bad


def _control() -> "ExperimentControl":
    from streams.broker import Broker
    from streams.experiment_control import ExperimentControl
    from streams.topics import topic_names

    settings = read_settings()
    return ExperimentControl(_store(), Broker(settings), topic_names(settings, "").experiments)


def _store() -> "ExperimentStore":
    from store.experiments import ExperimentStore
    from streams.databases import database_of

    return ExperimentStore(database_of(read_settings(), "users"))
