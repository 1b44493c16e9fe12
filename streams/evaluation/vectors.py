"""The vectors of a catalogue file's products, encoded as an encode role encodes what comes on its topic."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

from encoders.next_click import Floats
from encoders.weights import fingerprint_of
from streams.catalog_rows import ENCODED_FIELDS
from streams.encode import EncodeRole, Event
from streams.evaluation.stream import read_catalog
from streams.events import EncodeRequest, ProductUpsert, ProductVectors, unpack_vector
from streams.parsing import parse
from streams.role import Delivery, Message
from streams.settings import Settings
from streams.topics import topic_names

NO_MESSAGE = Message("", "", 0, 0, None, None, (), 0.0)


async def encode_catalog(
    catalog: Path, settings: Settings, told: Callable[[int, int], None] = lambda *_: None
) -> tuple[list[str], Floats]:
    """Return the ids of the V products that have words or a picture, and their fused vectors (V, D) float32.

    told  called with how many products are encoded, and how many there are

    Raises NotEvaluable; UnknownSource if the weights cannot be had.
    """
    products = read_catalog(catalog).products
    names = topic_names(settings, fingerprint_of(settings.image_encoder, settings.text_encoder))
    role = EncodeRole(settings, names)
    product_ids: list[str] = []
    fused: list[Floats] = []
    await role.start()
    try:
        requests = map(_request, products.values())
        while some := list(islice(requests, settings.encode_batch)):
            batch: list[Delivery[Event]] = [Delivery(NO_MESSAGE, request) for request in some]
            for outgoing in role.compute(batch, await role.prepare(batch)).publish:
                vectors: ProductVectors = parse(ProductVectors, outgoing.value or b"")
                if vectors.fused is not None:
                    product_ids.append(vectors.product_id)
                    fused.append(unpack_vector(vectors.fused))
            told(len(product_ids), len(products))
    finally:
        await role.stop()
    return product_ids, np.array(fused, np.float32).reshape(len(fused), -1)


def _request(product: dict[str, object]) -> EncodeRequest:
    upsert = ProductUpsert.model_validate(product).model_dump(mode="json")
    content = {name: upsert[name] for name in ENCODED_FIELDS}
    return EncodeRequest(product_id=str(product["product_id"]), content_revision=1, **content)
