"""A folder of products with what is known of them besides: their kind and colour, to judge encoders by.

The labels are not among what an encoder reads, but where the folder says so. A shop's own catalog.jsonl has none
besides: its kinds are the last categories, which encoders read.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

import orjson

from streams.csv_rows import read_csv
from streams.events import BadEvent, ProductUpsert
from streams.imports import MISSING
from streams.parsing import parse

PARTS = ("file", "id", "title", "description", "brand", "category", "attributes", "image", "type", "colour")
CATALOG = "catalog.jsonl"  # a shop's own, each line a value of catalog-updates
COLOUR_NAMES = ("colour", "color", "basecolour", "basecolor")
KNOWN = {  # by the file that a folder is recognised by
    "styles.csv": {
        "id": "id",
        "title": "productDisplayName",
        "category": "masterCategory+subCategory",
        "attributes": "gender+baseColour+season+year+usage",
        "image": "images/{id}.jpg",
        "type": "articleType",
        "colour": "baseColour",
    },
    "products.jsonl": {
        "id": "product_id",
        "title": "title",
        "description": "description",
        "category": "department",
        "image": "{image}",
        "type": "category",
    },
}


class NotLabelled(ValueError):
    """The folder or the columns cannot be read; str() says what is needed."""


@dataclass(frozen=True)
class Labelled:
    """P products in the file's order; a label is "" where it is not known."""

    products: list[ProductUpsert] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    colours: list[str] = field(default_factory=list)
    skipped: int = 0
    first_problem: str | None = None


def pictures_of(folder: Path, pictures_root: Path | None) -> Path:
    """Where paths of the folder's pictures begin: beside its file, but for a shop's own catalogue, whose links mean to
    the stream what the setting says."""
    return pictures_root if pictures_root is not None and (folder / CATALOG).is_file() else folder


def read_columns(text: str) -> dict[str, str]:
    """Which column is what, from id=sku,title=name,image=img/{sku}.jpg,category=a+b. Raises NotLabelled."""
    columns = {}
    for pair in filter(None, text.split(",")):
        part, _, column = (side.strip() for side in pair.partition("="))
        if part not in PARTS or not column:
            raise NotLabelled(f"{pair!r}: write PART=COLUMN with a part of {', '.join(PARTS)}")
        columns[part] = column
    return columns


def read_labelled(folder: Path, columns: Mapping[str, str]) -> Labelled:
    """The products of a CSV or JSON lines file in the folder.

    columns  by PARTS; several columns of category and attributes are joined by +, image is a path with {column}s in
             it; what is left out is as in a folder that is known, if it is one of those

    Rows that are no product, and ids that come again, are skipped and counted. Raises NotLabelled.
    """
    name = columns.get("file") or next((known for known in (CATALOG, *KNOWN) if (folder / known).is_file()), None)
    if name is None or not (folder / name).is_file():
        known_names = " or ".join([CATALOG, *KNOWN])
        raise NotLabelled(f"{folder} has no {name or known_names}: name its file with --columns file=NAME")
    taken = {**KNOWN.get(name, {}), **columns}
    is_catalog = name == CATALOG and not columns.keys() - {"file"}
    if not is_catalog and (missing := [part for part in ("id", "title") if part not in taken]):
        raise NotLabelled(f"{folder / name}: name the columns of {', '.join(missing)}, as in --columns title=name")
    _check_image(taken.get("image", ""))
    found, seen = Labelled(), set()
    skipped, first_problem = 0, None
    for number, row in enumerate(_rows(folder / name), 1):
        try:
            product = parse(ProductUpsert, orjson.dumps(row if is_catalog else _upsert(row, taken)))
            if product.product_id in seen:
                raise BadEvent(f"the id {product.product_id!r} came before")
            if is_catalog:
                type_, colour = _own_labels(product)
            else:
                type_, colour = (_value(row, taken[part]) if part in taken else "" for part in ("type", "colour"))
        except (BadEvent, KeyError) as error:
            if isinstance(error, KeyError) and number == 1:
                raise NotLabelled(f"{folder / name} has no column {error}: it has {', '.join(row)}") from error
            skipped, first_problem = skipped + 1, first_problem or f"row {number}: {error}"
            continue
        seen.add(product.product_id)
        found.products.append(product)
        found.types.append(type_)
        found.colours.append(colour)
    if not found.products:
        raise NotLabelled(f"{folder / name} has no product ({first_problem or 'it is empty'})")
    return Labelled(found.products, found.types, found.colours, skipped, first_problem)


def _own_labels(product: ProductUpsert) -> tuple[str, str]:
    """Kind and colour as the shop's own catalogue has them: the last category, and an attribute of that name."""
    named = {name.casefold(): value for name, value in product.attributes.items()}
    colours = (named[name] for name in COLOUR_NAMES if name in named)
    return (product.category[-1] if product.category else "", next(colours, ""))


def _check_image(template: str) -> None:
    """Raises NotLabelled unless every {} of the template holds a column."""
    try:
        columns = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError:
        columns = [""]
    if "" in columns:
        raise NotLabelled(f"image={template}: write a path with a column in each pair of braces, as images/{{id}}.jpg")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix in (".jsonl", ".ndjson"):
                for line in filter(str.strip, file):
                    row = orjson.loads(line)
                    yield row if isinstance(row, dict) else {}
            else:
                yield from read_csv(file, delimiter="\t" if path.suffix == ".tsv" else ",")[1]
    except (OSError, UnicodeDecodeError, orjson.JSONDecodeError, csv.Error) as error:
        raise NotLabelled(f"{path} cannot be read: {error}") from error


def _upsert(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """A catalog-updates value. Raises KeyError for a column that is not there."""
    several = {part: columns[part].split("+") for part in ("category", "attributes") if part in columns}
    category = [text for name in several.get("category", ()) if (text := _value(row, name))]
    attributes = {name: text for name in several.get("attributes", ()) if (text := _value(row, name))}
    image = columns.get("image", "")
    return {
        "op": "upsert",
        "product_id": _value(row, columns["id"]),
        "title": _value(row, columns["title"]),
        "description": _value(row, columns["description"]) if "description" in columns else "",
        "brand": (_value(row, columns["brand"]) or None) if "brand" in columns else None,
        "category": category,
        "attributes": attributes,
        "image_links": [image.format_map(row)] if image else [],
    }


def _value(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    return "" if value is None or str(value).strip() in MISSING else str(value).strip()
