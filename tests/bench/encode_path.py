"""The encode role's path from bytes to vectors, without Kafka, for products that never end."""

import os
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from io import BytesIO
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoders.image import square
from encoders.picture_hash import sign_picture
from encoders.product import LaunchedProducts, ProductContent, ProductEncoder, product_content
from encoders.recipes import ImageRecipe
from streams.picture_decoding import Picture, decode

MAX_PIXELS = 40_000_000
PICTURES = 64  # different ones
Batch = list[ProductContent]


def decoded(file: bytes) -> NDArray[np.uint8]:
    """The picture as the encode role decodes it, its signature made."""
    picture = decode(file, MAX_PIXELS)
    assert isinstance(picture, Picture), picture
    sign_picture(picture.array)
    return picture.array


def decoded_squares(files: Sequence[bytes], recipe: ImageRecipe) -> NDArray[np.uint8]:
    """(F, side, side, 3): all that a worker process can do, so that little crosses to the others."""
    return np.stack([square(decoded(file), recipe) for file in files])


def photo(seed: int, side_px: int) -> bytes:
    """A JPEG with about as much detail as a photo."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (12, 12, 3), np.uint8)).resize((side_px, side_px))
    fine = Image.fromarray(chance.integers(0, 256, (side_px // 4, side_px // 4, 3), np.uint8)).resize(
        (side_px, side_px)
    )
    written = BytesIO()
    Image.blend(coarse, fine, 0.2).save(written, "JPEG", quality=88)
    return written.getvalue()


class Shop:
    """Products that never end."""

    def __init__(self, words: Sequence[str], recipe: ImageRecipe, side_px: int) -> None:
        chance = np.random.default_rng(0)
        self._files = cycle([photo(seed, side_px) for seed in range(PICTURES)])
        said = [" ".join(chance.choice(words, 46)).split() for _ in range(PICTURES)]
        self._fields = cycle([{"title": " ".join(own[:6]), "description": " ".join(own[6:])} for own in said])
        self._recipe = recipe

    def batch(self, size: int, pool: Executor) -> Batch:
        """The next products, their pictures decoded by the pool, which also resizes them if it is one of processes."""
        files = list(islice(self._files, size))
        if isinstance(pool, ProcessPoolExecutor):
            each = max(1, size // (2 * cores()))
            parts = [files[begin : begin + each] for begin in range(0, size, each)]
            squares = pool.map(partial(decoded_squares, recipe=self._recipe), parts)
            pictures = [picture for part in squares for picture in part]
        else:
            pictures = list(pool.map(decoded, files))
        fields = islice(self._fields, size)
        return [
            product_content(**own, brand="nerdan", category=("kuto", "padi"), pictures=[picture])
            for own, picture in zip(fields, pictures, strict=True)
        ]


class WholePath:
    """From bytes to vectors; each call gives one batch and has the next one under way."""

    def __init__(
        self, encoder: ProductEncoder, shop: Shop, size: int, pool: Executor, threads: ThreadPoolExecutor
    ) -> None:
        self._encoder, self._shop, self._size, self._pool, self._threads = encoder, shop, size, pool, threads
        self._aside = ThreadPoolExecutor(1)
        self._next = self._aside.submit(self._launched)

    def __call__(self) -> object:
        launched = self._next.result()
        self._next = self._aside.submit(self._launched)
        return self._encoder.collect(launched)

    def close(self) -> None:
        self._next.result()
        self._aside.shutdown()

    def _launched(self) -> LaunchedProducts:
        batch = self._shop.batch(self._size, self._pool)
        return self._encoder.launch(self._encoder.prepare(batch, self._threads.map))


def cores() -> int:
    return len(os.sched_getaffinity(0))
