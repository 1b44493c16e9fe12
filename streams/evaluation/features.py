"""What frozen encoders see of each product, kept in a file: all that training on a small machine needs.

Shapes: P products, V and T widths of a picture's and a text's vector.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from encoders.attributes import encode_facts, price_band, product_facts
from encoders.fusion import rows_or_zeros
from encoders.image import ImageEncoder, Pixels
from encoders.product import ProductContent, product_content, use_device
from encoders.retrieval import unit_or_zero
from encoders.taught_fusion import Words
from encoders.text import TextEncoder
from encoders.weights import TEXT_RECIPE, find_weights, fingerprint_of
from streams.evaluation import kept_arrays
from streams.evaluation.kept_arrays import read_kept, write_kept
from streams.evaluation.labelled import pictures_of
from streams.events import ProductUpsert
from streams.pictures import PictureLoader
from streams.settings import Settings

Vectors = NDArray[np.float32]
Told = Callable[[int, int], None]
AT_ONCE = 32
PICTURE_LIMITS = ("pictures_allow_private", "picture_max_bytes", "picture_max_pixels", "picture_timeout_s")
PARTS = 3  # title, headline, details


class Features(NamedTuple):
    """Unit rows, zeros where there is none."""

    image: Vectors  # (P, V)
    mirrored: Vectors  # (P, V) of the picture left to right
    title: Vectors  # (P, T)
    headline: Vectors  # (P, T) of the title and the last category
    details: Vectors  # (P, T) of what else is said

    @property
    def views(self) -> Vectors:
        """(2, P, V) of the pictures."""
        return np.stack([self.image, self.mirrored])

    @property
    def text(self) -> Vectors:
        """(P, T) of all that is said, weighed as the products' vectors of that name are."""
        return unit_or_zero(self.headline + TEXT_RECIPE.details_weight * self.details)

    @property
    def said(self) -> Words:
        """Its parts."""
        return Words(self.title, self.headline, self.details)

    @property
    def words(self) -> Vectors:
        """(P, 3 T), each part by itself: what a title says is not lost among the details."""
        return self.said.joined


def features_of(
    products: Sequence[ProductUpsert], folder: Path, kept: Path, settings: Settings, told: Told = lambda *_: None
) -> Features:
    """The features of these products, whose pictures lie in the folder; kept in an .npz that a killed run goes on from.

    Raises UnknownSource if the weights cannot be had.
    """
    return asyncio.run(_features_of(products, folder, kept, settings, told))


def facts_of(products: Sequence[ProductUpsert]) -> Vectors:
    """(P, A) of category, brand, attributes and price."""
    return encode_facts(
        [
            product_facts(
                category=product.category,
                brand=product.brand,
                attributes=product.attributes,
                price_band=price_band(product.price.amount if product.price else None),
            )
            for product in products
        ]
    )


async def _features_of(
    products: Sequence[ProductUpsert], folder: Path, kept: Path, settings: Settings, told: Told
) -> Features:
    folder = pictures_of(folder, settings.pictures_root)
    made_of = identity_of(products, folder, settings)
    path = kept / f"features-{made_of[:12]}.npz"
    arrays = read_kept(path, made_of)
    done = len(arrays["title"]) if arrays else 0
    parts = [Features(**arrays)] if arrays else []
    told(done, len(products))
    if done < len(products):
        reader, saved_at = _Reader(settings), time.monotonic()
        async with picture_loader(folder, settings) as loader:
            for begin in range(done, len(products), AT_ONCE):
                some = products[begin : begin + AT_ONCE]
                parts.append(reader.read(some, await loader.load_pictures([product.image_links for product in some])))
                told(begin + len(some), len(products))
                if time.monotonic() - saved_at > kept_arrays.SAVE_EVERY_S:
                    parts = [_joined(parts)]
                    write_kept(path, made_of, parts[0]._asdict())
                    saved_at = time.monotonic()
        parts = [_joined(parts)]
        write_kept(path, made_of, parts[0]._asdict())
    return _joined(parts)


def picture_loader(folder: Path, settings: Settings) -> PictureLoader:
    """Loads the first picture of each product, by its link or below the folder."""
    limits = {name: getattr(settings, name) for name in PICTURE_LIMITS}
    return PictureLoader(pictures_root=folder, pictures_per_product=1, **limits)


def identity_of(products: Sequence[ProductUpsert], folder: Path, settings: Settings) -> str:
    """Hexadecimal, of all that the features depend on; pictures count by their size and the time of their change."""
    told = [fingerprint_of(settings.image_encoder, settings.text_encoder), settings.picture_max_bytes]
    pictures = [folder / link for product in products for link in product.image_links]
    found = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in pictures if path.is_file()]
    words = [product.model_dump(mode="json") for product in products]
    return hashlib.sha256(orjson.dumps([told, found, words])).hexdigest()


class _Reader:
    def __init__(self, settings: Settings) -> None:
        device = use_device(settings.device, settings.encode_threads)
        pickled = settings.pickled_weights
        image = find_weights(settings.image_encoder, "image", pickled_weights=pickled)
        text = find_weights(settings.text_encoder, "text", pickled_weights=pickled)
        self._image, self._text = ImageEncoder(image, device=device), TextEncoder(text, device=device)

    def read(self, products: Sequence[ProductUpsert], pictures: Sequence[object]) -> Features:
        there = [place for place, own in enumerate(pictures) if isinstance(own, tuple)]
        pixels = [own[0].array for own in pictures if isinstance(own, tuple)]
        both = self._image.encode([*pixels, *(np.ascontiguousarray(array[:, ::-1]) for array in pixels)])
        images = np.zeros((2, len(products), self._image.width), np.float32)
        images[:, there] = both.reshape(2, len(there), self._image.width)
        return Features(*images, *_said(self._text, products))


def read_again(features: Features, products: Sequence[ProductUpsert], encoder: TextEncoder) -> Features:
    """The features of the same products with what this encoder reads of their words."""
    parts = [_said(encoder, products[begin : begin + AT_ONCE]) for begin in range(0, len(products), AT_ONCE)]
    return Features(features.image, features.mirrored, *np.concatenate(parts, axis=1))


def texts_of(products: Sequence[ProductUpsert]) -> list[tuple[str, str, str]]:
    """Title, headline and details of each, as an encoder reads them."""
    return [(each.title, each.text, each.details) for each in contents_of(products, [()] * len(products))]


def contents_of(products: Sequence[ProductUpsert], pictures: Sequence[Sequence[Pixels]]) -> list[ProductContent]:
    """All that an encoder reads of each."""
    return [
        product_content(
            title=product.title,
            brand=product.brand,
            category=product.category,
            attributes=product.attributes,
            description=product.description,
            price_band=price_band(product.price.amount if product.price else None),
            pictures=own,
        )
        for product, own in zip(products, pictures, strict=True)
    ]


def _said(encoder: TextEncoder, products: Sequence[ProductUpsert]) -> Vectors:
    """(3, n, T) of titles, headlines and details."""
    encoded = encoder.encode([text for part in zip(*texts_of(products), strict=True) for text in part])
    rows: Vectors = rows_or_zeros(encoded, encoder.width).reshape(PARTS, len(products), encoder.width)
    return rows


def _joined(parts: Sequence[Features]) -> Features:
    return Features(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
