"""How many encode workers keep a GPU busy: each is a process that decodes, prepares and launches beside the others.

    PYTHONPATH=.:tests python3 -m tests.bench.encode_workers [--device cpu --quick]

Python's lock lets one thread of a process run at a time, so one process cannot prepare what a large GPU encodes; Kafka
shares the topic among as many workers as are started. The GPU's share is nvidia-smi's: of the time, with any kernel.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from encoders.image import square
from encoders.picture_hash import sign_picture
from encoders.product import ProductEncoder
from encoders.recipes import ImageRecipe
from encoders.version import Version
from encoders.weights import find_weights
from streams.picture_decoding import Picture, decode
from tests.bench.cuda_networks import Pair, drawn_words, pairs
from tests.bench.encode_path import MAX_PIXELS, Shop, WholePath, cores, photo

WORKERS = (1, 2, 4, 8)
BATCH = 64
SECONDS = 6.0
SIDE_PX = 480
READY_WITHIN_S = 90.0


def _work(pair: Pair, device: str, threads: int, words: list[str], begin: Barrier, rates: "Queue[float]") -> None:
    """One worker: products per second, after all are ready."""
    recipe = find_weights(pair.image_source, "image").recipe
    assert isinstance(recipe, ImageRecipe)
    encoder = ProductEncoder(Version(pair.image_source, pair.text_source), device)
    with (
        ThreadPoolExecutor(threads) as pool,
        closing(WholePath(encoder, Shop(words, recipe, SIDE_PX), BATCH, pool, pool)) as path,
    ):
        path()
        begin.wait(READY_WITHIN_S)
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS:
            path()
            rounds += 1
        rates.put(rounds * BATCH / (time.perf_counter() - began))


def measure(pair: Pair, device: str, workers: int, words: list[str]) -> tuple[float, str]:
    """Products per second of all workers, and the share of the time that the GPU was busy."""
    spawn = get_context("spawn")
    begin, rates = spawn.Barrier(workers + 1), spawn.Queue()
    threads = max(2, cores() // workers)
    arguments = (pair, device, threads, words, begin, rates)
    processes = [spawn.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    begin.wait(READY_WITHIN_S)
    busy = [_busy() for _ in range(int(SECONDS / 0.25) - 4)] if device != "cpu" else []
    found = [rates.get(timeout=READY_WITHIN_S) for _ in processes]
    for process in processes:
        process.join()
    return sum(found), f"{np.mean(busy) / 100:.2f}" if busy else ""


def _busy() -> float:
    """Percent, as nvidia-smi tells it of the last moment."""
    time.sleep(0.2)
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[0])


def steps(words: list[str], pair: Pair) -> dict[str, float]:
    """Milliseconds of one core for a product, by step before the GPU."""
    files = [photo(seed, SIDE_PX) for seed in range(32)]
    decoded = [decode(file, MAX_PIXELS) for file in files]
    arrays = [picture.array for picture in decoded if isinstance(picture, Picture)]
    recipe = find_weights(pair.image_source, "image").recipe
    assert isinstance(recipe, ImageRecipe)
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(words, 46)) for _ in files]
    text = ProductEncoder(Version(pair.image_source, pair.text_source), "cpu")._text

    def timed(step: object) -> float:
        began = time.perf_counter()
        for _ in range(3):
            step()  # type: ignore[operator]
        return (time.perf_counter() - began) / 3 / len(files) * 1e3

    return {
        "decoded": timed(lambda: [decode(file, MAX_PIXELS) for file in files]),
        "signed": timed(lambda: [sign_picture(array) for array in arrays]),
        "resized": timed(lambda: [square(array, recipe) for array in arrays]),
        "cut into word pieces": timed(lambda: text.prepare(texts)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small networks and two workers: only shows that it works")
    asked = parser.parse_args()
    words = drawn_words()
    print(f"{cores()} cores, batches of {BATCH}, pictures of {SIDE_PX} px\n")
    with TemporaryDirectory(prefix="freshet-bench-workers-") as folder:
        written = pairs(Path(folder), words, quick=asked.quick)
        for name in ("CLIP", "ResNet"):
            pair = written[name]()
            took = ", ".join(f"{step} {ms:.2f}" for step, ms in steps(words, pair).items())
            print(f"{pair.name}: milliseconds of one core for a product: {took}\n", flush=True)
            print("| encode workers | products/s | GPU busy |\n| --- | --- | --- |")
            for workers in WORKERS[:2] if asked.quick else WORKERS:
                print(f"{pair.name}, {workers}", file=sys.stderr, flush=True)
                rate, busy = measure(pair, asked.device, workers, words)
                print(f"| {workers} | {rate:,.0f} | {busy} |", flush=True)
            print()


if __name__ == "__main__":
    main()
