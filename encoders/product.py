"""A product's pictures, words and facts to its three vectors."""

import ctypes
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.attributes import Fact, encode_facts, product_facts
from encoders.fusion import Fusion, Modalities, attend, rows_or_zeros, unit_rows
from encoders.image import ImageEncoder, Over, Pixels
from encoders.product_tokens import ProductTokens, product_tokens
from encoders.taught_fusion import Words
from encoders.text import Launched, Pieces, TextEncoder, product_text
from encoders.token_fusion import token_fusion
from encoders.transfers import Coming
from encoders.version import UnusableVersion, Version
from encoders.weights import TEXT_RECIPE, find_weights

if TYPE_CHECKING:
    from torch import Tensor

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]
QueryVectors = tuple[Vector | None, Vector | None]
"""Of words or of a picture: their own vector and the fused one."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h


@dataclass(frozen=True, slots=True)
class ProductContent:
    """All that an encoder reads of a product. `product_content` makes it from the product's fields."""

    text: str  # what it is; blank if there are no words
    pictures: tuple[Pixels, ...] = ()  # (H, W, 3) uint8 each, RGB
    details: str = ""  # what else is said of it; weighs less
    title: str = ""  # alone, which a taught version reads too
    facts: tuple[Fact, ...] = ()


class ProductQuery(NamedTuple):
    """What a shopper asks for. A weight is >= 0, no unit; what has weight 0 is not asked for."""

    words: str = ""
    picture: Pixels | None = None
    words_weight: float = 1.0
    image_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class EncodedProduct:
    """Unit vectors, float32; None where the modality is missing, fused None where pictures and words both are."""

    image: Vector | None  # (V,)
    text: Vector | None  # (T,)
    fused: Vector | None  # (D,)


class PreparedProducts(NamedTuple):
    """What is read of products before the device is needed."""

    products: Sequence[ProductContent]
    squares: "Tensor"  # of all pictures, product after product
    pieces: Pieces  # of the headlines, then of the details, then of the titles, where the fusion reads them; of none
    # where it reads tokens


class LaunchedProducts(NamedTuple):
    """Products that the device may still be encoding."""

    products: Sequence[ProductContent]
    reading: tuple[Coming, Launched] | None  # pictures, and words as they were prepared
    done: list[EncodedProduct]  # where the fusion reads tokens: then nothing is being read


def product_content(
    *,
    title: str,
    brand: str | None = None,
    category: Sequence[str] = (),
    attributes: Mapping[str, str] | None = None,
    description: str = "",
    price_band: int | None = None,
    pictures: Sequence[Pixels] = (),
) -> ProductContent:
    """The content of a product with these fields."""
    text = product_text(title=title, brand=brand, category=category, attributes=attributes, description=description)
    facts = product_facts(category=category, brand=brand, attributes=attributes, price_band=price_band)
    return ProductContent(text.headline, tuple(pictures), text.details, title, facts)


class UnknownDevice(ValueError):
    """The device is none that torch has here."""


