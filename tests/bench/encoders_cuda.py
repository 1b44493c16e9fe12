"""The encoders on a GPU: each part and the whole path by batch size, half precision on and off, and how busy it is."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import BytesIO
from unittest import mock

import numpy as np
import torch
from PIL import Image

from encoders.attributes import encode_facts
from encoders.fusion import Fusion, Modalities
from encoders.image import ImageEncoder
from encoders.product import ProductContent, ProductEncoder
from encoders.text import TextEncoder
from encoders.version import Version
from encoders.weights import find_weights, widths_of
from streams.picture_decoding import decode
from streams.settings import Settings
from tests.bench.report import Figure
from tests.bench.stage import Tell

SIZES = (1, 4, 16, 64, 256)
SECONDS = 2.0  # of each measurement
MAX_PIXELS = 40_000_000


def on_cuda(settings: Settings, contents: Sequence[ProductContent], tell: Tell) -> list[Figure]:
    """Products per second of decoding, each encoder, fusion and all of it, and the share of the time with kernels."""
    images, texts = settings.image_encoder, settings.text_encoder
    image = ImageEncoder(find_weights(images, "image"), device="cuda")
    text = TextEncoder(find_weights(texts, "text"), device="cuda")
    whole = ProductEncoder(Version(images, texts), "cuda")
    fusion, widths = Fusion(widths_of(images, texts)), widths_of(images, texts)
    files = [_jpeg(content) for content in contents]
    figures = []
    for size in SIZES:
        some = [contents[i % len(contents)] for i in range(size)]
        pictures = [content.pictures[0] for content in some]
        rows = [np.full((size, widths[side]), widths[side] ** -0.5, np.float32) for side in ("image", "text")]
        known = Modalities(*rows, encode_facts([content.facts for content in some]))
        parts: dict[str, Callable[[], object]] = {
            "pictures decoded": lambda size=size: [decode(files[i % len(files)], MAX_PIXELS) for i in range(size)],
            "pictures encoded": lambda pictures=pictures: image.encode(pictures),
            "texts encoded": lambda some=some: text.encode([content.text for content in some]),
            "fused": lambda known=known: fusion.fuse(known),
            "the whole path, pictures decoded before": lambda some=some: whole.encode(some),
        }
        for name, part in parts.items():
            tell(f"{name}, batches of {size}, on a GPU")
            rate, busy = _rate(part, size)
            what = f"products per second on {torch.cuda.get_device_name()}: {name}, batches of {size}"
            if name in ("pictures decoded", "fused"):
                figures.append(Figure(what, rate))
                continue
            with _full_precision():
                full, _ = _rate(part, size)
            figures.append(Figure(what, rate, "", full, "without autocast"))
            figures.append(Figure(f"share of it that the GPU is busy: {name}, batches of {size}", busy, at_least=0.7))
    return figures


def _rate(part: Callable[[], object], size: int) -> tuple[float, float]:
    """Products per second, and the share of the time during which kernels ran."""
    part()
    torch.cuda.synchronize()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        part()
        rounds += 1
    torch.cuda.synchronize()
    rate = rounds * size / (time.perf_counter() - began)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:  # apart from the rate, which it would lower
        began = time.perf_counter()
        for _ in range(min(rounds, 20)):
            part()
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - began
    kernels_us = sum(event.self_device_time_total for event in profile.key_averages())
    return rate, kernels_us / 1e6 / wall_s


@contextmanager
def _full_precision() -> Iterator[None]:
    with mock.patch("torch.autocast", return_value=nullcontext()):
        yield


def _jpeg(content: ProductContent) -> bytes:
    written = BytesIO()
    Image.fromarray(content.pictures[0]).save(written, "JPEG")
    return written.getvalue()
