"""`freshet compress`, and what it tells of folders that are not whole."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
import torch
import typer
from compressed_encoders import TEXTS, encoded, lowest_cosine, written
from PIL import Image
from tiny_weights import write_picture_model, write_text_model
from typer.testing import CliRunner

from encoders.compression import Files, compress_pictures, compress_text
from encoders.image import ImageEncoder
from encoders.recipes import UnknownSource, Weights
from encoders.text import TextEncoder
from encoders.weights import find_weights
from streams import cli_compress
from streams.evaluation import compressed
from streams.evaluation.compressed import AlreadyThere, markdown, write_folder
from streams.terminal import Commands

BAR = {"quality_kept": 1.0, "faster_in_batches": 2.0}

root = typer.Typer(cls=Commands)
root.add_typer(cli_compress.app)
root.command()(lambda: None)  # with one command alone, typer would take no name


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    torch.set_num_threads(1)  # more wait for each other on a busy machine
    return find_weights(f"path:{write_text_model(tmp_path_factory.mktemp('bert'), 'bert')}", "text")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return find_weights(f"path:{write_picture_model(tmp_path_factory.mktemp('resnet'), 'resnet')}", "image")


@pytest.fixture(scope="module")
def text_in_onnx(bert: Weights) -> Files:
    return compress_text(bert, "onnx", [])


@pytest.fixture(scope="module")
def pictures_in_onnx(resnet: Weights) -> Files:
    return compress_pictures(resnet, "onnx", [])


# --- folders that are not whole ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["model.onnx", "centre.safetensors", "config.json"])
@pytest.mark.parametrize("broken", ["absent", "cut short"])
def test_a_folder_that_is_not_whole_is_told(pictures_in_onnx: Files, tmp_path: Path, file: str, broken: str) -> None:
    source = written(pictures_in_onnx, tmp_path / "image")
    path = tmp_path / "image" / file
    content = path.read_bytes()
    path.unlink() if broken == "absent" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UnknownSource, match=file):
        ImageEncoder(find_weights(source, "image"))


def test_weights_in_eight_bits_that_are_cut_short_are_told(bert: Weights, tmp_path: Path) -> None:
    source = written(compress_text(bert, "int8", []), tmp_path / "text")
    path = tmp_path / "text" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnknownSource, match="make it again by freshet compress"):
        find_weights(source, "text")


def test_a_folder_of_the_other_side_or_without_its_recipe_is_told(text_in_onnx: Files, tmp_path: Path) -> None:
    source = written(text_in_onnx, tmp_path / "text")
    with pytest.raises(UnknownSource, match="a compressed encoder of text, not of image"):
        find_weights(source, "image")
    config = json.loads(text_in_onnx["config.json"])
    (tmp_path / "text" / "config.json").write_text(json.dumps(config | {"recipe": {"flavour": "sweet"}}))
    with pytest.raises(UnknownSource, match=r"config.json has no recipe or width .*flavour"):
        find_weights(source, "text")


def test_another_onnx_network_is_told(text_in_onnx: Files, pictures_in_onnx: Files, tmp_path: Path) -> None:
    source = written(text_in_onnx | {"model.onnx": pictures_in_onnx["model.onnx"]}, tmp_path / "text")
    with pytest.raises(UnknownSource, match=r"maps \['pixels'\] to \['places', 'pooled'\], not \['ids', 'mask'\]"):
        TextEncoder(find_weights(source, "text"))


def test_without_onnxruntime_it_is_told_what_to_install(
    bert: Weights, text_in_onnx: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = find_weights(written(text_in_onnx, tmp_path / "text"), "text")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnknownSource, match=r"needs onnxruntime: pip install '\.\[onnx\]' in Freshet's folder"):
        TextEncoder(weights)
    from encoders.onnx_export import CannotExport

    with pytest.raises(CannotExport, match=r"pip install '\.\[onnx\]' in Freshet's folder"):
        compress_text(bert, "onnx", [])


def test_an_interrupted_write_leaves_nothing_and_what_is_there_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = Path.write_bytes

    def fails(path: Path, content: bytes) -> int:
        if path.name == "b":
            raise OSError("no space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(OSError, match="no space left"):
        write_folder(tmp_path / "out", {"a": b"1", "b": b"2"})
    assert [*tmp_path.iterdir()] == []
    write_folder(tmp_path / "out", {"a": b"1"})
    with pytest.raises(AlreadyThere, match="is there already: remove it or name another folder"):
        write_folder(tmp_path / "out", {"a": b"2"})
    assert (tmp_path / "out" / "a").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 products of two kinds; one has no picture."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "img").mkdir()
    lines = ["sku,name,kind"]
    for number in range(100):
        kind = "lamp" if number % 2 else "dress"
        lines.append(f"p{number},{TEXTS[number % 80]} {kind} {number},{kind}")
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img" / f"p{number}.png")
    (folder / "img" / "p3.png").unlink()
    (folder / "goods.csv").write_text("\n".join(lines))
    return folder


def run(shop: Path, out: Path, *more: str, image: Weights, text: Weights) -> tuple[int, str]:
    columns = "file=goods.csv,id=sku,title=name,image=img/{sku}.png,type=kind,category=kind"
    environment = {"FRESHET_TEXT_ENCODER": text.source, "FRESHET_IMAGE_ENCODER": image.source}
    done = CliRunner().invoke(
        root, ["compress", str(shop), str(out), "--columns", columns, *more], env=environment, catch_exceptions=False
    )
    return done.exit_code, done.output


def test_the_command_makes_folders_that_are_served_and_tells_what_they_keep(
    shop: Path, bert: Weights, resnet: Weights, tmp_path: Path
) -> None:
    code, output = run(shop, tmp_path / "small", "--method", "onnx", "--json", image=resnet, text=bert)
    assert code == 0, output
    text, image = orjson.loads(output.splitlines()[-1])["sides"]
    assert (text["side"], text["of"], text["products"], text["held_out"]) == ("text", bert.source, 100, 20)
    assert image["products"] == 99
    for side in (text, image):
        assert side["cosine_p1"] == pytest.approx(1.0, abs=1e-5)
        assert side["nearest_10_kept"] > 0.98  # of vectors that are as near, either may be kept
        assert side["original"]["same_type_at_1"] == pytest.approx(side["compressed"]["same_type_at_1"], abs=0.07)
        assert side["compressed"]["megabytes"] > 0
        assert side["faster_in_batches"] > 0
    served = TextEncoder(find_weights(f"path:{tmp_path / 'small' / 'text'}", "text"))
    assert lowest_cosine(np.stack(served.encode(TEXTS)), encoded(bert)) > 0.9999
    code, output = run(shop, tmp_path / "small", "--method", "onnx", image=resnet, text=bert)
    assert code != 0
    assert "is there already" in output


def test_the_command_prints_a_table_and_the_settings_to_serve_with(
    shop: Path, bert: Weights, resnet: Weights, tmp_path: Path
) -> None:
    more = ("--method", "pruned", "--epochs", "1", "--products", "90")
    code, output = run(shop, tmp_path / "small", *more, image=resnet, text=bert)
    assert code == 0, output
    assert "| text | pruned |" in output
    assert f"FRESHET_TEXT_ENCODER=path:{tmp_path / 'small' / 'text'}" in output
    assert not (tmp_path / "small" / "image").exists()
    code, output = run(shop, tmp_path / "other", "--side", "image", image=resnet, text=bert)
    assert code != 0
    assert "int8 is a method for text" in output
    shutil.rmtree(tmp_path / "small")


def test_the_table_says_what_is_short_of_the_bar() -> None:
    assert compressed._short_of_the_bar(BAR) == ""
    assert compressed._short_of_the_bar(BAR | {"quality_kept": 0.97}) == "keeps 97.0% of the quality"
    slow = {"quality_kept": float("nan"), "faster_in_batches": 1.2}
    assert compressed._short_of_the_bar(slow) == "keeps nan% of the quality and is 1.20 times as fast"
    assert markdown([]).startswith("| side |")
