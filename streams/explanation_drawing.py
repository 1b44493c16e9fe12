"""An explanation as a PNG: what places contribute, laid over the pictures, and the words and facts beside them."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from encoders.image import Pixels
from streams.explain import Explanation, Part

PARTS_SHOWN = 16  # those that contribute most
LETTERS_SHOWN = 28  # of a part
PART_COLOUR, MOVE_COLOUR = "#35608f", "#d9722e"


def draw_explanation(explained: Explanation, title: str, path: Path) -> None:
    """The file is the drawing: for each picture a map of contributions, and one of moves if it was checked; parts."""
    maps: list[tuple[str, Pixels, NDArray[Any]]] = []
    for number, picture in enumerate(explained.pictures):
        maps.append(("contribution, %", picture, 100 * explained.place_contributions[number]))
        if explained.place_moves is not None:
            maps.append(("check: 1 - cosine when covered", picture, explained.place_moves[number]))
    figure = Figure(figsize=(5.5 + 4.2 * len(maps), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    # No title and no word may be read as a formula.
    figure.suptitle(f"{title}\n{_modalities(explained)}", fontsize=11, parse_math=False)
    axes = np.atleast_1d(figure.subplots(1, len(maps) + 1))
    for panel, (name, picture, values) in zip(axes, maps, strict=False):
        _lay_over(figure, panel, picture, values, name)
    _bars(axes[-1], sorted(explained.parts, key=lambda part: part.contribution)[-PARTS_SHOWN:])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def _modalities(explained: Explanation) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in explained.contributions.items())


def _lay_over(figure: Figure, axes: Any, picture: Pixels, values: NDArray[Any], name: str) -> None:
    """The picture in grey below, its places as they are above: no smoothing promises more than was measured."""
    sides = (0, picture.shape[1], picture.shape[0], 0)
    axes.imshow(picture.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=sides)
    shown = axes.imshow(values, cmap="inferno", alpha=0.6, extent=sides, interpolation="nearest")
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
    figure.colorbar(shown, ax=axes, shrink=0.75)


def _bars(axes: Any, parts: list[Part]) -> None:
    """What the words and facts contribute, the most above; how far the vector moves without them on its own axis."""
    axes.set_title("words (details in brackets) and facts", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if not parts:
        axes.set_axis_off()
        return
    places = np.arange(len(parts))
    is_checked = parts[0].move is not None
    height = 0.38 if is_checked else 0.75
    shares = [100 * part.contribution for part in parts]
    axes.barh(places + (0.2 if is_checked else 0), shares, height, color=PART_COLOUR)
    axes.set_yticks(places, [_label(part) for part in parts], parse_math=False)
    axes.set_xlabel("contribution, %", color=PART_COLOUR)
    if is_checked:
        other = axes.twiny()
        other.barh(places - 0.2, [part.move or 0.0 for part in parts], height, color=MOVE_COLOUR)
        other.set_xlabel("check: 1 - cosine without it", color=MOVE_COLOUR)
        other.spines["right"].set_visible(False)


def _label(part: Part) -> str:
    text = part.text if len(part.text) <= LETTERS_SHOWN else f"{part.text[: LETTERS_SHOWN - 1]}…"
    return f"({text})" if part.where == "details" else text
