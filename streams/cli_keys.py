"""The commands `freshet keys ...`: who may ask the api."""

from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli_ask import Json, print_json, print_table
from streams.terminal import read_settings

if TYPE_CHECKING:
    from store.keys import KeyStore

keys_app = typer.Typer(no_args_is_help=True, help="The keys of the api: none is needed until one was made.")


@keys_app.command()
def make(
    name: Annotated[str, typer.Argument(help="Whom it is for.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="read: ask; write: publish events; admin: all. Repeat it for several."),
    ] = None,
) -> None:
    """Make a key and print it; only its hash is kept, so this is the one time to read it."""
    try:
        key, text = _store().make(name, scope or ["read"])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--scope") from error
    typer.echo(f"{key.key_id} may {', '.join(sorted(key.scopes))}; from now on every request needs a key", err=True)
    typer.echo(text)


@keys_app.command("list")
def list_keys(as_json: Json = False) -> None:
    """Every key: whom it is for, and what it may do."""
    from datetime import UTC, datetime

    keys = [
        {
            "key_id": key.key_id,
            "name": key.name,
            "scopes": sorted(key.scopes),
            "created_at": datetime.fromtimestamp(key.created_at, UTC).isoformat(timespec="seconds"),
        }
        for key in _store().all()
    ]
    if as_json:
        print_json(keys)
    elif keys:
        print_table(
            ("key", "for", "may", "made at"),
            [(k["key_id"], k["name"], ", ".join(k["scopes"]), k["created_at"]) for k in keys],
        )
    else:
        typer.echo("no key was made: everybody on this machine may ask, and nobody else")


@keys_app.command()
def remove(key_id: Annotated[str, typer.Argument(help="As `freshet keys list` names it.")]) -> None:
    """Remove a key; within seconds it opens nothing."""
    _store().remove(key_id)
    typer.echo(f"{key_id} is removed")


def _store() -> "KeyStore":
    from store.keys import KeyStore
    from streams.databases import database_of

    return KeyStore(database_of(read_settings(), "products"))
