"""The commands `freshet encoders ...` that change which version of the encoders there is, is filled, and serves.

What they change is rows in SQL, which the roles follow: so none of them need stay open, and one that was killed is run
again. Every import of weight is inside a function, so that `freshet --help` is quick.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli_ask import Json, ask, names_of, print_json, print_table
from streams.cli_encoders import Columns, Folder, Seed
from streams.terminal import Failure, progress_bars, read_settings

if TYPE_CHECKING:
    from store.encoders import EncoderRow, EncoderStore
    from streams.settings import Settings

Fingerprint = Annotated[str, typer.Argument(metavar="FINGERPRINT", help="Its beginning is enough.")]
Anyway = Annotated[bool, typer.Option("--anyway", help="Also if products lack vectors.")]
app = typer.Typer()
LOOK_EVERY_S = 0.5
PATIENCE_S = 5.0  # products that came just now are encoded meanwhile


@app.command("list")
def list_versions(as_json: Json = False) -> None:
    """Each version: whether it serves, and how many products lack vectors of it."""
    known = _versions_by_api() or [_told(row) for row in _store(read_settings()).known()]
    if as_json:
        print_json(known)
        return
    rows = [
        (
            v["fingerprint"],
            v["state"],
            _or_dash(v["encoded"]),
            _or_dash(v["lacks"]),
            v["widths"].get("fused"),
            _source(v),
        )
        for v in known
    ]
    print_table(("fingerprint", "state", "encoded", "lacks", "width", "made of"), rows)
    if not known:
        typer.echo("no version yet: the catalog role tells of the one of the settings when it starts")


@app.command()
def show(fingerprint: Fingerprint) -> None:
    """All that is told of a version, as JSON."""
    row = _store(read_settings()).get(fingerprint)
    by_api = [version for version in _versions_by_api() or [] if version["fingerprint"] == row.fingerprint]
    print_json(_told(row) | (by_api[0] if by_api else {}))


@app.command()
def train(
    folder: Folder,
    columns: Columns = "",
    clicks: Annotated[Path | None, typer.Option(help="clicks.jsonl: what users clicked one after the other.")] = None,
    seed: Seed = 0,
) -> None:
    """Teach a version on a shop's own folder and make it known: `freshet train align`, `fuse` and `add` in one go."""
    from encoders.training.fuse import FuseRule
    from streams.training.fusing import train_fuse
    from streams.training.runs import Options
    from streams.training.session import session

    settings = read_settings()
    out = settings.home / settings.namespace / "encoders" / "taught"
    with session(settings, "fuse", Options(seed=seed), None, None) as its:
        typer.echo(train_fuse(its, folder, columns, out, FuseRule(), None, clicks))
    add(out)


@app.command()
def add(
    folder: Annotated[
        Path | None, typer.Argument(help="That `freshet train` made; without one, --image and --text.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Source of an untrained version, like path:FOLDER.")] = None,
    text: Annotated[str | None, typer.Option(help="The same for its words.")] = None,
) -> None:
    """Make a version known: its files are copied to where all workers find them. It does nothing yet."""
    from encoders.version import Version, read_version
    from store.encoders import EncoderRow
    from streams.version_files import put_version

    settings = read_settings()
    if (folder is None) == (image is None and text is None):
        raise typer.BadParameter("name a FOLDER, or sources with --image and --text")
    if folder is None:
        version = Version(image or settings.image_encoder, text or settings.text_encoder)
    else:
        version = read_version(folder)
        put_version(settings, folder, version.fingerprint)
    sources = {"image": version.image_source, "text": version.text_source}
    row = _store(settings).add(
        EncoderRow(version.fingerprint, sources, version.widths, dict(version.about), has_files=folder is not None)
    )
    typer.echo(f"{row.fingerprint} is {row.state}: fill it with `freshet encoders fill {row.fingerprint}`")


@app.command()
def fill(
    fingerprint: Fingerprint,
    wait: Annotated[bool, typer.Option(help="Show how far it is, until it is full.")] = True,
) -> None:
    """Encode all products by this version, beside the one that serves; it goes on after Ctrl-C."""
    from streams.topics import create_topics

    settings = read_settings()
    store = _store(settings)
    row = store.get(fingerprint)
    create_topics(settings, names_of(settings), [row.fingerprint])
    row = store.fill(row.fingerprint)
    if not wait:
        typer.echo(f"{row.fingerprint} is {row.state}: see `freshet encoders list`")
        return
    try:
        _show_filling(row)
    except (KeyboardInterrupt, Failure):  # also where nobody tells how far it is
        typer.echo(f"{row.fingerprint} is filled on: see `freshet encoders list`", err=True)


@app.command()
def stop(fingerprint: Fingerprint) -> None:
    """Fill a version no more; its vectors stay."""
    row = _store(read_settings()).stop(fingerprint)
    typer.echo(f"{row.fingerprint} is {row.state}")


@app.command()
def switch(fingerprint: Fingerprint, anyway: Anyway = False) -> None:
    """Let another version serve from now on; the one that did is filled on, for `rollback`."""
    settings = read_settings()
    store = _store(settings)
    row = store.get(fingerprint)
    _require_full(row, anyway)
    _show_to_readers(settings, store.switch(row.fingerprint))


