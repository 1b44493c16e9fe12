"""A product's words and picture, from the shop's own database or from a file of its catalogue."""

import asyncio
from pathlib import Path
from typing import Any

import orjson

from encoders.attributes import price_band
from encoders.product import ProductContent, product_content
from store.products import ProductStore
from streams.catalog_rows import unknown, updated
from streams.databases import database_of, is_there
from streams.events import BadEvent, CatalogUpdate
from streams.parsing import parse
from streams.pictures import Picture, PictureLoader, PictureMissing
from streams.settings import Settings


class NoSuchProduct(LookupError):
    """The product is not there; str() says where it was looked for and what to do."""


def fields_from_shop(product_id: str, settings: Settings) -> dict[str, Any]:
    """The product's fields in the shop's database. Raises NoSuchProduct, StoreUnavailable."""
    folder = settings.home / settings.namespace
    if not is_there(settings, "products"):
        raise NoSuchProduct(f"there is no shop in {folder}: set FRESHET_HOME to where it is, or name a --catalog")
    engine = database_of(settings, "products")
    try:
        row = ProductStore(engine).read([product_id]).get(product_id)
    finally:
        engine.dispose()
    if row is None or row.deleted:
        state = "was deleted from the shop" if row else "is not in the shop"
        raise NoSuchProduct(f"{product_id!r} {state}: publish it, or name a --catalog that has it")
    return row.fields


def fields_from_catalog(product_id: str, catalog: Path) -> dict[str, Any]:
    """The product's fields after all updates of the file, JSON lines as they are published.

    Lines of other products are not checked. Raises NoSuchProduct, BadEvent with the line's number, OSError.
    """
    row = unknown(product_id, 0.0)
    with catalog.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = orjson.loads(line)
                if isinstance(value, dict) and value.get("product_id") == product_id:
                    row = updated(row, parse(CatalogUpdate, line), float(number))
            except (orjson.JSONDecodeError, BadEvent) as error:
                raise BadEvent(f"{catalog}, line {number}: {error}") from error
    if row.deleted:
        raise NoSuchProduct(f"{catalog} has no product {product_id!r}: name another, or another file")
    return row.fields


def content_of(
    fields: dict[str, Any], settings: Settings, pictures_root: Path | None
) -> tuple[ProductContent, PictureMissing | None]:
    """What an encoder reads of the product, and why it has no picture, where it links to some.

    pictures_root  of links that are paths, where the settings name none
    """
    loaded = asyncio.run(_pictures(fields["image_links"], settings, settings.pictures_root or pictures_root))
    content = product_content(
        title=fields["title"],
        brand=fields["brand"],
        category=fields["category"],
        attributes=fields["attributes"],
        description=fields["description"],
        price_band=price_band(fields["price"]["amount"] if fields.get("price") else None),
        pictures=[picture.array for picture in loaded] if isinstance(loaded, tuple) else (),
    )
    return content, loaded if isinstance(loaded, PictureMissing) else None


async def _pictures(
    links: list[str], settings: Settings, root: Path | None
) -> tuple[Picture, ...] | PictureMissing | None:
    loader = PictureLoader(
        pictures_root=root,
        pictures_allow_private=settings.pictures_allow_private,
        picture_max_bytes=settings.picture_max_bytes,
        picture_max_pixels=settings.picture_max_pixels,
        picture_timeout_s=settings.picture_timeout_s,
        pictures_per_product=settings.pictures_per_product,
    )
    async with loader:
        return (await loader.load_pictures([links]))[0]
