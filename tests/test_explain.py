"""`freshet explain`: parts worked by hand, real encoders on drawn pictures, then the command and what goes wrong."""

import importlib.util
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from encoders.alignment import Alignment, Head
from encoders.attributes import product_facts
from encoders.fusion import SCORES, unit_rows
from encoders.product import ProductContent, ProductEncoder, product_content
from encoders.taught_fusion import PREFIX, Words, fit_fusion
from encoders.version import Version, read_version, write_version
from store.database import open_database
from store.encoders import EncoderRow, EncoderStore
from store.products import ProductStore
from store.records import ProductRow
from streams.catalog_rows import unknown, updated
from streams.cli import app
from streams.drawings import draw_product
from streams.events import BadEvent, ProductUpsert
from streams.explain import (
    NothingToExplain,
    Part,
    covered,
    explain,
    rank_correlation,
    without_part,
)
from streams.explained_product import NoSuchProduct, fields_from_catalog, fields_from_shop
from streams.explanation_drawing import draw_explanation
from streams.parsing import parse
from streams.settings import Settings
from streams.version_files import load_encoder, put_version

Freshet = Callable[..., Any]
LAMP = {
    "op": "upsert",
    "product_id": "lamp",
    "title": "Brass teapots lamp",
    "brand": "Nord",
    "category": ["Lamps"],
    "image_links": ["lamp.png"],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ProductEncoder:
    return load_encoder(Settings(home=tmp_path_factory.mktemp("home"), device="cpu"))


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a catalogue of three lines and one picture."""
    draw_product("table lamp", "yellow", "plain").save(tmp_path / "lamp.png")
    lines = [LAMP, {**LAMP, "product_id": "no-picture", "image_links": ["nowhere.png"]}]
    lines.append({"op": "patch", "product_id": "lamp", "title": "Old lamp"})
    (tmp_path / "catalog.jsonl").write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return tmp_path


@pytest.fixture
def freshet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Freshet:
    """Runs `freshet explain` in this process, with no FRESHET_ variables but those given."""
    for name in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **variables: str) -> Any:
        return CliRunner().invoke(app, ["explain", *arguments], env={"FRESHET_DEVICE": "cpu", **variables})

    return run


def in_a_corner(*, below: bool, right: bool) -> np.ndarray:
    """A red jumper of a third of the picture's side."""
    picture = np.full((224, 224, 3), 240, np.uint8)
    top, left = (150 if there else 10 for there in (below, right))
    picture[top : top + 64, left : left + 64] = np.asarray(draw_product("jumper", "red", "plain").resize((64, 64)))
    return picture


# --- by hand -----------------------------------------------------------------------------------------------------


def test_the_rank_correlation_is_the_one_worked_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([0, 0, 1], [5, 6, 7]) == pytest.approx(math.sqrt(3) / 2)  # ranks 1.5, 1.5, 3
    assert math.isnan(rank_correlation([1, 1], [1, 2]))
    assert math.isnan(rank_correlation([1], [1]))


def test_a_covered_place_has_the_colour_of_the_border_and_no_other_place_changes() -> None:
    picture = np.full((70, 140, 3), 200, np.uint8)
    picture[10:60, 20:120] = 10
    without = covered(picture, (3, 2), (7, 7))
    assert (without[30:40, 40:60] == 200).all()
    without[30:40, 40:60] = picture[30:40, 40:60]
    assert np.array_equal(without, picture)
    tiny = covered(picture[:3, :3].copy(), (6, 6), (7, 7))  # fewer pixels than places
    assert tiny.shape == (3, 3, 3)


def test_a_product_lacks_the_one_word_or_fact_at_its_place() -> None:
    facts = product_facts(brand="Nord", attributes={"colour": "red"})
    content = ProductContent("red lamp red. Lamps", (), "red. old", "red  lamp red", facts)
    expected = {
        ("headline", (9, 13)): replace(content, text="red lamp  Lamps", title="red lamp "),
        ("headline", (14, 19)): replace(content, text="red lamp red. ", title="red lamp red"),
        ("details", (0, 4)): replace(content, details=" old"),
        ("facts", (1, 2)): replace(content, facts=facts[:1]),
    }
    for (where, span), without in expected.items():
        assert without_part(content, Part("", where, span, 0.1, 0.1)) == without  # type: ignore[arg-type]


# --- real encoders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("below", "right"), [(True, False), (False, True)])
def test_the_vector_moves_most_without_the_corner_where_the_object_is(
    encoder: ProductEncoder, below: bool, right: bool
) -> None:
    content = ProductContent("Red woollen jumper for cold days", (in_a_corner(below=below, right=right),))
    found = explain(content, encoder, check=True)
    assert found.place_moves is not None
    assert found.places.shape == found.place_moves.shape == (1, 7, 7)
    place_moves, contributions = found.place_moves[0], found.place_contributions[0]
    for values in (place_moves, contributions):
        row, column = np.unravel_index(values.argmax(), values.shape)
        assert (row > 3) == below
        assert (column > 3) == right
    empty = place_moves[:3, 4:] if below else place_moves[4:, :3]
    assert not empty.round(6).any()  # there is nothing to cover
    quarter = contributions[4:, :3] if below else contributions[:3, 4:]
    assert quarter.sum() > 1.5 * contributions.sum() * 9 / 49
    agreement = found.agreement["places"]
    assert agreement["contribution"] > 0.4 > agreement["weight"]  # places of the background are short, not light
    assert found.cosine is not None
    assert 0.9 < found.cosine <= 1.00001


def test_word_pieces_are_joined_and_details_weigh_less_than_the_headline(encoder: ProductEncoder) -> None:
    content = product_content(title="Brass teapots, lamp", brand="Nord", category=["Home", "Lamps"])
    found = explain(content, encoder, check=True)
    told = [(part.text, part.where) for part in found.parts]
    assert told == [
        *((word, "headline") for word in ("Brass", "teapots", "lamp", "Lamps")),
        *((word, "details") for word in ("Home", "brand", "Nord")),
        *((fact, "facts") for fact in ("brand: Nord", "category: Home", "category: Home > Lamps")),
    ]
    weights: dict[str, float] = {}
    for part in found.parts:
        weights[part.where] = weights.get(part.where, 0.0) + part.weight
        source = {"headline": content.text, "details": content.details}.get(part.where, part.text)
        assert source[slice(*part.span) if part.where != "facts" else slice(None)].startswith(part.text)
        assert part.move is not None
        assert part.move > 0
    assert weights["details"] < 0.2 < weights["facts"] < weights["headline"]
    assert found.weights["image"] == 0
    assert sum(part.contribution for part in found.parts) == pytest.approx(1.0, abs=1e-5)
    assert found.place_moves is not None
    assert found.place_moves.size == 0


@pytest.mark.parametrize("score", [score for score in SCORES if score != "learned"])
def test_whatever_the_score_all_weights_add_up_to_one(encoder: ProductEncoder, score: Any) -> None:
    content = product_content(title="Red jumper", brand="Nord", pictures=[in_a_corner(below=True, right=True)])
    found = explain(content, encoder, score=score)
    for sides in (found.weights, found.contributions):
        assert sum(sides.values()) == pytest.approx(1.0, abs=1e-5)
        assert min(sides.values()) > 0.1
    assert all(part.move is None for part in found.parts)
    assert all(math.isnan(value) for side in found.agreement.values() for value in side.values())


def test_pictures_alone_are_explained_by_their_places(encoder: ProductEncoder) -> None:
    corners = (in_a_corner(below=True, right=True), in_a_corner(below=False, right=False)[:200])
    found = explain(ProductContent(" ", corners), encoder, check=True)
    assert found.parts == []
    assert found.weights == {"image": pytest.approx(1.0, abs=1e-5), "text": 0, "attributes": 0}
    assert found.places.shape == (2, 7, 7)
    assert found.place_moves is not None
    first, second = (np.unravel_index(moves.argmax(), moves.shape) for moves in found.place_moves)
    assert min(first) > 3 > max(second)


def test_without_its_only_word_nothing_is_left(encoder: ProductEncoder) -> None:
    found = explain(ProductContent("lamp"), encoder, check=True)
    assert [part.move for part in found.parts] == [1.0]
    with pytest.raises(NothingToExplain, match="neither words nor a picture"):
        explain(ProductContent(""), encoder)


def test_a_long_text_is_explained_as_far_as_it_is_read(encoder: ProductEncoder) -> None:
    found = explain(ProductContent("lamp " * 300), encoder)
    assert len(found.parts) == 126  # 128 word pieces, with the two marks
    assert sum(part.weight for part in found.parts) == pytest.approx(1.0, abs=1e-5)


def write_taught(folder: Path) -> Version:
    """A version whose fusion was fitted to drawn numbers."""
    chance = np.random.default_rng(3)
    image, *words = (unit_rows(chance.normal(size=(20, width)).astype(np.float32)) for width in (1280, 384, 384, 384))
    said = Words(*words)
    sides = {"pictures": image, "words": said.joined}
    heads = Alignment(
        **{
            side: Head(of.mean(axis=0), of.std(axis=0), unit_rows(of[:16]), np.ones(16, np.float32))
            for side, of in sides.items()
        }
    )
    fusion = fit_fusion(image[None], said, np.zeros((20, 128), np.float32), heads)
    arrays = {PREFIX + name: array for name, array in fusion.state().items()}
    settings = Settings()
    write_version(folder, Version(settings.image_encoder, settings.text_encoder, arrays))
    return read_version(folder)


def test_of_a_taught_version_the_check_is_told_of_what_it_serves(tmp_path: Path) -> None:
    taught = load_encoder(Settings(device="cpu"), write_taught(tmp_path))
    content = product_content(title="Red jumper", brand="Nord", pictures=[in_a_corner(below=True, right=True)])
    found = explain(content, taught, check=True)
    assert (found.encoder, found.cosine) == (taught.fingerprint, None)
    whole = taught.encode([content])[0].fused
    without = taught.encode([replace(content, text="jumper", title="jumper")])[0].fused
    assert whole is not None
    assert without is not None
    assert found.parts[0].text == "Red"
    assert found.parts[0].move == pytest.approx(1 - float(whole @ without), abs=1e-4)


def test_the_drawing_is_a_png_and_a_word_is_no_formula(encoder: ProductEncoder, tmp_path: Path) -> None:
    content = product_content(title="$x^2 lamp$ " + "l" * 60, pictures=[in_a_corner(below=True, right=True)])
    widths = []
    for check, what in ((False, content), (True, content), (True, ProductContent("lamp")), (False, content)):
        path = tmp_path / "deep" / "lamp.png"
        draw_explanation(explain(what, encoder, check=check), "A lamp for $5 and $6", path)
        with Image.open(path) as image:
            widths.append(image.size[0])
            assert image.format == "PNG"
    assert widths[2] < widths[0] == widths[3] < widths[1]  # no map, weights, weights and moves


# --- where the product is ----------------------------------------------------------------------------------------


def test_a_products_line_is_folded_with_what_follows(shop: Path) -> None:
    fields = fields_from_catalog("lamp", shop / "catalog.jsonl")
    assert (fields["title"], fields["brand"], fields["image_links"]) == ("Old lamp", "Nord", ["lamp.png"])
    with (shop / "catalog.jsonl").open("a") as file:
        file.write('\n{"op": "delete", "product_id": "lamp"}\n')
    with pytest.raises(NoSuchProduct, match="has no product 'lamp': name another, or another file"):
        fields_from_catalog("lamp", shop / "catalog.jsonl")


@pytest.mark.parametrize("line", ['{"op": "upsert", "product_id": "lamp"}', "no JSON", '{"product_id": "lamp"}'])
def test_a_line_that_is_no_product_is_named(shop: Path, line: str) -> None:
    with (shop / "catalog.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadEvent, match=r"catalog\.jsonl, line 4: "):
        fields_from_catalog("lamp", shop / "catalog.jsonl")


def write_row(home: Path, row: ProductRow) -> None:
    engine = open_database(None, home, "products", "")
    ProductStore(engine).write([row])
    engine.dispose()


def test_a_product_of_the_shop_is_read_from_its_database(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, device="cpu")
    with pytest.raises(NoSuchProduct, match="there is no shop in"):
        fields_from_shop("lamp", settings)
    assert not (tmp_path / "products.db").exists()  # asking makes none
    upsert = parse(ProductUpsert, json.dumps(LAMP).encode())
    row = updated(unknown("lamp", 1.0), upsert, 1.0)
    write_row(tmp_path, ProductRow(**{**as_dict(row), "revision": 1, "content_revision": 1}))
    assert fields_from_shop("lamp", settings)["title"] == "Brass teapots lamp"
    with pytest.raises(NoSuchProduct, match="'pan' is not in the shop: publish it"):
        fields_from_shop("pan", settings)
    write_row(tmp_path, ProductRow("lamp", {}, 2, "", 1, created_at=1.0, changed_at=2.0, deleted=True))
    with pytest.raises(NoSuchProduct, match="'lamp' was deleted from the shop"):
        fields_from_shop("lamp", settings)


def as_dict(row: ProductRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ProductRow.__dataclass_fields__}


# --- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_tables_and_writes_a_heat_map(freshet: Freshet, shop: Path) -> None:
    done = freshet("lamp", "--catalog", str(shop / "catalog.jsonl"), "--check", "--out", "lamp.png")
    assert done.exit_code == 0, done.output
    for part in (
        "lamp: Old lamp",
        "7 x 7 places",
        "1 - cosine without",
        "headline",
        "rank correlation",
        "the heat map is lamp.png",
    ):
        assert part in done.output
    with Image.open(shop / "lamp.png") as image:
        assert image.format == "PNG"


def test_the_commands_json_holds_all_of_it_and_a_missing_picture_is_told(freshet: Freshet, shop: Path) -> None:
    arguments = ("--catalog", str(shop / "catalog.jsonl"), "--json", "--score", "dot")
    made = json.loads(freshet("lamp", *arguments).stdout)
    assert made["score"] == "dot"
    for part, plural in (("weight", "weights"), ("contribution", "contributions")):
        assert np.array(made["places"][plural]).shape == (1, 7, 7)
        assert np.sum(made["places"][plural]) == pytest.approx(made["modalities"]["image"][part])
        words = sum(each[part] for each in made["parts"] if each["where"] != "facts")
        assert words == pytest.approx(made["modalities"]["text"][part])
    unknown_yet = {"weight": None, "contribution": None}
    assert (made["places"]["moves"], made["rank_correlation"]) == (None, {"places": unknown_yet, "parts": unknown_yet})
    without = freshet("no-picture", *arguments)
    assert "without its picture: 'nowhere.png' is not below pictures_root" in without.stderr
    assert json.loads(without.stdout)["modalities"]["image"] == {"weight": 0, "contribution": 0}


def test_a_product_of_the_shop_is_explained_by_the_version_that_serves(freshet: Freshet, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", device="cpu")
    upsert = parse(ProductUpsert, json.dumps({**LAMP, "image_links": []}).encode())
    row = updated(unknown("lamp", 1.0), upsert, 1.0)
    write_row(settings.home, ProductRow(**{**as_dict(row), "revision": 1, "content_revision": 1}))
    in_shop = {"FRESHET_HOME": str(settings.home)}
    untrained, taught = Version(settings.image_encoder, settings.text_encoder), write_taught(tmp_path / "taught")
    assert json.loads(freshet("lamp", "--json", **in_shop).stdout)["encoder"] == untrained.fingerprint

    put_version(settings, tmp_path / "taught", taught.fingerprint)
    engine = open_database(None, settings.home, "products", "")
    encoders = EncoderStore(engine)
    sources = {"image": taught.image_source, "text": taught.text_source}
    encoders.add(EncoderRow(taught.fingerprint, sources, taught.widths, has_files=True))
    encoders.fill(taught.fingerprint)
    encoders.switch(taught.fingerprint)
    engine.dispose()
    assert json.loads(freshet("lamp", "--json", **in_shop).stdout)["encoder"] == taught.fingerprint


def test_the_command_says_what_is_wrong_before_it_loads_anything(
    freshet: Freshet, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = ("--catalog", str(shop / "catalog.jsonl"))
    assert "has no product 'pan'" in freshet("pan", *catalog).stderr
    assert "there is no shop in" in freshet("lamp", FRESHET_HOME=str(shop / "home")).stderr
    assert freshet("lamp", "--catalog", "nowhere.jsonl").exit_code == 1
    assert "`freshet train` makes a version's folder" in freshet("lamp", *catalog, "--encoder", str(shop)).stderr
    wrong = freshet("lamp", *catalog, "--out", "lamp.jpg")
    assert (wrong.exit_code, "the heat map is a PNG, name it so" in wrong.output) == (2, True)
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else known(name))
    absent = freshet("lamp", *catalog, "--out", "lamp.png")
    assert (absent.exit_code, "pip install '.[evaluate]' in Freshet's folder" in absent.stderr) == (1, True)


def test_the_command_offers_every_score_that_needs_no_teaching() -> None:
    from streams import cli_explain

    offered = get_args(get_args(cli_explain.explain.__annotations__["score"])[0])
    assert offered == tuple(score for score in SCORES if score != "learned")
