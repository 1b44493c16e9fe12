"""Rules from a file to lists: `freshet rules`, and real roles in a process of their own on the embedded broker."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from brokers import MakeSettings, environment_of
from shelves import factors, offer, weights
from test_clicks import click
from tiny_encoders import untrained_version
from typer.testing import CliRunner

from encoders.next_click import FACTORS
from encoders.weights import fingerprint_of
from store.database import open_database
from store.products import ProductStore
from store.records import ProductRow
from streams.broker import Broker
from streams.cli import app
from streams.embedded_broker import EmbeddedBroker
from streams.ports import free_port
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import TopicNames, create_topics, topic_names

WITHIN_S = 90.0
GUIDE = Path(__file__).parent.parent / "docs/guides/rules.md"
PRODUCTS = {"tea": (1.0, "Lux"), "cup": (0.9, "Lux"), "pot": (0.5, "Nord"), "axe": (-1.0, None)}
Freshet = Callable[..., Any]


@pytest.fixture
def settings(tansu: EmbeddedBroker, broker_settings: MakeSettings) -> Settings:
    return broker_settings(tansu, api_port=free_port(), partitions=1, push_users=0)


@pytest.fixture
def names(settings: Settings) -> TopicNames:
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    create_topics(settings, names)
    return names


@pytest.fixture
def rules(settings: Settings) -> Freshet:
    """freshet rules ..."""
    environment = environment_of(settings) | {"COLUMNS": "200"}
    return lambda *arguments: CliRunner().invoke(app, ["rules", *map(str, arguments)], env=environment)


@contextlib.contextmanager
def worker(settings: Settings) -> Iterator[None]:
    path = settings.home / "worker.log"
    with path.open("wb") as log:
        command = [sys.executable, "-m", "streams.cli", "worker", "clicks", "api"]
        process = subprocess.Popen(
            command, env=environment_of(settings), stdout=log, stderr=log, preexec_fn=dies_with_parent()
        )
        try:
            yield
        finally:
            process.terminate()
            ended = process.wait(30)
    assert ended == 0, path.read_text()


def fill(settings: Settings, names: TopicNames) -> None:
    with contextlib.closing(Broker(settings).sync_producer()) as producer:
        version = untrained_version(settings)
        producer.send(names.encoders, key=version.fingerprint.encode(), value=version.model_dump_json().encode())
        for product_id, (score, brand) in PRODUCTS.items():
            row = [score] + [0.0] * (FACTORS - 1)
            producer.send(names.product_index, key=product_id.encode(), value=offer(title=product_id, brand=brand))
            producer.send(names.item_factors, key=product_id.encode(), value=factors(row, clicks=1_000_000))
        producer.send(names.model_weights, key=b"next-click", value=weights(FACTORS))
        producer.flush()


class Lists:
    """Ann's lists as they come on the topic."""

    def __init__(self, settings: Settings, names: TopicNames) -> None:
        self._consumer = Broker(settings).sync_consumer()
        self._consumer.subscribe([names.recommendations])

    def next(self) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            for records in self._consumer.poll(timeout_ms=100, max_records=1).values():
                made: dict[str, Any] = orjson.loads(records[0].value)
                return made
        pytest.fail("no list came")

    def close(self) -> None:
        self._consumer.close()


def ids(made: dict[str, Any]) -> list[str]:
    return [item["product_id"] for item in made["items"]]


