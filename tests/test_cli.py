"""The command line: real commands against a real broker, real stores and a real api."""

import asyncio
import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from asked_shop import BALL, AskedShop, ReplicasAtHand
from brokers import MakeSettings, environment_of
from shelves import offer, vectors
from typer.testing import CliRunner

from store.keys import KeyStore
from streams import terminal
from streams.broker import Broker
from streams.cli import app
from streams.cli_ask import _why_none_is_similar
from streams.dead_letters import dead_letter
from streams.embedded_broker import EmbeddedBroker
from streams.ports import free_port, listen
from streams.settings import Settings

Result = Any
Freshet = Callable[..., Result]
COMMANDS = (
    "up",
    "worker",
    "topics",
    "import",
    "simulate",
    "publish",
    "watch",
    "recommend",
    "similar",
    "search",
    "show",
)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in terminal.NOISY:
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def freshet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Freshet:
    """Runs a command in this process, with no FRESHET_ variables but those given."""
    for name in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, settings: Settings | None = None, **variables: str) -> Result:
        environment = variables if settings is None else environment_of(settings) | variables
        return CliRunner().invoke(app, list(arguments), env=environment)

    return run


@pytest.fixture
def settings(tansu: EmbeddedBroker, broker_settings: MakeSettings, freshet: Freshet) -> Settings:
    """Of a broker in which the topics of this test were made by the command."""
    settings = broker_settings(tansu)
    assert freshet("topics", "create", settings=settings).exit_code == 0
    return settings


@pytest.fixture
def asked_shop(tmp_path: Path) -> Iterator[AskedShop]:
    """A shop whose api runs."""
    shop = AskedShop(tmp_path / "home", ReplicasAtHand())
    shop.fill()
    thread = threading.Thread(target=lambda: asyncio.run(shop.api.run()))
    thread.start()
    url = f"http://127.0.0.1:{shop.settings.api_port}"
    deadline = time.monotonic() + 20
    while shop.api.status()["state"] != "running" or not _answers(url):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield shop
    shop.api.stop()
    thread.join(20)
    shop.vectors.close()


@pytest.fixture
def asked(asked_shop: AskedShop) -> Settings:
    """Settings that find a running api."""
    return asked_shop.settings


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def refused(result: Result, code: int, pattern: str) -> None:
    """It ended with this code and one line on stderr."""
    assert result.exit_code == code, result.output
    assert re.fullmatch(f"freshet: {pattern}\n", result.stderr), result.stderr


def write(path: Path, values: Sequence[Any]) -> Path:
    path.write_text("".join((value if isinstance(value, str) else json.dumps(value)) + "\n" for value in values))
    return path


# --- the command itself ------------------------------------------------------------------------------------------


def test_help_names_every_command(freshet: Freshet) -> None:
    result = freshet("--help")
    assert result.exit_code == 0
    for command in (*COMMANDS, "dead-letters", "status"):
        assert re.search(rf"^│ {command} +\S", result.stdout, re.MULTILINE), command


def test_help_imports_nothing_of_weight() -> None:
    code = "import sys, streams.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "numba", "faust", "numpy", "pydantic", "kafka", "sqlalchemy", "fastapi", "httpx"}
    assert not heavy & set(modules)


def test_every_error_that_has_an_exit_code_exists() -> None:
    for name in terminal.EXIT_CODES:
        module, _, kind = name.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), kind), Exception), name


def test_a_defect_shows_its_traceback(freshet: Freshet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "EXIT_CODES", {})
    assert type(freshet("publish", "catalog", "nothing.jsonl").exception) is terminal.Failure


def test_a_log_line_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.set_up_logging("info")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("streams.x").exception("failed name=%s", "a")
    logging.getLogger("aiokafka").info("chatter")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.match(
        r"time=\S+ \S+ level=ERROR from=streams.x failed name=a \| Traceback .*ValueError: two \| lines$", lines[0]
    )


# --- settings and usage ------------------------------------------------------------------------------------------


