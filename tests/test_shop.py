"""The built-in shop: its lines keep the contract, and its pictures are what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from streams.drawings import BACKGROUND, COLOURS, PATTERNS, SIZE, draw_product
from streams.events import ProductUpsert
from streams.parsing import parse_catalog_update
from streams.shop import KINDS, LOOKS, MOST_PRODUCTS, draw_shop
from streams.silhouettes import SILHOUETTES


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    assert draw_shop(folder, products=60) == folder / "catalog.jsonl"
    return folder


def products_of(folder: Path) -> list[ProductUpsert]:
    products = []
    for line in (folder / "catalog.jsonl").read_bytes().splitlines():
        update = parse_catalog_update(json.loads(line)["product_id"].encode(), line)
        assert isinstance(update, ProductUpsert)
        products.append(update)
    return products


def pixels(kind: str, colour: str, pattern: str) -> NDArray[np.int64]:
    return np.array(draw_product(kind, colour, pattern), dtype=np.int64)


def covered(kind: str) -> NDArray[np.bool_]:
    """Where a green product of the kind differs from the wall clearly."""
    away: NDArray[np.int64] = np.abs(pixels(kind, "green", "plain") - BACKGROUND).max(axis=2)
    return away > 60


def test_every_line_is_a_product_that_the_contract_accepts_without_unknown_fields(shop: Path) -> None:
    products = products_of(shop)
    assert len(products) == 60
    for product in products:
        assert not product.model_extra
        assert product.price is not None
        assert product.price.currency == "EUR"
        assert product.brand is not None
        assert product.title.startswith(product.brand)
        assert product.attributes["colour"] in product.title
        assert product.attributes["material"] in product.description


def test_ids_and_titles_are_unique_and_each_has_its_picture(shop: Path) -> None:
    products = products_of(shop)
    assert len({product.product_id for product in products}) == len({product.title for product in products}) == 60
    for product in products:
        with Image.open(shop / product.image_links[0]) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (SIZE, SIZE))


def test_the_same_seed_gives_the_same_bytes_and_another_one_another_shop(shop: Path, tmp_path: Path) -> None:
    draw_shop(tmp_path / "again", products=60)
    files = sorted(path.relative_to(shop) for path in shop.rglob("*") if path.is_file())
    assert len(files) == 61
    assert all((tmp_path / "again" / file).read_bytes() == (shop / file).read_bytes() for file in files)
    other = draw_shop(tmp_path / "other", products=60, seed=1)
    assert other.read_bytes() != (shop / "catalog.jsonl").read_bytes()


def test_the_first_products_all_look_different_and_no_title_comes_twice_in_the_largest_shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blank = Image.new("RGB", (1, 1))
    monkeypatch.setattr("streams.shop.draw_product", lambda *_: blank)  # the words are tested here, not the pictures
    draw_shop(tmp_path, products=MOST_PRODUCTS)
    products = products_of(tmp_path)
    assert len({product.product_id for product in products}) == MOST_PRODUCTS
    looks = [(p.category[1], p.attributes["colour"], p.attributes["pattern"]) for p in products[:LOOKS]]
    assert len(set(looks)) == LOOKS


def test_every_kind_has_its_own_silhouette() -> None:
    assert {kind.name for kind in KINDS} == SILHOUETTES.keys()
    shapes = {kind: covered(kind) for kind in SILHOUETTES}
    for one, shape in shapes.items():
        assert 0.05 < shape.mean() < 0.6, one
        for other, against in shapes.items():
            overlap = (shape & against).sum() / (shape | against).sum()
            assert one == other or overlap < 0.93, (one, other)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_plain_picture_shows_its_colour(colour: str) -> None:
    chest = pixels("T-shirt", colour, "plain")[80:110, 70:100].mean(axis=(0, 1))
    assert min(COLOURS, key=lambda name: float(np.abs(chest - COLOURS[name]).sum())) == colour


def test_patterns_run_as_they_say() -> None:
    chest = {p: pixels("T-shirt", "navy", p)[80:140, 70:120].mean(axis=2) for p in PATTERNS}
    along, across = ({p: float(c.mean(axis=axis).std()) for p, c in chest.items()} for axis in (0, 1))
    assert along["plain"] < 6
    assert across["plain"] < 6
    assert across["striped"] > 40 > 6 > along["striped"]  # horizontal stripes: rows differ, columns do not
    assert along["checked"] > 20
    assert across["checked"] > 20
    assert 0.05 < (chest["dotted"] > 150).mean() < 0.4


@pytest.mark.parametrize("products", [0, MOST_PRODUCTS + 1])
def test_a_shop_that_cannot_be_drawn_is_refused_with_the_limit(products: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{products} products: the built-in shop can draw 1 to {MOST_PRODUCTS}"):
        draw_shop(tmp_path, products=products)


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="no pattern 'tartan': there are plain"):
        draw_product("dress", "red", "tartan")
