"""The commands `freshet rules ...`: what lists are to hold, whatever the ranking says."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.cli_ask import Json, names_of, print_json
from streams.terminal import Failure, read_settings

if TYPE_CHECKING:
    from streams.rules import RuleSet
    from streams.settings import Settings

rules_app = typer.Typer(no_args_is_help=True, help="Pin, boost, bury, block and cap what lists hold.")

File = Annotated[Path, typer.Argument(metavar="FILE", help="Rules in YAML, as docs/guides/rules.md shows.")]


@rules_app.command()
def check(file: File) -> None:
    """Tell every fault of the file with its line, and what is likely not meant, such as an unknown brand."""
    rules = _read(file)
    typer.echo(f"{file} can be applied: {_counted(rules)}")


@rules_app.command()
def apply(file: File) -> None:
    """Put these rules in the place of those that were, in every list, within a second of the broker's confirmation."""
    rules = _read(file)
    before = _publish(read_settings(), rules)
    typer.echo(f"{_counted(rules)}; before, there were {len(before.rules)}")


@rules_app.command()
def show(as_json: Json = False) -> None:
    """Print the rules that were applied last, as a file to apply."""
    rules = _current(read_settings())
    if as_json:
        print_json(rules.model_dump(mode="json", exclude_unset=True))
        return
    import yaml

    document = rules.model_dump(exclude_unset=True)
    typer.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120), nl=False)
    if not rules.rules:
        typer.echo("no rules were applied", err=True)


@rules_app.command()
def clear() -> None:
    """Take all rules back."""
    before = _publish(read_settings(), None)
    typer.echo(f"no rules any more; before, there were {len(before.rules)}")


def _read(file: Path) -> "RuleSet":
    """The file's rules; what is doubtful goes to stderr. Raises Failure with every fault."""
    import time

    from streams.publish import LINE_MAX_BYTES
    from streams.published_document import document_record
    from streams.rule_checks import doubts
    from streams.rules import RuleSet
    from streams.yaml_documents import BadDocument, load_document

    try:
        rules = load_document(file, RuleSet)
    except BadDocument as bad:
        raise Failure(f"the rules cannot be applied\n{bad}") from bad
    if (size := len(document_record("", rules).value or b"")) > LINE_MAX_BYTES:
        told = f"{size} bytes, the limit is {LINE_MAX_BYTES}: name brands, categories or attributes instead of products"
        raise Failure(f"the rules cannot be applied: they have {told}")
    for doubt in doubts(rules, time.time(), _products(read_settings())):
        typer.echo(f"{file}: {doubt}", err=True)
    return rules


def _products(settings: "Settings") -> Iterable[dict[str, Any]] | None:
    """Those of the shop; None where there are none yet."""
    from store.products import ProductStore
    from streams.databases import database_of

    store = ProductStore(database_of(settings, "products"))
    if not store.counts()["products"]:
        return None
    return ({**row.fields, "product_id": row.product_id} for row in store.all_rows() if not row.deleted)


def _counted(rules: "RuleSet") -> str:
    import time

    count, now = len(rules.rules), sum(rule.is_on(time.time()) for rule in rules.rules.values())
    return f"{count} rule{'' if count == 1 else 's'}, of which {now} {'holds' if now == 1 else 'hold'} now"


def _current(settings: "Settings") -> "RuleSet":
    """The rules that were published last. Raises BrokerUnavailable."""
    import asyncio
    import threading

    from streams.broker import Broker
    from streams.published_document import PublishedDocument
    from streams.replicas import Replica
    from streams.rules import NO_RULES

    published = PublishedDocument(NO_RULES)
    replica = Replica(Broker(settings), {names_of(settings).rules: published.put}, threading.Lock())

    async def read() -> None:
        await replica.start()
        await replica.stop()

    asyncio.run(read())
    return published.current


def _publish(settings: "Settings", rules: "RuleSet | None") -> "RuleSet":
    """The broker has confirmed them; None: the record that takes all back. Returns those before."""
    from streams.broker import Broker, Outgoing
    from streams.kept_documents import confirmed, keep_rules, kept_rules, publish_kept
    from streams.published_document import KEY, document_record

    before = _current(settings)  # first, for it tells of a topic that is not there
    topic, broker = names_of(settings).rules, Broker(settings)
    publish = confirmed(broker, "the rules were")
    if broker.embedded:  # its topics end with it: `freshet up` publishes again what is kept
        keep_rules(settings, rules)
        publish_kept(publish, topic, lambda: kept_rules(settings))
    else:
        publish(Outgoing(topic, KEY, None) if rules is None else document_record(topic, rules))
    return before
