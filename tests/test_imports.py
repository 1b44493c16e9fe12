"""Real shops' folders become lines that the contracts accept; what is not such a folder is refused with advice."""

import gzip
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams.imports import (
    FASHION_COLUMNS,
    RETAIL_SETTINGS,
    Imported,
    NotAShop,
    ToSet,
    import_fashion,
    import_grocery,
    import_online_retail,
    import_ready,
    import_shop,
)
from streams.parsing import parse_catalog_update, parse_click
from streams.settings import load_settings

HEADER = ",".join(FASHION_COLUMNS)
BACKPACK = "7,Unisex,Accessories,Bags,Backpacks,Black,Fall,2010,Sports,Trail Backpack Black"


def lines(path: Path) -> list[dict[str, Any]]:
    """The values, each checked as its topic's reader does."""
    values = []
    for line in path.read_bytes().splitlines():
        value = json.loads(line)
        if path.name == "clicks.jsonl":
            parse_click(value["user_id"].encode(), line, future_limit_s=300)
        else:
            assert not parse_catalog_update(value["product_id"].encode(), line).model_extra
        values.append(value)
    return values


def pictures_below(folder: Path) -> tuple[ToSet, ...]:
    return (ToSet("To have the pictures read", f"export FRESHET_PICTURES_ROOT={folder}"),)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


