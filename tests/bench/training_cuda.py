"""Training on a GPU, with and without half precision and torchrun: the loss, what is found again, and the time.

    PYTHONPATH=.:tests torchrun --nproc-per-node 1 -m tests.bench.training_cuda [--device cpu]

Needs encoders/ alone. Under torchrun the process is connected (NCCL on a GPU) and DistributedDataParallel runs.
"""

import argparse
import time

import numpy as np
import torch

from encoders.training.align import AlignmentRule, align
from encoders.training.loop import Precision, Progress, Run
from encoders.training.processes import Processes, training_processes

PAIRS, HELD_OUT = 4_000, 1_000
HIDDEN, V, T = 64, 1_280, 384
NOISE = 20.0  # so that not every pair is found again


class Killed(Exception):
    """As if the process had been killed."""


class Memory:
    """Keeps the standing of a run."""

    def __init__(self) -> None:
        self.standing: bytes | None = None

    def read(self) -> bytes | None:
        return self.standing

    def write(self, standing: bytes) -> None:
        self.standing = standing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    with training_processes(device) as processes:
        if processes.is_first:
            backend = torch.distributed.get_backend() if processes.connected else "no torch.distributed"
            print(f"| align on {device}, {processes.world} process ({backend}) | loss | R@1 of {HELD_OUT} | s |")
            print("|---|---|---|---|", flush=True)
        for precision in ("float32", "bfloat16", "float16") if device != "cpu" else ("float32", "bfloat16"):
            _row(precision, device, processes, Memory())
        kept = Memory()
        try:
            _row("float32", device, processes, kept, killed_at=40)
        except Killed:
            _row("float32", device, processes, kept, "killed in the middle, gone on")


def _row(
    precision: Precision, device: str, processes: Processes, kept: Memory, what: str = "", killed_at: int | None = None
) -> None:
    pictures, words = _pairs()
    losses: list[float] = []

    def told(at: Progress) -> None:
        losses.append(at.loss)
        if at.step == killed_at:
            raise Killed

    began = time.perf_counter()
    run = Run(7, device, processes=processes, kept=kept, told=told, save_every_s=1.0 if killed_at is None else 0.0)
    rule = AlignmentRule(epochs=20, precision=precision)
    learned = align(pictures[None, :PAIRS], words[:PAIRS], rule, run)
    took_s = time.perf_counter() - began
    a, b = learned.pictures(pictures[PAIRS:]), learned.words(words[PAIRS:])
    found = float((np.argmax(b @ a.T, axis=1) == np.arange(HELD_OUT)).mean())
    if processes.is_first:
        print(f"| {what or precision} | {losses[-1]:.4f} | {found:.3f} | {took_s:.1f} |", flush=True)


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    """(n, V) and (n, T) of the same hidden causes."""
    chance = np.random.default_rng(1)
    hidden = chance.normal(size=(PAIRS + HELD_OUT, HIDDEN))
    sides = [
        hidden @ chance.normal(size=(HIDDEN, width)) + NOISE * chance.normal(size=(len(hidden), width))
        for width in (V, T)
    ]
    return sides[0].astype(np.float32), sides[1].astype(np.float32)


if __name__ == "__main__":
    main()
