"""An explanation as a PNG: what places contribute, laid over the picture, and the words beside it."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from encoders.image import Pixels
from streams.explain import Explanation, Word

WORDS_SHOWN = 16  # those that contribute most
LETTERS_SHOWN = 24  # of a word
PART_COLOUR, MOVE_COLOUR = "#35608f", "#d9722e"


def draw_explanation(explained: Explanation, title: str, path: Path) -> None:
    """The file is the drawing: a map of contributions if there is a picture, one of moves if it was checked, words."""
    maps: list[tuple[str, NDArray[Any]]] = []
    if explained.picture is not None:
        maps.append(("contribution, %", 100 * explained.place_contributions))
        if explained.place_moves is not None:
            maps.append(("check: 1 - cosine when covered", explained.place_moves))
    figure = Figure(figsize=(5.0 + 4.2 * len(maps), 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{_modalities(explained)}", fontsize=11)
    axes = np.atleast_1d(figure.subplots(1, len(maps) + 1))
    for panel, (name, values) in zip(axes, maps, strict=False):
        assert explained.picture is not None, "maps are of a picture"
        _lay_over(figure, panel, explained.picture, values, name)
    _bars(axes[-1], sorted(explained.words, key=lambda word: word.contribution)[-WORDS_SHOWN:])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def _modalities(explained: Explanation) -> str:
    return ", ".join(f"{name} {weight:.0%}" for name, weight in explained.contributions.items())


def _lay_over(figure: Figure, axes: Any, picture: Pixels, values: NDArray[Any], name: str) -> None:
    """The picture in grey below, its places as they are above: no smoothing promises more than was measured."""
    sides = (0, picture.shape[1], picture.shape[0], 0)
    axes.imshow(picture.mean(axis=2), cmap="gray", vmin=0, vmax=255, extent=sides)
    shown = axes.imshow(values, cmap="inferno", alpha=0.6, extent=sides, interpolation="nearest")
    axes.set_title(name, fontsize=10)
    axes.set_axis_off()
    figure.colorbar(shown, ax=axes, shrink=0.75)


def _bars(axes: Any, words: list[Word]) -> None:
    """What the words contribute, the most above; how far the vector moves without them on an axis of its own."""
    axes.set_title("words, details in brackets", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if not words:
        axes.set_axis_off()
        return
    places = np.arange(len(words))
    labels = [word.text if len(word.text) <= LETTERS_SHOWN else f"{word.text[: LETTERS_SHOWN - 1]}…" for word in words]
    is_checked = words[0].move is not None
    height = 0.38 if is_checked else 0.75
    axes.barh(
        places + (0.2 if is_checked else 0), [100 * word.contribution for word in words], height, color=PART_COLOUR
    )
    # No word may be read as a formula.
    shown = [f"({label})" if word.is_detail else label for word, label in zip(words, labels, strict=True)]
    axes.set_yticks(places, shown, parse_math=False)
    axes.set_xlabel("contribution, %", color=PART_COLOUR)
    if is_checked:
        other = axes.twiny()
        other.barh(places - 0.2, [word.move or 0.0 for word in words], height, color=MOVE_COLOUR)
        other.set_xlabel("check: 1 - cosine without it", color=MOVE_COLOUR)
        other.spines["right"].set_visible(False)