def fashion(shop: Path, *rows: str) -> Path:
    (shop / "styles.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return shop


def retail(shop: Path, *rows: str) -> Path:
    with gzip.open(shop / "purchases.csv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(["user_id,title,quantity,unit_price,occurred_at", *rows]) + "\n")
    return shop


def test_a_fashion_row_becomes_the_product_worked_out_by_hand(shop: Path, tmp_path: Path) -> None:
    assert import_fashion(fashion(shop, BACKPACK), tmp_path) == Imported(1, 0, 0, None, pictures_below(shop))
    assert lines(tmp_path / "catalog.jsonl") == [
        {
            "op": "upsert",
            "product_id": "7",
            "title": "Trail Backpack Black",
            "category": ["Accessories", "Bags"],  # articleType stays out of the words
            "attributes": {
                "gender": "Unisex",
                "baseColour": "Black",
                "season": "Fall",
                "year": "2010",
                "usage": "Sports",
            },
            "image_links": ["images/7.jpg"],
        }
    ]
    assert not (tmp_path / "clicks.jsonl").exists()


def test_missing_values_of_a_fashion_row_are_left_out_and_commas_of_a_title_stay(shop: Path, tmp_path: Path) -> None:
    import_fashion(fashion(shop, "8,Men,Apparel,,Shirts,NA,'',2011,NA,Shirt, blue, long"), tmp_path)
    (product,) = lines(tmp_path / "catalog.jsonl")
    assert product["category"] == ["Apparel"]
    assert product["attributes"] == {"gender": "Men", "year": "2011"}
    assert product["title"] == "Shirt, blue, long"


def test_rows_that_the_contract_refuses_are_skipped_counted_and_explained(shop: Path, tmp_path: Path) -> None:
    short, nameless = "9,Men", "10,Men,Apparel,Topwear,Shirts,Blue,Fall,2011,Casual,"
    imported = import_fashion(fashion(shop, BACKPACK, short, nameless), tmp_path)
    assert (imported.products, imported.skipped) == (1, 2)
    assert imported.first_problem is not None
    assert imported.first_problem.startswith("row 2 for catalog.jsonl: upsert.title")


def test_purchases_become_clicks_and_products_with_their_latest_price(shop: Path, tmp_path: Path) -> None:
    rows = (
        "13085,PINK LIGHTS,12,6.75,2009-12-01 07:45:00",
        "13085,TEA SET,1,9.5,2009-12-01 07:46:00",
        "13086,PINK LIGHTS,1,7.95,2010-01-01 00:00:00",
        "13086,TEA SET,1,free,2010-01-01 00:00:00",
    )
    assert import_online_retail(retail(shop, *rows), tmp_path) == Imported(2, 4, 0, None, RETAIL_SETTINGS)
    assert [setting.line for setting in RETAIL_SETTINGS] == [
        "export FRESHET_LEARN_CLICKS_PER_MINUTE=1000",
        "export FRESHET_LIST_MAX_AGE_S=null",
    ]
    products = {product["product_id"]: product for product in lines(tmp_path / "catalog.jsonl")}
    assert products["PINK LIGHTS"]["title"] == "PINK LIGHTS"
    assert products["PINK LIGHTS"]["price"] == {"amount": 7.95, "currency": "GBP"}
    assert products["TEA SET"]["price"] == {"amount": 9.5, "currency": "GBP"}
    clicks = lines(tmp_path / "clicks.jsonl")
    assert clicks[0] == {
        "event_id": "online-retail-0",
        "user_id": "13085",
        "product_id": "PINK LIGHTS",
        "event": "purchase",
        "occurred_at": "2009-12-01T07:45:00Z",
    }
    assert len({click["event_id"] for click in clicks}) == 4


def test_a_purchase_without_a_user_or_a_readable_time_is_skipped(shop: Path, tmp_path: Path) -> None:
    rows = (",CUP,1,1,2010-01-01 00:00:00", "5,CUP,1,1,yesterday", "5,CUP,1,1,2010-01-01 00:00:00")
    imported = import_online_retail(retail(shop, *rows), tmp_path)
    assert (imported.products, imported.clicks, imported.skipped) == (1, 1, 2)
    assert lines(tmp_path / "clicks.jsonl")[0]["event_id"] == "online-retail-2"


def test_a_grocery_line_becomes_a_product_and_what_is_no_product_is_skipped(shop: Path, tmp_path: Path) -> None:
    kiwi = {
        "product_id": "Kiwi",
        "title": "Kiwi",
        "category": "Fruit",
        "department": "Fresh",
        "image": "images/Kiwi.jpg",
    }
    (shop / "products.jsonl").write_text(f'{json.dumps(kiwi)}\n\nnot json\n["list"]\n')
    imported = import_grocery(shop, tmp_path)
    assert (imported.products, imported.skipped) == (1, 2)
    (product,) = lines(tmp_path / "catalog.jsonl")
    assert product["category"] == ["Fresh", "Fruit"]
    assert product["image_links"] == ["images/Kiwi.jpg"]


def test_a_ready_folder_is_copied_line_by_line_without_the_bad_ones(shop: Path, tmp_path: Path) -> None:
    good, gone = '{"op":"upsert","product_id":"a","title":"A"}', '{"op":"delete","product_id":"b"}'
    click = '{"event_id":"1","user_id":"u","product_id":"a","event":"view_item","occurred_at":"2026-01-01T00:00:00Z"}'
    (shop / "catalog.jsonl").write_text(f"{good}\n{{]\n{gone}\n")
    (shop / "clicks.jsonl").write_text(f"{click}\n{click.replace('view_item', 'look')}\n")
    imported = import_shop(shop, tmp_path)
    assert (imported.products, imported.clicks, imported.skipped) == (2, 1, 2)
    assert (tmp_path / "catalog.jsonl").read_text() == f"{good}\n{gone}\n"
    assert (tmp_path / "clicks.jsonl").read_text() == f"{click}\n"


def test_the_pictures_root_is_told_as_the_shell_takes_it_where_a_picture_is_a_file_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "Anna's shop").mkdir()
    monkeypatch.chdir(folder)
    product = {"op": "upsert", "product_id": "a", "title": "A"}

    def settings(*links: str) -> tuple[ToSet, ...]:
        (folder / "catalog.jsonl").write_text(json.dumps(product | {"image_links": links}) + "\n")
        return import_ready(Path(), tmp_path / "out").settings

    assert settings() == settings("https://shop.example/a.jpg", "HTTP://shop.example/b.jpg") == ()
    for links in (["a.jpg"], ["https://shop.example/a.jpg", "file:///pictures/a.jpg"]):
        (setting,) = settings(*links)
        assert setting.line.startswith("export ")
        assert shlex.split(setting.line)[1] == f"FRESHET_PICTURES_ROOT={folder}"


def test_what_an_import_tells_to_set_are_settings(monkeypatch: pytest.MonkeyPatch, shop: Path, tmp_path: Path) -> None:
    for setting in (*RETAIL_SETTINGS, *import_fashion(fashion(shop, BACKPACK), tmp_path).settings):
        monkeypatch.setenv(*shlex.split(setting.line)[1].split("=", 1))
    settings = load_settings()
    assert settings.pictures_root == shop
    assert settings.list_max_age_s is None
    assert settings.learn_clicks_per_minute > 542  # the lines of the longest invoice


def test_progress_names_the_file_and_ends_with_the_count(shop: Path, tmp_path: Path) -> None:
    said: list[tuple[str, int]] = []
    rows = [f"5,CUP {n % 3},1,1,2010-01-01 00:00:00" for n in range(2_500)]
    import_online_retail(retail(shop, *rows), tmp_path, lambda name, count: said.append((name, count)))
    assert said == [("clicks.jsonl", 1_000), ("clicks.jsonl", 2_000), ("clicks.jsonl", 2_500), ("catalog.jsonl", 3)]


@pytest.mark.parametrize(
    ("importer", "missing", "holds"),
    [
        (import_fashion, "styles.csv", r"id, gender, .* and images/<id>.jpg"),
        (import_online_retail, "purchases.csv.gz", "user_id, title, quantity"),
        (import_grocery, "products.jsonl", "product_id, title"),
        (import_ready, "catalog.jsonl", "each line a catalog-updates value"),
    ],
)
def test_a_missing_file_is_named_with_what_the_folder_should_hold(
    importer: Callable[[Path, Path], Imported], missing: str, holds: str, shop: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotAShop, match=rf"there is no .*{missing}: .* should hold {missing} \(?.*{holds}"):
        importer(shop, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_no_known_kind_is_refused_with_all_kinds(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAShop, match=r"not a shop's folder .* catalog.jsonl .* styles.csv .* purchases.csv.gz"):
        import_shop(shop, tmp_path)


def test_a_file_without_the_columns_is_refused_and_leaves_nothing_behind(shop: Path, tmp_path: Path) -> None:
    (shop / "styles.csv").write_text("id,colour\n1,red\n")
    with pytest.raises(NotAShop, match=r"lacks the columns gender, .*productDisplayName"):
        import_shop(shop, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_damaged_archive_is_refused_and_leaves_nothing_behind(shop: Path, tmp_path: Path) -> None:
    whole = (
        retail(shop, *[f"{n},CUP {n},1,1,2010-01-01 00:00:00" for n in range(5_000)]) / "purchases.csv.gz"
    ).read_bytes()
    (shop / "purchases.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NotAShop, match=r"purchases.csv.gz cannot be read \(.*\): the folder should hold"):
        import_shop(shop, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_folder_without_one_usable_product_is_refused_with_the_first_reason(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAShop, match=r"nothing to sell: no row is a product .*row 1 for catalog.jsonl: upsert.title"):
        import_fashion(fashion(shop, "9,Men"), tmp_path)


def test_a_ready_folder_is_not_written_over(shop: Path) -> None:
    (shop / "catalog.jsonl").write_text('{"op":"upsert","product_id":"a","title":"A"}\n')
    with pytest.raises(NotAShop, match="name another folder"):
        import_shop(shop, shop)


@pytest.mark.shared_data
def test_the_real_fashion_folder_is_imported_whole(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shared_data("fashion-5k")
    assert import_shop(folder, tmp_path) == Imported(5_000, 0, 0, None, pictures_below(folder.resolve()))
    products = lines(tmp_path / "catalog.jsonl")
    assert len({product["product_id"] for product in products}) == 5_000
    assert all((folder / product["image_links"][0]).is_file() for product in products)
    assert not any(value in {"", "NA", "''"} for product in products for value in product["attributes"].values())


@pytest.mark.shared_data
def test_real_purchases_are_imported(shared_data: Callable[[str], Path], shop: Path, tmp_path: Path) -> None:
    """The first 20,000 rows; all of them take ten seconds."""
    with gzip.open(shared_data("online-retail") / "purchases.csv.gz", "rb") as file:
        start = b"".join(next(file) for _ in range(20_001))
    (shop / "purchases.csv.gz").write_bytes(gzip.compress(start))
    imported = import_shop(shop, tmp_path)
    assert (imported.clicks, imported.skipped) == (20_000, 0)
    times = [click["occurred_at"] for click in lines(tmp_path / "clicks.jsonl")]
    assert times == sorted(times)
    assert times[0] == "2009-12-01T07:45:00Z"
    assert imported.products == len(lines(tmp_path / "catalog.jsonl")) > 1_000


@pytest.mark.shared_data
def test_the_real_grocery_folder_is_imported_whole(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shared_data("grocery")
    assert import_shop(folder, tmp_path) == Imported(81, 0, 0, None, pictures_below(folder.resolve()))
    assert all((folder / product["image_links"][0]).is_file() for product in lines(tmp_path / "catalog.jsonl"))
