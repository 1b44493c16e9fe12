"""The command `freshet`: what runs Freshet and what brings data to it. Asking it is streams.cli_ask.

Every import of weight is inside a command, so that `freshet --help` is quick.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from streams import (
    cli_ask,
    cli_compress,
    cli_encoders,
    cli_evaluate,
    cli_experiments,
    cli_explain,
    cli_keys,
    cli_letters,
    cli_rules,
    cli_search,
    cli_train,
    cli_tune,
    cli_vectors,
    cli_versions,
)
from streams.terminal import Commands, Failure, progress_bars, read_settings, set_up_logging

if TYPE_CHECKING:
    from rich.progress import TaskID


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Streaming product recommendations over Kafka.",
    epilog="Settings are environment variables FRESHET_...; without any, everything runs embedded in ./.freshet.",
)
topics_app = typer.Typer(no_args_is_help=True, help="Create the topics, or show them.")
app.add_typer(topics_app, name="topics", rich_help_panel="Run")
app.add_typer(cli_ask.app)
app.add_typer(cli_search.app)
app.add_typer(cli_evaluate.app)
app.add_typer(cli_vectors.app)
cli_encoders.encoders_app.add_typer(cli_versions.app)
app.add_typer(cli_encoders.encoders_app, name="encoders", rich_help_panel="Measure")
app.add_typer(cli_train.train_app, name="train", rich_help_panel="Bring data")
app.add_typer(cli_compress.app)
app.add_typer(cli_tune.app)
app.add_typer(cli_explain.app)
app.add_typer(cli_letters.dead_letters_app, name="dead-letters", rich_help_panel="Ask")
app.add_typer(cli_experiments.experiments_app, name="experiments", rich_help_panel="Measure")
app.add_typer(cli_keys.keys_app, name="keys", rich_help_panel="Run")
app.add_typer(cli_rules.rules_app, name="rules", rich_help_panel="Run")

LogLevel = Annotated[str, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """The entry point of the command."""
    app(prog_name="freshet")


# --- run ---------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Run")
def up(
    roles: Annotated[
        list[str] | None,
        typer.Option("--roles", help="Roles that share a process, like index,api. Repeat it for more processes."),
    ] = None,
    log_level: LogLevel = "INFO",
) -> None:
    """Run everything on this machine until Ctrl-C: broker (if none is named), topics, all roles, supervised."""
    import asyncio

    from streams import up as everything

    set_up_logging(log_level)
    settings = read_settings()
    groups: list[tuple[str, ...]] = list(everything.GROUPS)
    if roles:
        groups = everything.parse_groups(roles, embedded_vectors=settings.qdrant_url is None)
    asyncio.run(everything.up(settings, groups, cli_ask.names_of(settings), log_level=log_level))


@app.command(rich_help_panel="Run")
def worker(
    roles: Annotated[list[str], typer.Argument(metavar="ROLE...", help="catalog, encode, index, api, clicks, learner")],
    log_level: LogLevel = "INFO",
) -> None:
    """Run these roles in one process, in the foreground, until SIGTERM or Ctrl-C (for containers)."""
    set_up_logging(log_level)
    settings = read_settings()
    from streams.roles import run_roles
    from streams.worker import run_process

    run_process(run_roles(roles, settings))


@app.command(rich_help_panel="Run")
def demo(
    shop: Annotated[Path | None, typer.Option(help="A real shop's folder; without it, one is drawn.")] = None,
    seconds: Annotated[float, typer.Option(min=20, max=600, help="How long the shop is played.")] = 60,
    stay: Annotated[
        bool | None, typer.Option("--stay/--no-stay", help="Keep the page open after that; on a terminal it is.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start everything embedded, play a shop for a minute, show what happens, and a page to play with. Ctrl-C ends it.

    Either way it ends with 0 and leaves neither a process nor a file behind.
    """
    try:
        import asyncio

        set_up_logging("ERROR")
        read_settings()  # so that what is wrong is told before anything is drawn
        from streams.demo_screen import show

        stays = sys.stdout.isatty() and not as_json if stay is None else stay
        asyncio.run(show(shop, seconds=seconds, json=as_json, stay=stays))
    except KeyboardInterrupt:  # in the first seconds, while all this is imported and nothing has been started
        typer.echo("stopped; nothing was started yet", err=True)


@topics_app.command("create")
def create_topics() -> None:
    """Create the topics that are missing; those that exist stay as they are."""
    from streams import topics
    from streams.versions import known_fingerprints

    settings = read_settings()
    made = topics.create_topics(settings, cli_ask.names_of(settings), known_fingerprints(settings))
    for name in made:
        typer.echo(f"created {name}")
    if not made:
        typer.echo("every topic exists")


