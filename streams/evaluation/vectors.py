"""The vectors of a catalogue's products, encoded as an encode role encodes what comes on its topic."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from encoders.next_click import Floats
from encoders.weights import fingerprint_of
from streams.catalog_rows import encoded_content
from streams.encode import EncodeRole, Event
from streams.evaluation import kept_arrays
from streams.evaluation.kept_arrays import read_kept, write_kept
from streams.events import EncodeRequest, ProductUpsert, ProductVectors, unpack_vector
from streams.parsing import parse
from streams.role import Delivery, Message
from streams.settings import Settings
from streams.topics import topic_names

NO_MESSAGE = Message("", "", 0, 0, None, None, (), 0.0)

Products = Mapping[str, Mapping[str, Any]]
"""Upserts by product id, as streams.evaluation.stream.Catalog has them."""

Told = Callable[[int, int], None]
"""Called with how many products are encoded, and how many there are."""


def identity_of(products: Products, settings: Settings) -> str:
    """Hexadecimal, of all that the vectors depend on but the pictures behind the links: delete the file after those
    have changed."""
    made_of = [fingerprint_of(settings.image_encoder, settings.text_encoder), str(settings.pictures_root)]
    made_of += [str(settings.picture_max_bytes), str(settings.picture_max_pixels)]
    words = orjson.dumps([*made_of, *products.values()], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(words).hexdigest()


def encode_to(path: Path, products: Products, settings: Settings, told: Told = lambda *_: None) -> None:
    """path is an .npz of `product_ids` (V,) and `fused` (V, D) float32: those that have words or a picture.

    One that is there already is gone on from, if it is of the same products and encoders; whatever dies, it is whole.

    Raises UnknownSource if the weights cannot be had.
    """
    asyncio.run(_encode_to(path, products, settings, told))


async def _encode_to(path: Path, products: Products, settings: Settings, told: Told) -> None:
    made_of = identity_of(products, settings)
    kept = read_kept(path, made_of)
    product_ids: list[str] = kept["product_ids"].tolist() if kept else []
    fused: list[Floats] = list(kept["fused"]) if kept else []
    done = int(kept["done"]) if kept else 0
    saved_at = time.monotonic()
    told(done, len(products))
    if kept and done == len(products):
        return

    def save() -> None:
        by_row = np.array(fused, np.float32) if fused else np.zeros((0, 0), np.float32)
        ids = np.array(product_ids, np.str_)
        write_kept(path, made_of, {"product_ids": ids, "fused": by_row, "done": np.array(done)})

    async for read, encoded in _encode(list(products.values())[done:], settings):
        done += read
        product_ids += encoded
        fused += encoded.values()
        told(done, len(products))
        if time.monotonic() - saved_at > kept_arrays.SAVE_EVERY_S:
            save()
            saved_at = time.monotonic()
    save()


async def _encode(
    products: Iterable[Mapping[str, Any]], settings: Settings
) -> AsyncIterator[tuple[int, dict[str, Floats]]]:
    """Batch by batch: how many products it had, and the fused vectors (D,) of those that have any."""
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    role = EncodeRole(settings, names)
    await role.start()
    try:
        requests = map(_request, products)
        while some := list(islice(requests, settings.encode_batch)):
            batch: list[Delivery[Event]] = [Delivery(NO_MESSAGE, request) for request in some]
            encoded = {}
            for outgoing in role.compute(batch, await role.prepare(batch)).publish:
                vectors: ProductVectors = parse(ProductVectors, outgoing.value or b"")
                if vectors.fused is not None:
                    encoded[vectors.product_id] = unpack_vector(vectors.fused)
            yield len(some), encoded
    finally:
        await role.stop()


def _request(product: Mapping[str, Any]) -> EncodeRequest:
    upsert = ProductUpsert.model_validate(product).model_dump(mode="json")
    return EncodeRequest(product_id=str(product["product_id"]), content_revision=1, **encoded_content(upsert))
