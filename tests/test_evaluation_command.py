"""The command `freshet evaluate` on a drawn shop."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from typer.testing import CliRunner

from streams import cli_evaluate
from streams.shop import draw_shop
from streams.simulate import simulate
from streams.terminal import Commands

root = typer.Typer(cls=Commands)
root.add_typer(cli_evaluate.app)


@root.callback()
def callback() -> None:
    """Keeps `evaluate` a command with a name."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn shop with its catalogue and the clicks of simulated shoppers."""
    folder = tmp_path_factory.mktemp("shop")
    catalog = [orjson.loads(line) for line in draw_shop(folder, products=24).read_bytes().splitlines()]
    lines = [orjson.dumps(click) + b"\n" for click in simulate(catalog, users=30, clicks=600, seed=2)]
    (folder / "clicks.jsonl").write_bytes(b"".join(lines))
    return folder


def freshet(*arguments: str | Path) -> Any:
    return CliRunner().invoke(root, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200"})


MINE = ("--models", "evaluation_models.Counting,evaluation_models.Constant:every=2")


def test_the_command_prints_an_object_a_model(shop: Path) -> None:
    result = freshet(shop / "clicks.jsonl", *MINE, "--json", "--list", "both", "--jobs", "2")
    assert result.exit_code == 0, result.output
    counting, constant = map(json.loads, result.stdout.splitlines())
    assert counting["model"] == "evaluation_models.Counting"
    for name in (
        *("events", "hr_at_10", "hr_at_10_stderr", "hr_at_20", "ndcg_at_10", "mrr", "coverage"),
        *("popularity", "new_shelf_events", "peak_mib", "model_mib", "update_us", "list_us"),
    ):
        assert counting[name] > 0, name
    assert counting["new_shelf_hr_at_10"] is not None
    assert (counting["protocol"], counting["list"], counting["seed"]) == ("prequential", "both", 0)
    assert counting["published"]["events"] == counting["events"]
    assert sum(each["events"] for each in counting["by_history"].values()) == counting["events"]
    assert (constant["every"], constant["events"]) == (2, (counting["events"] + 1) // 2)
    assert constant["hr_at_10"] < counting["hr_at_10"]
    assert counting["compared"] == []
    difference, _ = constant["compared"]
    assert difference["model"] == "evaluation_models.Counting"
    assert difference["events"] == constant["events"]
    assert difference["low"] < difference["difference"] < difference["high"] < 0
    assert counting["commit"]


def test_the_command_prints_markdown_that_says_what_was_done(shop: Path, tmp_path: Path) -> None:
    result = freshet(
        *(shop / "clicks.jsonl", "--catalog", shop / "catalog.jsonl", "--known", "catalog", *MINE),
        *("--plots", tmp_path, "--compare", "evaluation_models.Constant,evaluation_models.Counting"),
    )
    assert result.exit_code == 0, result.output
    said = result.stdout
    assert re.search(r"600 clicks of \d+ users on 24 products; each click is predicted, then learned.", said)
    assert "The first 120 clicks are the warm-up" in said
    assert "Not listed again: what the user had under purchase." in said
    assert re.search(r"^\| evaluation_models.Counting \| \d+ \| 0\.\d{4} ± 0\.\d{4} \| 0\.\d{4} \|", said, re.M)
    assert re.search(r"^\| evaluation_models.Constant \| \d+, 1 in 2 \| ", said, re.M)
    assert re.search(
        r"^\| evaluation_models.Constant \| evaluation_models.Counting \| \d+ \| -0\.\d{4} \(-0\.\d{4} to -0\.\d{4}\)",
        said,
        re.M,
    )
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG")
    assert f"drawn {tmp_path}/course.png" in result.stderr


def test_the_command_draws_what_freshness_is_worth(shop: Path, tmp_path: Path) -> None:
    result = freshet(
        *(shop / "clicks.jsonl", "--models", "evaluation_models.Counting", "--json"),
        *("--protocol", "delayed", "--delays", "30d,0,1h", "--plots", tmp_path / "charts", "--checkpoints", tmp_path),
    )
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(each["model"].partition("+")[2], each["delay_s"]) for each in found] == [
        ("0", 0.0),
        ("1h", 3_600.0),
        ("30d", 2_592_000.0),
    ]
    assert found[0]["hr_at_10"] > found[2]["hr_at_10"]
    assert [each["compared"][0]["model"] for each in found[1:]] == ["evaluation_models.Counting+0"] * 2
    assert (tmp_path / "charts" / "freshness.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.glob("*.checkpoint"))) == 3


def test_the_same_seed_gives_the_same_figures(shop: Path) -> None:
    figures = []
    for seed in ("3", "3", "4"):
        result = freshet(shop / "clicks.jsonl", "--models", "evaluation_models.Seeded", "--seed", seed, "--json")
        found = json.loads(result.stdout)
        figures.append([found[name] for name in ("hr_at_10", "mrr", "coverage", "popularity")])
    assert figures[0] == figures[1] != figures[2]


def test_a_catalogue_is_encoded_once_and_tells_models_what_products_are_like(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRESHET_HOME", str(tmp_path))
    monkeypatch.setenv("FRESHET_PICTURES_ROOT", str(shop))
    asked = (shop / "clicks.jsonl", "--catalog", shop / "catalog.jsonl", "--models", "freshet", "--json")
    figures = {}
    for name, options in {"first": (), "again": (), "diverse": (), "clicks": ("--no-content",)}.items():
        models = ("--models", "freshet:diversity=.9") if name == "diverse" else ()
        result = freshet(*asked[: 3 if models else 5], *models, "--json", *options)
        assert result.exit_code == 0, result.output
        figures[name] = json.loads(result.stdout)
        if name == "first":
            (encoded,) = (tmp_path / "evaluate").iterdir()
            first_made = encoded.stat().st_mtime_ns
    assert encoded.stat().st_mtime_ns == first_made
    assert figures["first"]["ndcg_at_10"] == figures["again"]["ndcg_at_10"] != figures["clicks"]["ndcg_at_10"]
    assert figures["clicks"]["likeness"] is None
    assert figures["diverse"]["likeness"] < figures["first"]["likeness"] - 0.02
    assert figures["diverse"]["model"] == "freshet:diversity=0.9"


def test_a_model_that_fails_is_told_with_an_honest_exit_code(shop: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models = "evaluation_models.Counting,evaluation_models.Forgetful"
    result = freshet(shop / "clicks.jsonl", "--models", models, "--json")
    assert result.exit_code == 1
    assert [json.loads(line)["model"] for line in result.stdout.splitlines()] == ["evaluation_models.Counting"]
    assert "freshet: evaluation_models.Forgetful: ScoresBroken: forgetful gave no number" in result.stderr
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--models", "nobody"), 2, "there is no model 'nobody': take one of freshet, "),
        (("--models", "popularity,popularity:every=2"), 2, "popularity: name each model once"),
        (("--models", "ease:some=2"), 2, "no number some: its options are every, refits, pull, last, fall"),
        (("--protocol", "delayed", "--delays", "0,soon"), 2, "'soon' is no time: write them like 0,1m,1h,24h"),
        (("--seen-events", "glance"), 2, "glance: take view_item, select_item, add_to_cart, purchase or none"),
        (("--models", "popularity,ease", "--compare", "popularity,als"), 2, "take two of popularity, ease"),
        (("--known", "catalog"), 1, "known from the catalogue need one"),
    ],
)
def test_what_cannot_be_evaluated_is_told_at_once(shop: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    result = freshet(shop / "clicks.jsonl", *arguments)
    assert result.exit_code == code, result.output
    assert told in re.sub(r"[│\s]+", " ", result.stderr)
    assert result.stdout == ""


def test_a_broken_line_is_told_with_its_number(shop: Path, tmp_path: Path) -> None:
    broken = tmp_path / "clicks.jsonl"
    broken.write_text((shop / "clicks.jsonl").read_text() + '{"event_id": "e"}\n')
    result = freshet(broken, *MINE)
    assert result.exit_code == 1
    assert re.fullmatch(r"freshet: .*/clicks.jsonl, line 601: user_id: Field required .*\n", result.stderr)
    result = freshet(tmp_path / "none.jsonl", *MINE)
    assert result.exit_code == 1
    assert re.fullmatch(r"freshet: cannot open .*/none.jsonl: No such file or directory. .*\n", result.stderr)


def test_a_split_learns_four_fifths_and_a_prequential_run_warms_up_with_one(shop: Path) -> None:
    found = []
    for protocol in ("split", "prequential"):
        result = freshet(shop / "clicks.jsonl", "--models", "evaluation_models.Constant", "--protocol", protocol)
        found += re.findall(r"The first (\d+) clicks are the warm-up", result.stdout)
    assert found == ["480", "120"]


def test_charts_without_their_library_are_told_before_anything_is_run(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    result = freshet(shop / "clicks.jsonl", *MINE, "--plots", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == (
        "freshet: charts need matplotlib, which is not installed: pip install '.[evaluate]' in Freshet's folder\n"
    )


def test_help_imports_nothing_of_weight() -> None:
    code = "import sys, streams.cli_evaluate; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numba", "numpy", "pydantic", "matplotlib"} & set(modules)