def test_wrong_variables_are_named_with_what_they_should_be_and_secrets_are_not_printed(freshet: Freshet) -> None:
    wrong = {"FRESHET_PARTITIONS": "0", "FRESHET_API_HOST": "a b"}
    refused(
        freshet("topics", "show", **wrong),
        78,
        r"FRESHET_PARTITIONS='0': Input should be greater than or equal to 1; "
        r"FRESHET_API_HOST='a b': String should match pattern .*",
    )
    refused(freshet("topics", "show", FRESHET_HOUSE="x"), 78, r"unknown FRESHET_HOUSE: known are .*FRESHET_HOME.*")
    refused(
        freshet("status", FRESHET_SEEN_EVENTS="purchase"),
        78,
        r"error parsing value for field \"seen_events\".*: write a list as JSON, like '\[\"purchase\"\]'",
    )
    refused(
        freshet("topics", "show", FRESHET_IMAGE_ENCODER="package:nothing"),
        78,
        r"'package:nothing' is no source of image weights: available are package:.*",
    )


def test_roles_that_cannot_run_are_a_matter_of_usage(freshet: Freshet) -> None:
    refused(freshet("up", "--roles", "clicker"), 2, r"there is no role 'clicker': the roles are catalog, .*")
    refused(freshet("up", "--roles", "index", "--roles", "api"), 2, r"one process owns the embedded vector store: .*")
    refused(freshet("worker", "clicker"), 2, r"no role clicker: the roles are catalog, .*")
    refused(freshet("up", "--log-level", "LOUD"), 1, r"there is no log level 'LOUD': take DEBUG, INFO, .*")
    assert freshet("worker").exit_code == 2
    assert freshet("import", "fruit", "a", "b").exit_code == 2


def test_a_broker_that_is_away_is_told_in_one_line(tmp_path: Path) -> None:
    # In a process of its own, because kafka-python never closes a socket that was refused.
    environment = dict(os.environ, FRESHET_KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}")
    result = freshet_process("topics", "create", environment=environment, cwd=tmp_path)
    _, error = result.communicate(timeout=60)
    assert result.returncode == 1
    assert re.fullmatch(
        r"freshet: no answer from Kafka at 127.0.0.1:\d+ \(\w+\): is it running\? `freshet up` starts an embedded one, "
        r"FRESHET_KAFKA_BOOTSTRAP names yours\n",
        error,
    )


# --- topics, publishing, watching --------------------------------------------------------------------------------


def test_topics_are_created_once_and_shown(freshet: Freshet, settings: Settings) -> None:
    again = freshet("topics", "create", settings=settings)
    assert (again.exit_code, again.stdout) == (0, "every topic exists\n")
    shown = json.loads(freshet("topics", "show", "--json", settings=settings).stdout)
    assert len(shown) == 21
    assert all(topic["topic_id"] for topic in shown)
    table = freshet("topics", "show", settings=settings).stdout
    assert re.search(rf"{settings.namespace}.product-index +4 +compacted +yes", table)
    elsewhere = freshet("topics", "show", settings=settings, FRESHET_NAMESPACE="elsewhere").stdout
    assert re.search(r"elsewhere.user-clicks +4 +shop +missing", elsewhere)


def test_a_file_is_published_and_counted(freshet: Freshet, settings: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "catalog.jsonl", [{"op": "delete", "product_id": f"p{n}"} for n in range(25)])
    result = freshet("publish", "catalog", str(path), "--rate", "500", settings=settings)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"25 of 25 events confirmed by {settings.namespace}.catalog-updates\n"


def test_publishing_stops_at_a_bad_line_and_says_which(freshet: Freshet, settings: Settings, tmp_path: Path) -> None:
    path = write(tmp_path / "clicks.jsonl", [{"user_id": "a"}, {"user": "b"}, {"user_id": "c"}])
    result = freshet("publish", "clicks", str(path), settings=settings)
    refused(result, 1, rf"{path}, line 2 has no user_id \(a text .*\): mend it, then publish from that line on")
    assert result.stdout == f"1 of 3 events confirmed by {settings.namespace}.user-clicks\n"


