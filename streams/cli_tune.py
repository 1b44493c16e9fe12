"""The command `freshet tune`: settings of the model tried on clicks, each predicted before it is learned.

Every import of weight is inside a function, so that `freshet --help` is quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams.terminal import Failure, progress_bars, read_settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from streams.evaluation.schedules import Plan
    from streams.evaluation.stream import Stream
    from streams.evaluation.tuning import ClickSet, Kind, Search

app = typer.Typer()

WITHOUT = "none"
TRIALS = 30


@app.command(rich_help_panel="Measure")
def tune(
    events: Annotated[
        list[Path], typer.Argument(metavar="EVENTS...", help="clicks.jsonl or .jsonl.gz of one set or several.")
    ],
    vectors: Annotated[
        list[str] | None,
        typer.Option(help=f".npz as for `freshet evaluate`, or {WITHOUT}: one for each of EVENTS, in order."),
    ] = None,
    search: Annotated[
        Literal["grid", "random", "tpe"], typer.Option(help="All combinations, random draws, or Optuna's TPE.")
    ] = "tpe",
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"Beside the defaults: {TRIALS} without it; of a grid, all.")
    ] = None,
    settings: Annotated[
        str | None, typer.Option(help="For random and tpe: these only, as learning_rate,dropout; all without it.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="As learning_rate=.04,.08,.16, or a file of such lines; a small one without it."),
    ] = None,
    measure: Annotated[
        Literal["hr_at_10", "ndcg_at_10", "new_shelf_hr_at_10"], typer.Option(help="What is to be high.")
    ] = "hr_at_10",
    clicks: Annotated[
        int | None, typer.Option(min=1, help="The first so many of each set; all but those held out without it.")
    ] = None,
    held_out: Annotated[
        int, typer.Option(min=0, help="Clicks after those, on which the best is compared with the defaults again.")
    ] = 0,
    shuffled: Annotated[
        bool, typer.Option("--shuffle-ties", help="Clicks of one time in random order, not in that of the file.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Judge each so many-th click only.")] = 1,
    study: Annotated[Path | None, typer.Option(help="SQLite file from which a killed search goes on.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Sets and trials at once, each on one core.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed tries the same settings.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a trial, the best first.")] = False,
) -> None:
    """Search for settings of the model that do better than the defaults, over one set of clicks or several."""
    _require_optuna()
    from streams.evaluation import tuning, tuning_report
    from streams.evaluation.schedules import Plan
    from streams.evaluation.tuning_runs import RunFailed, Workers
    from streams.evaluation.tuning_study import StudyUnusable, open_study

    if search == "grid" and (trials or settings):
        raise typer.BadParameter("a grid has its trials and settings from --grid", param_hint="--search")
    if search != "grid" and grid:
        raise typer.BadParameter("only --search grid reads it", param_hint="--grid")
    files = vectors or [WITHOUT] * len(events)
    if len(files) != len(events):
        told = f"{len(files)} for {len(events)} sets: name one for each, or {WITHOUT}"
        raise typer.BadParameter(told, param_hint="--vectors")
    plan = Plan(every=every, seed=seed, seen_events=tuple(sorted(read_settings().seen_events)))
    given = _read_grid(grid or []) if search == "grid" else {}
    with progress_bars() as bars:
        sets = [
            _cut(label, _read(bars, path, file, seed if shuffled else None), clicks, held_out)
            for label, path, file in zip(_labels(events), events, files, strict=True)
        ]
        planned = (
            tuning.Search.of_grid(given, measure, plan)
            if given
            else _search(search, trials or TRIALS, settings, sets, measure, plan)
        )
        trying = bars.add_task("trials", total=None)
        try:
            with (
                open_study(study, tuning.made_for(planned, sets)) as kept,
                Workers([each.stream for each in sets], jobs) as workers,
            ):
                found = tuning.run_search(
                    planned,
                    sets,
                    workers,
                    kept,
                    told=lambda trial, gone, total: bars.update(
                        trying, description=f"trial {trial} of {planned.trials}", completed=gone, total=total
                    ),
                    noted=lambda note: typer.echo(note, err=True),
                )
                later: tuning_report.HeldOut = []
                if held_out and found[0].number:
                    again = bars.add_task("held-out clicks", total=None)
                    later = tuning.held_out(
                        *(found[0], planned, sets, held_out, workers),
                        told=lambda _, gone, total: bars.update(again, completed=gone, total=total),
                    )
        except (tuning.NotTunable, RunFailed, StudyUnusable) as error:
            raise Failure(str(error)) from error
    if as_json:
        import orjson

        for line in tuning_report.json_lines(found, planned, sets, later):
            typer.echo(orjson.dumps(line).decode())
    else:
        typer.echo(tuning_report.markdown(found, planned, sets, later))


def _read(bars: "Progress", path: Path, vectors: str, shuffle_seed: int | None) -> "Stream":
    from streams.evaluation.stream import NotEvaluable, read_stream

    reading = bars.add_task(f"reading {path.name}", total=None)
    try:
        stream = read_stream(
            path,
            vectors=None if vectors == WITHOUT else Path(vectors),
            shuffle_seed=shuffle_seed,
            progress=lambda read: bars.update(reading, completed=read),
        )
    except NotEvaluable as error:
        raise Failure(str(error)) from error
    bars.update(reading, total=len(stream), completed=len(stream))
    return stream


def _cut(label: str, stream: "Stream", clicks: int | None, held_out: int) -> "ClickSet":
    """The clicks to tune on, with no more behind them than are held out."""
    from streams.evaluation.tuning import ClickSet
    from streams.evaluation.tuning_runs import first_clicks

    tuned = len(stream) - held_out if clicks is None else min(clicks, len(stream))
    if tuned < 1 or tuned + held_out > len(stream):
        raise Failure(
            f"{label} has {len(stream):,} clicks, too few to tune on {clicks or 1:,} and hold out {held_out:,} after "
            "them: lower --clicks or --held-out"
        )
    return ClickSet(label, first_clicks(stream, tuned + held_out), tuned)


def _search(
    kind: "Kind", trials: int, settings: str | None, sets: "Sequence[ClickSet]", measure: str, plan: "Plan"
) -> "Search":
    from streams.evaluation.tuning import Search
    from streams.evaluation.tuning_space import BadSpace, chosen

    named = [name.strip() for name in (settings or "").split(",") if name.strip()]
    try:
        names = chosen(named, [each.stream for each in sets])
    except BadSpace as error:
        raise typer.BadParameter(str(error), param_hint="--settings") from error
    return Search(kind, trials, tuple(names), measure, plan, {})


def _read_grid(texts: Sequence[str]) -> "dict[str, tuple[float, ...]]":
    from streams.evaluation.tuning_space import BadSpace, read_grid

    try:
        return read_grid(texts)
    except BadSpace as error:
        raise typer.BadParameter(str(error), param_hint="--grid") from error


def _labels(paths: Sequence[Path]) -> list[str]:
    """What each set is called: its file's name if that tells them apart, else its path."""
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise typer.BadParameter(f"{', '.join(twice)}: name each set once", param_hint="EVENTS")
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _require_optuna() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("optuna", "threadpoolctl") if find_spec(name) is None]:
        raise Failure(f"a search needs {' and '.join(missing)}: pip install '.[evaluate]' in Freshet's folder")
