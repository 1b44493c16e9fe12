"""`freshet train ...` on a small shop of drawn squares, as a person runs it."""

import csv
import json
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
from safetensors.numpy import load_file
from typer.testing import CliRunner

from encoders.text import TextEncoder
from encoders.version import Version, read_version
from encoders.weights import find_weights
from streams import cli_train
from streams.terminal import Commands
from tests.test_encoder_evaluation import COLOURS, COLUMNS, KINDS
from tests.test_encoder_evaluation import shop as drawn_shop
from tests.tiny_bert import write_tiny_bert

shop = drawn_shop
FRESHET = ["-c", "from streams.cli import main; main()"]

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
        (["p0,One,lamp,red,"], "1 pictures and 1 words: give at least 8 pairs"),
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
    asked = [*FRESHET, "train", "align", str(shop), str(tmp_path / "out"), "--columns", COLUMNS, "--epochs", "2"]
    environment = {**os.environ, "FRESHET_HOME": str(tmp_path), "FRESHET_DEVICE": "cpu"}
    done = subprocess.run(
        [*torchrun, "--no-python", sys.executable, *asked],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("products that the heads never saw") == 1
    assert np.isfinite(read_version(tmp_path / "out").about["figures"]["words_to_picture_r_at_10"])


# --- language ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A source of the shop's words."""
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_bert(folder, ["A", *" ".join(KINDS).split(), *COLOURS])
    return f"path:{folder}"


@pytest.mark.parametrize("objective", ["masked", "contrastive"])
def test_language_leaves_a_source_that_the_encoders_read(shop: Path, tmp_path: Path, tiny: str, objective: str) -> None:
    options = ["--objective", objective, "--epochs", 2, "--batch", 8, "--layers", 1]
    result = train(tmp_path, "language", shop, tmp_path / "out", *options, FRESHET_TEXT_ENCODER=tiny)
    assert result.exit_code == 0, result.output
    assert re.search(r"the same type 0.\d{3} before and 0.\d{3} after, the same colour 0.\d{3} before", result.stdout)
    version = read_version(tmp_path / "out")
    assert version.text_source == f"path:{tmp_path / 'out' / 'text'}"
    assert version.fingerprint != Version(version.image_source, tiny).fingerprint
    assert version.about["figures"]["after"].keys() == {"type", "colour"}
    encoder = TextEncoder(find_weights(version.text_source, "text"))
    (vector,) = encoder.encode(["A red lamp"])
    assert vector is not None
    assert np.isfinite(vector).all()


def test_a_shop_without_enough_words_teaches_no_language(shop: Path, tmp_path: Path, tiny: str) -> None:
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder)
    rows = [f"p{number},The same,lamp,red," for number in range(20)]
    (folder / "goods.csv").write_text("\n".join(["sku,name,kind,shade,maker", *rows, ""]))
    result = train(tmp_path, "language", folder, tmp_path / "out", FRESHET_TEXT_ENCODER=tiny)
    assert result.exit_code == 1
    assert "1 different texts with words: give at least 8" in result.stderr


# --- fuse and transfer -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("aligned")
    assert train(home, "align", shop, home / "out", "--epochs", 3).exit_code == 0
    return home / "out"


def clicks_of(path: Path, pairs: list[tuple[str, str]]) -> Path:
    """A user for each pair, who clicks the second a minute after the first."""
    lines = []
    for number, pair in enumerate(pairs):
        for minute, product_id in enumerate(pair):
            click = {
                "event_id": f"e{number}-{minute}", "user_id": f"u{number}", "product_id": product_id,
                "event": "view_item", "occurred_at": f"2026-01-01T{number % 24:02}:0{minute}:00Z",
            }  # fmt: skip
            lines.append(json.dumps(click))
    path.write_text("\n".join([*lines, ""]))
    return path


def test_fuse_learns_from_clicks_pictures_and_categories(shop: Path, tmp_path: Path, aligned: Path) -> None:
    clicks = clicks_of(tmp_path / "clicks.jsonl", [(f"p{n % 24}", f"p{(n + 4) % 24}") for n in range(40)])
    options = ["--version", aligned, "--epochs", 3, "--pull", 0.01]
    result = train(tmp_path, "fuse", shop, tmp_path / "out", *options, "--clicks", clicks)
    assert result.exit_code == 0, result.output
    assert all(f"| {kind} taught |" in result.stdout for kind in ("image", "text", "fused"))
    assert "next click r at 10" in result.stdout
    version = read_version(tmp_path / "out")
    assert set(version.about["terms"]) == {"clicks", "align", "category"}
    assert version.about["rule"]["pull"] == 0.01
    assert 0 < version.about["pairs_of_clicks"] <= 32  # of the first four fifths, between products that are taught
    fusion, before = version.taught_fusion(), read_version(aligned).taught_fusion()
    assert fusion is not None
    assert before is not None
    assert before.mix is None
    assert fusion.mix is not None
    assert not np.allclose(fusion.mix, np.eye(fusion.width))
    np.testing.assert_array_equal(fusion.heads.words.weight, before.heads.words.weight)
    assert fusion.alone is not None
    assert before.alone is not None
    for own, of_whole in zip(fusion.alone, before.alone, strict=True):
        assert not np.array_equal(own.axes, of_whole.axes), "pictures and words alone have learned too"
    assert version.widths["text"] == fusion.alone.text.axes.shape[1]
    assert sorted(version.about["taught"]) == sorted(read_version(aligned).about["taught"])


