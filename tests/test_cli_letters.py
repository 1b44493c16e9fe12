"""`freshet dead-letters`: an operator lists, shows, publishes again and drops what could not be used."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from brokers import MakeSettings, environment_of
from typer.testing import CliRunner

from streams.broker import Broker
from streams.cli import app
from streams.dead_letters import dead_letter
from streams.embedded_broker import EmbeddedBroker
from streams.settings import Settings
from streams.topics import create_topics, topic_names

Letters = Callable[..., Any]


@pytest.fixture
def settings(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Settings:
    """Of a broker with two letters: a patch of a product that is not known, and a click."""
    settings = broker_settings(tansu)
    names = topic_names(settings, "ab12")
    create_topics(settings, names)
    click = {"event_id": "e", "user_id": "ann", "product_id": "p", "event": "view_item"}
    click["occurred_at"] = "2026-01-02T03:04:05Z"
    patch = {"op": "patch", "product_id": "p7", "availability": "out_of_stock"}
    producer = Broker(settings).sync_producer()
    for topic, key, value, reason in (
        (names.catalog_updates, b"p7", patch, "unknown product 'p7': publish an upsert first"),
        (names.user_clicks, b"ann", click, "the process died each time"),
    ):
        raw = json.dumps(value).encode()
        made = dead_letter(topic, 0, 41, key=key, value=raw, headers=[("trace", b"7")], reason=reason)
        producer.send(made.topic, key=made.key, value=made.value, headers=list(made.headers)).get(10)
    producer.close()
    return settings


@pytest.fixture
def letters(settings: Settings) -> Letters:
    environment = environment_of(settings) | {"COLUMNS": "200"}
    return lambda *arguments: CliRunner().invoke(app, ["dead-letters", *arguments], env=environment)


def test_letters_are_shown_replayed_dropped_and_listed_while_they_are_open(
    letters: Letters, settings: Settings
) -> None:
    names = topic_names(settings, "")
    click, patch = f"{names.user_clicks}/0/41", f"{names.catalog_updates}/0/41"
    shown = json.loads(letters("show", patch).stdout)
    assert json.loads(shown["value"])["op"] == "patch"
    assert shown["headers"] == [{"name": "trace", "value": "7"}]
    assert (shown["settled"], shown["topic_id"]) == (None, None)
    assert shown["refused"].startswith("product 'p7' is still unknown: publish an upsert first")

    result = letters("replay", "--all")
    assert result.exit_code == 1, "one was refused"
    assert f"replayed {click}" in result.stdout
    assert re.search(rf"refused {patch}: product 'p7' is still unknown: .*`anyway` publishes it", result.stdout)
    assert result.stdout.endswith("1 replayed, 1 refused\n")
    assert click not in letters("list").stdout
    every = letters("list", "--all").stdout
    assert re.search(rf"{click} +ann +the process died each time +replayed", every)

    result = letters("drop", "--reason", "unknown product", "--json")
    assert json.loads(result.stdout) == {"dropped": [patch]}
    assert letters("list", "--json").stdout == ""
    result = letters("replay", patch, "--anyway", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"replayed": [patch], "refused": []})


def test_what_is_misspelled_is_told(letters: Letters, settings: Settings) -> None:
    topic = topic_names(settings, "").user_clicks
    for arguments, code, said in (
        (("replay",), 2, "say which: a PLACE, --reason, or --all"),
        (("drop", f"{topic}/0/41", "--all"), 2, "say which: a PLACE, --reason, or --all"),
        (("show", "user-clicks"), 2, "'user-clicks' names no place"),
        (("show", f"{topic}/0/42"), 1, f"no dead letter is kept of {topic}/0/42: take one of"),
        (("replay", "elsewhere/0/42"), 1, "no dead letters are kept of 'elsewhere': take one of"),
    ):
        result = letters(*arguments)
        assert result.exit_code == code, arguments
        assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split()), result.stderr
