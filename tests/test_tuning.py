"""The search for settings: what is best, what a killed one goes on from, and the command `freshet tune`."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest
import typer
from evaluation_models import stream_of
from typer.testing import CliRunner

from streams import cli_tune
from streams.evaluation import tuning_runs
from streams.evaluation.schedules import Plan
from streams.evaluation.tuning import ClickSet, NotTunable, Search, held_out, made_for, run_search
from streams.evaluation.tuning_report import json_lines, markdown
from streams.evaluation.tuning_runs import Broke, Result, Run, Told, Workers
from streams.evaluation.tuning_space import SPACE, defaults_of
from streams.evaluation.tuning_study import StudyUnusable, open_study
from streams.shop import draw_shop
from streams.simulate import simulate
from streams.terminal import Commands

PLAN = Plan(seen_events=("purchase",))
root = typer.Typer(cls=Commands)
root.add_typer(cli_tune.app)


@root.callback()
def callback() -> None:
    """Keeps `tune` a command with a name."""


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,200 clicks of simulated shoppers in a drawn shop."""
    folder = tmp_path_factory.mktemp("shop")
    catalog = [orjson.loads(line) for line in draw_shop(folder, products=48).read_bytes().splitlines()]
    lines = [orjson.dumps(click) + b"\n" for click in simulate(catalog, users=60, clicks=1_200, seed=2)]
    path = folder / "clicks.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def freshet(*arguments: str | Path) -> Any:
    return CliRunner().invoke(root, ["tune", *map(str, arguments)], env={"COLUMNS": "200"})


def tried(output: str) -> dict[int, Any]:
    """Each trial by its number, without what no two runs have alike."""
    found = {}
    for line in map(json.loads, output.splitlines()):
        del line["command"], line["commit"]
        for figures in (*line["sets"], *line["held_out"]):
            assert figures.pop("update_us") > 0
        found[line["trial"]] = line
    return found


# --- the search --------------------------------------------------------------------------------------------------


