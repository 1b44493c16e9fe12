"""Real shops' folders to JSON lines: catalog.jsonl and, where there are any, clicks.jsonl.

Each line is exactly a topic's value; the key is its product_id or user_id. Rows that the contract refuses are skipped
and counted. Pictures are not copied: image_links are relative to the shop's folder, which is among the settings that an
import tells to make.
"""

import csv
import gzip
import os
import shlex
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from streams.csv_rows import read_csv
from streams.events import BadEvent, CatalogUpdate, ProductUpsert, UserClick
from streams.parsing import parse

Progress = Callable[[str, int], None]
"""Called with the name of the file being written and its lines so far, every PROGRESS_EVERY rows and at its end."""

PROGRESS_EVERY = 1_000
ON_THE_WEB = ("http://", "https://")  # any other link is read below the pictures' root
MISSING = frozenset({"", "''", "NA"})
FASHION_COLUMNS = (
    *("id", "gender", "masterCategory", "subCategory", "articleType"),
    *("baseColour", "season", "year", "usage", "productDisplayName"),
)
RETAIL_COLUMNS = ("user_id", "title", "quantity", "unit_price", "occurred_at")
HOLDS = {  # the first word is the file that a folder is recognised by
    "freshet": "catalog.jsonl (each line a catalog-updates value) and, where there are any, clicks.jsonl",
    "fashion": f"styles.csv ({', '.join(FASHION_COLUMNS)}) and images/<id>.jpg",
    "online-retail": f"purchases.csv.gz ({', '.join(RETAIL_COLUMNS)})",
    "grocery": "products.jsonl (product_id, title, category, department, description, image) and images",
}


class NotAShop(ValueError):
    """The folder is not what the importer reads; str() says what it should hold."""


class ToSet(NamedTuple):
    """A setting that a shop wants to be other than its default."""

    why: str  # "To have ..."
    line: str  # for a shell


@dataclass(frozen=True)
class Imported:
    """What an import wrote; first_problem is why the first of the skipped rows was refused."""

    products: int
    clicks: int
    skipped: int
    first_problem: str | None
    settings: tuple[ToSet, ...] = ()


# All lines of an invoice have one time, and one of 542 lines is the longest. By default 7.9 % of the 791,044 purchases
# are beyond the learned ones of a minute.
RETAIL_SETTINGS = (
    ToSet(
        "To have long invoices learned whole (each of their lines has the same time)",
        "export FRESHET_LEARN_CLICKS_PER_MINUTE=1000",
    ),
    ToSet("To have lists made for purchases of 2009 to 2011", "export FRESHET_LIST_MAX_AGE_S=null"),
)


