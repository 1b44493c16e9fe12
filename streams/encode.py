"""Encode requests become vectors: pictures are fetched and decoded, both modalities encoded and fused.

Without a database, so as many of these as there are GPUs may run. The only role of the stream that imports torch, and
it does so when it starts. While one batch is encoded, the pictures of the next are fetched, decoded and resized, and
its words cut into pieces; a GPU has the next batch in its queue before it is done with this one.
"""

import asyncio
import os
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from encoders.picture_hash import sign_picture
from encoders.product import (
    EncodedProduct,
    LaunchedProducts,
    PreparedProducts,
    ProductContent,
    ProductEncoder,
    product_content,
)
from streams.broker import Outgoing
from streams.events import (
    BadEvent,
    EncodeRequest,
    Missing,
    ProductVectors,
    pack_vector,
)
from streams.parsing import Gone, parse, parse_gone
from streams.pictures import Picture, PictureLoader, PictureMissing
from streams.role import Delivery, Message, Outcome, Role
from streams.settings import Settings
from streams.topics import TopicNames
from streams.turns import Turns
from streams.version_files import load_encoder

Event = EncodeRequest | Gone
Pictures = Mapping[str, tuple[Picture, ...] | PictureMissing | None]
"""By product id; None: the product links to no picture."""

DECODING_THREADS_CPU = 2  # beside the one that encodes
DECODING_THREADS_GPU = 16  # or as many as there are cores: more wait for Python's lock

FILLING_BATCHES = 4  # of a version that is filled, for one of the version that serves
NO_LINKS = "the product has no image_links: add one"
NO_WORDS = "title, description, brand, category and attributes have no words: add some"


class Prepared(NamedTuple):
    """A batch before its turn."""

    pictures: Pictures
    signatures: Mapping[str, str]  # of those that have pictures
    products: PreparedProducts | LaunchedProducts | Exception | None  # as far as they came; None: there are none


