"""A synthetic shelf: records as catalog, encode and learner would publish them, so that nothing need be encoded."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from encoders.neighbours import NEIGHBOURS
from encoders.next_click_training import NextClickModel
from encoders.second_stage import SecondStage
from encoders.trends import HALF_LIVES
from encoders.weights import widths_of
from streams.broker import Outgoing
from streams.events import EncodeRequest, Offer, ProductVectors, pack_vector
from streams.factors import Changes, NeighbourIds, factor_records
from streams.settings import Settings
from streams.topics import TopicNames
from tests.bench.stage import Stage, Tell

CHUNK = 500
CLICKS_OF_A_PRODUCT = 20.0  # mean; one product in ten has none, so that lists are blended with content
NEW_SHARE = 0.1
COLOURS = ("blue", "red", "green", "grey", "black", "white", "brown", "yellow", "striped", "dotted")
MATERIALS = ("linen", "cotton", "leather", "canvas", "paper", "nylon", "wool", "suede", "denim", "glass")
KINDS = ("table lamp", "tote bag", "hoodie", "dress", "backpack", "vase", "shorts", "teapot", "scarf", "stool")


async def publish_shelf(on: Stage, products: int, tell: Tell, *, factors: bool) -> list[str]:
    """The records of such a shelf are confirmed; returns the products' ids."""
    product_ids = ids_of(products)
    for told, records in enumerate(shelf_records(on.settings, on.names, product_ids, factors=factors)):
        tell(f"{min(told * CHUNK, products):,} of {products:,} products are on the shelf")
        await on.publisher.publish(records)
    return product_ids


async def publish_wordy_shelf(on: Stage, products: int, tell: Tell) -> list[str]:
    """The same with words to find them by, vectors of every kind and factors."""
    chance = np.random.default_rng(0)
    widths = widths_of(on.settings.image_encoder, on.settings.text_encoder)
    catalog = words_only(products, "product")
    while some := list(islice(catalog, CHUNK)):
        tell(f"{some[0]['product_id']} of {products:,} is on the shelf")
        records = [_offer(on.names, product["product_id"], product) for product in some]
        for product in some:
            vectors = {name: chance.standard_normal(width, dtype=np.float32) for name, width in widths.items()}
            records.append(_vectors(on.names, product["product_id"], **vectors))
        await on.publisher.publish(records)
    product_ids = ids_of(products)
    await on.publisher.publish(_factors(on.names, product_ids, chance))
    return product_ids


def four_words(number: int) -> str:
    """Three words of such products, one in three misspelled, and one that no product has."""
    colour, kind = COLOURS[number % 10], KINDS[number // 10 % 10].split()[-1]
    material = MATERIALS[number // 100 % 10]
    return f"{colour} {material[1::-1] + material[2:] if number % 3 else material} {kind} q{number}x"


def ids_of(products: int) -> list[str]:
    """The ids of so many products."""
    return [f"product-{number}" for number in range(products)]


def shelf_records(
    settings: Settings, names: TopicNames, product_ids: Sequence[str], *, factors: bool, seed: int = 0
) -> Iterator[list[Outgoing]]:
    """Offers and random fused vectors of these products.

    factors  True: those of a random next-click model and full rows of neighbours, as a learner would publish them
    """
    chance = np.random.default_rng(seed)
    width = widths_of(settings.image_encoder, settings.text_encoder)["fused"]
    for begin in range(0, len(product_ids), CHUNK):
        chunk = product_ids[begin : begin + CHUNK]
        vectors = chance.standard_normal((len(chunk), width), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield [_offer(names, product_id) for product_id in chunk]
        yield [_vectors(names, product_id, fused=fused) for product_id, fused in zip(chunk, vectors, strict=True)]
    records = _factors(names, product_ids, chance) if factors else []
    for begin in range(0, len(records), CHUNK):
        yield records[begin : begin + CHUNK]


def words_only(products: int, prefix: str) -> Iterator[dict[str, Any]]:
    """`catalog-updates` values without pictures."""
    for number in range(products):
        colour, material, kind = COLOURS[number % 10], MATERIALS[number // 10 % 10], KINDS[number // 100 % 10]
        yield {
            "op": "upsert",
            "product_id": f"{prefix}-{number}",
            "title": f"{colour} {material} {kind} {number}",
            "description": f"A {colour} {kind} of {material}, made for every day.",
            "category": ["Shop", kind],
            "attributes": {"colour": colour, "material": material},
            "price": {"amount": 10.0 + number % 90, "currency": "EUR"},
        }


def encode_request(upsert: dict[str, Any]) -> dict[str, Any]:
    """What the catalog role asks of the encoder for this product."""
    content = {name: upsert[name] for name in ("product_id", "title", "description", "brand", "category")}
    more = {"attributes": upsert["attributes"], "image_links": upsert["image_links"]}
    return EncodeRequest(content_revision=1, **content, **more).model_dump(mode="json")


def _offer(names: TopicNames, product_id: str, upsert: Mapping[str, Any] | None = None) -> Outgoing:
    now, told = time.time(), upsert or {}
    offer = Offer(
        product_id=product_id,
        revision=1,
        state="listable",
        title=told.get("title", f"Product {product_id}"),
        brand=None,
        category=told.get("category", []),
        price=told.get("price"),
        availability="in_stock",
        image_links=[],
        attributes=told.get("attributes", {}),
        changed_at=now,
        created_at=now,
    )
    return Outgoing(names.product_index, product_id.encode(), offer.model_dump_json().encode())


def _vectors(names: TopicNames, product_id: str, **vectors: Any) -> Outgoing:
    packed = {name: pack_vector(vectors[name]) if name in vectors else None for name in ("image", "text", "fused")}
    told = ProductVectors(product_id=product_id, content_revision=1, encoder=names.fingerprint, missing=[], **packed)
    return Outgoing(names.product_vectors, product_id.encode(), told.model_dump_json().encode())


def _neighbours(product_ids: Sequence[str], chance: np.random.Generator) -> list[NeighbourIds]:
    """Full rows of random neighbours: what ranking reads when a shop has run for long."""
    shares = np.full(NEIGHBOURS, 1 / NEIGHBOURS, np.float32)
    picked = chance.integers(len(product_ids), size=(len(product_ids), 2, NEIGHBOURS))
    rows = [[[product_ids[place] for place in table] for table in tables] for tables in picked.tolist()]
    return [
        NeighbourIds(product_id, (after, shares), (together, shares))
        for product_id, (after, together) in zip(product_ids, rows, strict=True)
    ]


def _factors(names: TopicNames, product_ids: Sequence[str], chance: np.random.Generator) -> list[Outgoing]:
    model = NextClickModel()
    rows = np.array([model.add_product() for _ in product_ids], np.int32)
    clicks = 1 + chance.poisson(CLICKS_OF_A_PRODUCT, len(rows))
    clicks[chance.random(len(rows)) < NEW_SHARE] = 0
    changes = Changes(
        list(product_ids),
        *model.vectors(rows),
        clicks=clicks.tolist(),
        lately=np.zeros((len(rows), len(HALF_LIVES)), np.float32),
        counted_at=np.zeros(len(rows), np.int64),
        segments=[{} for _ in product_ids],
        neighbours=_neighbours(product_ids, chance),
        gone=[],
        weights=model.weights(),
        stage=SecondStage().learned(),
        content_map=None,
        examples=int(clicks.sum()),
        newest_example_at=time.time(),
    )
    return factor_records(changes, names, epoch=1, sequence=1)
