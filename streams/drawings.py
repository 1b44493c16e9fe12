"""Product pictures drawn by code: the silhouette of a kind, cut from a sheet of a coloured pattern."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from streams.silhouettes import SILHOUETTES, Part, Rgb

SIZE = 192  # px
FINE = 3 * SIZE  # px, drawn this large and scaled down: that smooths the edges

COLOURS: dict[str, Rgb] = {
    "black": (44, 44, 50),
    "white": (250, 249, 245),
    "grey": (142, 148, 156),
    "navy": (34, 52, 110),
    "sky-blue": (112, 184, 232),
    "green": (44, 138, 84),
    "yellow": (246, 198, 44),
    "red": (206, 42, 48),
    "pink": (244, 150, 182),
    "brown": (134, 86, 52),
}
PATTERNS = ("plain", "striped", "dotted", "checked")
BACKGROUND, SHADOW, INK = (233, 236, 238), (196, 200, 205), (28, 28, 42)


def draw_product(kind: str, colour: str, pattern: str) -> Image.Image:
    """An RGB picture of SIZE x SIZE px; the same arguments give the same pixels.

    kind is a key of SILHOUETTES, colour of COLOURS, pattern one of PATTERNS; KeyError or ValueError otherwise.
    """
    parts, stands = SILHOUETTES[kind]()
    canvas = _background(stands).copy()
    base = COLOURS[colour]
    paints = {"fabric": _fabric(colour, pattern), "plain": _sheet(base), "deep": _sheet(_mix(base, (0, 0, 0), 0.28))}
    for part in parts:
        if isinstance(part.paint, str):
            _add(canvas, part, paints[part.paint], edge=_mix(base, INK, 0.5))
        else:
            _add(canvas, part, _sheet(part.paint), edge=_mix(part.paint, INK, 0.3))
    return canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _add(canvas: Image.Image, part: Part, sheet: Image.Image, edge: Rgb) -> None:
    """Lay the part, cut from the sheet, upon the canvas; an area gets shade and an edge."""
    line = [(x * FINE / 100, y * FINE / 100) for x, y in part.points]
    width = round(part.width * FINE / 100)
    left, top = (math.floor(min(side)) - width for side in zip(*line, strict=True))
    right, bottom = (math.ceil(max(side)) + width + 1 for side in zip(*line, strict=True))
    box = (left, top, right, bottom)
    mask = Image.new("L", (right - left, bottom - top))
    inside = [(x - left, y - top) for x, y in line]
    if width:
        ImageDraw.Draw(mask).line(inside, fill=255, width=width, joint="curve")
        canvas.paste(sheet.crop(box), box, mask)
        return
    ImageDraw.Draw(mask).polygon(inside, fill=255)
    canvas.paste(sheet.crop(box), box, mask)
    canvas.paste(INK, box, ImageChops.multiply(mask, _shade().crop(box)))
    ImageDraw.Draw(canvas).line([*line, *line[:2]], fill=edge, width=round(FINE * 0.009), joint="curve")


# --- cloth and light ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _fabric(colour: str, pattern: str) -> Image.Image:
    """A sheet of the pattern: the colour, and white (on pale colours: slate) as the second."""
    base = COLOURS[colour]
    second = (92, 104, 128) if colour == "white" else (255, 253, 246)
    sheet = _sheet(base).copy()
    pen = ImageDraw.Draw(sheet)
    step = FINE / 13
    places = [n * step for n in range(-1, 15)]
    if pattern == "striped":
        for y in places:
            pen.rectangle((0, y, FINE, y + 0.42 * step), fill=second)
    elif pattern == "dotted":
        radius = 0.21 * step
        for row, y in enumerate(places):
            for x in places:
                middle = x + step / 2 * (row % 2)
                pen.ellipse((middle - radius, y - radius, middle + radius, y + radius), fill=second)
    elif pattern == "checked":
        for x in places:
            pen.rectangle((x, 0, x + step / 2, FINE), fill=_mix(base, second, 0.5))
        for y in places:
            stripe = (0, round(y), FINE, round(y + step / 2))
            sheet.paste(second, stripe, Image.new("L", (FINE, stripe[3] - stripe[1]), 128))
    elif pattern != "plain":
        raise ValueError(f"no pattern {pattern!r}: there are {', '.join(PATTERNS)}")
    return sheet


@lru_cache(maxsize=64)
def _sheet(colour: Rgb) -> Image.Image:
    return Image.new("RGB", (FINE, FINE), colour)


@lru_cache(maxsize=1)
def _shade() -> Image.Image:
    """How much darker each place is: the light comes from the upper left."""
    y, x = np.mgrid[0:FINE, 0:FINE] / FINE
    return Image.fromarray((70 * np.clip(1.2 * x + 0.5 * y - 0.65, 0, 1)).astype(np.uint8))


@lru_cache(maxsize=2)
def _background(stands: bool) -> Image.Image:
    """A pale wall, with a soft shadow on the floor below what stands."""
    canvas = _sheet(BACKGROUND).copy()
    box = (0.16, 0.84, 0.84, 0.94) if stands else (0.28, 0.91, 0.72, 0.96)
    ImageDraw.Draw(canvas).ellipse(tuple(FINE * side for side in box), fill=SHADOW)
    return canvas.filter(ImageFilter.GaussianBlur(FINE / 50))


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(one, other, strict=True))
    return red, green, blue