def test_what_cannot_be_published_says_what_to_do(freshet: Freshet, settings: Settings, tmp_path: Path) -> None:
    refused(
        freshet("publish", "clicks", "none.jsonl", settings=settings),
        1,
        r"there is no file none.jsonl: `freshet import` or `freshet simulate` makes one",
    )
    path = write(tmp_path / "clicks.jsonl", [{"user_id": "a"}])
    refused(
        freshet("publish", "clicks", str(path), settings=settings, FRESHET_NAMESPACE="elsewhere"),
        1,
        r"there is no topic elsewhere.user-clicks: make it with `freshet topics create`, or `freshet up`",
    )
    assert freshet("publish", "clicks", str(path), "--rate", "0", settings=settings).exit_code == 2


def freshet_process(*arguments: str, environment: dict[str, str], cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "streams.cli", *arguments],
        env=environment | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_watch_prints_the_lists_that_come(settings: Settings, tmp_path: Path) -> None:
    environment = environment_of(settings)
    arguments = ("watch", "recommendations", "--user", "ann", "--count", "1")
    watches = [
        freshet_process(*arguments, environment=environment, cwd=tmp_path),
        freshet_process(*arguments, "--json", environment=environment, cwd=tmp_path),
        freshet_process("watch", "recommendations", environment=environment, cwd=tmp_path),
    ]
    for watch in watches:
        assert watch.stderr is not None
        assert watch.stderr.readline() == "watching recommendations, Ctrl-C ends it\n"
    made = {"user_id": "ann", "made_at": "2026-01-01T00:00:00Z", "cause": "click", "items": [{"product_id": "p1"}]}
    producer = Broker(settings).sync_producer()
    for user in ("bob", "ann"):
        value = json.dumps(made | {"user_id": user}).encode()
        producer.send(f"{settings.namespace}.recommendations", key=user.encode(), value=value).get(10)
    producer.close()
    assert watches[0].communicate(timeout=30)[0] == "2026-01-01T00:00:00Z ann (click, 1 items): p1\n"
    assert json.loads(watches[1].communicate(timeout=30)[0]) == made
    everybody = watches[2].stdout
    assert everybody is not None
    assert sorted(everybody.readline().split()[1] for _ in "ab") == ["ann", "bob"]
    watches[2].send_signal(signal.SIGINT)
    watches[2].communicate(timeout=30)
    assert [watch.returncode for watch in watches] == [0, 0, 0]


def test_dead_letters_are_listed_with_their_reasons(freshet: Freshet, settings: Settings) -> None:
    topic = f"{settings.namespace}.user-clicks"
    letter = dead_letter(topic, 3, 41, key=b"ann", value=b"{\xff", headers=[], reason="not JSON: mend it")
    producer = Broker(settings).sync_producer()
    producer.send(letter.topic, key=letter.key, value=letter.value, headers=list(letter.headers)).get(10)
    producer.close()
    table = freshet("dead-letters", "list", settings=settings).stdout
    assert re.search(rf"\S+T\S+ +{topic}/3/41 +ann +not JSON: mend it", table)
    listed = json.loads(freshet("dead-letters", "list", "--json", "--topic", topic, settings=settings).stdout)
    assert (listed["offset"], listed["value"], listed["reason"]) == (41, "{\\xff", "not JSON: mend it")
    other = f"{settings.namespace}.catalog-updates"
    assert freshet("dead-letters", "list", "--json", "--topic", other, settings=settings).stdout == ""
    refused(
        freshet("dead-letters", "list", "--topic", "clicks", settings=settings),
        1,
        rf"no dead letters are kept of 'clicks': take one of {other}, .*{settings.namespace}.user-embeddings",
    )


# --- files -------------------------------------------------------------------------------------------------------


