"""A product's picture and words to its three vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import Fusion, unit_rows
from encoders.image import ImageEncoder, Pixels
from encoders.product_tokens import ProductTokens, product_tokens
from encoders.text import TextEncoder, product_text
from encoders.weights import TEXT_RECIPE, find_weights, fingerprint_of, widths_of

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ProductContent:
    """All that an encoder reads of a product. `product_content` makes it from the product's fields."""

    text: str  # what it is; blank if there are no words
    picture: Pixels | None = None  # (H, W, 3) uint8, RGB
    details: str = ""  # what else is said of it; weighs less


@dataclass(frozen=True, slots=True)
class EncodedProduct:
    """Unit vectors, float32; None where the modality is missing, fused None where both are."""

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
    picture: Pixels | None = None,
) -> ProductContent:
    """The content of a product with these fields."""
    text = product_text(title=title, brand=brand, category=category, attributes=attributes, description=description)
    return ProductContent(text.headline, picture, text.details)


class UnknownDevice(ValueError):
    """The device is none that torch has here."""


class ProductEncoder:
    """Owns both models. One thread at a time may use it."""

    def __init__(self, image_source: str, text_source: str, device: str = "auto", threads: int = 1) -> None:
        """Loads the models; never touches the network.

        device   "auto" (cuda where there is one), "cpu", "cuda", "cuda:1", ...
        threads  of torch on a CPU, for the whole process

        Raises UnknownSource if a source's weights cannot be had, UnknownDevice.
        """
        image_weights, text_weights = find_weights(image_source, "image"), find_weights(text_source, "text")
        self.device = device = use_device(device, threads)
        self.fingerprint = fingerprint_of(image_source, text_source)
        self.widths = widths_of(image_source, text_source)
        self._image = ImageEncoder(image_weights, device=device)
        self._text = TextEncoder(text_weights, device=device)
        self._fusion = Fusion(self.widths)

    def encode(self, batch: Sequence[ProductContent]) -> list[EncodedProduct]:
        """The vectors of each product, in the batch's order, the same whatever else is in the batch.

        Raises BadPicture if a picture is no RGB array, FloatingPointError if a vector is not finite.
        """
        images = self._images(batch)
        texts = self._texts(batch)
        present = np.array([[i is not None, t is not None] for i, t in zip(images, texts, strict=True)], bool)
        fused = self._fusion.fuse(
            _rows(images, self.widths["image"]), _rows(texts, self.widths["text"]), present.reshape(-1, 2)
        )
        return [
            EncodedProduct(image, text, vector if image is not None or text is not None else None)
            for image, text, vector in zip(images, texts, fused, strict=True)
        ]

    def tokens(self, batch: Sequence[ProductContent]) -> list[ProductTokens]:
        """The word pieces and the places of the picture of each product. Raises as encode."""
        return product_tokens(self._image, self._text, batch)

    def _images(self, batch: Sequence[ProductContent]) -> list[Vector | None]:
        vectors = iter(self._image.encode([product.picture for product in batch if product.picture is not None]))
        return [None if product.picture is None else next(vectors) for product in batch]

    def _texts(self, batch: Sequence[ProductContent]) -> list[Vector | None]:
        vectors = self._text.encode([product.text for product in batch] + [product.details for product in batch])
        return [_weigh(vectors[i], vectors[i + len(batch)]) for i in range(len(batch))]


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


def _rows(vectors: Sequence[Vector | None], width: int) -> Vector:
    """(B, width), zeros where there is none."""
    zeros = np.zeros(width, np.float32)
    return np.stack([zeros if vector is None else vector for vector in vectors]) if vectors else zeros[None, :][:0]
