"""The command `freshet evaluate`: how well recommenders do on a shop's clicks, each predicted before it is learned.

Every import of weight is inside a function, so that `freshet --help` is quick.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams.terminal import FAILED, Failure, progress_bars, read_settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from streams.evaluation.jobs import Failed, Outcome
    from streams.evaluation.models import Wanted
    from streams.evaluation.report import Compared, Figures
    from streams.evaluation.stream import Stream
    from streams.settings import Settings

app = typer.Typer()

SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
WARM_UP = {"prequential": 0.2, "split": 0.8, "delayed": 0.2}


@app.command(rich_help_panel="Measure")
def evaluate(
    events: Annotated[Path, typer.Argument(help="clicks.jsonl or .jsonl.gz: each line a user-clicks value.")],
    catalog: Annotated[Path | None, typer.Option(help="catalog.jsonl: each line a catalog-updates value.")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help=".npz with product_ids (V,) and fused (V, D). Without it, the catalogue is encoded."),
    ] = None,
    content: Annotated[
        bool, typer.Option("--content/--no-content", help="Whether models may know the products' vectors.")
    ] = True,
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Like freshet,ease:every=5:refits=50: judged at each 5th click, fitted 50 times. Other options are "
            "numbers of the model: freshet:diversity=.2. Without it, every model."
        ),
    ] = None,
    protocol: Annotated[
        Literal["prequential", "split", "delayed"],
        typer.Option(help="Predict, then learn; or learn nothing after the warm-up; or learn later, by --delays."),
    ] = "prequential",
    warm_up: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of the clicks before the first that is judged: .2, for split .8."),
    ] = None,
    delays: Annotated[str, typer.Option(help="For the protocol delayed, in s, m, h or d.")] = "0,1m,1h,24h",
    delay_history: Annotated[
        bool, typer.Option("--delay-history", help="With a delay, the user's own history is as late.")
    ] = False,
    judged_list: Annotated[
        Literal["request", "published", "both"],
        typer.Option("--list", help="The list made at the click, or the one on the topic since the user's last."),
    ] = "request",
    known: Annotated[
        Literal["first-click", "catalog"],
        typer.Option(help="A product is known from its first click on, or if in the catalogue from the beginning."),
    ] = "first-click",
    shuffled: Annotated[
        bool, typer.Option("--shuffle-ties", help="Clicks of one time in random order, not in that of the file.")
    ] = False,
    repeats: Annotated[bool, typer.Option("--repeats", help="Judge a user's later clicks on a product too.")] = False,
    seen_events: Annotated[
        str | None,
        typer.Option(help="Events after which a product is not listed again, or none; without it, as the setting."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Judge each so many-th click only.")] = 1,
    compare: Annotated[str | None, typer.Option(help="Two models, A,B; without it, each with the best.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Models evaluated at once, each on one core.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same figures, but for times and memory.")] = 0,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder from which a killed run goes on.")] = None,
    checkpoint_every: Annotated[float, typer.Option(min=0.0, help="Seconds between checkpoints.")] = 60.0,
    plots: Annotated[Path | None, typer.Option(help="Folder for charts.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a model.")] = False,
) -> None:
    """Evaluate recommenders on clicks: hit rate, NDCG, MRR, coverage, new products, time and memory."""
    from streams.evaluation.jobs import Job, run_jobs
    from streams.evaluation.models import EVERY_MODEL
    from streams.evaluation.schedules import Plan
    from streams.evaluation.stream import NotEvaluable, read_stream

    asked = [name for part in models or EVERY_MODEL for name in part.split(",") if name]
    settings = read_settings()
    seen = settings.seen_events if seen_events is None else _events(seen_events)
    share = WARM_UP[protocol] if warm_up is None else warm_up

    def plan(model: "Wanted", delay_s: float = 0.0) -> Plan:
        return Plan(
            protocol, share, delay_s, delay_history, judged_list, repeats, tuple(sorted(seen)), model.every, seed
        )

    todo: list[Job] = []
    for model in _wanted(asked, every):
        if protocol == "delayed":
            todo += [
                Job(f"{model.name}+{text}", model, plan(model, delay_s)) for text, delay_s in _delays(delays).items()
            ]
        else:
            todo.append(Job(model.name, model, plan(model)))
    pair = _pair(compare, [job.label for job in todo])
    if plots is not None:
        _require_matplotlib()
    with progress_bars() as bars:
        reading = bars.add_task(f"reading {events.name}", total=None)
        try:
            stream = read_stream(
                events,
                catalog,
                vectors if content else None,
                known=known,
                shuffle_seed=seed if shuffled else None,
                progress=lambda read: bars.update(reading, completed=read),
            )
        except NotEvaluable as error:
            raise Failure(str(error)) from error
        bars.update(reading, total=len(stream), completed=len(stream))
        if content and vectors is None and any(job.model.content_counts for job in todo):
            stream = _with_content(stream, settings, bars)
        tasks = [bars.add_task(job.label, total=len(stream), start=False) for job in todo]

        def told(number: int, position: int) -> None:
            if not bars.tasks[tasks[number]].started:
                bars.start_task(tasks[number])
            bars.update(tasks[number], completed=position)

        results = run_jobs(
            todo,
            stream,
            at_once=jobs,
            checkpoints=checkpoints,
            checkpoint_every_s=checkpoint_every,
            told=told,
            noted=lambda note: typer.echo(note, err=True),
        )
    _tell(results, stream, pair, plots, as_json=as_json)


def _with_content(stream: "Stream", settings: "Settings", bars: "Progress") -> "Stream":
    """The stream with the vectors of those of its products that the catalogue tells of; they are kept in home."""
    from streams.cli_vectors import encode_catalog
    from streams.evaluation.stream import with_vectors
    from streams.evaluation.vectors import identity_of

    clicked = set(stream.facts.product_ids)
    products = {product_id: told for product_id, told in stream.facts.catalog.items() if product_id in clicked}
    if not products:
        return stream
    path = settings.home / "evaluate" / f"vectors-{identity_of(products, settings)[:12]}.npz"
    encode_catalog(path, products, settings, bars)
    return with_vectors(stream, path)


def _tell(
    results: Sequence["Outcome | Failed"],
    stream: "Stream",
    pair: list[tuple[str, str]],
    plots: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print what came of the jobs, and end with 1 if anything failed."""
    from streams.evaluation import report
    from streams.evaluation.jobs import Outcome
    from streams.evaluation.moments import Moments
    from streams.evaluation.schedules import judged

    outcomes = [result for result in results if isinstance(result, Outcome)]
    if outcomes:
        plan = outcomes[0].job.plan
        moments = Moments(stream, plan.seen_events)
        found = [report.figures(outcome, stream, moments.before) for outcome in outcomes]
        differences = report.compared(outcomes, found, stream, pair)
        if as_json:
            _print_json(found, differences)
        else:
            left = judged(stream, moments, plan)
            typer.echo(report.markdown(outcomes, found, differences, stream, left, plan.seen_events))
        if plots is not None:
            for path in _draw(plots, outcomes, found, stream):
                typer.echo(f"drawn {path}", err=True)
    failed = [result for result in results if not isinstance(result, Outcome)]
    for failure in failed:
        typer.echo(f"freshet: {failure.job.label}: {failure.reason}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def _print_json(found: "Sequence[Figures]", differences: "Sequence[Compared]") -> None:
    """One line a model, with its differences from others."""
    import orjson

    from streams.evaluation import report

    made_by = {"commit": report.commit(), "command": report.command()}
    for each in found:
        against = [
            {"model": second, **difference._asdict()}  # orjson writes NaN as null
            for first, second, there in differences
            if first == each["model"]
            for difference in there
        ]
        typer.echo(orjson.dumps(each | {"compared": against} | made_by).decode())


def _draw(plots: Path, outcomes: "Sequence[Outcome]", found: "Sequence[Figures]", stream: "Stream") -> Iterator[Path]:
    from streams.evaluation import plots as charts
    from streams.evaluation import report

    if outcomes[0].job.plan.protocol == "delayed":
        lines: dict[str, list[tuple[str, Figures]]] = {}
        for outcome, each in zip(outcomes, found, strict=True):
            model, _, delay = outcome.job.label.rpartition("+")
            lines.setdefault(model, []).append((delay, each))
        yield charts.draw_freshness(plots, lines)
    else:
        ranks = {outcome.job.label: report.ranks_of(outcome) for outcome in outcomes}
        yield charts.draw_course(plots, ranks, stream.users)


# --- what was asked for ------------------------------------------------------------------------------------------


def _wanted(asked: Sequence[str], every: int) -> "list[Wanted]":
    from streams.evaluation.models import UnknownModel, wanted

    try:
        models = [wanted(text, every) for text in asked]
    except (UnknownModel, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--models") from error
    names = [model.name for model in models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise typer.BadParameter(f"{', '.join(twice)}: name each model once", param_hint="--models")
    return models


def _delays(text: str) -> dict[str, float]:
    """Seconds by what they were called, from the shortest on."""
    found = {}
    for delay in text.split(","):
        matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", delay.strip())
        if matched is None:
            raise typer.BadParameter(f"{delay!r} is no time: write them like 0,1m,1h,24h", param_hint="--delays")
        found[delay.strip()] = float(matched[1]) * SECONDS[matched[2]]
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def _events(text: str) -> frozenset[str]:
    from store.history import EVENTS

    events = frozenset(text.split(",")) - {"", "none"}
    if unknown := sorted(events - set(EVENTS)):
        raise typer.BadParameter(f"{', '.join(unknown)}: take {', '.join(EVENTS)} or none", param_hint="--seen-events")
    return events


def _pair(text: str | None, labels: Sequence[str]) -> list[tuple[str, str]]:
    if text is None:
        return []
    pair = text.split(",")
    if len(pair) != 2 or not set(pair) <= set(labels):
        raise typer.BadParameter(f"{text!r}: take two of {', '.join(labels)}", param_hint="--compare")
    return [(pair[0], pair[1])]


def _require_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise Failure("charts need matplotlib, which is not installed: pip install '.[evaluate]' in Freshet's folder")