def test_a_shop_is_imported_and_simulated_into_files(freshet: Freshet, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    write(tmp_path / "shop" / "products.jsonl", [{"product_id": f"p{n}", "title": f"Tea {n}"} for n in range(9)] + [{}])
    result = freshet("import", "grocery", "shop", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout == "9 products and 0 clicks in out\n"
    assert "1 rows were skipped, the first: row 10 for catalog.jsonl:" in result.stderr
    result = freshet("simulate", "out/catalog.jsonl", "clicks.jsonl", "--users", "3", "--clicks", "40", "--seed", "7")
    assert result.exit_code == 0, result.output
    assert result.stdout == "40 clicks of 3 simulated shoppers in clicks.jsonl\n"
    clicks = [json.loads(line) for line in (tmp_path / "clicks.jsonl").read_text().splitlines()]
    assert len(clicks) == 40
    assert {click["product_id"] for click in clicks} <= {f"p{n}" for n in range(9)}
    assert {path.name for path in tmp_path.iterdir()} == {"shop", "out", "clicks.jsonl"}


def test_an_import_tells_what_to_set_so_that_pictures_are_read(freshet: Freshet, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    write(tmp_path / "shop" / "products.jsonl", [{"product_id": "p", "title": "Tea", "image": "images/tea.jpg"}])
    assert freshet("import", "grocery", "shop", "out").stdout == (
        "1 products and 0 clicks in out\n\nTo have the pictures read, set this before `freshet up`:\n"
        f"export FRESHET_PICTURES_ROOT={tmp_path}/shop\n"
    )


def test_simulated_clicks_are_spread_over_the_days_that_are_asked_for(freshet: Freshet, tmp_path: Path) -> None:
    write(tmp_path / "catalog.jsonl", [{"op": "upsert", "product_id": "p", "title": "t"}])

    def oldest_and_newest_s(*more: str) -> tuple[float, float]:
        result = freshet("simulate", "catalog.jsonl", "clicks.jsonl", "--users", "2", "--clicks", "300", *more)
        assert result.exit_code == 0, result.output
        lines = (tmp_path / "clicks.jsonl").read_text().splitlines()
        times = [datetime.fromisoformat(json.loads(line)["occurred_at"]).timestamp() for line in lines]
        assert times == sorted(times)
        return time.time() - times[0], time.time() - times[-1]

    oldest_s, newest_s = oldest_and_newest_s()
    assert 0 <= newest_s < 3_600 < 6 * 3_600 < oldest_s < 13 * 3_600
    oldest_s, newest_s = oldest_and_newest_s("--days", "14")
    assert 0 <= newest_s < 86_400 < 13 * 86_400 < oldest_s < 14.1 * 86_400
    assert freshet("simulate", "catalog.jsonl", "x", "--days", "0").exit_code == 2


def test_a_simulation_that_fails_leaves_nothing_behind(freshet: Freshet, tmp_path: Path) -> None:
    click = {
        "event_id": "e",
        "user_id": "u",
        "product_id": "p",
        "event": "view_item",
        "occurred_at": "2026-01-01T00:00Z",
    }
    write(tmp_path / "clicks.jsonl", [click])
    told = r"clicks\.jsonl: line 1 is no catalogue line \(.*\): name a catalog\.jsonl, as `freshet import` makes"
    refused(freshet("simulate", "clicks.jsonl", "x"), 1, told)
    write(tmp_path / "catalog.jsonl", [{"op": "upsert", "product_id": "p", "title": "t"}])
    (tmp_path / "folder").mkdir()
    assert freshet("simulate", "catalog.jsonl", "folder", "--clicks", "5").exit_code == 1
    assert {path.name for path in tmp_path.iterdir()} == {"clicks.jsonl", "catalog.jsonl", "folder"}


def test_a_demo_with_wrong_settings_or_without_a_shop_says_so(freshet: Freshet, tmp_path: Path) -> None:
    refused(freshet("demo", FRESHET_LIST_LENGTH="0"), 78, r"FRESHET_LIST_LENGTH='0': .* greater than or equal to 1")
    refused(freshet("demo", "--shop", "nowhere"), 1, r"nowhere is not a shop's folder that Freshet knows\. .*")
    (tmp_path / "shop").mkdir()
    write(tmp_path / "shop" / "catalog.jsonl", [{"op": "upsert", "product_id": "p", "title": "t"}])
    result = freshet("demo", "--shop", "shop", "--json")
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "freshet: too few products in shop (1): the demo needs 2 or more, because one of them appears while the others "
        "are clicked on\n"
    )


def test_ctrl_c_before_the_demo_has_begun_ends_it_with_0(freshet: Freshet, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streams.cli.read_settings", interrupted)
    result = freshet("demo")
    assert (result.exit_code, result.stderr) == (0, "stopped; nothing was started yet\n")


def test_files_that_cannot_be_made_say_what_to_do(freshet: Freshet, tmp_path: Path) -> None:
    refused(
        freshet("import", "fashion", "nowhere", "out"),
        1,
        r"there is no nowhere/styles.csv: a folder of the kind fashion should hold styles.csv .*",
    )
    refused(freshet("simulate", "none.jsonl", "x"), 1, r"there is no file none.jsonl: `freshet import` or .*")
    empty = write(tmp_path / "deletes.jsonl", [{"op": "delete", "product_id": "p"}])
    refused(freshet("simulate", str(empty), "x"), 1, r".*/deletes.jsonl: the catalogue has no product to click on: .*")
    full = write(tmp_path / "catalog.jsonl", [{"op": "upsert", "product_id": "p", "title": "t"}])
    result = freshet("simulate", str(full), "no/such/folder/x")
    refused(result, 1, r"cannot open no/such/folder/x.partial: No such file or directory. Is the path right\?")


# --- asking ------------------------------------------------------------------------------------------------------


def test_lists_are_shown_by_title(freshet: Freshet, asked: Settings) -> None:
    table = freshet("recommend", "ann/1", settings=asked).stdout
    assert re.search(r"1 +Cup +0\.000 +content +new in the shop *\n", table), "what she has not had"
    made = json.loads(freshet("recommend", "ann/1", "--json", "--limit", "3", settings=asked).stdout)
    assert [item["product_id"] for item in made["items"]] == ["c"]
    table = freshet("similar", BALL, settings=asked).stdout
    assert re.search(r"0\.99\d +Bauble +b *\n0\.000 +Cup +c *\n", table)
    assert json.loads(freshet("similar", BALL, "--by", "text", "--json", settings=asked).stdout)["items"] == []


def test_what_goes_with_a_product_is_shown_by_share_and_where_nothing_does_it_says_so(
    freshet: Freshet, asked: Settings
) -> None:
    table = freshet("similar", BALL, "--by", "together", settings=asked).stdout
    assert re.search(rf"share +together with {BALL} +product_id *\n0\.500 +Bauble +b *\n0\.250 +Cup +c *\n", table)
    table = freshet("similar", BALL, "--by", "next", settings=asked).stdout
    assert re.search(rf"share +next after {BALL} +product_id *\n0\.125 +Cup +c *\n", table)
    none = freshet("similar", "b", "--by", "next", settings=asked).stdout
    assert none == "nothing next after b yet: the learner has told of none, or they cannot be had now\n"
    refused(freshet("similar", "x", "--by", "next", settings=asked), 1, r"there is no product 'x': it was not .*")


def test_look_alikes_are_shown_with_what_they_clicked_last(freshet: Freshet, asked_shop: AskedShop) -> None:
    settings = asked_shop.settings
    none = freshet("similar", "--user", "ann/1", settings=settings).stdout
    assert none.startswith("nobody like ann/1 yet: no others of this epoch of the learner, or her products are not ")
    asked_shop.have("bob", [0.0, 2.0], "c", "b")
    table = freshet("similar", "--user", "ann/1", settings=settings).stdout
    assert re.search(r"cosine +like ann/1 +clicked last, new to her *\n0\.034 +bob +Cup *\n", table)
    made = json.loads(freshet("similar", "--user", "ann/1", "--json", settings=settings).stdout)
    assert [one["user_id"] for one in made["users"]] == ["bob"]
    refused(freshet("similar", "--user", "eve", settings=settings), 1, r"nothing is held of a user 'eve': .*")
    for arguments in ((), (BALL, "--user", "ann/1")):
        assert freshet("similar", *arguments, settings=settings).exit_code == 2


def test_what_is_listed_again_is_named_below_what_is_similar(freshet: Freshet, asked_shop: AskedShop) -> None:
    shelf = asked_shop.shelf
    for product_id, title in ((BALL, "Glass ball"), ("b", "glass BALL")):
        shelf.put_offer(product_id.encode(), offer(2, title=title), ())
        shelf.put_vectors(product_id.encode(), vectors([1.0, 0.0], picture=b""), ())
    told = freshet("similar", BALL, settings=asked_shop.settings).stdout
    assert "listed again: b (glass BALL)" in told
    assert "Bauble" not in told, "it is no other product"
    made = json.loads(freshet("similar", BALL, "--json", settings=asked_shop.settings).stdout)
    assert [item["product_id"] for item in made["items"]] == ["c"]
    assert made["duplicates"] == [{"product_id": "b", "title": "glass BALL", "listable": True}]


def test_where_nothing_is_similar_it_is_said_what_is_missing(freshet: Freshet, asked: Settings) -> None:
    told = (
        rf"'{BALL}' has no vector 'text': it is still to be encoded\. All that is held of it: `freshet show product ID`"
    )
    refused(freshet("similar", BALL, "--by", "text", settings=asked), 1, told)
    told = rf"'{BALL}' has no vector 'image': it has no image_links\. .*"
    refused(freshet("similar", BALL, "--by", "image", settings=asked), 1, told)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({"point": None, "row": {"image_state": "pending"}}, "has no vector 'image': it is still to be encoded"),
        (
            {"point": {"widths": {}}, "row": {"image_state": "missing", "image_reason": "x.jpg: 404"}},
            "image': x.jpg: 404",
        ),
        ({"point": {"widths": {"text": 2}}, "row": {"image_state": "none"}}, "'image': it has no image_links"),
        ({"point": {"widths": {"image": 2}}, "row": {}}, "no other product that is for sale has the vector 'image'"),
        ({"point": {"error": "Qdrant is away"}, "row": {}}, "what is like 'p' is not known: Qdrant is away"),
    ],
)
def test_why_nothing_is_similar_follows_from_what_is_held(held: dict[str, Any], reason: str) -> None:
    assert reason in _why_none_is_similar("p", "image", held)


def test_what_is_held_is_shown(freshet: Freshet, asked: Settings) -> None:
    assert json.loads(freshet("show", "user", "ann/1", settings=asked).stdout)["offsets"] == {"topic/0": 7}
    assert json.loads(freshet("show", "user", "ann/1", "--json", settings=asked).stdout)["offsets"] == {"topic/0": 7}
    assert json.loads(freshet("show", "product", BALL, settings=asked).stdout)["row"]["fields"]["title"] == "Glass ball"
    refused(
        freshet("show", "user", "bob", settings=asked),
        1,
        r"nothing is held of a user 'bob': she has no click yet, was forgotten, or the id is misspelled",
    )
    refused(
        freshet("show", "product", "x", settings=asked), 1, r"there is no product 'x': it was not published yet, .*"
    )
    refused(freshet("similar", "x", settings=asked), 1, r"there is no product 'x': it was not published yet, .*")


def test_status_shows_every_role_and_store(freshet: Freshet, asked: Settings) -> None:
    shown = freshet("status", settings=asked).stdout
    for role in ("catalog", "encode", "index", "api", "clicks", "learner"):
        assert re.search(rf"^{role} +not heard of", shown, re.MULTILINE)
    assert "factors: none yet\n" in shown
    assert "users: 1 users, 0 forgotten\n" in shown
    assert json.loads(freshet("status", "--json", settings=asked).stdout)["stores"]["products"]["products"] == 3


def test_the_commands_ask_with_the_key_of_the_settings(freshet: Freshet, asked_shop: AskedShop) -> None:
    keys = KeyStore(asked_shop.products.engine)
    reads, admin = (keys.make(scope, [scope])[1] for scope in ("read", "admin"))
    status = partial(freshet, "status", settings=asked_shop.settings)
    which = "FRESHET_API_KEY names the key with which the commands ask"
    refused(status(), 1, f"a key is needed: send `Authorization: Bearer KEY`; {which}")
    refused(status(FRESHET_API_KEY=reads), 1, f"the key of 'read' may not admin: ask with one that .*; {which}")
    assert status(FRESHET_API_KEY=admin).exit_code == 0


def test_an_api_that_does_not_run_is_told(freshet: Freshet) -> None:
    port = str(free_port())
    told = (
        rf"no answer from Freshet's api at http://127.0.0.1:{port} \(ConnectError\): start it with `freshet up`, or .*"
    )
    for command in (("status",), ("recommend", "u"), ("similar", "p"), ("show", "user", "u")):
        refused(freshet(*command, FRESHET_API_PORT=port), 1, told)


# --- up ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which `freshet up` has a home and ports of its own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("FRESHET_")}
    ports = {"FRESHET_EMBEDDED_PORT": str(free_port()), "FRESHET_API_PORT": str(free_port())}
    return others | ports | {"FRESHET_HOME": str(tmp_path / "home")}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_starts_broker_topics_and_roles_and_leaves_nothing(
    number: signal.Signals, home: dict[str, str], tmp_path: Path, freshet: Freshet
) -> None:
    up = freshet_process("up", "--roles", "catalog", environment=home, cwd=tmp_path)
    try:
        assert up.stderr is not None
        said = []
        for line in up.stderr:
            said.append(line)
            if " every process started broker=" in line:
                break
        assert any("process started name=broker" in line for line in said), said
        assert any("process started name=catalog" in line for line in said), said
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) == 2
        shown = json.loads(freshet("topics", "show", "--json", **home).stdout)
        assert all(topic["topic_id"] for topic in shown)
        time.sleep(1.0)
    finally:
        up.send_signal(number)
        _, rest = up.communicate(timeout=60)
    assert up.returncode == 0, rest
    assert all(line.startswith("time=") for line in [*said, *rest.splitlines()]), rest
    assert not any(child.is_running() for child in children)
    assert (tmp_path / "home" / "logs" / "catalog.log").exists()