class EncodeRole(Role[Event]):
    """Writer of product-vectors. The newest request of a product in a batch is answered, the others are not."""

    name = "encode"
    prepares = True

    def __init__(
        self,
        settings: Settings,
        names: TopicNames,
        open_encoder: Callable[[], ProductEncoder] | None = None,
        turns: Turns | None = None,
        serves: Callable[[], bool] = lambda: True,
    ) -> None:
        """open_encoder: None: the untrained encoders of the settings. serves: whether their vectors are waited for."""
        self.topics = (names.encode_requests,)
        self._vectors_topic = names.product_vectors
        self._settings = settings
        self._open = open_encoder or partial(load_encoder, settings)
        self._turns = turns or Turns()
        self._serves = serves
        self.batch_max = self._most()
        self._encoder: ProductEncoder | None = None
        self._loader: PictureLoader | None = None
        self._pictures_missing = 0

    async def start(self) -> None:
        """The models are loaded. Raises UnknownSource if their weights cannot be had."""
        settings = self._settings
        self._encoder = await asyncio.to_thread(self._open)
        self._loader = PictureLoader(
            pictures_root=settings.pictures_root,
            pictures_allow_private=settings.pictures_allow_private,
            picture_max_bytes=settings.picture_max_bytes,
            picture_max_pixels=settings.picture_max_pixels,
            picture_timeout_s=settings.picture_timeout_s,
            pictures_per_product=settings.pictures_per_product,
            decode_threads=min(os.cpu_count() or 1, DECODING_THREADS_GPU) if self._has_gpu() else DECODING_THREADS_CPU,
        )

    async def stop(self) -> None:
        if self._loader is not None:
            await self._loader.__aexit__(None, None, None)

    def parse(self, message: Message) -> Event:
        if message.value is None:
            return parse_gone(message.key, message.headers)
        request: EncodeRequest = parse(EncodeRequest, message.value)
        return request

    async def prepare(self, batch: Sequence[Delivery[Event]]) -> Prepared:
        """The pictures of the batch, fetched and decoded side by side; all that the models need, and a GPU has it."""
        assert self._loader is not None, "start() comes first"
        self.batch_max = self._most()
        requests = [event for event in newest(batch) if isinstance(event, EncodeRequest)]
        found = await self._loader.load_pictures([request.image_links for request in requests])
        pictures = dict(zip((request.product_id for request in requests), found, strict=True))
        return await asyncio.to_thread(self._prepared, requests, pictures) if requests else Prepared({}, {}, None)

    def compute(self, batch: Sequence[Delivery[Event]], prepared: Prepared) -> Outcome:
        """The vectors of each product, or null where it is gone."""
        events = newest(batch)
        requests = [event for event in events if isinstance(event, EncodeRequest)]
        encoded = self._encoded(prepared.products)
        publish = [self._gone(event) for event in events if isinstance(event, Gone)]
        for request, product in zip(requests, encoded, strict=True):
            publish.append(self._vectors(request, product, prepared))
        self._pictures_missing += sum(isinstance(pictures, PictureMissing) for pictures in prepared.pictures.values())
        return Outcome(publish)

    def details(self) -> dict[str, float | int | str]:
        known = {"device": self._encoder.device, "fingerprint": self._encoder.fingerprint} if self._encoder else {}
        return {**known, "pictures_missing": self._pictures_missing}

    def _most(self) -> int:
        """Products of the next batch; few where nobody waits for them, because a new product waits until it is done."""
        most = self._settings.encode_batch
        return most if self._serves() else max(1, most // FILLING_BATCHES)

    def _has_gpu(self) -> bool:
        return self._encoder is not None and self._encoder.device.startswith("cuda")

    def _prepared(self, requests: Sequence[EncodeRequest], pictures: Pictures) -> Prepared:
        assert self._encoder is not None, "start() comes first"
        assert self._loader is not None
        first = {product_id: own[0] for product_id, own in pictures.items() if isinstance(own, tuple)}
        signatures = dict(zip(first, self._loader.over(_signature, first.values()), strict=True))
        contents = [_content(request, pictures[request.product_id]) for request in requests]
        products: PreparedProducts | LaunchedProducts | Exception
        try:
            products = self._encoder.prepare(contents, self._loader.over)
            if self._has_gpu():
                products = self._launched(products)
        except (ValueError, ArithmeticError) as error:  # told in compute: what is prepared may never be asked for
            products = error
        return Prepared(pictures, signatures, products)

    def _launched(self, products: PreparedProducts) -> LaunchedProducts:
        assert self._encoder is not None
        with self._turns.take(first=self._serves()):
            return self._encoder.launch(products)

    def _encoded(self, products: PreparedProducts | LaunchedProducts | Exception | None) -> list[EncodedProduct]:
        if products is None:
            return []
        assert self._encoder is not None
        try:
            if isinstance(products, Exception):
                raise products
            return self._encoder.collect(
                products if isinstance(products, LaunchedProducts) else self._launched(products)
            )
        except (ValueError, ArithmeticError) as error:
            raise BadEvent(f"the encoder cannot take this product ({error}): change its words or picture") from error

    def _vectors(self, request: EncodeRequest, product: EncodedProduct, prepared: Prepared) -> Outgoing:
        assert self._encoder is not None
        vectors = ProductVectors(
            product_id=request.product_id,
            content_revision=request.content_revision,
            encoder=self._encoder.fingerprint,
            image=None if product.image is None else pack_vector(product.image),
            text=None if product.text is None else pack_vector(product.text),
            fused=None if product.fused is None else pack_vector(product.fused),
            missing=_missing(product, prepared.pictures[request.product_id]),
            picture_signature=prepared.signatures.get(request.product_id),
        )
        headers = (("content-revision", b"%d" % request.content_revision),)
        return Outgoing(self._vectors_topic, request.product_id.encode(), vectors.model_dump_json().encode(), headers)

    def _gone(self, gone: Gone) -> Outgoing:
        return Outgoing(self._vectors_topic, gone.product_id.encode(), None, (("revision", b"%d" % gone.revision),))


def newest(batch: Sequence[Delivery[Event]]) -> list[Event]:
    """Of each product the event with the highest revision, which a record written late does not have."""
    found: dict[str, Event] = {}
    for _, event in batch:
        known = found.get(event.product_id)
        if known is None or _revision(event) >= _revision(known):
            found[event.product_id] = event
    return list(found.values())


def _revision(event: Event) -> int:
    return event.revision if isinstance(event, Gone) else event.content_revision


def _content(request: EncodeRequest, pictures: tuple[Picture, ...] | PictureMissing | None) -> ProductContent:
    return product_content(
        title=request.title,
        brand=request.brand,
        category=request.category,
        attributes=request.attributes,
        description=request.description,
        price_band=request.price_band,
        pictures=[picture.array for picture in pictures] if isinstance(pictures, tuple) else (),
    )


def _signature(picture: Picture) -> str:
    """Of the first picture: a shop shows it where it shows one."""
    return b64encode(sign_picture(picture.array)).decode()


def _missing(product: EncodedProduct, pictures: tuple[Picture, ...] | PictureMissing | None) -> list[Missing]:
    """Why a modality has no vector."""
    missing = []
    if isinstance(pictures, PictureMissing):
        missing.append(Missing(modality="image", reason=pictures.reason, retry=pictures.retry))
    elif pictures is None:
        missing.append(Missing(modality="image", reason=NO_LINKS, retry=False))
    if product.text is None:
        missing.append(Missing(modality="text", reason=NO_WORDS, retry=False))
    return missing
