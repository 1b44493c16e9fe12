"""docs/guides/consume.md as a shop follows it: each of its programs as it stands there, against both brokers."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from brokers import KafkaMissing, LocalBroker, absent, kafka_libraries, settings_on
from kafka.partitioner.default import murmur2

from streams.broker import Broker
from streams.events import RecommendationList, UserClick
from streams.parsing import parse, parse_click
from streams.settings import Settings
from streams.supervisor import dies_with_parent
from streams.topics import create_topics, topic_names

REPOSITORY = Path(__file__).parent.parent.parent
GUIDE = (REPOSITORY / "docs/guides/consume.md").read_text(encoding="utf-8")
NODE_FOLDER = Path(__file__).parent / "node"
PROGRAMS: dict[str, str] = {}  # by the name that its first line tells
for _block in re.findall(r"^```\w+\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
    PROGRAMS[_block.split()[1]] = _block
WITHIN_S = 60.0
LINES = {"lists.py", "clicks.py", "Lists.java", "Clicks.java", "lists.mjs", "clicks.mjs"}


class ToolMissing(Exception):
    """A language's tools are not here."""


@cache
def node_modules() -> Path:
    """The folder of the Node client, fetched if it is not there. Raises ToolMissing."""
    modules = NODE_FOLDER / "node_modules"
    if missing := [tool for tool in ("node", "npm") if shutil.which(tool) is None]:
        raise ToolMissing(f"no {' and no '.join(missing)}: install Node 20.19 or newer")
    if not modules.is_dir():
        # Into a folder beside it: a fetch that was cut off leaves nothing that looks complete.
        fetching = NODE_FOLDER / f"fetching-{os.getpid()}"
        fetching.mkdir()
        shutil.copy(NODE_FOLDER / "package.json", fetching)
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        fetched = subprocess.run(command, cwd=fetching, capture_output=True, text=True)
        if fetched.returncode != 0:
            raise ToolMissing(f"npm could not fetch the client: {fetched.stdout[-2_000:]}{fetched.stderr[-2_000:]}")
        (fetching / "node_modules").rename(modules)
        shutil.rmtree(fetching)
    return modules


def command_of(name: str, folder: Path) -> list[str]:
    """How a program is run; it stands in the folder, with what it needs. Raises KafkaMissing and ToolMissing."""
    (folder / name).write_text(PROGRAMS[name], encoding="utf-8")
    if name.endswith(".py"):
        return [sys.executable, name]
    if name.endswith(".java"):
        return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{kafka_libraries()}/*", name]
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(node_modules())
    return ["node", name]


@contextmanager
def running(name: str, folder: Path, settings: Settings) -> Iterator[Any]:
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command_of(name, folder),
            cwd=folder,
            env=os.environ | {"KAFKA": settings.bootstrap},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=dies_with_parent(),
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_guide_has_two_programs_of_ten_lines_in_each_language() -> None:
    assert set(PROGRAMS) == LINES
    for name, program in PROGRAMS.items():
        said = [line for line in program.splitlines() if re.search(r"\w", line) and "import" not in line][1:]
        assert len(said) <= 10, name
        assert all(len(line) <= 120 for line in program.splitlines()), name
    wanted = orjson.loads((NODE_FOLDER / "package.json").read_bytes())["dependencies"]["@platformatic/kafka"]
    assert f"npm install @platformatic/kafka@{wanted.split('.')[0]}\n" in GUIDE
    pom = (Path(__file__).parent / "kafka" / "pom.xml").read_text(encoding="utf-8")
    assert f"kafka-clients:{re.findall('<version>(4.*)</version>', pom)[0]}`" in GUIDE


@pytest.mark.parametrize("broker_kind", ["tansu", pytest.param("kafka", marks=pytest.mark.kafka)])
@pytest.mark.parametrize(
    ("language", "lists", "clicks"),
    [("python", "lists.py", "clicks.py"), ("java", "Lists.java", "Clicks.java"), ("node", "lists.mjs", "clicks.mjs")],
)
def test_the_guide_s_programs_print_a_user_s_list_and_publish_a_click_that_is_read(
    request: pytest.FixtureRequest, tmp_path: Path, language: str, lists: str, clicks: str, broker_kind: str
) -> None:
    try:
        command_of(lists, tmp_path)
    except (KafkaMissing, ToolMissing) as missing:
        absent(language, missing)
    broker: LocalBroker = request.getfixturevalue(broker_kind)
    settings = settings_on(broker, tmp_path, namespace="")  # the topics have the names that the guide tells
    create_topics(settings, topic_names(settings, "guide"))
    user_id = f"{language}-{uuid.uuid4().hex[:6]}"
    publish_list(settings, user_id)
    begun = time.time()
    with running(lists, tmp_path, settings) as printing, running(clicks, tmp_path, settings) as clicking:
        too_late = threading.Timer(WITHIN_S, printing.kill)
        too_late.start()
        line = next((line for line in printing.stdout if line.startswith(user_id)), "")
        too_late.cancel()
        assert "lamp-7" in line, (tmp_path / f"{lists}.log").read_text()
        assert clicking.wait(WITHIN_S) == 0, (tmp_path / f"{clicks}.log").read_text()
    partition, click = first_click(settings, since=begun)
    assert (click.user_id, click.product_id, click.event) == ("ann", "lamp-7", "view_item")
    assert partition == (murmur2(b"ann") & 0x7FFFFFFF) % settings.partitions


def publish_list(settings: Settings, user_id: str) -> None:
    item = {"product_id": "lamp-7", "score": 1.0, "rank": 1, "source": "next-click", "reason": "because"}
    made = {"list_id": "l", "user_id": user_id, "revision": 1, "made_at": "2026-01-31T12:00:00Z", "items": [item]}
    value = orjson.dumps({**made, "versions": {"weights": "1.1"}, "cause": "click", "event_ids": []})
    parse(RecommendationList, value)
    with closing(Broker(settings).sync_producer()) as producer:
        producer.send(topic_names(settings, "guide").recommendations, key=user_id.encode(), value=value).get(10)


def first_click(settings: Settings, *, since: float) -> tuple[int, UserClick]:
    """The first click since then (s since 1970), as the clicks role reads it, and its partition."""
    with closing(Broker(settings).sync_consumer(consumer_timeout_ms=int(WITHIN_S * 1000))) as consumer:
        consumer.subscribe([topic_names(settings, "guide").user_clicks])
        for record in consumer:
            click = parse_click(record.key, record.value, future_limit_s=300.0)
            assert isinstance(click, UserClick)
            if click.occurred_at.timestamp() >= since:
                return record.partition, click
    raise AssertionError("no click was published")
