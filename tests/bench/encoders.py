"""How fast the encoders are: batch and single, threads, eight bits and ONNX beside torch. A GPU: encoders_cuda.

What is compared runs in turns, so that whatever else the machine does slows both.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from brokers import LocalKafka

from encoders.compression import METHODS, Method, compress_pictures, compress_text
from encoders.image import ImageEncoder
from encoders.product import ProductContent, ProductEncoder
from encoders.recipes import Weights
from encoders.text import TextEncoder
from encoders.version import Version
from encoders.weights import find_weights
from streams.evaluation.compressed import write_folder
from streams.settings import Settings
from tests.bench.products import drawn_contents
from tests.bench.report import Figure
from tests.bench.stage import Sizes, Tell

BATCH = 32
ROUNDS = 5
THREADS = (1, 2)
Reader = Callable[[Sequence[Any]], object]


async def encoders(kafka: LocalKafka, sizes: Sizes, tell: Tell) -> list[Figure]:  # noqa: ARG001 (nothing goes over Kafka)
    """Products per second on a CPU."""
    return await asyncio.to_thread(_all, sizes, tell)


def _all(sizes: Sizes, tell: Tell) -> list[Figure]:
    settings = Settings(device="cpu")
    with TemporaryDirectory(prefix="freshet-bench-encoders-") as folder:
        contents = drawn_contents(Path(folder), max(BATCH, sizes.encoded))
        texts = [content.text for content in contents]
        pictures = [content.pictures[0] for content in contents]
        text, image = find_weights(settings.text_encoder, "text"), find_weights(settings.image_encoder, "image")
        tell("compressing")
        of_text = _compressed(text, Path(folder), texts, lambda m: compress_text(text, m, texts))
        of_image = _compressed(image, Path(folder), pictures, lambda m: compress_pictures(image, m, pictures))
        tell("text, on a CPU")
        figures = _figures("texts", TextEncoder, of_text, texts)
        tell("pictures, on a CPU")
        figures += _figures("pictures", ImageEncoder, of_image, pictures)
        tell("products, on a CPU")
        figures += _whole_path(settings, contents)
        return figures


def _compressed(
    weights: Weights, folder: Path, inputs: Sequence[Any], make: Callable[[Method], Any]
) -> dict[str, Weights]:
    """By method; pruned ones are as fast as their size allows and need teaching, so they are left out."""
    found = {"torch": weights}
    for method in METHODS:
        if method == "pruned" or (method == "int8" and weights.modality == "image"):
            continue
        if method == "onnx-int8" and weights.modality == "image" and len(inputs) < BATCH:
            continue
        out = folder / method / weights.modality
        write_folder(out, make(method))
        found[method] = find_weights(f"path:{out}", weights.modality)
    return found


def _figures(
    what: str, kind: Callable[[Weights], Any], by_method: Mapping[str, Weights], inputs: Sequence[Any]
) -> list[Figure]:
    figures = []
    single_of: dict[str, float] = {}
    of_one: dict[tuple[str, int], float] = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        readers = {name: kind(weights).encode for name, weights in by_method.items()}
        for batch in (1, BATCH):
            rates = in_turns(readers, inputs, batch)
            for name, rate in rates.items():
                told = f"{what} per second, {name}, batches of {batch}, {threads} thread{'s' if threads > 1 else ''}"
                if name != "torch":
                    beside: tuple[float, str] | None = (rates["torch"], "torch")
                elif threads > 1:
                    beside = (of_one[name, batch], "1 thread")
                else:
                    beside = (single_of[name], "batches of 1") if batch > 1 else None
                figures.append(Figure(told, rate, "", *(beside or (None, ""))))
                single_of.setdefault(name, rate)
                of_one.setdefault((name, batch), rate)
    torch.set_num_threads(1)
    return figures


def _whole_path(settings: Settings, contents: Sequence[ProductContent]) -> list[Figure]:
    encoder = ProductEncoder(Version(settings.image_encoder, settings.text_encoder), "cpu", threads=1)
    alone, together = (in_turns({"all": encoder.encode}, contents, batch)["all"] for batch in (1, BATCH))
    what = "products with words and picture per second, fused, 1 thread"
    return [Figure(f"{what}, batches of {BATCH}", together, "", alone, "batches of 1")]


def in_turns(readers: Mapping[str, Reader], inputs: Sequence[Any], batch: int) -> dict[str, float]:
    """Inputs per second of each, the median of ROUNDS rounds; all read the same."""
    begins = range(0, len(inputs) - batch + 1, batch)
    parts = [inputs[begin : begin + batch] for begin in begins][: max(1, 2 * BATCH // batch)]
    for read in readers.values():
        read(parts[0])
    took_s: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, read in readers.items():
            began = time.perf_counter()
            for part in parts:
                read(part)
            took_s[name].append(time.perf_counter() - began)
    return {name: len(parts) * batch / float(np.median(took)) for name, took in took_s.items()}