def import_shop(folder: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Import the folder by what it holds. Raises NotAShop that names every kind if it is none of them."""
    for name, importer in IMPORTERS.items():
        if (folder / HOLDS[name].split()[0]).is_file():
            return importer(folder, out, progress)
    known = "; ".join(f"{name}: {holds}" for name, holds in HOLDS.items())
    raise NotAShop(f"{folder} is not a shop's folder that Freshet knows. It should hold one of: {known}")


def import_fashion(folder: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Products of "Fashion Product Images (Small)". Brand and price are unknown there. Raises NotAShop."""
    rows = _csv_rows(_source(folder, "fashion"), FASHION_COLUMNS, holds=HOLDS["fashion"])
    return _write_shop(folder, out, map(_fashion_product, rows), (), progress)


def import_online_retail(folder: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Purchases, and the products in them: the title is the id, the price is that of the latest row. Raises NotAShop.

    The times have no zone in the source and are taken as UTC.
    """
    path = _source(folder, "online-retail")
    prices: dict[str, float | None] = {}

    def clicks() -> Iterator[dict[str, Any]]:
        rows = _csv_rows(path, RETAIL_COLUMNS, holds=HOLDS["online-retail"])
        for number, row in enumerate(rows):
            title = row["title"] or ""
            amount = _amount(row["unit_price"])
            prices[title] = prices.get(title) if amount is None else amount
            yield {
                "event_id": f"online-retail-{number}",
                "user_id": row["user_id"],
                "product_id": title,
                "event": "purchase",
                "occurred_at": f"{row['occurred_at']}Z".replace(" ", "T"),
            }

    def products() -> Iterator[dict[str, Any]]:
        for title, amount in prices.items():
            price = None if amount is None else {"amount": amount, "currency": "GBP"}
            yield {"op": "upsert", "product_id": title, "title": title, "price": price}

    imported = _write_shop(folder, out, products(), clicks(), progress)
    return replace(imported, settings=imported.settings + RETAIL_SETTINGS)


def import_grocery(folder: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Products of the Grocery Store Dataset, described in words. Raises NotAShop."""
    return _write_shop(folder, out, map(_grocery_product, _lines(_source(folder, "grocery"))), (), progress)


def import_ready(folder: Path, out: Path, progress: Progress | None = None) -> Imported:
    """Copy the lines that the contracts accept. Raises NotAShop if there is no catalogue, or out is the folder."""
    catalog, clicks = _source(folder, "freshet"), folder / "clicks.jsonl"
    if out.resolve() == folder.resolve():
        raise NotAShop(f"{folder} holds catalog.jsonl already: name another folder to write to")
    return _write_shop(folder, out, _lines(catalog), _lines(clicks) if clicks.is_file() else (), progress)


IMPORTERS: dict[str, Callable[[Path, Path, Progress | None], Imported]] = {
    "freshet": import_ready,
    "fashion": import_fashion,
    "online-retail": import_online_retail,
    "grocery": import_grocery,
}


# --- rows to values ----------------------------------------------------------------------------------------------


def _fashion_product(row: dict[str, str | None]) -> dict[str, Any]:
    facts = {name: value for name, value in row.items() if value is not None and value not in MISSING}
    # articleType stays out: with it in the words, encoders could not be judged by whether they find it.
    path = [facts[level] for level in ("masterCategory", "subCategory") if level in facts]
    attributes = {name: facts[name] for name in ("gender", "baseColour", "season", "year", "usage") if name in facts}
    return {
        "op": "upsert",
        "product_id": facts.get("id", ""),
        "title": facts.get("productDisplayName", ""),
        "category": path,
        "attributes": attributes,
        "image_links": [f"images/{facts.get('id', '')}.jpg"],
    }


def _grocery_product(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = {}  # the contract refuses it for its missing id
    facts = row if isinstance(row, dict) else {}
    return {
        "op": "upsert",
        "product_id": facts.get("product_id"),
        "title": facts.get("title"),
        "description": facts.get("description") or "",
        "category": [facts[level] for level in ("department", "category") if facts.get(level)],
        "image_links": [facts["image"]] if facts.get("image") else [],
    }


def _amount(text: str | None) -> float | None:
    """The price, or None if there is no usable one: a product without a price is better than none."""
    try:
        amount = float(text or "")
    except ValueError:
        return None
    return amount if 0 <= amount <= 1e12 else None


# --- reading -----------------------------------------------------------------------------------------------------


def _source(folder: Path, kind: str) -> Path:
    path = folder / HOLDS[kind].split()[0]
    if not path.is_file():
        raise NotAShop(f"there is no {path}: a folder of the kind {kind} should hold {HOLDS[kind]}")
    return path


def _csv_rows(path: Path, columns: tuple[str, ...], *, holds: str) -> Iterator[dict[str, str | None]]:
    """As read_csv. Raises NotAShop."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            header, rows = read_csv(file)
            if missing := [column for column in columns if column not in header]:
                raise NotAShop(f"{path} lacks the columns {', '.join(missing)}: the folder should hold {holds}")
            yield from rows
    except (csv.Error, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise NotAShop(f"{path} cannot be read ({error}): the folder should hold {holds}") from error


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from filter(None, map(bytes.strip, file))


# --- writing -----------------------------------------------------------------------------------------------------


class _Lines:
    """Writes what a contract accepts to a file that appears when it is complete, and counts."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.skipped = 0
        self.first_problem: str | None = None
        self.pictures_are_files = False  # at least one

    def write(self, path: Path, contract: Any, values: Iterable[dict[str, Any] | bytes]) -> int:
        """How many lines path has."""
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                written = self._copy(values, contract, file, path.name)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        if self.progress:
            self.progress(path.name, written)
        return written

    def _copy(self, values: Iterable[dict[str, Any] | bytes], contract: Any, file: BinaryIO, name: str) -> int:
        written = 0
        for number, value in enumerate(values, 1):
            line = value if isinstance(value, bytes) else orjson.dumps(value)
            try:
                event = parse(contract, line)
            except BadEvent as error:
                self.skipped += 1
                self.first_problem = self.first_problem or f"row {number} for {name}: {error}"
            else:
                file.write(line + b"\n")
                written += 1
                if isinstance(event, ProductUpsert):
                    self.pictures_are_files |= any(
                        not link.lower().startswith(ON_THE_WEB) for link in event.image_links
                    )
            if self.progress and number % PROGRESS_EVERY == 0:
                self.progress(name, written)
        return written


def _write_shop(
    folder: Path,
    out: Path,
    products: Iterable[dict[str, Any] | bytes],
    clicks: Iterable[dict[str, Any] | bytes],
    progress: Progress | None,
) -> Imported:
    """Clicks first: a shop's products may only be known after them. Without any click there is no clicks.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    lines = _Lines(progress)
    clicks_path = out / "clicks.jsonl"
    clicks_written = lines.write(clicks_path, UserClick, clicks)
    if not clicks_written:
        clicks_path.unlink()
    products_written = lines.write(out / "catalog.jsonl", CatalogUpdate, products)
    if not products_written:
        raise NotAShop(f"nothing to sell: no row is a product ({lines.first_problem or 'there are no rows'})")
    root = f"export FRESHET_PICTURES_ROOT={shlex.quote(str(folder.resolve()))}"
    settings = (ToSet("To have the pictures read", root),) if lines.pictures_are_files else ()
    return Imported(products_written, clicks_written, lines.skipped, lines.first_problem, settings)
