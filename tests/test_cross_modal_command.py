"""`freshet train cross-modal` and `freshet encoders evaluate --sequences` on a small shop of drawn squares."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from encoders.token_fusion import CROSS_MODAL, SEQUENCES, sequences_state
from encoders.version import Version, read_version, write_version
from streams import cli_encoders, cli_train
from streams.evaluation import tokens as kept_tokens
from streams.evaluation.features import features_of
from streams.evaluation.labelled import Labelled, read_columns, read_labelled
from streams.evaluation.tokens import served_vectors, tokens_of
from streams.settings import Settings
from streams.terminal import Commands
from tests.test_encoder_evaluation import COLOURS, COLUMNS, KINDS
from tests.test_encoder_evaluation import shop as drawn_shop
from tests.tiny_bert import write_tiny_bert

shop = drawn_shop  # 24 products; the fourth has no picture, the sixth a broken one
IMAGE = Settings().image_encoder
OPTIONS = ("--width", 16, "--epochs", 2, "--batch", 8)

root = typer.Typer(cls=Commands)
root.add_typer(cli_train.train_app, name="train")
root.add_typer(cli_encoders.encoders_app, name="encoders")


class Taught(NamedTuple):
    """What two commands made in a folder that keeps what encoders see."""

    home: Path
    text: str  # source of tiny weights
    printed: str

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, text_encoder=self.text)

    def freshet(self, *arguments: object) -> Any:
        environment = {"FRESHET_HOME": str(self.home), "FRESHET_TEXT_ENCODER": self.text}
        return CliRunner().invoke(root, [*map(str, arguments), "--columns", COLUMNS], env=environment)


@pytest.fixture(scope="module")
def taught(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    home = tmp_path_factory.mktemp("taught")
    write_tiny_bert(home / "tiny", ["A", *" ".join(KINDS).split(), *COLOURS])
    found = Taught(home, f"path:{home / 'tiny'}", "")
    for command in (("align", shop, home / "aligned", "--epochs", 2), ("cross-modal", shop, home / "out", *OPTIONS)):
        beside = ("--version", home / "aligned") if command[0] == "cross-modal" else ()
        result = found.freshet("train", *command, *beside)
        assert result.exit_code == 0, result.output
    return found._replace(printed=result.stdout)


def products_of(shop: Path) -> Labelled:
    return read_labelled(shop, read_columns(COLUMNS))


def test_a_cross_modal_version_is_written_and_told_beside_the_one_to_compare_with(taught: Taught) -> None:
    version, aligned = read_version(taught.home / "out"), read_version(taught.home / "aligned")
    assert (version.kind, version.widths["fused"]) == (CROSS_MODAL, 16)
    assert (version.about["rule"]["width"], version.about["rule"]["layers"]) == (16, 1)
    assert sorted(version.about["taught"]) == sorted(aligned.about["taught"])
    measures = ("same type at 1", "same colour at 1", "words to picture r at 1", "picture to words r at 10")
    assert all(measure in taught.printed for measure in measures)
    assert list(version.about["figures"]) == ["image", "text", "fused", "version beside", "cross-modal"]
    own, beside = (version.about["figures"][name] for name in ("cross-modal", "version beside"))
    assert own.keys() == beside.keys()
    assert beside["words_to_picture_r_at_1"] == aligned.about["figures"]["words_to_picture_r_at_1"]
    assert f"| cross-modal | {own['same_type_at_1']:.3f} | {own['same_colour_at_1']:.3f} |" in taught.printed
    run = taught.home / "training" / "cross-modal"
    assert [path.name for path in run.iterdir()] == ["metrics.csv"]
    with (run / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]


def test_the_same_seed_gives_the_same_version_and_another_another(shop: Path, taught: Taught, tmp_path: Path) -> None:
    beside = ("--version", taught.home / "aligned")
    for name, seed in (("same", 0), ("other", 1)):
        result = taught.freshet("train", "cross-modal", shop, tmp_path / name, *OPTIONS, *beside, "--seed", seed)
        assert result.exit_code == 0, result.output
    same, other = (read_version(tmp_path / name).fingerprint for name in ("same", "other"))
    assert same == read_version(taught.home / "out").fingerprint != other


def test_what_serves_is_what_was_measured(shop: Path, taught: Taught) -> None:
    asked = ("encoders", "evaluate", shop, "--sequences", "--version", taught.home / "out")
    found = json.loads(taught.freshet(*asked, "--json").stdout)
    told = read_version(taught.home / "out").about["figures"]["cross-modal"]
    for label in ("type", "colour"):
        assert found[f"same_{label}_at_1"]["cross_modal"] == told[f"same_{label}_at_1"]
    scores = [f"{kind}_{score}" for kind in ("pooled", "sequences") for score in ("cosine", "euclidean", "dot")]
    assert list(found["same_type_at_1"]) == ["image", "text", *scores, "cross_modal"]
    assert (found["products"], found["held_out"]) == (24, 5)
    printed = taught.freshet("encoders", "evaluate", shop, "--sequences").stdout
    figures = [found[f"same_{label}_at_1"]["sequences_euclidean"] for label in ("type", "colour")]
    assert "| sequences euclidean | {:.3f} | {:.3f} |".format(*figures) in printed
    assert "cross modal" not in printed


def test_a_learned_score_whose_matrix_is_the_identity_is_the_dot_product(
    shop: Path, taught: Taught, tmp_path: Path
) -> None:
    state = sequences_state("learned", np.ones(768, np.float32))
    write_version(tmp_path, Version(IMAGE, taught.text, {SEQUENCES + name: array for name, array in state.items()}))
    asked = ("encoders", "evaluate", shop, "--sequences", "--version", tmp_path, "--json")
    assert "sequences_learned" in json.loads(taught.freshet(*asked).stdout)["same_type_at_1"]
    products, kept = products_of(shop).products, taught.home / "encoders"
    tokens = tokens_of(products, shop, kept, taught.settings)
    served = served_vectors(products, shop, kept, taught.settings, read_version(tmp_path))
    assert served == pytest.approx(tokens.fused["dot"], abs=1e-5)
    assert np.abs(served - tokens.fused["euclidean"]).max() > 1e-3


def test_shortened_places_are_the_pictures_along_the_axes(shop: Path, taught: Taught) -> None:
    products, kept = products_of(shop).products, taught.home / "encoders"
    tokens = tokens_of(products, shop, kept, taught.settings)
    assert tokens.image.states.dtype == tokens.text.states.dtype == np.float16
    assert tokens.grid == (7, 7)
    assert tokens.image.counts.tolist() == [0 if row in (3, 5) else 49 for row in range(24)]
    assert tokens.axes.T @ tokens.axes == pytest.approx(np.eye(256), abs=1e-4)
    pooled = np.einsum("bs,bsw->bw", *tokens.image.of(np.arange(24), 49)[::-1])
    features = features_of(products, shop, kept, taught.settings)
    assert pooled == pytest.approx(features.image @ tokens.axes, abs=2e-3)


def test_a_killed_run_goes_on_after_the_parts_that_are_kept(
    shop: Path, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_tokens, "PART", 4)
    products = products_of(shop).products[:10]
    told: list[int] = []

    def until_eight(done: int, total: int) -> None:
        assert total == 10
        told.append(done)
        if told == [0, 4, 8]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokens_of(products, shop, tmp_path, taught.settings, until_eight)
    (where,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in where.iterdir()}
    assert sorted(before) == ["0000000-0000004.npz", "0000004-0000008.npz", "axes.npz"]
    found = tokens_of(products, shop, tmp_path, taught.settings)
    assert {name: (where / name).stat().st_mtime_ns for name in before} == before
    whole = tokens_of(products, shop, taught.home / "encoders", taught.settings)
    np.testing.assert_array_equal(found.text.counts, whole.text.counts[:10])
    assert found.fused["cosine"] == pytest.approx(whole.fused["cosine"][:10], abs=1e-5)


# --- what cannot be ----------------------------------------------------------------------------------------------


def test_a_version_that_attends_to_tokens_is_refused_where_heads_are_needed(shop: Path, taught: Taught) -> None:
    out = taught.home / "out"
    for command in (("encoders", "evaluate", shop), ("train", "fuse", shop, taught.home / "no")):
        result = taught.freshet(*command, "--version", out)
        assert result.exit_code == 1
        assert f"{out} attends to tokens: it has neither heads nor a fusion to go on from. `freshet encoders" in (
            result.stderr
        )
        assert f"`freshet encoders add {out}` makes it known" in result.stderr
    assert not (taught.home / "no").exists()


def test_too_little_and_a_width_that_is_none_are_told(shop: Path, taught: Taught, tmp_path: Path) -> None:
    wrong = taught.freshet("train", "cross-modal", shop, tmp_path / "out", "--width", 30)
    assert wrong.exit_code == 1
    assert "4 heads do not divide the width 30: take one that they divide" in wrong.stderr
    folder = tmp_path / "shop"
    shutil.copytree(shop, folder, ignore=shutil.ignore_patterns("img"))
    result = taught.freshet("train", "cross-modal", folder, tmp_path / "out")
    assert result.exit_code == 1
    assert "0 products have a picture and words: give at least 8" in result.stderr
    assert not (tmp_path / "out").exists()