@topics_app.command("show")
def show_topics(as_json: Json = False) -> None:
    """Show each topic: what it keeps, and whether it exists."""
    from streams.broker import Broker
    from streams.topics import topics_of
    from streams.versions import known_fingerprints

    settings = read_settings()
    wanted = topics_of(settings, cli_ask.names_of(settings), known_fingerprints(settings))
    ids = Broker(settings).topic_ids([topic.name for topic in wanted])
    rows = [
        {"topic": t.name, "partitions": t.partitions, "kept": t.kept, "days": t.days, "topic_id": ids.get(t.name)}
        for t in wanted
    ]
    if as_json:
        cli_ask.print_json(rows)
    else:
        shown = [(*list(row.values())[:4], "yes" if row["topic_id"] else "missing") for row in rows]
        cli_ask.print_table(("topic", "partitions", "kept", "days", "exists"), shown)


# --- bring data --------------------------------------------------------------------------------------------------


@app.command("import", rich_help_panel="Bring data")
def import_folder(
    kind: Annotated[Literal["fashion", "online-retail", "grocery"], typer.Argument(help="What the folder holds.")],
    folder: Annotated[Path, typer.Argument(help="The shop's folder: styles.csv, purchases.csv.gz or products.jsonl.")],
    out: Annotated[Path, typer.Argument(help="Folder for catalog.jsonl and, where there are any, clicks.jsonl.")],
) -> None:
    """Turn a real shop's folder into files to publish: each line is exactly a topic's value."""
    from streams.imports import IMPORTERS

    with progress_bars() as bar:
        tasks: dict[str, TaskID] = {}

        def progress(name: str, lines: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=None)
            bar.update(tasks[name], completed=lines)

        imported = IMPORTERS[kind](folder, out, progress)
    typer.echo(f"{imported.products} products and {imported.clicks} clicks in {out}")
    if imported.skipped:
        typer.echo(f"{imported.skipped} rows were skipped, the first: {imported.first_problem}", err=True)
    for setting in imported.settings:
        typer.echo(f"\n{setting.why}, set this before `freshet up`:\n{setting.line}")


@app.command(rich_help_panel="Bring data")
def simulate(
    catalog: Annotated[Path, typer.Argument(help="catalog.jsonl of a shop.")],
    out: Annotated[Path, typer.Argument(help="File for the clicks, like clicks.jsonl.")],
    users: Annotated[int, typer.Option(min=1, help="Simulated shoppers.")] = 1_000,
    clicks: Annotated[int, typer.Option(min=1, help="Clicks of them all.")] = 100_000,
    days: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=3_650,
            help="How long they click; the last click is now. Clicks older than FRESHET_LIST_MAX_AGE_S, a day "
            "if it is not set, are learned but make no list.",
        ),
    ] = 0.5,
    segments: Annotated[
        int, typer.Option(min=0, help="Segments, like countries: each has popular products of its own.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same shoppers.")] = 0,
) -> None:
    """Make clicks of simulated shoppers with tastes, for a shop without clicks. Their user ids say simulated."""
    import orjson

    from streams import simulate as shoppers

    try:
        products = shoppers.read_catalog(_existing(catalog))
        made = shoppers.simulate(products, users, clicks, seed, days=days, segments=segments)
    except ValueError as error:
        raise Failure(f"{catalog}: {error}") from error
    partial = out.with_name(out.name + ".partial")
    try:
        with progress_bars() as bar, partial.open("wb") as file:
            for click in bar.track(made, total=clicks, description=out.name):
                file.write(orjson.dumps(click, option=orjson.OPT_APPEND_NEWLINE))
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{clicks} clicks of {users} simulated shoppers in {out}")


@app.command(rich_help_panel="Bring data")
def publish(
    what: Annotated[Literal["catalog", "clicks"], typer.Argument(help="Which topic the lines are for.")],
    file: Annotated[Path, typer.Argument(help="JSON lines, each exactly a value of the topic.")],
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Events per second; as fast as it goes without.")
    ] = None,
) -> None:
    """Publish a file to catalog-updates or user-clicks; only what the broker has confirmed is counted."""
    from streams import publish as publishing
    from streams.broker import Broker
    from streams.topics import topic_names

    settings = read_settings()
    names = topic_names(settings, "")
    topic, id_field = {
        "catalog": (names.catalog_updates, "product_id"),
        "clicks": (names.user_clicks, "user_id"),
    }[what]
    broker = Broker(settings)
    total = publishing.count_lines(_existing(file))
    publishing.require_topic(broker, topic)
    with progress_bars() as bar:
        task = bar.add_task(f"{file.name} to {topic}", total=total)
        lines = publishing.read_lines(file, id_field)
        try:
            publishing.publish_lines(
                broker, topic, lines, rate=rate, confirmed=lambda count: bar.update(task, completed=count)
            )
        finally:
            confirmed = int(bar.tasks[0].completed)
            bar.stop()
            typer.echo(f"{confirmed} of {total} events confirmed by {topic}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise Failure(f"there is no file {path}: `freshet import` or `freshet simulate` makes one")
    return path


if __name__ == "__main__":
    main()
