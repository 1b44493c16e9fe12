"""Whether two pictures are one photo, saved again: a signature of 200 bytes, the same at any size and compression.

A 64-bit hash of the brightness alone takes a shoe for another one beside it on white; so the signature also holds a
thumbnail, of 8 x 8 cells, whose values are compared. Hash: the signs of the 8 x 8 lowest frequencies of the DCT of 32 x
32 cells, about their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIGNATURE_BYTES = 200
HASH_BYTES = 8
HASH_CELLS, FREQUENCIES, THUMBNAIL_CELLS = 32, 8, 8  # a side

# By tests/bench/duplicates.py on 5,000 photos of 60 x 80 px, with nearly the same titles: 5 groups, all right; with a
# share of .14 there are 9, of which 4 are wrong. Of 500 photos, 500 are known again three times as large, 495 as JPEG
# of quality 60, 366 at half the size, and 236 where a pixel is cut off at each side.
BITS_MAX = 6  # of the hash, that may differ
SHARE_MAX = 0.1  # of the thumbnail's contrast, by which a cell may differ: two rings on white are nearly all white
LEVELS_MIN = 4.0  # of 255: so much may differ in any case

_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def sign_picture(picture: NDArray[np.uint8]) -> bytes:
    """Return the signature of a picture (H, W, 3) RGB: HASH_BYTES of hash, then the thumbnail (8, 8, 3), RGB."""
    height, width = picture.shape[:2]
    bright = picture @ _BRIGHTNESS  # (H, W)
    spectrum = _frequencies(height) @ bright @ _frequencies(width).T  # (8, 8)
    bits = spectrum > np.median(spectrum.ravel()[1:])  # the first is the mean brightness
    down, across = _cells(height, THUMBNAIL_CELLS), _cells(width, THUMBNAIL_CELLS)
    channels = [down @ picture[..., channel].astype(np.float32) @ across.T for channel in range(3)]
    thumbnail = np.round(np.stack(channels, axis=2)).astype(np.uint8)  # (8, 8, 3)
    return np.packbits(bits).tobytes() + thumbnail.tobytes()


def is_same_picture(one: bytes, others: list[bytes]) -> NDArray[np.bool_]:
    """Return for each of the other signatures (N,) whether it is of the same photo."""
    own = np.frombuffer(one, np.uint8)
    rows = np.frombuffer(b"".join(others), np.uint8).reshape(-1, SIGNATURE_BYTES)
    same: NDArray[np.bool_] = np.bitwise_count(rows[:, :HASH_BYTES] ^ own[:HASH_BYTES]).sum(1) <= BITS_MAX
    thumbnails, mine = rows[same, HASH_BYTES:].astype(np.int16), own[HASH_BYTES:].astype(np.int16)
    contrast = np.minimum(np.ptp(thumbnails, axis=1), np.ptp(mine))
    same[same] = np.abs(thumbnails - mine).max(1) <= np.maximum(LEVELS_MIN, SHARE_MAX * contrast)
    return same


@lru_cache(maxsize=1024)
def _cells(pixels: int, cells: int) -> NDArray[np.float32]:
    """(cells, pixels): the mean of each cell of a line of pixels; at its edges, pixels count in part."""
    edges = np.linspace(0, pixels, cells + 1)
    begin, end = np.arange(pixels), np.arange(1, pixels + 1)
    shared = np.minimum(edges[1:, None], end) - np.maximum(edges[:-1, None], begin)
    means: NDArray[np.float32] = (np.maximum(shared, 0) * (cells / pixels)).astype(np.float32)
    return means


@lru_cache(maxsize=1024)
def _frequencies(pixels: int) -> NDArray[np.float32]:
    """(8, pixels): the lowest frequencies (DCT-II) of the means of 32 cells."""
    places = np.pi / HASH_CELLS * (np.arange(HASH_CELLS) + 0.5)
    waves = np.cos(np.arange(FREQUENCIES)[:, None] * places)  # (8, 32)
    lowest: NDArray[np.float32] = (waves @ _cells(pixels, HASH_CELLS)).astype(np.float32)
    return lowest
