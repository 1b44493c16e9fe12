"""The commands that ask: what is recommended, what is alike, what is held, what went wrong, how it runs."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote

import typer

from streams.terminal import Failure, read_settings

if TYPE_CHECKING:
    from streams.settings import Settings
    from streams.topics import TopicNames

app = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many.")]
ASK_WITHIN_S = 30.0
NO_NEIGHBOURS = "the learner has told of none, or they cannot be had now"
ALIKE = {"together": ("share", "together with"), "next": ("share", "next after")}  # the score's name, and in words


# --- lists -------------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Ask")
def recommend(
    user: str,
    limit: Limit = 20,
    segment: Annotated[str, typer.Option(help="Hers, as clicks name it; for who has no click yet.")] = "",
    as_json: Json = False,
) -> None:
    """What is recommended to a user at this moment."""
    made = ask(f"/users/{quote(user, safe='')}/recommendations", limit=limit, segment=segment)
    if as_json:
        print_json(made)
        return

    def why(item: dict[str, Any]) -> str:
        return "; ".join((item["reason"], *(f"rule: {name}" for name in item.get("rules", ()))))

    rows = [(i["rank"], i["title"] or i["product_id"], f"{i['score']:.3f}", i["source"], why(i)) for i in made["items"]]
    print_table(("", f"for {user}", "score", "source", "reason"), rows)


@app.command(rich_help_panel="Ask")
def similar(
    product: Annotated[str | None, typer.Argument(help="Products like this one.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Instead: users like this one, what they clicked last.")] = None,
    limit: Limit = 20,
    by: Annotated[
        Literal["fused", "image", "text", "together", "next"],
        typer.Option(help="Alike by vectors, clicked together with it, or next after it."),
    ] = "fused",
    as_json: Json = False,
) -> None:
    """The products that are most like one, or go with it; or the users who click like one."""
    if (product is None) == (user is None):
        raise typer.BadParameter("name a PRODUCT, or a user with --user, and not both")
    if user is not None:
        _look_alikes(user, limit, as_json)
        return
    product = str(product)
    made = ask(f"/products/{quote(product, safe='')}/similar", limit=limit, by=by)
    score, words = ALIKE.get(by, ("cosine", "like"))
    if as_json:
        print_json(made)
    elif made["items"]:
        rows = [(f"{item['score']:.3f}", item["title"] or "", item["product_id"]) for item in made["items"]]
        print_table((score, f"{words} {product}", "product_id"), rows)
        _tell_duplicates(made)
    elif made["duplicates"]:
        _tell_duplicates(made)
    elif by in ("together", "next"):
        typer.echo(f"nothing {words} {product} yet: {NO_NEIGHBOURS}")
    else:
        raise Failure(_why_none_is_similar(product, by, ask(f"/products/{quote(product, safe='')}")))


def _tell_duplicates(made: dict[str, Any]) -> None:
    if twins := made["duplicates"]:
        named = [f"{twin['product_id']} ({twin['title']})" for twin in twins]
        typer.echo(f"listed again: {', '.join(named)}")


def _look_alikes(user: str, limit: int, as_json: bool) -> None:
    made = ask(f"/users/{quote(user, safe='')}/look-alikes", limit=limit)
    if as_json:
        print_json(made)
    elif made["users"]:
        rows = [
            (f"{one['score']:.3f}", one["user_id"], ", ".join(item["title"] for item in one["clicked"]))
            for one in made["users"]
        ]
        print_table(("cosine", f"like {user}", "clicked last, new to her"), rows)
    else:
        typer.echo(f"nobody like {user} yet: no others of this epoch of the learner, or her products are not learned")


def _why_none_is_similar(product: str, name: str, held: dict[str, Any]) -> str:
    """What is missing, from all that is held of the product."""
    point, row = held["point"] or {}, held["row"] or {}
    if "error" in point:
        return f"what is like {product!r} is not known: {point['error']}"
    if name in point.get("widths", {}):
        return f"nothing is like {product!r}: no other product that is for sale has the vector {name!r}"
    why = "it is still to be encoded"
    if name == "image":
        reasons = {"none": "it has no image_links", "missing": row.get("image_reason")}
        why = reasons.get(str(row.get("image_state"))) or why
    return f"{product!r} has no vector {name!r}: {why}. All that is held of it: `freshet show product ID`"


@app.command(rich_help_panel="Ask")
def watch(
    what: Annotated[Literal["recommendations"], typer.Argument(help="The topic.")],
    user: Annotated[str | None, typer.Option(help="Only this user's lists.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    as_json: Json = False,
) -> None:
    """Print each list that is published from now on, until Ctrl-C."""
    import itertools
    import signal
    import threading

    import orjson

    from streams.broker import Broker
    from streams.publish import watch_lists
    from streams.topics import topic_names

    settings = read_settings()
    stop = threading.Event()
    lists = watch_lists(Broker(settings), topic_names(settings, "").recommendations, user_id=user, stop=stop)
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    typer.echo(f"watching {what}, Ctrl-C ends it", err=True)
    for value in itertools.islice(lists, count):
        typer.echo(value.decode() if as_json else _one_line(orjson.loads(value)))


def _one_line(made: dict[str, Any]) -> str:
    items = ", ".join(item["product_id"] for item in made["items"][:5])
    return f"{made['made_at']} {made['user_id']} ({made['cause']}, {len(made['items'])} items): {items}"


# --- what is held ------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Ask")
def show(
    what: Literal["user", "product"],
    id: Annotated[str, typer.Argument(metavar="ID")],
    _as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as always here.")] = False,
) -> None:
    """All that is held of a user or a product, with revisions and source offsets, as JSON."""
    print_json(ask(f"/{what}s/{quote(id, safe='')}"))


# --- how it runs -------------------------------------------------------------------------------------------------


@app.command(rich_help_panel="Ask")
def status(as_json: Json = False) -> None:
    """Per role: alive, lag, events/s, oldest unprocessed event; the age of the factors; counts in each store."""
    found = ask("/status")
    if as_json:
        print_json(found)
        return
    columns = ("role", "state", "workers", "events", "events/s", "lag", "oldest s", "dead letters", "waits for")
    rows = [
        (
            *(name, role["state"], role["workers"], role["events"], role["events_per_s"], role["lag"]),
            *(f"{role['oldest_unprocessed_s']:.1f}", role["dead_letters"], role["reason"] or ""),
        )
        for name, role in found["roles"].items()
    ]
    print_table(columns, rows)
    age_s = found["factors_age_s"]
    typer.echo(f"factors: {'none yet' if age_s is None else f'{age_s:.1f} s old'}")
    for name, counts in found["stores"].items():
        typer.echo(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    for note in found["notes"]:
        typer.echo(note)


# --- asking and printing -----------------------------------------------------------------------------------------


def ask(path: str, *, body: dict[str, Any] | None = None, **query: Any) -> Any:
    """The api's answer, to a POST if there is a body. Raises Failure with what it says, or if nobody answers."""
    import httpx

    settings = read_settings()
    host = f"[{settings.api_host}]" if ":" in settings.api_host else settings.api_host
    url = f"http://{host}:{settings.api_port}"
    key = settings.api_key.get_secret_value() if settings.api_key else None
    try:
        # trust_env: a proxy of the environment must not come between us and the loopback address.
        with httpx.Client(base_url=f"{url}/v1", timeout=ASK_WITHIN_S, trust_env=False) as client:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            response = client.request("POST" if body else "GET", path, params=query, json=body, headers=headers)
        answer = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Failure(
            f"no answer from Freshet's api at {url} ({type(error).__name__}): start it with `freshet up`, "
            "or set FRESHET_API_PORT to where it listens"
        ) from error
    if response.status_code in (401, 403):
        raise Failure(f"{answer['detail']}; FRESHET_API_KEY names the key with which the commands ask")
    if response.is_error:
        raise Failure(str(answer.get("detail", answer)))
    return answer


def names_of(settings: "Settings") -> "TopicNames":
    """Every topic's name, that of the vectors by the encoders' fingerprint. Raises UnknownSource."""
    from encoders.weights import fingerprint_of
    from streams.topics import topic_names

    return topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))


def print_json(value: Any, *, lines: bool = False) -> None:
    """JSON on stdout, indented, or for many values each on its line."""
    import orjson

    typer.echo(orjson.dumps(value, option=None if lines else orjson.OPT_INDENT_2).decode())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console().print(table)
