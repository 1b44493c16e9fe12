"""Texts, pictures and small measures for tests of compressed encoders."""

from pathlib import Path

import numpy as np

from encoders.compression import Files
from encoders.recipes import Weights
from encoders.text import TextEncoder
from streams.evaluation.compressed import write_folder

WORDS = ("red", "blue", "lamp", "dress", "very", "long", "brass")
TEXTS = [
    " ".join(WORDS[(i * step) % 7] for i in range(1, 2 + number % 9)) for step in (1, 2, 3, 5) for number in range(20)
]
PICTURES = [np.random.default_rng(seed).integers(0, 256, (20, 16, 3), dtype=np.uint8) for seed in range(20)]


def written(files: Files, folder: Path) -> str:
    """The source string of a folder with these files."""
    write_folder(folder, files)
    return f"path:{folder}"


def encoded(weights: Weights) -> np.ndarray:
    vectors = TextEncoder(weights).encode(TEXTS)
    assert all(vector is not None for vector in vectors)
    return np.stack([vector for vector in vectors if vector is not None])


def lowest_cosine(some: np.ndarray, others: np.ndarray) -> float:
    return float(np.einsum("nd,nd->n", some, others).min())
