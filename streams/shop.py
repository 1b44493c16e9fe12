"""The built-in shop: drawn products with words, brands and prices, to try everything without a real shop."""

import re
from collections.abc import Iterator
from itertools import product as every
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson

from streams.drawings import COLOURS, PATTERNS, draw_product


class Kind(NamedTuple):
    """What the products of a kind share."""

    name: str  # a key of streams.silhouettes.SILHOUETTES
    category: tuple[str, str]
    price: float  # EUR, of a brand at the middle level
    materials: tuple[str, ...]
    uses: tuple[str, ...]
    brands: tuple[str, ...]


CLOTHES = ("Tidewear", "Quillon", "Fernhow", "Marlowe & Tam")
CARRIED = ("Marlowe & Tam", "Pedalier", "Oakstead")
LIT = ("Oakstead", "Lumiska", "Northvale")
BRAND_LEVELS = {  # how dear a brand is beside the others
    "Tidewear": 0.8,
    "Quillon": 1.5,
    "Fernhow": 1.0,
    "Marlowe & Tam": 1.3,
    "Pedalier": 0.9,
    "Oakstead": 1.1,
    "Lumiska": 1.4,
    "Northvale": 0.8,
}
KINDS = (
    Kind("T-shirt", ("Clothing", "T-shirts"), 22, ("cotton", "linen"), ("warm days", "the weekend"), CLOTHES),
    Kind("jumper", ("Clothing", "Jumpers"), 55, ("lambswool", "cotton"), ("cool evenings", "the office"), CLOTHES),
    Kind("hoodie", ("Clothing", "Hoodies"), 48, ("cotton fleece", "jersey"), ("training", "lazy Sundays"), CLOTHES),
    Kind("dress", ("Clothing", "Dresses"), 65, ("viscose", "linen"), ("summer parties", "the office"), CLOTHES),
    Kind("trousers", ("Clothing", "Trousers"), 58, ("cotton twill", "denim"), ("every day", "the office"), CLOTHES),
    Kind("shorts", ("Clothing", "Shorts"), 32, ("cotton", "nylon"), ("the beach", "running"), CLOTHES),
    Kind("tote bag", ("Bags", "Tote bags"), 36, ("canvas", "leather"), ("the market", "the beach"), CARRIED),
    Kind("backpack", ("Bags", "Backpacks"), 62, ("nylon", "waxed canvas"), ("hiking", "the way to work"), CARRIED),
    Kind("trainers", ("Shoes", "Trainers"), 75, ("mesh", "suede"), ("running", "city walks"), (*CARRIED, "Quillon")),
    Kind("boots", ("Shoes", "Boots"), 110, ("leather", "suede"), ("rainy days", "hiking"), (*CARRIED, "Quillon")),
    Kind("table lamp", ("Lamps", "Table lamps"), 45, ("linen", "cotton"), ("the bedside", "reading"), LIT),
    Kind("floor lamp", ("Lamps", "Floor lamps"), 95, ("linen", "paper"), ("the living room", "reading"), LIT),
)
LOOKS = len(KINDS) * len(COLOURS) * len(PATTERNS)
MOST_PRODUCTS = LOOKS * min(len(kind.brands) for kind in KINDS)


def draw_shop(folder: Path, products: int = 300, seed: int = 0) -> Path:
    """Write folder/catalog.jsonl, each line a `catalog-updates` value, and folder/pictures; return the former.

    products  1 to MOST_PRODUCTS; the first LOOKS of them differ in kind, colour or pattern
    seed      the same seed gives the same bytes

    image_links are relative to folder: set FRESHET_PICTURES_ROOT to it. Raises ValueError if products is out of range.
    """
    if not 1 <= products <= MOST_PRODUCTS:
        raise ValueError(f"{products} products: the built-in shop can draw 1 to {MOST_PRODUCTS}")
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    catalog = folder / "catalog.jsonl"
    with catalog.open("wb") as lines:
        for kind, colour, pattern, upsert in _products(products, np.random.default_rng(seed)):
            lines.write(orjson.dumps(upsert) + b"\n")
            picture = draw_product(kind.name, colour, pattern)
            picture.save(folder / upsert["image_links"][0], compress_level=3)
    return catalog


def _products(products: int, chance: np.random.Generator) -> Iterator[tuple[Kind, str, str, dict[str, Any]]]:
    """Each look once, in random order, then again by the next brand."""
    looks = list(every(KINDS, COLOURS, PATTERNS))
    order = chance.permutation(LOOKS)
    first_brand = chance.integers(0, 12, LOOKS)
    for n in range(products):
        kind, colour, pattern = looks[order[n % LOOKS]]
        brand = kind.brands[(int(first_brand[n % LOOKS]) + n // LOOKS) % len(kind.brands)]
        material, use = str(chance.choice(kind.materials)), str(chance.choice(kind.uses))
        price = round(kind.price * BRAND_LEVELS[brand] * chance.uniform(0.85, 1.2)) - 0.05
        yield kind, colour, pattern, _upsert(kind, colour, pattern, brand, material, use, price)


def _upsert(kind: Kind, colour: str, pattern: str, brand: str, material: str, use: str, price: float) -> dict[str, Any]:
    look = f"{colour} {kind.name}" if pattern == "plain" else f"{pattern} {colour} {kind.name}"
    title = f"{brand} {look}"
    product_id = re.sub(r"[^a-z0-9]+", "-", title.lower())
    return {
        "op": "upsert",
        "product_id": product_id,
        "title": title,
        "description": f"{look[0].upper()}{look[1:]} of {material}, made for {use}. By {brand}.",
        "brand": brand,
        "category": list(kind.category),
        "price": {"amount": round(price, 2), "currency": "EUR"},
        "availability": "in_stock",
        "image_links": [f"pictures/{product_id}.png"],
        "attributes": {"colour": colour, "pattern": pattern, "material": material, "use": use},
    }
