"""`freshet train ...` on a small shop of drawn squares, as a person runs it."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from encoders.version import read_version
from streams import cli_train
from streams.terminal import Commands
from tests.test_encoder_evaluation import COLUMNS
from tests.test_encoder_evaluation import shop as drawn_shop

shop = drawn_shop
root = typer.Typer(cls=Commands)
root.add_typer(cli_train.train_app, name="train")


def train(home: Path, *arguments: object, **more: str) -> Any:
    asked = ["train", *map(str, arguments), "--columns", COLUMNS]
    return CliRunner().invoke(root, asked, env={"FRESHET_HOME": str(home), **more})


def test_align_tells_its_epochs_and_leaves_no_checkpoint(shop: Path, tmp_path: Path) -> None:
    options = ["--epochs", 3, "--optimizer", "adagrad", "--precision", "bfloat16", "--learning-rate", 0.05]
    result = train(tmp_path, "align", shop, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    with (tmp_path / "training" / "align" / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    assert [path.name for path in (tmp_path / "training" / "align").iterdir()] == ["metrics.csv"]
    version = read_version(tmp_path / "out")
    assert version.about["rule"]["optimizer"] == "adagrad"
    assert (version.about["task"], version.about["seed"]) == ("align", 0)
    assert len(version.about["taught"]) == 19
    fusion = version.taught_fusion()
    assert fusion is not None
    assert version.widths["fused"] == fusion.width


def test_the_same_seed_gives_the_same_version_and_another_another(shop: Path, tmp_path: Path) -> None:
    prints = []
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        assert train(tmp_path, "align", shop, tmp_path / name, "--epochs", 2, "--seed", seed).exit_code == 0
        prints.append(read_version(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_a_checkpoint_of_other_options_is_refused_until_it_is_begun_again(shop: Path, tmp_path: Path) -> None:
    code = (
        "import sys, streams.training.logs as logs, streams.training.runs as runs\n"
        "def broken(*_): raise SystemExit(9)\n"
        "runs.write_metrics = broken\n"  # after the first epoch's checkpoint
        "from streams.cli import app\n"
        "app(sys.argv[1:])"
    )
    asked = ["train", "align", str(shop), str(tmp_path / "out"), "--columns", COLUMNS, "--epochs"]
    environment = {**os.environ, "FRESHET_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *asked, "4"], env=environment, cwd=Path(__file__).parent.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    other = train(tmp_path, "align", shop, tmp_path / "out", "--epochs", 5)
    assert other.exit_code == 1
    assert "of another training (epochs was 4, is 5): begin again with --fresh, or name another folder" in other.stderr
    assert not (tmp_path / "out").exists()
    assert train(tmp_path, "align", shop, tmp_path / "out", "--epochs", 5, "--fresh").exit_code == 0


def test_a_search_prints_its_trials_and_teaches_with_the_best(shop: Path, tmp_path: Path) -> None:
    options = ["--epochs", 2, "--search", "random", "--trials", 3]
    result = train(tmp_path, "align", shop, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "| mean R@10 | learning_rate | dropout | weight_decay | temperature |" in result.stdout
    best = re.search(r"best of 3: learning_rate ([0-9.e-]+), .*; teaching with it", result.stdout)
    assert best is not None
    assert read_version(tmp_path / "out").about["rule"]["learning_rate"] == pytest.approx(float(best[1]), rel=1e-3)
    assert [path.name for path in (tmp_path / "training" / "align").iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["p0,One,lamp,red,"], "0 pictures and 0 words: give at least 8 pairs"),
        ([f"p{n},,lamp,red," for n in range(12)], "has no product"),
        ([f"q{n},No picture {n},lamp,red," for n in range(12)], "0 pictures and 0 words: give at least 8 pairs"),
    ],
)
def test_too_little_to_learn_from_is_told(shop: Path, tmp_path: Path, rows: list[str], told: str) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    (folder / "goods.csv").write_text("\n".join(["sku,name,kind,shade,maker", *rows, ""]))
    result = train(tmp_path, "align", folder, tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert told in result.stderr
    assert not (tmp_path / "out").exists()


def test_two_processes_write_one_version(shop: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    asked = ["-m", "streams", "train", "align", str(shop), str(tmp_path / "out"), "--columns", COLUMNS, "--epochs", "2"]
    environment = {**os.environ, "FRESHET_HOME": str(tmp_path), "FRESHET_DEVICE": "cpu"}
    done = subprocess.run(
        [*torchrun, *asked],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("products that the heads never saw") == 1
    assert np.isfinite(read_version(tmp_path / "out").about["figures"]["words_to_picture_r_at_10"])
