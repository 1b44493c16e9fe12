"""`freshet encoders evaluate` on a small shop of drawn squares, and the files that it reads."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from encoders.training.align import AlignmentRule
from encoders.version import UnusableVersion, Version, read_version, write_version
from streams import cli_encoders, cli_train
from streams.evaluation import kept_arrays
from streams.evaluation.encoder_figures import figures, fitted, markdown, split, teach
from streams.evaluation.features import Features, features_of
from streams.evaluation.labelled import Labelled, NotLabelled, pictures_of, read_columns, read_labelled
from streams.evaluation.taught import read_taught, write_taught
from streams.events import ProductUpsert
from streams.settings import Settings
from streams.terminal import Commands

COLOURS = {"red": (200, 20, 20), "green": (20, 160, 40), "blue": (20, 40, 200), "white": (240, 240, 240)}
KINDS = ("table lamp", "leather shoe", "cotton dress", "tea cup", "garden chair", "wool scarf")
COLUMNS = "file=goods.csv,id=sku,title=name,image=img/{sku}.png,type=kind,colour=shade,category=kind,brand=maker"

root = typer.Typer(cls=Commands)
root.add_typer(cli_encoders.encoders_app, name="encoders")
root.add_typer(cli_train.train_app, name="train")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 products; one has no picture, one a broken one."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "img").mkdir()
    lines = ["sku,name,kind,shade,maker"]
    for number, (kind, colour) in enumerate((kind, colour) for kind in KINDS for colour in COLOURS):
        lines.append(f"p{number},A {colour} {kind},{kind},{colour},{'Acme' if number % 2 else ''}")
        pixels = np.full((40, 40, 3), 255, np.uint8)
        pixels[4 : 8 + 5 * (number // 4), 4:30] = COLOURS[colour]
        Image.fromarray(pixels).save(folder / "img" / f"p{number}.png")
    (folder / "img" / "p3.png").unlink()
    (folder / "img" / "p5.png").write_bytes(b"no picture")
    (folder / "goods.csv").write_text("\n".join([*lines, "p1,Came before,lamp,red,", ",Without an id,lamp,red,", ""]))
    return folder


# --- the folder --------------------------------------------------------------------------------------------------


def test_a_shop_with_columns_of_its_own_is_read_and_what_is_no_product_is_counted(shop: Path) -> None:
    labelled = read_labelled(shop, read_columns(COLUMNS))
    assert len(labelled.products) == 24
    first = labelled.products[0]
    assert (first.product_id, first.title, first.category) == ("p0", "A red table lamp", ["table lamp"])
    assert (first.brand, labelled.products[1].brand) == (None, "Acme")
    assert first.image_links == ["img/p0.png"]
    assert (labelled.types[:2], labelled.colours[:2]) == (["table lamp"] * 2, ["red", "green"])
    assert labelled.skipped == 2
    assert labelled.first_problem == "row 25: the id 'p1' came before"


def test_known_folders_need_no_columns(tmp_path: Path) -> None:
    fashion = tmp_path / "fashion"
    fashion.mkdir()
    (fashion / "styles.csv").write_text(
        "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,productDisplayName\n"
        "7,Men,Apparel,Topwear,Tshirts,Grey,NA,2010,'',Puma T-Shirt, grey\n"
    )
    labelled = read_labelled(fashion, {})
    assert (labelled.types, labelled.colours) == (["Tshirts"], ["Grey"])
    assert labelled.products[0].title == "Puma T-Shirt, grey"
    assert labelled.products[0].attributes == {"gender": "Men", "baseColour": "Grey", "year": "2010"}
    assert labelled.products[0].image_links == ["images/7.jpg"]
    grocery = tmp_path / "grocery"
    grocery.mkdir()
    value = {"product_id": "a", "title": "A", "category": "Apple", "department": "Fruit", "description": "Round."}
    (grocery / "products.jsonl").write_bytes(orjson.dumps(value | {"image": "images/a.jpg"}) + b"\n")
    labelled = read_labelled(grocery, {})
    assert (labelled.types, labelled.colours) == (["Apple"], [""])
    assert labelled.products[0].category == ["Fruit"]


def test_a_catalogue_of_the_topics_own_form_is_labelled_by_itself(tmp_path: Path) -> None:
    line = {
        "op": "upsert",
        "product_id": "7",
        "title": "Red cup",
        "category": ["Kitchen", "Cups"],
        "attributes": {"Colour": "red"},
        "image_links": ["cups/7.jpg"],
    }
    gone = {"op": "delete", "product_id": "8"}
    plain = {"op": "upsert", "product_id": "9", "title": "Something"}
    text = "\n".join(json.dumps(one) for one in (line, gone, plain))
    (tmp_path / "catalog.jsonl").write_text(text)
    labelled = read_labelled(tmp_path, {})
    assert [product.product_id for product in labelled.products] == ["7", "9"]
    assert (labelled.types, labelled.colours, labelled.skipped) == (["Cups", ""], ["red", ""], 1)
    assert pictures_of(tmp_path, None) == tmp_path
    assert pictures_of(tmp_path, Path("pictures")) == Path("pictures"), "as the stream reads its links"
    (tmp_path / "catalog.jsonl").rename(tmp_path / "products.jsonl")
    assert pictures_of(tmp_path, Path("pictures")) == tmp_path


@pytest.mark.parametrize(
    ("content", "columns", "told"),
    [
        (None, "", "has no catalog.jsonl or styles.csv or products.jsonl: name its file with --columns file=NAME"),
        ("a,b\n1,2\n", "file=goods.csv,id=a", "name the columns of title, as in --columns title=name"),
        ("a,b\n1,2\n", "file=goods.csv,id=a,title=c", "has no column 'c': it has a, b"),
        ("a,b\n1,2\n", "file=goods.csv,id=a,title=b,type=c", "has no column 'c': it has a, b"),
        ("a,b\n,2\n", "file=goods.csv,id=a,title=b", "has no product \\(row 1: "),
        ("a,b\n", "file=goods.csv,id=a,title=b", "has no product \\(it is empty\\)"),
        ("a,b\n1,\xff\n", "file=goods.csv,id=a,title=b", "cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, content: str | None, columns: str, told: str) -> None:
    if content is not None:
        (tmp_path / "goods.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(NotLabelled, match=told):
        read_labelled(tmp_path, read_columns(columns))


def test_columns_that_are_none_are_refused() -> None:
    with pytest.raises(NotLabelled, match=r"image=pics/{}.jpg: write a path with a column in each pair of braces"):
        read_labelled(Path(__file__).parent, {"file": "conftest.py", "id": "a", "title": "b", "image": "pics/{}.jpg"})
    for wrong in ("size=a", "title", "title="):
        with pytest.raises(NotLabelled, match=f"'{wrong}': write PART=COLUMN with a part of file, id, title"):
            read_columns(wrong)


# --- features ----------------------------------------------------------------------------------------------------


def test_features_are_kept_and_a_killed_run_goes_on(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_arrays, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("streams.evaluation.features.AT_ONCE", 8)
    products = read_labelled(shop, read_columns(COLUMNS)).products
    told: list[int] = []

    def until_sixteen(done: int, total: int) -> None:
        assert total == 24
        told.append(done)
        if told == [0, 8, 16]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(products, shop, tmp_path, Settings(), until_sixteen)
    found = features_of(products, shop, tmp_path, Settings(), until_sixteen)
    assert told == [0, 8, 16, 8, 16, 24]
    again = features_of(products, shop, tmp_path, Settings())
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
    there = [3, 5]  # without a picture
    assert np.flatnonzero(~found.image.any(axis=1)).tolist() == there
    assert np.flatnonzero(~found.mirrored.any(axis=1)).tolist() == there
    assert np.linalg.norm(found.title, axis=1) == pytest.approx(1, abs=1e-3)
    assert found.words.shape == (24, 3 * found.title.shape[1])
    assert not np.array_equal(found.image[0], found.mirrored[0])


# --- figures -----------------------------------------------------------------------------------------------------


def made(count: int = 60) -> tuple[Labelled, Features]:
    """Products of three types whose features tell the type; pictures and words share what tells the product."""
    chance = np.random.default_rng(0)
    types = [f"type {number % 3}" for number in range(count)]
    centres = chance.normal(size=(3, 8))
    facts = (centres[np.arange(count) % 3] + 0.5 * chance.normal(size=(count, 8))).astype(np.float32)
    wide = [facts @ chance.normal(size=(8, 24)).astype(np.float32) for _ in range(2)]
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in wide)
    products = [ProductUpsert(op="upsert", product_id=f"p{number}", title="A thing") for number in range(count)]
    return Labelled(products, types, [""] * count), Features(image, image, text, text, text)


NO_FACTS = np.zeros((60, 128), np.float32)
RULE = AlignmentRule(width=16, epochs=40, batch=48, dropout=0.1)


def test_what_is_held_out_is_found_far_above_chance() -> None:
    labelled, features = made()
    parts = split(60, seed=0)
    assert sorted([*parts.taught.tolist(), *parts.held_out.tolist()]) == list(range(60))
    found = figures(labelled, features, teach(features, parts.taught, RULE), parts) | {"taught_on": "on a few"}
    assert (found["products"], found["taught"], found["held_out"]) == (60, 48, 12)
    assert found["words_to_picture_r_at_1"] > 0.5  # chance is 1 in 12
    assert found["picture_to_words_r_at_10"] > 0.9
    assert set(found["same_type_at_1"]) == {
        "image",
        "text",
        "fused",
        "image_aligned",
        "words_aligned",
        "fused_fitted",
        "image_fitted",
        "text_fitted",
    }
    assert min(found["same_type_at_1"].values()) > 0.8
    assert np.isnan(found["same_colour_at_1"]["fused"])
    assert found["same_type_at_1_by_score"]["cosine"] == found["same_type_at_1"]["fused"]
    assert found["same_type_at_1_by_width"] == {"pca": {}, "pca_whitened": {}, "lda": {}}  # 48 products are too few
    said = markdown(found)
    assert "60 products, 0 rows skipped. The heads learned without labels, on a few; 12 products that they" in said
    assert f"| words to picture | {found['words_to_picture_r_at_1']:.3f} |" in said
    assert "| by chance | 0.083 | 0.833 |" in said


def test_a_product_without_a_picture_is_neither_taught_nor_asked_for() -> None:
    labelled, features = made()
    parts = split(60, seed=0)
    for row in (parts.taught[0], parts.held_out[0]):
        features.image[row] = features.mirrored[row] = 0.0
    heads = teach(features, parts.taught, RULE)
    assert figures(labelled, features, heads, parts)["held_out"] == 11
    assert np.isfinite(heads.pictures.weight).all()


# --- what was taught, in a folder --------------------------------------------------------------------------------


def test_what_was_taught_is_kept_with_what_is_told_about_it(tmp_path: Path) -> None:
    _, features = made()
    heads = teach(features, np.arange(60), RULE)
    fusion = fitted(features, NO_FACTS, np.arange(60), heads)
    version = write_taught(tmp_path / "one", Settings(), fusion, {"task": "align", "seed": 3})
    again, about = read_taught(tmp_path / "one", Settings(), features)
    assert (about["task"], about["seed"]) == ("align", 3)
    assert set(about) == {"task", "seed", "command", "made_at"}
    np.testing.assert_array_equal(again.heads.words(features.words), heads.words(features.words))
    assert read_version(tmp_path / "one").fingerprint == version.fingerprint


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, features = made()
    write_taught(
        tmp_path, Settings(), fitted(features, NO_FACTS, np.arange(60), teach(features, np.arange(60), RULE)), {}
    )
    narrow = features._replace(image=features.image[:, :5])
    with pytest.raises(
        UnusableVersion, match=r"for features of the widths \(24, 24\), these have \(5, 24\): teach again"
    ):
        read_taught(tmp_path, Settings(), narrow)
    with pytest.raises(UnusableVersion, match=r"is of the encoders .*, these are .*other.*: set FRESHET_IMAGE_ENCODER"):
        read_taught(tmp_path, Settings(text_encoder="package:other"), features)
    write_version(tmp_path, Version(Settings().image_encoder, Settings().text_encoder))
    with pytest.raises(
        UnusableVersion, match="has no taught fusion: name a folder that `freshet train align` or `fuse` made"
    ):
        read_taught(tmp_path, Settings(), features)


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_one_object(shop: Path, tmp_path: Path) -> None:
    asked = ["encoders", "evaluate", str(shop), "--columns", COLUMNS, "--epochs", "3", "--json"]
    result = CliRunner().invoke(root, asked, env={"FRESHET_HOME": str(tmp_path)})
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["products"], found["skipped"]) == (24, 2)
    assert 0 <= found["words_to_picture_r_at_1"] <= found["words_to_picture_r_at_10"] <= 1
    assert set(found["same_colour_at_1"]) == set(found["same_type_at_1"])
    assert "2 rows skipped, the first: row 25: the id 'p1' came before" in result.stderr
    assert len(list((tmp_path / "encoders").iterdir())) == 1


def test_heads_taught_on_one_shop_are_asked_for_all_of_another(shop: Path, tmp_path: Path) -> None:
    def freshet(*arguments: str) -> Any:
        return CliRunner().invoke(root, [*arguments, "--columns", COLUMNS], env={"FRESHET_HOME": str(tmp_path)})

    version = str(tmp_path / "aligned")
    result = freshet("train", "align", str(shop), version, "--epochs", "3", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert re.search(
        r"aligned: version [0-9a-f]{12}. Of \d products that the heads never saw, words find 0.\d{3} of", result.stdout
    )
    found = json.loads(freshet("encoders", "evaluate", str(shop), "--version", version, "--json").stdout)
    assert (found["taught"], found["taught_on"]) == (19, "on 19 of these products")
    other = tmp_path / "other"
    shutil.copytree(shop, other)
    (other / "goods.csv").write_text((shop / "goods.csv").read_text().replace("lamp", "vase"))
    found = json.loads(freshet("encoders", "evaluate", str(other), "--version", version, "--json").stdout)
    assert 0 < found["taught"] < 19  # the lamps are vases now: they, and what was held out, are asked for
    assert found["taught"] + found["held_out"] in (22, 23, 24)  # two have no picture and are not asked for
    (other / "goods.csv").write_text((shop / "goods.csv").read_text().replace(",A ", ",The "))
    found = json.loads(freshet("encoders", "evaluate", str(other), "--version", version, "--json").stdout)
    assert (found["taught"], found["held_out"], found["taught_on"]) == (0, 22, "on another shop's products")
    missing = freshet("encoders", "evaluate", str(shop), "--version", str(tmp_path / "none"))
    assert missing.exit_code == 1
    assert "none" in missing.stderr


def test_the_command_says_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(root, ["encoders", "evaluate", str(tmp_path)])
    assert result.exit_code == 1
    assert "name its file with --columns file=NAME" in result.stderr