class Tabled(Workers):
    """Stands for processes: what a run had is a function of its settings and set."""

    def __init__(self, hits: dict[tuple[int, int], float | None], at_once: int = 1) -> None:
        """hits: HR@10 by replays and set; None where the model diverges."""
        super().__init__([], 0)
        self.hits = hits
        self.at_once = at_once
        self.asked: list[Run] = []
        self.open: list[Run] = []

    @property
    def free(self) -> bool:
        return len(self.open) < self.at_once

    def start(self, run: Run) -> None:
        self.asked.append(run)
        self.open.append(run)

    def wait(self, told: Told) -> list[tuple[Run, Result | Broke]]:
        run = self.open.pop()  # the one that began last
        told(run, run.clicks // 2)
        hits = self.hits[int(run.values["replays"]), run.number]
        if hits is None:
            return [(run, Broke("it diverged"))]
        ranks = np.full(run.clicks, np.nan, np.float32)
        ranks[-10:] = np.where(np.arange(10) < round(10 * hits), 1.0, 50.0)
        figures = {f"{name}{end}": hits for name in tuning_runs.MEASURES for end in ("", "_stderr")}
        return [(run, Result(figures | {"events": 10, "new_shelf_events": 10, "update_us": 300.0}, ranks))]


def two_sets() -> list[ClickSet]:
    """Of 30 and 40 clicks, each with 10 more held out."""
    made = [
        stream_of([(f"u{at % 7}", f"p{at % 11}", "purchase", float(at)) for at in range(clicks)]) for clicks in (40, 50)
    ]
    return [ClickSet("first", made[0], 30), ClickSet("second", made[1], 40)]


GRID = Search.of_grid({"replays": (2, 4, 8, 16)}, "hr_at_10", PLAN)
HITS: dict[tuple[int, int], float | None] = {
    **{(8, 0): 0.2, (8, 1): 0.4},
    **{(2, 0): 0.4, (2, 1): 0.5},
    **{(4, 0): 0.3, (4, 1): 0.2},
    **{(16, 0): 0.9, (16, 1): None},
}


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_what_settings_are_worth_is_the_mean_over_the_sets_of_multiples_of_the_defaults(at_once: int) -> None:
    workers, noted, bar = Tabled(HITS, at_once), [], []
    with open_study(None, {}) as study:
        found = run_search(
            *(GRID, two_sets(), workers, study), told=lambda *heard: bar.append(heard), noted=noted.append
        )
    # 2: (.4 / .2 + .5 / .4) / 2 = 1.625; 4: (.3 / .2 + .2 / .4) / 2 = 1, as the defaults, which came first
    assert [(trial.number, trial.values["replays"], trial.relative) for trial in found] == [
        *((1, 2, pytest.approx(1.625)), (0, 8, 1.0), (2, 4, pytest.approx(1.0)), (3, 16, 0.0))
    ]
    assert [trial.broke for trial in found] == [None, None, None, "second: it diverged"]
    assert {run.trial for run in workers.asked[:2]} == {0}  # nothing is tried before there is what to compare it with
    assert sorted(note.split(":")[0] for note in noted) == [f"trial {number} of 3" for number in range(4)]
    assert [gone for _, gone, _ in bar] == sorted(gone for _, gone, _ in bar)
    assert bar[-1][1:] == (4 * 70, 4 * 70)


def test_the_defaults_must_hit_something_and_not_diverge() -> None:
    for hits, told in ((0.0, r"second: with the defaults hr_at_10 is nothing on 40"), (None, "the defaults diverge, ")):
        with open_study(None, {}) as study, pytest.raises(NotTunable, match=told):
            run_search(GRID, two_sets(), Tabled(HITS | {(8, 1): hits}), study)
        assert not study.trials()


def test_the_best_is_compared_on_clicks_that_took_no_part_in_the_choice() -> None:
    sets, workers = two_sets(), Tabled(HITS | {(2, 0): 0.7}, 2)
    with open_study(None, {}) as study:
        found = run_search(GRID, sets, workers, study)
    workers.asked.clear()
    workers.hits = {(8, 0): 0.5, (8, 1): 0.5, (2, 0): 0.6, (2, 1): 0.3}
    later = held_out(found[0], GRID, sets, 10, workers)
    assert [(run.trial, run.number, run.clicks, run.judged_from) for run in workers.asked] == [
        *((0, 0, 40, 30), (1, 0, 40, 30), (0, 1, 50, 40), (1, 1, 50, 40))
    ]
    said = markdown(found, GRID, sets, later)
    assert "chosen on. It beats them on every set, and on " in said
    assert "no part of the choice. It beats them on 1 of 2 sets, and on " in said
    assert re.search(r"^\| second \| 10 \| 0.5000 ± 0.5000 \| 0.3000 ± 0.3000 \| -0.2000 \(-0.\d{4} to ", said, re.M)
    assert "it is the best of 3 on these very clicks" in said
    assert "| 3 | 0.0000 |  |  |  | replays 16 (diverged) |" in said
    lines = list(json_lines(found, GRID, sets, later))
    assert [line["trial"] for line in lines] == [1, 0, 2, 3]
    assert lines[0]["settings"] == defaults_of(SPACE) | {"replays": 2}
    assert lines[0]["sets"][0]["compared"]["difference"] == pytest.approx(0.5)
    assert [line["held_out"] and line["held_out"][1]["hr_at_10"] for line in lines] == [0.3, 0.5, [], []]
    assert lines[3]["diverged"] == "second: it diverged"
    assert "Give --held-out" in markdown(found, GRID, sets, [])
    broken = [(later[0][0], Broke("it diverged")), later[1]]
    assert "no part of the choice. It diverged on first: it diverged" in markdown(found, GRID, sets, broken)


def test_where_nothing_beats_the_defaults_the_report_says_so() -> None:
    grid = Search.of_grid({"replays": (4,)}, "hr_at_10", PLAN)
    with open_study(None, {}) as study:
        found = run_search(grid, two_sets(), Tabled(HITS), study)
    assert markdown(found, grid, two_sets(), []).endswith("No trial does better than the defaults.")


def test_only_what_is_alike_goes_into_one_study(tmp_path: Path) -> None:
    sets, path = two_sets(), tmp_path / "study.db"
    with open_study(path, made_for(GRID, sets)) as study:
        run_search(GRID, sets, Tabled(HITS), study)
    with open_study(path, made_for(GRID, sets)) as study:
        run_search(GRID, sets, unused := Tabled({}), study)
    assert not unused.asked
    others = {
        "grid": (replace(GRID, grid={"replays": (2,)}), sets),
        "measure": (replace(GRID, measure="ndcg_at_10"), sets),
        "plan": (replace(GRID, plan=replace(PLAN, seed=1)), sets),
        "clicks": (GRID, [sets[0], sets[1]._replace(clicks=39)]),
    }
    for name, (search, clicks) in others.items():
        told = f"{path} is of a search with other {name}: name a new file"
        with pytest.raises(StudyUnusable, match=re.escape(told)), open_study(path, made_for(search, clicks)):
            pass


# --- the command -------------------------------------------------------------------------------------------------


def planted(path: Path, clicks: int = 2_500) -> Path:
    """Views of anything, and purchases of one kind for each user: only who learns from purchases predicts them."""
    chance = np.random.default_rng(0)
    lines: list[bytes] = []
    while len(lines) < clicks:
        kind = int(chance.integers(10))
        for product in chance.permutation(20)[:10].tolist():
            for event, clicked in (("view_item", int(chance.integers(200))), ("purchase", 20 * kind + product)):
                at = f"2026-01-{1 + len(lines) // 1_000:02}T{len(lines) // 60 % 24:02}:{len(lines) % 60:02}:00Z"
                user = f"u{len(lines) // 20}"
                click = {"event_id": f"e{len(lines)}", "user_id": user, "product_id": f"p{clicked}"}
                lines.append(orjson.dumps(click | {"event": event, "occurred_at": at}) + b"\n")
    path.write_bytes(b"".join(lines[:clicks]))
    return path


def test_a_setting_that_is_clearly_better_is_found(tmp_path: Path) -> None:
    arguments = ("--search", "grid", "--grid", "event_weights.purchase=.25,1,10", "--held-out", "600", "--json")
    result = freshet(planted(tmp_path / "clicks.jsonl"), *arguments)
    assert result.exit_code == 0, result.output
    best, defaults, worst = map(json.loads, result.stdout.splitlines())
    assert [line["settings"]["event_weights.purchase"] for line in (best, defaults, worst)] == [10.0, 1.0, 0.25]
    assert best["relative"] > 1.1 > 1.0 > 0.9 > worst["relative"]
    assert best["sets"][0]["compared"]["low"] > 0
    assert best["held_out"][0]["hr_at_10"] > defaults["held_out"][0]["hr_at_10"]
    assert best["held_out"][0]["events"] > 300


def test_the_same_seed_tries_the_same_settings_and_another_seed_others(clicks: Path) -> None:
    some = (clicks, "--search", "random", "--clicks", "300", "--every", "3", "--json")
    found = []
    for seed, trials, jobs in (("5", "2", "1"), ("5", "3", "2"), ("6", "2", "1")):
        result = freshet(*some, "--seed", seed, "--trials", trials, "--jobs", jobs)
        assert result.exit_code == 0, result.output
        found.append(tried(result.stdout))
    assert {number: found[1][number] for number in range(3)} == found[0]
    assert sorted(found[1]) == [0, 1, 2, 3]
    assert found[2][0]["settings"] == found[0][0]["settings"] == defaults_of(SPACE)
    assert found[2][1]["settings"] != found[0][1]["settings"] != found[0][2]["settings"]


def start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    code = "from streams.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, "tune", *map(str, arguments)], stdout=subprocess.PIPE)


def finished(study: Path) -> int:
    """How many trials are in the file."""
    if not study.exists():
        return 0
    connection = sqlite3.connect(study)
    try:
        return int(connection.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()[0])
    except sqlite3.OperationalError:  # no tables yet, or one that is being written
        return 0
    finally:
        connection.close()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_search_goes_on_where_it_was(clicks: Path, tmp_path: Path, jobs: str) -> None:
    kind = "tpe" if jobs == "1" else "random"
    some = (clicks, "--search", kind, "--trials", "12", "--seed", "4", "--jobs", jobs, "--json")
    study = tmp_path / "study.db"
    process = start(*some, "--study", study)
    try:
        deadline = time.monotonic() + 120
        while finished(study) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        workers = psutil.Process(process.pid).children(recursive=True)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    kept = finished(study)
    assert 2 <= kept < 13
    assert workers
    assert not psutil.wait_procs(workers, timeout=30)[1]  # nobody is left that nobody waits for
    went_on = freshet(*some, "--study", study)
    assert went_on.exit_code == 0, went_on.output
    assert f"goes on after {kept} of 13 trials" in went_on.stderr
    assert went_on.stderr.count(" of the defaults") == 13 - kept
    assert tried(went_on.stdout) == tried(freshet(*some).stdout)
    assert finished(study) == 13


def test_the_report_says_what_was_found_over_several_sets(clicks: Path, tmp_path: Path) -> None:
    other = planted(tmp_path / "planted.jsonl", 600)
    vectors = tmp_path / "vectors.npz"
    ids = np.array([f"p{product}" for product in range(200)])
    np.savez(vectors, product_ids=ids, fused=np.eye(200, 24, dtype=np.float32))
    result = freshet(
        *(clicks, other, "--vectors", "none", "--vectors", vectors, "--clicks", "500", "--trials", "2", "--every", "2"),
        *("--settings", "learning_rate,dropout", "--measure", "new_shelf_hr_at_10", "--jobs", "2"),
    )
    assert result.exit_code == 0, result.output
    said = result.stdout
    assert "2 trials, chosen by TPE, seed 0; each click is predicted, then learned" in said
    assert "The defaults: learning_rate 0.08, dropout 0.5." in said
    assert re.search(r"^\| planted.jsonl \| 500 \| 25 \| \d+ \| \d+ \| 0.\d{4} ± ", said, re.M)
    assert re.search(r"^\| defaults \| 1.0000 \| 0.\d{4} ± 0.\d{4} \| 0.\d{4} ± 0.\d{4} \| \d+ \|  \|$", said, re.M)
    assert re.search(r"^\| 2 \| \d.\d{4} \| .* \| learning_rate 0.\d+, dropout 0.\d+ \|$", said, re.M)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--search", "grid", "--trials", "3"), 2, "a grid has its trials and settings from --grid"),
        (("--grid", "dropout=.3"), 2, "only --search grid reads it"),
        (("--search", "grid", "--grid", "speed=1"), 2, "'speed' is no setting"),
        (("--settings", "speed"), 2, "speed cannot be tuned on these clicks"),
        (("--vectors", "a.npz", "--vectors", "b.npz"), 2, "2 for 1 sets: name one for each, or none"),
        (("--clicks", "1000", "--held-out", "201"), 1, "clicks.jsonl has 1,200 clicks, too few to tune on 1,000 and"),
        (("--held-out", "1200"), 1, "clicks.jsonl has 1,200 clicks, too few to tune on 1 and hold out 1,200"),
        (("--study", "/none/study.db"), 1, "there is no folder /none for the study"),
        (("--vectors", "none.npz"), 1, "cannot open none.npz"),
    ],
)
def test_what_cannot_be_searched_is_told(clicks: Path, arguments: Sequence[str], code: int, told: str) -> None:
    result = freshet(clicks, *arguments)
    assert result.exit_code == code, result.output
    assert told in re.sub(r"[│\s]+", " ", result.stderr)
    assert result.stdout == ""


def test_a_set_that_is_named_twice_is_told(clicks: Path) -> None:
    result = freshet(clicks, clicks)
    assert result.exit_code == 2
    assert "name each set once" in re.sub(r"[│\s]+", " ", result.stderr)


def test_a_search_without_its_library_is_told(clicks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    result = freshet(clicks)
    assert result.exit_code == 1
    assert result.stderr == "freshet: a search needs optuna: pip install '.[evaluate]' in Freshet's folder\n"


def test_help_imports_nothing_of_weight() -> None:
    code = "import sys, streams.cli_tune; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numba", "numpy", "pydantic", "optuna", "sqlalchemy"} & set(modules)
