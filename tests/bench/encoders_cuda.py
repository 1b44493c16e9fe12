"""The encoders on a GPU, from a JPEG's bytes to fused vectors: how fast, how busy the GPU is, and what bounds it.

    PYTHONPATH=.:tests python3 -m tests.bench.encoders_cuda [--limit SECONDS] [--device cpu --quick]

Needs encoders/, streams/picture_decoding.py and no Kafka. A row has a column for each size of a batch.

The whole path is the encode role's, but for Kafka: workers decode and resize the pictures of the next batch and cut its
words into pieces, and the GPU has it in its queue before it is done with this one.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch

from encoders.attributes import encode_facts
from encoders.fusion import Fusion, Modalities
from encoders.product import EncodedProduct, ProductEncoder, product_content
from encoders.recipes import ImageRecipe
from encoders.version import Version
from encoders.weights import find_weights
from tests.bench.cuda_networks import Pair, drawn_words, pairs
from tests.bench.encode_path import Shop, WholePath, cores

SIZES = (1, 4, 16, 64, 256)
SECONDS = 0.7  # of each measurement
ROUNDS_MIN = 2
SIDE_PX, LARGE_PX = 480, 800
AGREEING = 16  # products
PARTS = ("whole", "bounds", "agreement", "each", "decoding")
BUSY = 0.7  # share of the time that the GPU should be at work


Part = Callable[[], object]


class Pools(NamedTuple):
    """Who decodes."""

    threads: ThreadPoolExecutor
    processes: ProcessPoolExecutor

    @property
    def by_kind(self) -> dict[str, Executor]:
        return {"threads": self.threads, "processes": self.processes}


class OutOfTime(Exception):
    """The limit is reached: what is left is not measured."""


class Bench:
    """Measures within a limit of time, and writes rows."""

    def __init__(self, device: str, limit_s: float, sizes: Sequence[int]) -> None:
        self.device, self.sizes = device, sizes
        self._began, self._limit_s = time.perf_counter(), limit_s

    def tell(self, doing: str) -> None:
        print(f"{time.perf_counter() - self._began:6.1f} s: {doing}", file=sys.stderr, flush=True)

    def row(self, what: str, cells: Sequence[object]) -> None:
        print(
            "| "
            + " | ".join([what, *(shown(cell) if isinstance(cell, float) else str(cell) for cell in cells)])
            + " |",
            flush=True,
        )

    def rates(self, what: str, make: Callable[[int], Part]) -> list[float]:
        """Products per second by size of batch, written as a row; make(B) gives what encodes B products once."""
        self.tell(what)
        found = [self.rate(make(size), size) for size in self.sizes]
        self.row(what, found)
        return found

    def rate(self, part: Part, size: int) -> float:
        """Products per second. Raises OutOfTime."""
        if time.perf_counter() - self._began > self._limit_s:
            raise OutOfTime
        part()
        self._wait()
        began, rounds = time.perf_counter(), 0
        while rounds < ROUNDS_MIN or time.perf_counter() - began < SECONDS:
            part()
            rounds += 1
        self._wait()
        return rounds * size / (time.perf_counter() - began)

    def kernels_per_s(self, part: Part, size: int) -> float:
        """Products per second of the GPU if it never waited: by the time of the kernels alone, without copies."""
        is_cuda = self.device != "cpu"
        part()
        kind = torch.profiler.ProfilerActivity.CUDA if is_cuda else torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[kind]) as profile:
            for _ in range(ROUNDS_MIN):
                part()
            self._wait()
        events = [event for event in profile.key_averages() if not event.key.startswith(("Memcpy", "Memset"))]
        took_us = sum(event.self_device_time_total if is_cuda else event.self_cpu_time_total for event in events)
        return ROUNDS_MIN * size / max(took_us / 1e6, 1e-9)

    def launches_per_s(self, part: Part, size: int) -> float:
        """Products per second of the thread that launches, if it never waited."""
        part()
        began = time.thread_time()
        for _ in range(ROUNDS_MIN):
            part()
        return ROUNDS_MIN * size / max(time.thread_time() - began, 1e-9)

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


class Measured:
    """Two encoders together, on one device."""

    def __init__(self, bench: Bench, pair: Pair, words: Sequence[str], pools: Pools) -> None:
        bench.tell(f"{pair.name} is loaded")
        recipe = find_weights(pair.image_source, "image").recipe
        assert isinstance(recipe, ImageRecipe)
        self._name, self._bench, self._pools = pair.name, bench, pools
        self._encoder = ProductEncoder(Version(pair.image_source, pair.text_source), bench.device)
        self._shop, self._large = (Shop(words, recipe, side_px) for side_px in (SIDE_PX, LARGE_PX))
        self._prepared = {size: self._encoder.prepare(self._shop.batch(size, pools.threads)) for size in bench.sizes}
        bench.tell(f"{pair.name}: the kernels")
        self._kernels = [bench.kernels_per_s(self._alone(size), size) for size in bench.sizes]
        self._whole: dict[str, list[float]] = {}

    def whole_path(self) -> None:
        """Rows of products per second, and of how busy the GPU is."""
        for kind, pool in self._pools.by_kind.items():
            self._whole[kind] = self._path_rows(f"pictures decoded by {kind}", self._shop, pool, self._kernels)
        with _full_precision():
            kernels = [self._bench.kernels_per_s(self._alone(size), size) for size in self._bench.sizes]
            self._path_rows("threads, without autocast", self._shop, self._pools.threads, kernels)
        self._path_rows(f"threads, pictures of {LARGE_PX} px", self._large, self._pools.threads, self._kernels)

    def bounds(self) -> None:
        """Rows of what each step does alone, and of which bounds the whole path."""
        self._rates("encoded, prepared before", self._alone)
        with _full_precision():
            self._rates("encoded, prepared before, without autocast", self._alone)
        launching = [self._bench.launches_per_s(self._alone(size), size) for size in self._bench.sizes]
        self._bench.row(f"{self._name}: launching and collecting, by that thread's own time", launching)
        self._bench.row(f"{self._name}: the GPU's kernels alone", self._kernels)
        limits = {"the GPU": self._kernels, "launching": launching}
        for kind, pool in self._pools.by_kind.items():
            told = f"decoded, resized and cut into word pieces by {kind}"
            limits["preparing"] = self._rates(told, partial(self._preparing, pool))
            bounds = [
                _bound(rate, {by: of[i] for by, of in limits.items()})
                for i, rate in enumerate(self._whole.get(kind, []))
            ]
            if bounds:
                self._bench.row(f"{self._name}: what bounds the whole path, {kind}", bounds)

    def parts(self) -> None:
        """Rows of each encoder."""
        image, text = self._encoder._image, self._encoder._text

        def pictures(size: int) -> Part:
            return lambda: image.collect(image.launch(self._prepared[size].squares))

        def texts(size: int) -> Part:
            return lambda: text.collect(text.launch(self._prepared[size].pieces))

        for what, make in {"pictures encoded": pictures, "texts encoded": texts}.items():
            self._rates(what, make)
            with _full_precision():
                self._rates(f"{what}, without autocast", make)
        largest = self._bench.sizes[-1]
        for many in (32, 64, 128, 256):
            with mock.patch("encoders.image.AT_ONCE_GPU", many):
                rate = self._bench.rate(pictures(largest), largest)
            what = f"{self._name}: pictures encoded, {many} in a forward pass"
            self._bench.row(what, [*[""] * (len(self._bench.sizes) - 1), rate])

    def agreement(self) -> None:
        """A row of how far what the GPU makes is from what the CPU makes: 1 - cosine of fused vectors, the worst."""
        self._bench.tell(f"{self._name}: the same on the CPU")
        batch = self._shop.batch(AGREEING, self._pools.threads)
        on_cpu = ProductEncoder(self._encoder.version, "cpu", cores()).encode(batch)
        made = {"with": self._encoder.encode(batch)}
        with _full_precision():
            made["without"] = self._encoder.encode(batch)
        worst = {how: max(map(_distance, on_gpu, on_cpu)) for how, on_gpu in made.items()}
        told = ", ".join(f"{distance:.1e} {how} autocast" for how, distance in worst.items())
        what = f"{self._name}: 1 - cosine of the GPU's and the CPU's fused vectors, worst of {AGREEING}"
        self._bench.row(what, [told, *[""] * (len(self._bench.sizes) - 1)])

    def _alone(self, size: int) -> Part:
        return lambda: self._encoder.collect(self._encoder.launch(self._prepared[size]))

    def _preparing(self, pool: Executor, size: int) -> Part:
        return lambda: self._encoder.prepare(self._shop.batch(size, pool), self._pools.threads.map)

    def _rates(self, what: str, make: Callable[[int], Part]) -> list[float]:
        return self._bench.rates(f"{self._name}: {what}", make)

    def _path_rows(self, what: str, shop: Shop, pool: Executor, kernels: Sequence[float]) -> list[float]:
        told = f"{self._name}: the whole path, {what}"
        self._bench.tell(told)
        found = []
        for size in self._bench.sizes:
            with closing(WholePath(self._encoder, shop, size, pool, self._pools.threads)) as path:
                found.append(self._bench.rate(path, size))
        self._bench.row(told, found)
        busy = [rate / most for rate, most in zip(found, kernels, strict=True)]
        self._bench.row(f"share of that time that the GPU's kernels run (bar {BUSY})", busy)
        return found


def _distance(one: EncodedProduct, other: EncodedProduct) -> float:
    assert one.fused is not None
    assert other.fused is not None
    return 1.0 - float(one.fused.astype(np.float64) @ other.fused)


def _bound(rate: float, limits: dict[str, float]) -> str:
    """What is slowest alone; and if all are much faster alone, that they hold each other up."""
    slowest = min(limits, key=limits.__getitem__)
    if limits["the GPU"] < 1.15 * limits[slowest]:  # who launches waits, awake, while the GPU's queue is full
        slowest = "the GPU"
    return slowest if rate > BUSY * limits[slowest] else f"{slowest}, and each other"


def decoding(bench: Bench, pools: Pools, words: Sequence[str]) -> None:
    """Rows of decoding alone, and of fusion."""
    with ThreadPoolExecutor(1) as one:
        for side_px in (SIDE_PX, LARGE_PX):
            shop = Shop(words, ImageRecipe(), side_px)
            for kind, pool in {"one thread": one, **pools.by_kind}.items():
                what = f"pictures of {side_px} px decoded by {kind}" + (", and resized" if kind == "processes" else "")
                bench.rates(what, lambda size, shop=shop, pool=pool: lambda: shop.batch(size, pool))
    widths = {"image": 1280, "text": 384}
    fusion = Fusion(widths)
    facts = product_content(title="", brand="nerdan", category=("kuto", "padi")).facts

    def fused(size: int) -> Part:
        rows = [np.full((size, width), width**-0.5, np.float32) for width in widths.values()]
        return lambda: fusion.fuse(Modalities(*rows, encode_facts([facts] * size)))

    bench.rates("fused, on the CPU", fused)


@contextmanager
def _full_precision() -> Iterator[None]:
    with mock.patch("torch.autocast", return_value=nullcontext()):
        yield


def shown(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds after which nothing more is measured")
    parser.add_argument(
        "--quick", action="store_true", help="small networks, batches of 1 and 4: only shows that it works"
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="which rows: %(default)s")
    asked = parser.parse_args()
    wanted = asked.parts.split(",")
    bench = Bench(asked.device, asked.limit, SIZES[:2] if asked.quick else SIZES)
    on = torch.cuda.get_device_name() if asked.device != "cpu" else "a CPU"
    print(f"{on}, {cores()} cores, torch {torch.__version__}, pictures of {SIDE_PX} px; products/s by batch size\n")
    bench.row("", bench.sizes)
    bench.row("---", ["---"] * len(bench.sizes))
    words = drawn_words()
    with (
        TemporaryDirectory(prefix="freshet-bench-cuda-") as folder,
        ThreadPoolExecutor(cores()) as threads,
        ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as processes,
    ):
        for _ in range(cores()):
            processes.submit(cores)  # they start meanwhile, which takes seconds
        pools = Pools(threads, processes)
        try:
            measured = []
            for name, write in pairs(Path(folder), words, quick=asked.quick).items():
                bench.tell(f"{name} is written")
                measured.append(Measured(bench, write(), words, pools))
                if "whole" in wanted:
                    measured[-1].whole_path()
            for each in measured if "bounds" in wanted else ():
                each.bounds()
            for each in measured[1:] if "agreement" in wanted else ():  # the largest takes too long on a CPU
                each.agreement()
            for each in measured if "each" in wanted else ():
                each.parts()
            if "decoding" in wanted:
                decoding(bench, pools, words)
        except OutOfTime:
            bench.tell("out of time: what is missing was not measured")
    bench.tell("done")


if __name__ == "__main__":
    main()
