"""The word pieces and picture places of a shop's products, and what attention over them gives, kept in files.

Encoders see each product once; what they saw is kept in parts, so that a killed run goes on and what learns from it
encodes nothing. Places are kept along W axes, the principal ones of a sample of the shop's own, as half precision.

Shapes: P products, V and T widths of places and word pieces, W what is kept of V, D of the fused vectors.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from encoders.fusion import SCORES, Score
from encoders.product import ProductContent, ProductEncoder
from encoders.product_tokens import ProductTokens
from encoders.reduction import principal_axes
from encoders.sequences import Ragged, TokenSet
from encoders.token_fusion import RECIPES, SEQUENCES, laid_over, sequences_state, token_fusion
from encoders.version import Version
from streams.evaluation.features import AT_ONCE, Told, contents_of, identity_of, picture_loader
from streams.evaluation.kept_arrays import read_kept, write_kept
from streams.evaluation.labelled import pictures_of
from streams.events import ProductUpsert
from streams.settings import Settings

Vectors = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
Read = Callable[[list[ProductContent]], Arrays]

WIDTH = 256  # W, at most; it keeps .81 of the squares of the default encoder's places
SAMPLE = 256  # products that the axes are fitted to
PART = 256  # products of a file
UNTAUGHT: tuple[Score, ...] = tuple(score for score in SCORES if score != "learned")


class KeptTokens(NamedTuple):
    """Of P products, in their order."""

    image: Ragged  # float16, of the width W
    text: Ragged  # float16, of the width T
    grid: tuple[int, int]  # rows and columns of the places; (0, 0) if no product has a picture
    axes: Vectors  # (V, W)
    fused: dict[Score, Vectors]  # (P, D) by attention over all places, word pieces and facts; places whole


def tokens_of(
    products: Sequence[ProductUpsert], folder: Path, kept: Path, settings: Settings, told: Told = lambda *_: None
) -> KeptTokens:
    """The tokens of these products, whose pictures lie in the folder; the first picture of each.

    Raises UnknownSource if the weights cannot be had.
    """
    folder = pictures_of(folder, settings.pictures_root)
    made_of = _made_of(products, folder, settings, "tokens", RECIPES[SEQUENCES], WIDTH)
    where = kept / f"tokens-{made_of[:12]}"
    reader = _Tokens(settings)
    arrays = read_kept(where / "axes.npz", made_of)
    if not arrays:
        sample = np.unique(np.linspace(0, len(products) - 1, SAMPLE).round().astype(int)).tolist()
        parts = asyncio.run(_read_all([products[row] for row in sample], folder, settings, reader.places))
        places = np.concatenate([part["places"] for part in parts])
        arrays = {"axes": principal_axes(places, WIDTH)}
        write_kept(where / "axes.npz", made_of, arrays)
    reader.axes = arrays["axes"]
    found = _joined(_in_parts(products, folder, where, made_of, settings, reader.shortened, told))
    image, text = (Ragged(*(found[f"{side}_{name}"] for name in Ragged._fields)) for side in ("image", "text"))
    rows, columns = found["grid"].max(axis=0).tolist()
    return KeptTokens(image, text, (rows, columns), arrays["axes"], {score: found[score] for score in UNTAUGHT})


def served_vectors(
    products: Sequence[ProductUpsert],
    folder: Path,
    kept: Path,
    settings: Settings,
    version: Version,
    told: Told = lambda *_: None,
) -> Vectors:
    """(P, D) the fused vectors that a worker makes of the first picture and the words of each, zeros for none.

    Raises UnknownSource, UnusableVersion.
    """
    folder = pictures_of(folder, settings.pictures_root)
    made_of = _made_of(products, folder, settings, "served", version.fingerprint)
    encoder = _encoder_of(version, settings)
    none = np.zeros(version.widths["fused"], np.float32)

    def read(contents: list[ProductContent]) -> Arrays:
        return {"fused": np.stack([none if p.fused is None else p.fused for p in encoder.encode(contents)])}

    where = kept / f"served-{made_of[:12]}"
    return _joined(_in_parts(products, folder, where, made_of, settings, read, told))["fused"]


class _Tokens:
    """What is kept of products."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._version = Version(settings.image_encoder, settings.text_encoder)
        self._widths = self._version.widths
        states = {score: {SEQUENCES + name: a for name, a in sequences_state(score).items()} for score in UNTAUGHT}
        self._fusions = {score: token_fusion(state, self._widths) for score, state in states.items()}
        self.axes: Vectors = np.eye(self._widths["image"], WIDTH, dtype=np.float32)

    @cached_property
    def _encoder(self) -> ProductEncoder:
        return _encoder_of(self._version, self._settings)

    def places(self, contents: list[ProductContent]) -> Arrays:
        sets = [_image_of(product) for product in self._encoder.tokens(contents)]
        return {"places": Ragged.joined(sets, self._widths["image"]).states}

    def shortened(self, contents: list[ProductContent]) -> Arrays:
        products = self._encoder.tokens(contents)
        image = Ragged.joined([_image_of(product) for product in products], self._widths["image"])
        text = Ragged.joined([product.text for product in products], self._widths["text"])
        sides = {"image": image._replace(states=image.states @ self.axes), "text": text}
        found: Arrays = {"grid": np.array([product.grid[1:] for product in products], np.int64)}
        for side, tokens in sides.items():
            halves = tokens._replace(states=tokens.states.astype(np.float16))
            found |= {f"{side}_{name}": array for name, array in halves._asdict().items()}
        for score, fusion in self._fusions.items():
            assert fusion is not None
            found[score] = fusion.fuse(products).vectors
        return found


def _encoder_of(version: Version, settings: Settings) -> ProductEncoder:
    return ProductEncoder(version, settings.device, settings.encode_threads, pickled_weights=settings.pickled_weights)


def _image_of(product: ProductTokens) -> TokenSet | None:
    return None if product.image is None else laid_over(product.image, product.grid)


def _in_parts(
    products: Sequence[ProductUpsert],
    folder: Path,
    where: Path,
    made_of: str,
    settings: Settings,
    read: Read,
    told: Told,
) -> list[Arrays]:
    """What is read of each PART of the products, from its file where there is one, else now."""
    parts = []
    for begin in range(0, len(products), PART):
        told(begin, len(products))
        some = products[begin : begin + PART]
        path = where / f"{begin:07}-{begin + len(some):07}.npz"
        arrays = read_kept(path, made_of)
        if not arrays:
            arrays = _joined(asyncio.run(_read_all(some, folder, settings, read)))
            write_kept(path, made_of, arrays)
        parts.append(arrays)
    told(len(products), len(products))
    return parts


async def _read_all(products: Sequence[ProductUpsert], folder: Path, settings: Settings, read: Read) -> list[Arrays]:
    parts = []
    async with picture_loader(folder, settings) as loader:
        for begin in range(0, len(products), AT_ONCE):
            some = products[begin : begin + AT_ONCE]
            found = await loader.load_pictures([product.image_links for product in some])
            pictures = [tuple(p.array for p in own) if isinstance(own, tuple) else () for own in found]
            parts.append(read(contents_of(some, pictures)))
    return parts


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _made_of(products: Sequence[ProductUpsert], folder: Path, settings: Settings, *more: object) -> str:
    told = [identity_of(products, folder, settings), *map(str, more)]
    return hashlib.sha256(" ".join(told).encode()).hexdigest()
