"""Charts of an evaluation, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from encoders.next_click import Floats, Rows
from streams.evaluation.measures import mean, value_of

STRETCHES = 40  # points of a line over the stream
FEWEST = 20  # judged clicks of a point


def draw_freshness(folder: Path, lines: Mapping[str, Sequence[tuple[str, dict[str, Any]]]]) -> Path:
    """folder/freshness.png: HR@10 against how much later a click is learned; bars are two standard errors long.

    lines  by model: what a delay is called, and the figures with it, from the shortest delay on
    """
    figure, axes = _axes("each click is learned so much later", "HR@10")
    names = list(dict.fromkeys(name for points in lines.values() for name, _ in points))
    for model, points in lines.items():
        there = [(names.index(name), found) for name, found in points if found["hr_at_10"] is not None]
        axes.errorbar(
            [place for place, _ in there],
            [found["hr_at_10"] for _, found in there],
            yerr=[found["hr_at_10_stderr"] or 0.0 for _, found in there],
            marker="o",
            capsize=3,
            label=model,
        )
    axes.set_xticks(range(len(names)), names)
    return _written(figure, folder / "freshness.png")


def draw_course(folder: Path, ranks: dict[str, Floats], users: Rows) -> Path:
    """folder/course.png: HR@10 in each stretch of the stream, with a band of one standard error to each side.

    ranks  by model (N,) float32, NaN where nothing was judged      users  (N,) int32
    """
    figure, axes = _axes("clicks", "HR@10")
    edges = np.linspace(0, len(users), STRETCHES + 1).astype(int)
    for model, found in ranks.items():
        points = []
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            there = np.flatnonzero(~np.isnan(found[begin:end])) + begin
            if len(there) >= FEWEST:
                points.append(((begin + end) / 2, *mean(value_of("hr_at_10", found[there]), users[there])))
        middles, values, stderrs = ([point[n] for point in points] for n in range(3))
        reach = np.array([stderr or 0.0 for stderr in stderrs])
        axes.plot(middles, values, label=model)
        axes.fill_between(middles, np.array(values) - reach, np.array(values) + reach, alpha=0.2)
    axes.set_ylim(bottom=0)
    return _written(figure, folder / "course.png")


def _axes(across: str, up: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure, axes


def _written(figure: Figure, path: Path) -> Path:
    figure.legend(loc="outside right upper", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