@pytest.mark.parametrize(("method", "width"), [("pca", 8), ("pca-whitened", 5), ("lda", 2)])
def test_shorter_vectors_are_those_of_the_whole_ones_reduced_and_say_what_it_costs(
    shop: Path, tmp_path: Path, aligned: Path, method: str, width: int
) -> None:
    options = ["--version", aligned, "--width", width, "--method", method]
    result = train(tmp_path, "shorten", shop, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert "| fused before |" in result.stdout
    version, before = read_version(tmp_path / "out"), read_version(aligned)
    assert (version.widths["fused"], before.widths["fused"] > width) == (width, True)
    assert version.fingerprint != before.fingerprint
    fusion, whole = version.taught_fusion(), before.taught_fusion()
    assert fusion is not None
    assert whole is not None
    assert fusion.short is not None
    features = np.random.default_rng(1).normal(size=(3, len(whole.image.mean))).astype(np.float32)
    said = whole.asked(np.zeros((3, len(whole.details)), np.float32))
    facts = np.zeros((3, 128), np.float32)
    np.testing.assert_allclose(
        fusion.fuse(features, said, facts), fusion.short(whole.fuse(features, said, facts)), atol=1e-6
    )
    assert fusion.plain.width == whole.width, "teaching goes on from whole vectors"


def test_a_width_that_the_products_do_not_give_is_refused(shop: Path, tmp_path: Path, aligned: Path) -> None:
    result = train(tmp_path, "shorten", shop, tmp_path / "out", "--version", aligned, "--width", 500)
    assert (result.exit_code, "500 are asked for: take fewer" in result.stderr) == (1, True), result.output
    result = train(tmp_path, "shorten", shop, tmp_path / "out", "--version", aligned, "--width", 9, "--method", "lda")
    assert (result.exit_code, "directions, 9 are asked for" in result.stderr) == (1, True), result.output


def test_fuse_without_a_version_clicks_and_categories_teaches_by_pictures_and_words(shop: Path, tmp_path: Path) -> None:
    result = train(tmp_path, "fuse", shop, tmp_path / "out", "--epochs", 2, "--category-weight", 0)
    assert result.exit_code == 0, result.output
    assert set(read_version(tmp_path / "out").about["terms"]) == {"align"}
    nothing = train(tmp_path, "fuse", shop, tmp_path / "no", "--category-weight", 0, "--align-weight", 0)
    assert nothing.exit_code == 1
    assert "there is nothing to learn from" in nothing.stderr


def test_fuse_teaches_a_shop_without_pictures_by_its_words(shop: Path, tmp_path: Path, aligned: Path) -> None:
    wordy = tmp_path / "wordy"
    wordy.mkdir()
    (wordy / "goods.csv").write_text((shop / "goods.csv").read_text().replace("A ", "One "))
    result = train(tmp_path, "fuse", wordy, tmp_path / "out", "--version", aligned, "--epochs", 2)
    assert result.exit_code == 0, result.output
    fusion, before = (read_version(folder).taught_fusion() for folder in (tmp_path / "out", aligned))
    assert fusion is not None
    assert before is not None
    np.testing.assert_array_equal(fusion.image.axes, before.image.axes)
    assert not np.allclose((fusion.mix if fusion.mix is not None else np.eye(fusion.width)), np.eye(fusion.width))


def test_clicks_of_another_shop_are_refused(shop: Path, tmp_path: Path, aligned: Path) -> None:
    clicks = clicks_of(tmp_path / "clicks.jsonl", [("x1", "x2")])
    result = train(tmp_path, "fuse", shop, tmp_path / "out", "--version", aligned, "--clicks", clicks)
    assert result.exit_code == 1
    assert "has no click on a product of this folder: are these clicks of another shop?" in result.stderr


def test_transfer_tells_what_none_few_and_all_pairs_give(shop: Path, tmp_path: Path, aligned: Path) -> None:
    options = ["--version", aligned, "--epochs", 2, "--shots", "1,4,64"]
    result = train(tmp_path, "transfer", shop, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    version = read_version(tmp_path / "out")
    figures = version.about["figures"]
    first, *few, last = figures
    assert (first, few) == ("none (zero-shot)", ["1", "4"])  # 64 are more than there are
    assert re.fullmatch(r"all \(\d\d\)", last)
    assert figures["1"] == figures[first]  # one pair has nothing to be told from
    assert f"| {last} |" in result.stdout
    assert (version.taught_fusion() or pytest.fail("none was taught")).alone is None, "as the networks see them"
    wrong = train(tmp_path, "transfer", shop, tmp_path / "out", "--version", aligned, "--shots", "0,4")
    assert wrong.exit_code == 2
    assert "--shots 0,4: write whole numbers from 1 on" in " ".join(wrong.stderr.replace("│", " ").split())


def test_align_teaches_the_last_layers_of_the_text_network_too(shop: Path, tmp_path: Path, tiny: str) -> None:
    options = ["--epochs", 3, "--unfreeze", 1, "--unfreeze-epochs", 2]
    result = train(tmp_path, "align", shop, tmp_path / "out", *options, FRESHET_TEXT_ENCODER=tiny)
    assert result.exit_code == 0, result.output
    assert "before the network learned too" in result.stdout
    version = read_version(tmp_path / "out")
    assert version.text_source == f"path:{tmp_path / 'out' / 'text'}"
    before, after = (load_file(Path(source.removeprefix("path:")) / "model.safetensors") for source in
                     (tiny, version.text_source))  # fmt: skip
    changed = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert changed
    assert all(name.startswith("encoder.layer.1.") for name in changed)
    many = train(tmp_path, "align", shop, tmp_path / "many", "--unfreeze", 9, FRESHET_TEXT_ENCODER=tiny)
    assert many.exit_code == 1
    assert "the text network has 2 layers: unfreeze 1 to all of them" in many.stderr
