"""The commands `freshet dead-letters ...`: what could not be used, and what becomes of it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli_ask import Json, names_of, print_json, print_table
from streams.terminal import Failure, read_settings

if TYPE_CHECKING:
    from store.letters import Place, Settled
    from streams.dead_letters import DeadLetter
    from streams.replays import Replays
    from streams.settings import Settings

    Held = list[tuple[DeadLetter, Settled | None]]

dead_letters_app = typer.Typer(
    no_args_is_help=True, help="What could not be used, and why: publish it again, or drop it."
)

Which = Annotated[str | None, typer.Argument(metavar="[PLACE]", help="One: topic/partition/offset as the list has it.")]
Reason = Annotated[str | None, typer.Option(help="All whose reason begins so.")]
Every = Annotated[bool, typer.Option("--all", help="All.")]
Topic = Annotated[str | None, typer.Option(help="Only those of this topic, like user-clicks.")]


@dead_letters_app.command("list")
def list_dead_letters(
    topic: Topic = None,
    reason: Reason = None,
    every: Annotated[bool, typer.Option("--all", help="The settled ones, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the events that could not be used and are not settled: where they stood, and why."""
    settings = read_settings()
    sources = _sources(settings, topic)
    held = _replays(settings).held(sources, reason=reason)
    shown = [(letter, settled) for letter, settled in held if every or settled is None]
    if as_json:
        for letter, settled in shown:
            print_json(_told(letter, settled), lines=True)
        return
    columns = ("given up at", "topic/partition/offset", "key", "reason", *(("settled",) if every else ()))
    rows = [
        (x.at, str(x.place), _text(x.key), x.reason, *((settled.how if settled else "",) if every else ()))
        for x, settled in shown
    ]
    print_table(columns, rows)


@dead_letters_app.command()
def show(place: Annotated[str, typer.Argument(metavar="PLACE", help="topic/partition/offset.")]) -> None:
    """All of one dead letter as JSON, its value and headers too, and whether it could be published again."""
    settings = read_settings()
    replays = _replays(settings)
    for letter, settled in _of_place(settings, replays, _place(place)):
        print_json(_told(letter, settled) | {"refused": replays.why_not(letter, settled)})


@dead_letters_app.command()
def replay(
    place: Which = None,
    reason: Reason = None,
    every: Every = False,
    topic: Topic = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also what is refused because it turns something back, or fails again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish dead letters again: raw bytes, key and topic as they were, confirmed by the broker.

    Refused is what would turn back a product that was updated since (an update with updated_at never does), what would
    be given up again, and what a person who was forgotten since had clicked. A click that is among her last 64 counts
    once; one that came by another way before those counts again.
    """
    settings = read_settings()
    replays = _replays(settings)
    done = replays.replay(_chosen(settings, replays, place, reason, every, topic), anyway=anyway)
    if as_json:
        refused = [{"place": str(one.place), "why": one.why} for one in done.refused]
        print_json({"replayed": [str(one) for one in done.replayed], "refused": refused})
    else:
        for one in done.replayed:
            typer.echo(f"replayed {one}")
        for refusal in done.refused:
            typer.echo(f"refused {refusal.place}: {refusal.why}")
        typer.echo(f"{len(done.replayed)} replayed, {len(done.refused)} refused")
    if done.refused:
        raise typer.Exit(1)


@dead_letters_app.command()
def drop(
    place: Which = None, reason: Reason = None, every: Every = False, topic: Topic = None, as_json: Json = False
) -> None:
    """Settle dead letters without publishing them: the list shows them no more."""
    settings = read_settings()
    replays = _replays(settings)
    dropped = replays.drop(_chosen(settings, replays, place, reason, every, topic))
    if as_json:
        print_json({"dropped": [str(one) for one in dropped]})
    else:
        typer.echo(f"{len(dropped)} dropped")


def _chosen(
    settings: "Settings", replays: "Replays", place: str | None, reason: str | None, every: bool, topic: str | None
) -> "Held":
    """The letter of the place, open or not; else the open ones."""
    if (place is not None) + (reason is not None) + every != 1:
        raise typer.BadParameter("say which: a PLACE, --reason, or --all")
    if place is not None:
        return _of_place(settings, replays, _place(place))
    return [one for one in replays.held(_sources(settings, topic), reason=reason) if one[1] is None]


def _of_place(settings: "Settings", replays: "Replays", place: "Place") -> "Held":
    _sources(settings, place.topic)
    if held := replays.held([], place=place):
        return held
    raise Failure(f"no dead letter is kept of {place}: take one of `freshet dead-letters list --all`")


def _place(text: str) -> "Place":
    from streams.replays import place_of

    try:
        return place_of(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PLACE") from error


def _sources(settings: "Settings", topic: str | None) -> list[str]:
    """The topics of which dead letters are kept, or this one of them. Raises Failure if it is none."""
    from streams.topics import dead_letters_of, topics_of
    from streams.versions import known_fingerprints

    every = {t.name for t in topics_of(settings, names_of(settings), known_fingerprints(settings))}
    sources = sorted(name for name in every if dead_letters_of(name) in every)
    if topic is not None and topic not in sources:
        raise Failure(f"no dead letters are kept of {topic!r}: take one of {', '.join(sources)}")
    return [topic] if topic else sources


def _replays(settings: "Settings") -> "Replays":
    from store.products import ProductStore
    from store.users import UserStore
    from streams.databases import database_of
    from streams.replays import Replays

    products, users = (database_of(settings, name) for name in ("products", "users"))
    return Replays(settings, ProductStore(products), UserStore(users))


def _told(letter: "DeadLetter", settled: "Settled | None") -> dict[str, Any]:
    headers = [{"name": name, "value": _text(value)} for name, value in letter.headers]
    texts = {"key": _text(letter.key), "value": _text(letter.value), "headers": headers}
    return letter._asdict() | texts | {"settled": settled.how if settled else None}


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")
