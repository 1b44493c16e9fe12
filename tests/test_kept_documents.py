"""Rules and the experiment outlive the embedded broker; and who is told last by a topic, when several change it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from brokers import environment_of
from typer.testing import CliRunner

from store.database import open_database
from store.experiments import ExperimentStore
from streams import experiment_control, kept_documents, publish
from streams.broker import Broker, Outgoing
from streams.cli import app
from streams.embedded_broker import EmbeddedBroker
from streams.experiment_control import ExperimentControl
from streams.experiments import Experiment, RunningExperiment
from streams.kept_documents import keep_rules, kept_experiment, kept_rules, publish_all_kept
from streams.ports import free_port
from streams.published_document import PublishedDocument
from streams.replicas import Replica
from streams.rules import NO_RULES, RuleSet
from streams.settings import Settings
from streams.topics import TopicNames, create_topics, topic_names
from streams.up import broker_child

EXPERIMENT = "name: try\nvariants:\n  - name: plain\n  - name: new\n"
RULES = "rules:\n  no cups: {action: block, products: [cup]}\n"
NO_CUPS = RuleSet.model_validate({"rules": {"no cups": {"action": "block", "products": ["cup"]}}})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, embedded_port=free_port(), partitions=1)


@pytest.fixture
def names(settings: Settings) -> TopicNames:
    return topic_names(settings, "f")


def on_topics(settings: Settings, names: TopicNames) -> tuple[list[str], str | None]:
    """The names of the rules and of the experiment, as a worker reads them at its start."""
    rules, running = PublishedDocument(NO_RULES), RunningExperiment()
    puts = {names.rules: rules.put, names.experiments: running.put}
    replica = Replica(Broker(settings), puts, threading.Lock())

    async def read() -> None:
        await replica.start()
        await replica.stop()

    asyncio.run(read())
    return list(rules.current.rules), None if running.trial is None else running.trial.name


# --- the embedded broker -----------------------------------------------------------------------------------------


def test_what_was_applied_and_runs_is_on_the_topics_again_when_the_embedded_broker_is_ready_again(
    settings: Settings, names: TopicNames
) -> None:
    child = broker_child(settings, names)
    environment = environment_of(settings)

    def freshet(*arguments: str) -> None:
        result = CliRunner().invoke(app, arguments, env=environment)
        assert result.exit_code == 0, result.output

    @contextlib.contextmanager
    def life() -> Iterator[None]:
        with EmbeddedBroker(settings.embedded_port):
            assert child.ready is not None
            asyncio.run(child.ready())  # type: ignore[arg-type]
            yield

    (rules := settings.home / "rules.yaml").write_text(RULES)
    (experiment := settings.home / "experiment.yaml").write_text(EXPERIMENT)
    with life():
        assert on_topics(settings, names) == ([], None)
        freshet("rules", "apply", str(rules))
        freshet("experiments", "start", str(experiment))
    with life():
        assert on_topics(settings, names) == (["no cups"], "try")
        freshet("rules", "clear")
        freshet("experiments", "stop")
        assert on_topics(settings, names) == ([], None)
    with life():
        assert on_topics(settings, names) == ([], None)


def test_another_broker_keeps_its_topics_itself_so_nothing_is_kept_for_it(
    settings: Settings, names: TopicNames
) -> None:
    elsewhere = settings.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{settings.embedded_port}"})
    (file := settings.home / "rules.yaml").write_text(RULES)
    with EmbeddedBroker(settings.embedded_port):
        create_topics(elsewhere, names)
        result = CliRunner().invoke(app, ["rules", "apply", str(file)], env=environment_of(elsewhere))
        assert result.exit_code == 0, result.output
        assert on_topics(elsewhere, names) == (["no cups"], None)
    assert kept_rules(settings) is None


def test_what_cannot_be_read_is_told_of_and_the_other_is_published(
    settings: Settings, names: TopicNames, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Outgoing] = []
    monkeypatch.setattr(kept_documents, "confirmed", lambda *_: told.append)
    publish_all_kept(settings, names)
    assert told == []
    assert not list(settings.home.iterdir()), "and no database was made for it"
    keep_rules(settings, NO_CUPS)
    ExperimentStore(open_database(None, settings.home, "users")).start("old", '{"name": "old", "mood": 1}', 1.0)
    publish_all_kept(settings, names)
    assert [(one.topic, one.value) for one in told] == [
        (names.rules, NO_CUPS.model_dump_json(exclude_unset=True).encode())
    ]
    assert f"not published again topic={names.experiments}" in caplog.text


def test_rules_that_are_too_large_for_the_topic_are_refused_before_they_are_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "LINE_MAX_BYTES", 50)
    (file := settings.home / "rules.yaml").write_text(RULES.replace("[cup]", "[cup, mug, jug]"))
    result = CliRunner().invoke(app, ["rules", "apply", str(file)], env=environment_of(settings))
    assert result.exit_code == 1
    assert "they have 71 bytes, the limit is 50: name brands, categories or attributes instead" in result.stderr
    assert kept_rules(settings) is None


def test_rules_that_are_applied_while_older_ones_are_published_again_stay(
    settings: Settings, names: TopicNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written to SQL, and published, before the older ones are."""
    newer = RuleSet.model_validate({"rules": {"no pots": {"action": "block", "products": ["pot"]}}})
    told: list[bytes | None] = []

    def told_after(message: Outgoing) -> None:
        if not told:
            keep_rules(settings, newer)
            told.append(b"of the other one")
        told.append(message.value)

    monkeypatch.setattr(kept_documents, "confirmed", lambda *_: told_after)
    keep_rules(settings, NO_CUPS)
    publish_all_kept(settings, names)
    assert [b"no cups" in (value or b"") for value in told[1:]] == [True, False]
    assert told[-1] == newer.model_dump_json(exclude_unset=True).encode()


# --- starting and stopping at once -------------------------------------------------------------------------------


class Topic:
    """What was published; `before` runs before the first publication."""

    def __init__(self, before: Callable[[], Any] = lambda: None) -> None:
        self.values: list[str | None] = []
        self.before = before

    def publish(self, message: Outgoing) -> None:
        before, self.before = self.before, lambda: None
        before()
        self.values.append(None if message.value is None else orjson.loads(message.value)["experiment"]["name"])


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    monkeypatch.setattr(experiment_control, "confirmed", lambda *_: topic.publish)
    monkeypatch.setattr(experiment_control, "require_topic", lambda *_: None)
    return topic


def experiment(name: str) -> Experiment:
    return Experiment.model_validate({"name": name, "variants": [{"name": "plain"}, {"name": "new"}]})


def test_a_stop_between_a_start_s_row_and_its_record_is_the_topic_s_last_word(settings: Settings, topic: Topic) -> None:
    store = ExperimentStore(open_database(None, settings.home, "users"))
    control = ExperimentControl(store, Broker(settings), "experiments")
    topic.before = control.stop
    control.start(experiment("try"))
    assert topic.values == [None, "try", None]
    assert kept_experiment(settings) is None


def test_a_start_between_a_stop_s_row_and_its_record_is_the_topic_s_last_word(settings: Settings, topic: Topic) -> None:
    store = ExperimentStore(open_database(None, settings.home, "users"))
    control = ExperimentControl(store, Broker(settings), "experiments")
    control.start(experiment("one"))
    topic.before = lambda: control.start(experiment("two"))
    assert control.stop() == "one"
    assert topic.values == ["one", "two", None, "two"]
    assert (kept := kept_experiment(settings)) is not None
    assert kept.experiment == experiment("two")