class ProductEncoder:
    """Owns both models. One thread at a time may use it, but as prepare and collect say."""

    def __init__(
        self, version: Version, device: str = "auto", threads: int = 1, *, pickled_weights: bool = False
    ) -> None:
        """Loads the models; touches the network only for a hub: source that is not in its cache.

        device           "auto" (cuda where there is one), "cpu", "cuda", "cuda:1", ...
        threads          of torch on a CPU, for the whole process
        pickled_weights  as in find_weights

        Raises UnknownSource if a source's weights cannot be had, UnknownDevice, UnusableVersion.
        """
        image_weights = find_weights(version.image_source, "image", pickled_weights=pickled_weights)
        text_weights = find_weights(version.text_source, "text", pickled_weights=pickled_weights)
        self.device = device = use_device(device, threads)
        self.version = version
        self.fingerprint = version.fingerprint
        self.widths, self.feature_widths = version.widths, version.feature_widths
        self._image = ImageEncoder(image_weights, device=device)
        self._text = TextEncoder(text_weights, device=device)
        try:
            # None: it attends to no tokens
            self.token_fusion = token_fusion(version.arrays, self.feature_widths, device)
        except ValueError as error:  # a parameter is missing, or of another shape
            raise UnusableVersion(f"the version's encoder is not whole ({error}): teach it again") from error
        self._fusion = version.taught_fusion() or Fusion(self.feature_widths)

    def encode(self, batch: Sequence[ProductContent]) -> list[EncodedProduct]:
        """The vectors of each product, in the batch's order, the same whatever else is in the batch.

        Raises BadPicture if a picture is no RGB array, FloatingPointError if a vector is not finite.
        """
        return self.collect(self.launch(self.prepare(batch)))

    def prepare(self, batch: Sequence[ProductContent], over: Over = map) -> PreparedProducts:
        """All that is done before the device is needed: any thread may, while another launches and collects.

        over  resizes pictures side by side, as an executor's map

        Raises BadPicture.
        """
        squares = self._image.prepare(_pictures(batch), over)
        if self.token_fusion is not None:
            return PreparedProducts(batch, squares, self._text.prepare([]))
        texts = [product.text for product in batch] + [product.details for product in batch]
        texts += [] if isinstance(self._fusion, Fusion) else [product.title for product in batch]
        return PreparedProducts(batch, squares, self._text.prepare(texts))

    def launch(self, prepared: PreparedProducts) -> LaunchedProducts:
        """What was prepared is computed on a CPU and begun on a GPU, which takes the next before it is done with this.

        Where the fusion reads tokens, all is done. Raises FloatingPointError.
        """
        batch = prepared.products
        if self.token_fusion is None:
            reading = self._image.launch(prepared.squares), self._text.launch(prepared.pieces)
            return LaunchedProducts(batch, reading, [])
        resized = iter(prepared.squares.numpy())
        small = [replace(product, pictures=tuple(islice(resized, len(product.pictures)))) for product in batch]
        images, texts, tokens = self._vectors_and_tokens(small)
        return LaunchedProducts(batch, None, _encoded(images, texts, self.token_fusion.fuse(tokens).vectors))

    def collect(self, launched: LaunchedProducts) -> list[EncodedProduct]:
        """As encode, waited for: any thread may, while another prepares and launches. Raises FloatingPointError."""
        if launched.reading is None:
            return launched.done
        batch, B = launched.products, len(launched.products)
        images = _of_each(batch, self._image.collect(launched.reading[0]))
        read = self._text.collect(launched.reading[1])
        headlines, details, titles = read[:B], read[B : 2 * B], read[2 * B :]
        texts = _weighed(headlines, details)
        facts = encode_facts([product.facts for product in batch])
        V, T = self.feature_widths["image"], self.feature_widths["text"]
        if isinstance(self._fusion, Fusion):
            fused = self._fusion.fuse(Modalities(rows_or_zeros(images, V), rows_or_zeros(texts, T), facts))
        else:
            words = Words(rows_or_zeros(titles, T), rows_or_zeros(headlines, T), rows_or_zeros(details, T))
            seen = rows_or_zeros(images, V)
            fused = self._fusion.fuse(seen, words, facts)
            if (alone := self._fusion.alone) is not None:
                images, texts = _there(alone.image(seen), images), _there(alone.text(words.joined), texts)
        return _encoded(images, texts, fused)

    def tokens(self, batch: Sequence[ProductContent]) -> list[ProductTokens]:
        """The places of the pictures, the word pieces and the facts of each product. Raises as encode."""
        return self._vectors_and_tokens(batch)[2]

    def hurry_queries(self) -> None:
        """It is to encode queries alone from now on: words in bfloat16, where the CPU multiplies that by itself.

        Twice as fast and more. A query's cosine with itself in float32 is above .9999; products' vectors, which
        are kept, are to be exact.
        """
        self._text.multiply_in_bfloat16()

    def encode_queries(self, queries: Sequence[ProductQuery]) -> list[dict[str, Vector]]:
        """What each asks for, in each space where it can be had: by "text" the words, by "image" the picture, by
        "fused" the sum, by weight, of what a product of the words alone and one of the picture alone would be.

        So a fused cosine with both is, up to a factor, the weighted sum of those with each. Empty if nothing is asked
        for. The same whatever else is in the batch.
        """
        words = [query.words if query.words_weight > 0 else "" for query in queries]
        pictures = [query.picture if query.image_weight > 0 else None for query in queries]
        if self.token_fusion is not None:
            by_words = self.encode([ProductContent(text) for text in words])
            by_pictures = self.encode([ProductContent("", () if one is None else (one,)) for one in pictures])
            said = [(one.text, one.fused) for one in by_words]
            seen = [(one.image, one.fused) for one in by_pictures]
        else:
            features = iter(self._image.encode([one for one in pictures if one is not None]))
            said = self._of_queries("text", self._text.encode(words))
            seen = self._of_queries("image", [None if one is None else next(features) for one in pictures])
        return [self._mixed(*one) for one in zip(queries, said, seen, strict=True)]

    def _mixed(self, query: ProductQuery, said: QueryVectors, seen: QueryVectors) -> dict[str, Vector]:
        """The vectors of a query, of those of its words and of its picture."""
        asked = {"text": (*said, query.words_weight), "image": (*seen, query.image_weight)}
        vectors: dict[str, Vector] = {}
        total = np.zeros(self.widths["fused"], np.float32)
        for name, (vector, fused, weight) in asked.items():
            if vector is not None and fused is not None:
                vectors[name] = vector
                total += np.float32(weight) * fused
        return {**vectors, "fused": unit_rows(total[None])[0]} if vectors else {}

    def _of_queries(self, name: str, features: Sequence[Vector | None]) -> list[QueryVectors]:
        """Its own vector and the fused one of each picture, or words, without a product: nothing else is known."""
        there = [feature for feature in features if feature is not None]
        if not there:
            return [(None, None)] * len(features)
        none: list[Vector | None] = [None] * len(there)
        images, texts = (
            rows_or_zeros(there if own == name else none, self.feature_widths[own]) for own in ("image", "text")
        )
        facts, vectors = encode_facts([()] * len(there)), images if name == "image" else texts
        if isinstance(self._fusion, Fusion):
            fused = self._fusion.fuse(Modalities(images, texts, facts))
        else:
            words = self._fusion.asked(texts)
            fused = self._fusion.fuse(images, words, facts)
            if (alone := self._fusion.alone) is not None:
                vectors = alone.image(images) if name == "image" else alone.text(words.joined)
        both = zip(vectors, fused, strict=True)
        return [(None, None) if feature is None else next(both) for feature in features]

    def _vectors_and_tokens(
        self, batch: Sequence[ProductContent]
    ) -> tuple[list[Vector | None], list[Vector | None], list[ProductTokens]]:
        """Of pictures, of words, and what both are made of, so that each network reads a product once."""
        pictures, regions = self._image.encode_with_regions(_pictures(batch))
        B = len(batch)
        texts, read = self._text.encode_with_tokens([p.text for p in batch] + [p.details for p in batch])
        tokens = product_tokens(batch, regions, self._image.centre, read)
        return _of_each(batch, pictures), _weighed(texts[:B], texts[B:]), tokens