def test_what_is_applied_is_obeyed_by_lists_on_the_topic_and_by_the_api_and_leaves_the_lists_that_people_have(
    settings: Settings, names: TopicNames, rules: Freshet, tmp_path: Path
) -> None:
    fill(settings, names)
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n"
        "  no cups: {action: block, products: [cup]}\n"
        "  axes first: {action: pin, products: [axe]}\n"
        "  nord at home: {action: block, brand: Nord, scenarios: [home]}\n"
    )
    url = f"http://127.0.0.1:{settings.api_port}/v1"
    with worker(settings), contextlib.closing(Lists(settings, names)) as lists:
        with contextlib.closing(Broker(settings).sync_producer()) as producer:
            producer.send(names.user_clicks, key=b"ann", value=click("tea")).get(10)
        assert ids(lists.next()) == ["cup", "pot", "axe"]
        result = rules("apply", file)
        assert result.stdout == "3 rules, of which 3 hold now; before, there were 0\n"
        record, whole = lists.next(), lists.next()
        assert (record["withdrawn"], ids(record), record["cause"]) == (["cup"], ["pot", "axe"], "retraction")
        assert [(item["product_id"], item.get("rules")) for item in whole["items"]] == [
            ("axe", ["axes first"]),
            ("pot", None),
        ]
        asked = httpx.get(f"{url}/users/ann/recommendations?explain=true", trust_env=False).json()
        assert [(item["product_id"], item.get("rules")) for item in asked["items"]] == [
            ("axe", ["axes first"]),
            ("pot", None),
        ]
        pinned = {"name": "axes first", "action": "pin", "position": 1}
        assert asked["items"][0]["explanation"]["rules"] == [pinned]
        shown = CliRunner().invoke(app, ["recommend", "ann"], env=environment_of(settings) | {"COLUMNS": "200"}).stdout
        assert "often clicked now; rule: axes first" in shown
        home = httpx.get(f"{url}/users/ann/recommendations?scenario=home", trust_env=False).json()
        assert ids(home) == ["axe"]
        told = httpx.get(f"{url}/rules", trust_env=False).json()["rules"]
        assert [(one["name"], one["is_on"], one["products_for_sale"]) for one in told] == [
            ("no cups", True, 1),
            ("axes first", True, 1),
            ("nord at home", True, 1),
        ]
        assert told[2] == {
            "name": "nord at home",
            "action": "block",
            "brand": "Nord",
            "scenarios": ["home"],
            "is_on": True,
            "products_for_sale": 1,
        }
        assert json.loads(rules("show", "--json").stdout)["rules"]["no cups"] == {
            "action": "block",
            "products": ["cup"],
        }
        for shown in (rules("show"), rules("show", "--json")):
            file.write_text(shown.stdout)
            assert rules("apply", file).stdout == "3 rules, of which 3 hold now; before, there were 3\n"
        assert rules("clear").stdout == "no rules any more; before, there were 3\n"
        with contextlib.closing(Broker(settings).sync_producer()) as producer:
            producer.send(names.user_clicks, key=b"ann", value=click("tea", event_id="e2")).get(10)
        assert ids(lists.next()) == ["cup", "pot", "axe"]
        none = rules("show")
        assert (none.stdout, none.stderr) == ("rules: {}\n", "no rules were applied\n")
        file.write_text(none.stdout)
        assert rules("apply", file).stdout == "0 rules, of which 0 hold now; before, there were 0\n"


def test_the_guide_s_example_can_be_applied_and_doubts_are_told(
    settings: Settings, rules: Freshet, tmp_path: Path
) -> None:
    (example,) = (block for block in GUIDE.read_text().split("```yaml\n")[1:] if block.startswith("rules:"))
    file = tmp_path / "rules.yaml"
    file.write_text(example.partition("```")[0])
    result = rules("check", file)
    assert (result.exit_code, result.stderr) == (0, ""), "of a shop without products nothing is doubted"
    store = ProductStore(open_database(None, settings.home, "products", settings.namespace))
    fields = {"title": "Lamp", "brand": "Lumiska", "category": ["Lamps"], "attributes": {"season": "winter"}}
    store.write([ProductRow("lamp-7", fields, 1, "h", 1, 1.0, 2.0, offsets={"topic/3": 41})])
    file.write_text(
        "rules:\n"
        "  over: {action: block, brand: Lumiska, until: 2026-01-01T00:00:00Z}\n"
        "  one: {action: pin, products: [lamp-7], position: 2}\n"
        "  two: {action: pin, products: [lamp-8], position: 2}\n"
        "  there: {action: pin, products: [lamp-7], position: 2, scenarios: [cart]}\n"
        "  here: {action: block, category: Lamp, attributes: {season: winter, colour: red}, scenarios: [home]}\n"
        "  may: {action: pin, products: [lamp-7], position: 3, until: 2099-06-01T00:00:00Z}\n"
        '  june: {action: pin, products: [lamp-7], position: 3, since: "2099-06-01T00:00:00Z"}\n'
        "  idle: {action: boost, brand: Lumiska, factor: 2, scenarios: [trending, new, home]}\n"
    )
    result = rules("check", file)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        f"{file}: over: its time is over since 2026-01-01T00:00:00+00:00",
        f"{file}: idle: in new, trending it does nothing: those lists obey blocks alone",
        f"{file}: two: one has position 2 already, so its products stand behind those",
        f"{file}: there: one has position 2 already, so its products stand behind those",
        f"{file}: there: two has position 2 already, so its products stand behind those",
        f"{file}: two: the shop has no product 'lamp-8'",
        f"{file}: here: the shop has no category 'Lamp'",
        f"{file}: here: the shop has no attribute 'colour: red'",
    ]
    assert result.stdout == f"{file} can be applied: 8 rules, of which 6 hold now\n"


@pytest.mark.usefixtures("names")
def test_a_file_that_cannot_be_applied_says_so_line_by_line(rules: Freshet, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules:\n  a: {action: boost, brand: Lux}\n  b:\n    action: block\n    band: Lux\n")
    for command in ("check", "apply"):
        result = rules(command, file)
        assert result.exit_code == 1
        assert result.stderr.splitlines() == [
            "freshet: the rules cannot be applied",
            f"{file}:2: factor: Field required",
            f"{file}:5: band: Extra inputs are not permitted",
        ]
    assert rules("show").stderr == "no rules were applied\n"
