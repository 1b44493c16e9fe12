"""What a benchmark tells: progress while it runs, then Markdown with commit, machine, versions and figures."""

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from brokers import kafka_libraries
from rich.console import Console
from rich.status import Status

from streams.evaluation.report import commit

PACKAGES = ("faust-streaming", "aiokafka", "qdrant-edge-py", "torch", "numba", "numpy")
LINE_EVERY_S = 5.0  # where progress is written to a file


class Figure(NamedTuple):
    """A measured value beside its baseline of the same run, and its bar."""

    what: str
    value: float
    unit: str = ""
    baseline: float | None = None
    baseline_is: str = ""
    at_most: float | None = None
    at_least: float | None = None

    def cells(self) -> tuple[str, str, str, str, str]:
        """Its cells in FIGURE_COLUMNS."""
        baseline = "" if self.baseline is None else f"{shown(self.baseline, self.unit)} ({self.baseline_is})"
        bar, reached = "", ""
        if self.at_most is not None:
            bar, reached = f"<= {shown(self.at_most, self.unit)}", "yes" if self.value <= self.at_most else "no"
        if self.at_least is not None:
            bar, reached = f">= {shown(self.at_least, self.unit)}", "yes" if self.value >= self.at_least else "no"
        return self.what, shown(self.value, self.unit), baseline, bar, reached


FIGURE_COLUMNS = ("what", "measured", "baseline", "bar", "reached")


class Progress:
    """One line that says what happens now: on a terminal it changes in place, else it is written now and then."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(stderr=True)
        self._status: Status | None = self._console.status(title) if self._console.is_terminal else None
        self._began = self._written_at = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, doing: str) -> None:
        """This is what happens now."""
        now = time.monotonic()
        line = f"{self._title}, {now - self._began:.0f} s: {doing}"
        if self._status is not None:
            self._status.update(line)
        elif now - self._written_at >= LINE_EVERY_S:
            self._written_at = now
            self._console.print(line, highlight=False, soft_wrap=True)


def shown(value: float, unit: str = "") -> str:
    """Three digits that count, thousands apart."""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def percentiles_ms(latencies_s: Sequence[float]) -> tuple[float, float]:
    """p50 and p99 in ms."""
    p50, p99 = np.percentile(np.array(latencies_s) * 1000, [50, 99])
    return float(p50), float(p99)


def where(command: str) -> str:
    """A Markdown line: the command, the commit, the machine and what else ran there, the versions."""
    kafka = next(kafka_libraries().glob("kafka_2*.jar")).stem.partition("-")[2]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    return (
        f"`{command}` at {commit()}, {time.strftime('%Y-%m-%d')}; {os.cpu_count()} cores ({_processor()}), "
        f"load {os.getloadavg()[0]:.1f} before; Python {platform.python_version()}, Kafka {kafka}, {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