def _pictures(batch: Sequence[ProductContent]) -> list[Pixels]:
    return [picture for product in batch for picture in product.pictures]


def _of_each(batch: Sequence[ProductContent], vectors: Vectors) -> list[Vector | None]:
    """Of the vectors (P, V) of all pictures, in order, the one that each product's have together."""
    ends = np.cumsum([len(product.pictures) for product in batch])
    each = np.split(vectors, ends[:-1]) if len(batch) else []
    return [attend(own) if len(own) else None for own in each]


def use_device(name: str, threads: int) -> str:
    """The device of this name, "auto" resolved; torch has so many threads on a CPU from now on, in the whole process,
    and the memory that it frees stays with the process.

    Raises UnknownDevice; one that is there but taken is no such case.
    """
    import torch

    torch.set_num_threads(threads)
    _keep_freed_memory()
    cuda_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if cuda_devices else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnknownDevice(f"torch knows no device {name!r}: take auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= cuda_devices:
        raise UnknownDevice(f"there is no device {name!r} here, torch finds {cuda_devices} of CUDA: take auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnknownDevice(f"there is no device {name!r} here: take auto or cpu")
    return name


def _keep_freed_memory() -> None:
    """With glibc the states of each forward pass would else come from the system, page by page: a third of the time of
    a batch of pictures."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None:
        for option, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1), (M_ARENA_MAX, 1)):
            mallopt(option, value)


def _there(vectors: Vectors, features: Sequence[Vector | None]) -> list[Vector | None]:
    """Of the rows (B, W) those of features that there are."""
    return [None if own is None else vector for vector, own in zip(vectors, features, strict=True)]


def _encoded(images: Sequence[Vector | None], texts: Sequence[Vector | None], fused: Vectors) -> list[EncodedProduct]:
    """(B,) of what each has."""
    return [
        EncodedProduct(image, text, vector if image is not None or text is not None else None)
        for image, text, vector in zip(images, texts, fused, strict=True)
    ]


def _weighed(headlines: Sequence[Vector | None], details: Sequence[Vector | None]) -> list[Vector | None]:
    return [_weigh(*both) for both in zip(headlines, details, strict=True)]


def _weigh(headline: Vector | None, details: Vector | None) -> Vector | None:
    """The unit vector of a headline and its details; of one alone where the other is missing."""
    if headline is None or details is None:
        return details if headline is None else headline
    weighed: Vector = unit_rows((headline + TEXT_RECIPE.details_weight * details)[None, :])[0]
    return weighed
