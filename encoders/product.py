"""A product's pictures, words and facts to its three vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.attributes import Fact, encode_facts, product_facts
from encoders.fusion import Fusion, Modalities, attend, rows_or_zeros, unit_rows
from encoders.image import ImageEncoder, Pixels
from encoders.product_tokens import ProductTokens, product_tokens
from encoders.taught_fusion import Words
from encoders.text import TextEncoder, product_text
from encoders.token_fusion import token_fusion
from encoders.version import UnusableVersion, Version
from encoders.weights import TEXT_RECIPE, find_weights

Vector = NDArray[np.float32]


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
    """Owns both models. One thread at a time may use it."""

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
        self.widths = version.widths
        self._image = ImageEncoder(image_weights, device=device)
        self._text = TextEncoder(text_weights, device=device)
        try:
            self.token_fusion = token_fusion(version.arrays, self.widths, device)  # None: it attends to no tokens
        except ValueError as error:  # a parameter is missing, or of another shape
            raise UnusableVersion(f"the version's encoder is not whole ({error}): teach it again") from error
        self._fusion = version.taught_fusion() or Fusion(self.widths)

    def encode(self, batch: Sequence[ProductContent]) -> list[EncodedProduct]:
        """The vectors of each product, in the batch's order, the same whatever else is in the batch.

        Raises BadPicture if a picture is no RGB array, FloatingPointError if a vector is not finite.
        """
        images = self._images(batch)
        headlines, details, titles = self._texts(batch)
        texts = [_weigh(*both) for both in zip(headlines, details, strict=True)]
        facts = encode_facts([product.facts for product in batch])
        V, T = self.widths["image"], self.widths["text"]
        if self.token_fusion is not None:
            fused = self.token_fusion.fuse(self.tokens(batch)).vectors
        elif isinstance(self._fusion, Fusion):
            fused = self._fusion.fuse(Modalities(rows_or_zeros(images, V), rows_or_zeros(texts, T), facts))
        else:
            words = Words(rows_or_zeros(titles, T), rows_or_zeros(headlines, T), rows_or_zeros(details, T))
            fused = self._fusion.fuse(rows_or_zeros(images, V), words, facts)
        return [
            EncodedProduct(image, text, vector if image is not None or text is not None else None)
            for image, text, vector in zip(images, texts, fused, strict=True)
        ]

    def tokens(self, batch: Sequence[ProductContent]) -> list[ProductTokens]:
        """The places of the pictures, the word pieces and the facts of each product. Raises as encode."""
        return product_tokens(self._image, self._text, batch)

    def encode_query(
        self, words: str = "", picture: Pixels | None = None, words_weight: float = 1.0, image_weight: float = 1.0
    ) -> dict[str, Vector]:
        """As encode_queries, of one."""
        return self.encode_queries([ProductQuery(words, picture, words_weight, image_weight)])[0]

    def encode_queries(self, queries: Sequence[ProductQuery]) -> list[dict[str, Vector]]:
        """What each asks for, in each space where it can be had: by "text" the words, by "image" the picture, by
        "fused" the sum, by weight, of what a product of the words alone and one of the picture alone would be.

        So a fused cosine with both is, up to a factor, the weighted sum of those with each. Empty if nothing is asked
        for. The same whatever else is in the batch.
        """
        texts = self._text.encode([query.words if query.words_weight > 0 else "" for query in queries])
        pictures = [query.picture if query.image_weight > 0 else None for query in queries]
        encoded = iter(self._image.encode([picture for picture in pictures if picture is not None]))
        images = [None if picture is None else next(encoded) for picture in pictures]
        return [self._query_vectors(*one) for one in zip(queries, texts, images, strict=True)]

    def _query_vectors(self, query: ProductQuery, text: Vector | None, image: Vector | None) -> dict[str, Vector]:
        asked = {"text": (text, query.words_weight), "image": (image, query.image_weight)}
        vectors = {name: vector for name, (vector, _) in asked.items() if vector is not None}
        if not vectors:
            return {}
        if self.token_fusion is not None:
            pictures = () if query.picture is None else (query.picture,)
            alone = {"text": ProductContent(query.words), "image": ProductContent("", pictures)}
            fused = self.token_fusion.fuse(self.tokens([alone[name] for name in vectors])).vectors
        else:
            fused = np.stack([self._fuse_query(**{name: vector}) for name, vector in vectors.items()])
        weights = np.array([asked[name][1] for name in vectors], np.float32)
        return {**vectors, "fused": unit_rows(weights[None] @ fused)[0]}

    def _fuse_query(self, *, image: Vector | None = None, text: Vector | None = None) -> Vector:
        """(D,) of a picture or of words without a product: nothing else is known."""
        images, texts = rows_or_zeros([image], self.widths["image"]), rows_or_zeros([text], self.widths["text"])
        facts = encode_facts([()])
        if isinstance(self._fusion, Fusion):
            fused = self._fusion.fuse(Modalities(images, texts, facts))
        else:  # what is said of products besides, on average
            details = np.zeros_like(texts) if text is None else self._fusion.details[None]
            fused = self._fusion.fuse(images, Words(texts, texts, details), facts)
        vector: Vector = fused[0]
        return vector

    def _images(self, batch: Sequence[ProductContent]) -> list[Vector | None]:
        """Of several pictures the one vector that they have together."""
        vectors = self._image.encode([picture for product in batch for picture in product.pictures])  # (P, V)
        ends = np.cumsum([len(product.pictures) for product in batch])
        each = np.split(vectors, ends[:-1]) if len(batch) else []
        return [attend(own) if len(own) else None for own in each]

    def _texts(self, batch: Sequence[ProductContent]) -> tuple[list[Vector | None], ...]:
        """Headlines, details and titles; titles only where the fusion reads them."""
        texts = [product.text for product in batch] + [product.details for product in batch]
        texts += [] if isinstance(self._fusion, Fusion) else [product.title for product in batch]
        vectors = self._text.encode(texts)
        B = len(batch)
        return vectors[:B], vectors[B : 2 * B], vectors[2 * B :]


def use_device(name: str, threads: int) -> str:
    """The device of this name, "auto" resolved; torch has so many threads on a CPU from now on, in the whole process.

    Raises UnknownDevice; one that is there but taken is no such case.
    """
    import torch

    torch.set_num_threads(threads)
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


def _weigh(headline: Vector | None, details: Vector | None) -> Vector | None:
    """The unit vector of a headline and its details; of one alone where the other is missing."""
    if headline is None or details is None:
        return details if headline is None else headline
    weighed: Vector = unit_rows((headline + TEXT_RECIPE.details_weight * details)[None, :])[0]
    return weighed