@app.command()
def rollback(anyway: Anyway = False) -> None:
    """Let the version that served before serve again; a second time, go forth again."""
    settings = read_settings()
    store = _store(settings)
    _require_full(store.before(), anyway)
    _show_to_readers(settings, store.rollback())


@app.command()
def compare(
    one: Fingerprint,
    other: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="The other one.")],
    sample: Annotated[int, typer.Option(min=1, max=2_000, help="Products whose neighbours are compared.")] = 200,
    as_json: Json = False,
) -> None:
    """Two versions side by side: what they have encoded, their figures, and whether they find the same neighbours."""
    found = ask(f"/encoders/{one}/compare/{other}", sample=sample)
    if as_json:
        print_json(found)
        return
    first, second = found["versions"]
    rows: list[tuple[str, Any, Any]] = [
        ("state", first["state"], second["state"]),
        ("products", first["products"], second["products"]),
        ("with vectors", _share(first["with_vectors"]), _share(second["with_vectors"])),
    ]
    rows += [(f"width, {name}", first["widths"].get(name), second["widths"].get(name)) for name in first["widths"]]
    names = dict.fromkeys([*first["figures"], *second["figures"]])
    rows += [(name, *(_figure(version["figures"].get(name)) for version in (first, second))) for name in names]
    print_table(("", first["fingerprint"], second["fingerprint"]), rows)
    if found["compared"]:
        typer.echo(
            f"of the {found['neighbours']} nearest of {found['compared']} products, both find "
            f"{_share(found['shared'])}; of what either finds {_share(found['jaccard'])}"
        )
    else:
        typer.echo("no product of the sample has vectors by both: fill both, `freshet encoders list`")


@app.command()
def remove(fingerprint: Fingerprint) -> None:
    """Drop an idle version: its vectors, its topics, its files."""
    from streams.broker import Broker
    from streams.topics import dead_letters_of, topic_names
    from streams.version_files import remove_version

    settings = read_settings()
    row = _store(settings).remove(fingerprint)
    time.sleep(2 * LOOK_EVERY_S)  # until who reads its topics has heard of it
    vectors = topic_names(settings, row.fingerprint).product_vectors
    broker = Broker(settings)
    there = [name for name in (vectors, dead_letters_of(vectors)) if name in broker.topic_ids([name])]
    with broker.admin() as admin:
        for name in there:
            admin.delete_topics([name])
    remove_version(settings, row.fingerprint)
    typer.echo(f"{row.fingerprint} is removed; the index role drops its collection")


# --- what they share ---------------------------------------------------------------------------------------------


def _store(settings: "Settings") -> "EncoderStore":
    from store.encoders import EncoderStore
    from streams.databases import database_of

    return EncoderStore(database_of(settings, "products"))


def _told(row: "EncoderRow") -> dict[str, Any]:
    """As the api tells of it, but for what only the api knows."""
    from dataclasses import asdict

    return asdict(row) | {"encoded": None, "lacks": None}


def _versions_by_api() -> list[dict[str, Any]] | None:
    try:
        found: list[dict[str, Any]] = ask("/encoders")
    except Failure:
        return None
    return found


def _lacks(row: "EncoderRow") -> int | None:
    """How many products lack its vectors; None: it is not known."""
    known = [version["lacks"] for version in _versions_by_api() or [] if version["fingerprint"] == row.fingerprint]
    return known[0] if known else None


def _require_full(row: "EncoderRow", anyway: bool) -> None:
    """Raises Failure if products lack vectors, or nobody can tell."""
    deadline = time.monotonic() + PATIENCE_S
    while not anyway and row.state != "serving" and (lacks := _lacks(row)) != 0:
        if time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
        elif lacks is None:
            raise Failure(
                f"whether {row.fingerprint} is full is not known: start the api with `freshet up`, or say --anyway"
            )
        else:
            raise Failure(
                f"{row.fingerprint} lacks the vectors of {lacks} products: `freshet encoders fill {row.fingerprint}`, "
                "or say --anyway"
            )


def _show_to_readers(settings: "Settings", row: "EncoderRow") -> None:
    """The alias points to its collection at once; if this dies before, the index role sees to it."""
    from store.vectors import switch_vectors

    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    try:
        switch_vectors(settings.qdrant_url, key, settings.home, settings.namespace, row.fingerprint)
    except ValueError:
        typer.echo("its collection is not there yet: the index role makes it, and shows it to readers", err=True)
    typer.echo(f"{row.fingerprint} serves; back with `freshet encoders rollback`")


def _show_filling(row: "EncoderRow") -> None:
    with progress_bars() as bars:
        task = bars.add_task(f"filling {row.fingerprint}", total=None)
        while True:
            found = {version["fingerprint"]: version for version in ask("/encoders")}
            lacks, encoded = found[row.fingerprint]["lacks"], found[row.fingerprint]["encoded"]
            if lacks is not None:
                bars.update(task, completed=encoded, total=encoded + lacks)
                if lacks == 0 and encoded:
                    break
            time.sleep(LOOK_EVERY_S)
    typer.echo(f"{row.fingerprint} is full: `freshet encoders switch {row.fingerprint}`")


def _source(version: dict[str, Any]) -> str:
    taught = "taught on " if version["has_files"] else ""
    return taught + " and ".join(dict.fromkeys(version["sources"].values()))


def _or_dash(value: Any) -> Any:
    return "-" if value is None else value


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
