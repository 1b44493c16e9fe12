"""Encoders that take no time: what a product's vectors are is told by its title and the version's fingerprint."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.image import Pixels
from encoders.product import EncodedProduct, ProductContent, ProductEncoder, ProductQuery
from encoders.weights import fingerprint_of, widths_of
from store.encoders import EncoderRow
from streams.events import EncoderVersion
from streams.settings import Settings
from streams.versions import version_of


def untrained_version(settings: Settings) -> EncoderVersion:
    """The version of the settings, as the catalogue tells of it when there is no other."""
    sources = {"image": settings.image_encoder, "text": settings.text_encoder}
    fingerprint, widths = fingerprint_of(*sources.values()), widths_of(*sources.values())
    return version_of(EncoderRow(fingerprint, sources, widths, state="serving", served=1, first=True, filled_at=1.0))


def tiny_vector(fingerprint: str, text: str, width: int) -> NDArray[np.float32]:
    """(width,) of length 1, for this text by this version."""
    seed = int.from_bytes(hashlib.sha256(f"{fingerprint} {text}".encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=width).astype(np.float32)
    unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return unit


class TinyEncoder:
    """Stands for a ProductEncoder; encoding a product takes pause_s."""

    device = "none"

    def __init__(self, fingerprint: str, widths: Mapping[str, int], pause_s: float = 0.0) -> None:
        self.fingerprint = fingerprint
        self.widths = dict(widths)
        self._pause_s = pause_s

    def encode(self, batch: Sequence[ProductContent]) -> list[EncodedProduct]:
        return self.collect(self.launch(self.prepare(batch)))

    def prepare(self, batch: Sequence[ProductContent], over: Any = map) -> Sequence[ProductContent]:  # noqa: ARG002
        return batch

    def launch(self, batch: Sequence[ProductContent]) -> Sequence[ProductContent]:
        time.sleep(self._pause_s * len(batch))
        return batch

    def collect(self, batch: Sequence[ProductContent]) -> list[EncodedProduct]:
        vectors = [
            {name: tiny_vector(self.fingerprint, product.text, width) for name, width in self.widths.items()}
            for product in batch
        ]
        return [EncodedProduct(None, vector["text"], vector["fused"]) for vector in vectors]


def query_vectors(
    encoder: ProductEncoder, words: str = "", picture: Pixels | None = None, *weights: float
) -> dict[str, NDArray[np.float32]]:
    """Of one query; weights: that of its words and that of its picture."""
    return encoder.encode_queries([ProductQuery(words, picture, *weights)])[0]