def test_up_ends_with_78_where_the_port_is_taken(home: dict[str, str], tmp_path: Path) -> None:
    with listen("127.0.0.1", int(home["FRESHET_EMBEDDED_PORT"]), setting=""):
        up = freshet_process("up", environment=home, cwd=tmp_path)
        _, error = up.communicate(timeout=60)
    assert up.returncode == 78
    assert re.fullmatch(
        r"freshet: cannot listen on 127.0.0.1:\d+ \(Address already in use\): if another `freshet up` runs there, "
        r"stop it, else set FRESHET_EMBEDDED_PORT to a free port\n",
        error,
    )


def test_up_ends_with_78_and_the_words_of_a_misconfigured_role(home: dict[str, str], tmp_path: Path) -> None:
    with listen("127.0.0.1", int(home["FRESHET_API_PORT"]), setting=""):
        up = freshet_process("up", "--roles", "api", "--log-level", "ERROR", environment=home, cwd=tmp_path)
        _, error = up.communicate(timeout=120)
    assert up.returncode == 78
    assert re.fullmatch(
        r"freshet: api: cannot listen on 127.0.0.1:\d+ \(Address already in use\): if another `freshet up` runs there, "
        r"stop it, else set FRESHET_API_PORT to a free port\n",
        error,
    )
