"""What the drawn products look like: the parts of each silhouette. Lengths are % of the width, y downwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

PALE, METAL, WOOD, GLOW, RUBBER = (248, 246, 240), (82, 84, 92), (176, 124, 74), (255, 226, 140), (58, 56, 58)


@dataclass(frozen=True)
class Part:
    """An area (width 0) or a line of that width; paint is "fabric", "plain", "deep", or a colour of its own."""

    paint: str | Rgb
    points: Points
    width: float = 0.0


# --- lines -------------------------------------------------------------------------------------------------------


def _curve(points: Points, *, closed: bool = True) -> Points:
    """The corners rounded; a point named twice stays a corner. Source: Chaikin, CGIP 1974 (corner cutting)."""
    line: NDArray[np.float64] = np.array(points, dtype=np.float64)
    for _ in range(4):
        after = np.roll(line, -1, axis=0)
        cut = np.stack([0.75 * line + 0.25 * after, 0.25 * line + 0.75 * after], axis=1).reshape(-1, 2)
        line = cut if closed else np.vstack([line[:1], cut[1:-3], line[-1:]])
    return [(float(x), float(y)) for x, y in line]


def _both_sides(right: Points) -> Points:
    """A symmetric outline from its right half: x counts from the middle, top to bottom."""
    return _curve([(50 + x, y) for x, y in right] + [(50 - x, y) for x, y in reversed(right)])


def _arc(x: float, y: float, wide: float, high: float, start: float = 0, end: float = 360) -> Points:
    """Part of an ellipse around (x, y), in degrees clockwise from the right."""
    angles = np.radians(np.linspace(start, end, 40))
    return [(x + wide * float(np.cos(a)), y + high * float(np.sin(a))) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


# --- silhouettes: parts from back to front, and whether the product stands on the floor ---------------------------

Silhouette = tuple[list[Part], bool]


def _top(sleeve: Points) -> list[Part]:
    outline: Points = [(9, 17), (9, 17), (22, 21), *sleeve, (20, 42), (20, 42), (20.5, 85), (20.5, 85), (0, 85)]
    front: Points = [(0, 26), (8, 22), *outline]
    parts = [Part("deep", _arc(50, 18.5, 9.5, 4.5)), Part("fabric", _both_sides(front))]
    collar: Points = [(41, 17), (42, 22.5), (50, 26.5), (58, 22.5), (59, 17)]
    return [*parts, Part("deep", _curve(collar, closed=False), 2.4)]


def _t_shirt() -> Silhouette:
    return _top([(41, 40), (41, 40), (32, 49), (32, 49)]), False


def _long_sleeved() -> list[Part]:
    parts = _top([(30, 30), (42, 74), (42, 74), (33, 77), (33, 77)])
    cuffs = [Part("deep", [(50 + s * x, y) for x, y in ((42, 74), (33, 77), (31.8, 73), (40.8, 70))]) for s in (1, -1)]
    return parts + cuffs


def _jumper() -> Silhouette:
    return [*_long_sleeved(), Part("deep", _box(29.6, 80, 70.4, 85.2))], False


def _hoodie() -> Silhouette:
    hood = _both_sides([(0, 5), (12, 7), (17, 18), (15, 27), (0, 34)])
    opening = _both_sides([(0, 10), (8, 12), (10, 20), (6, 27), (0, 31)])
    pocket = [(38.0, 60.0), (62.0, 60.0), (67.0, 70.0), (67.0, 78.0), (33.0, 78.0), (33.0, 70.0)]
    strings = [Part(PALE, [(50 + s * 5, 28), (50 + s * 5.5, 46)], 1.4) for s in (1, -1)]
    parts = [*_long_sleeved(), Part("deep", _box(29.6, 80, 70.4, 85.2)), Part("plain", hood)]
    return [*parts, Part((52, 50, 56), opening), Part("plain", pocket), *strings], False


def _dress() -> Silhouette:
    bodice = [(0, 24), (5, 20), (7, 9), (7, 9), (12, 9), (12, 9), (13, 25), (17, 30), (11, 47), (11, 47)]
    front = _both_sides([*bodice, (20, 64), (33, 88), (33, 88), (20, 91), (0, 92)])
    belt = [(38.6, 45.5), (61.4, 45.5), (61.6, 49.5), (38.4, 49.5)]
    return [Part("deep", _arc(50, 21, 6, 3)), Part("fabric", front), Part("deep", belt)], False


def _trousers() -> Silhouette:
    front = [(0, 12), (16, 12), (16, 12), (20, 30), (21, 91), (21, 91), (6, 92), (6, 92), (2, 44), (0, 42)]
    waistband = Part("deep", [(34, 12), (66, 12), (67, 18), (33, 18)])
    fly = Part("deep", [(50, 18), (50, 41)], 1.0)
    edges: list[Points] = [[(50 + s * 17.4, 25), (50 + s * 12, 24), (50 + s * 11, 18)] for s in (1, -1)]
    pockets = [Part("deep", _curve(edge, closed=False), 1.0) for edge in edges]
    return [Part("fabric", _both_sides(front)), waistband, fly, *pockets], False


def _shorts() -> Silhouette:
    front = [(0, 22), (22, 22), (22, 22), (28, 44), (35, 82), (35, 82), (7, 84), (7, 84), (2, 60), (0, 58)]
    cord = [Part(PALE, _curve([(50, 28), (50 + s * 3, 34), (50 + s * 5, 42)], closed=False), 1.4) for s in (1, -1)]
    hems = [Part("deep", [(50 + s * x, y) for x, y in ((35, 82), (7, 84), (6.2, 80), (34.2, 78))]) for s in (1, -1)]
    waistband = Part("deep", [(28, 22), (72, 22), (73.6, 30), (26.4, 30)])
    return [Part("fabric", _both_sides(front)), waistband, *hems, *cord], False


def _tote() -> Silhouette:
    back = Part("deep", _curve([(36, 42), (37, 10), (63, 10), (64, 42)], closed=False), 3.2)
    body = _curve([(21, 36), (21, 36), (79, 36), (79, 36), (84, 90), (84, 90), (16, 90), (16, 90)])
    patches = [Part("deep", _box(x, 36, x + 6, 46)) for x in (33, 61)]
    return [back, Part("fabric", body), Part("deep", [(21, 36), (79, 36), (79.4, 40), (20.6, 40)]), *patches], True


def _backpack() -> Silhouette:
    handle = Part(METAL, _arc(50, 14, 8, 7, 180, 360), 3)
    sides = [Part("deep", _curve(_box(50 + s * 27 - 7, 56, 50 + s * 27 + 7, 86))) for s in (1, -1)]
    body = _both_sides([(0, 10), (20, 10), (27, 26), (27, 50), (28, 92), (28, 92), (0, 92)])
    pocket = _curve([(32, 58), (32, 58), (68, 58), (68, 58), (68, 87), (66, 87), (34, 87), (32, 87)])
    zips = [Part(METAL, _curve([(27, 46), (30, 22), (50, 20), (70, 22), (73, 46)], closed=False), 1.3)]
    zips += [Part(METAL, [(34, 65), (66, 65)], 1.3), Part(PALE, [(62, 65), (62, 71)], 1.8)]
    straps = [Part("deep", _box(x, 46, x + 4, 58)) for x in (38, 58)]
    return [handle, *sides, Part("fabric", body), *straps, Part("plain", pocket), *zips], True


def _trainers() -> Silhouette:
    instep = [(12, 40), (18, 36), (31, 45), (43, 34), (50, 34), (64, 52), (84, 56)]
    upper = _curve([*instep, (93, 66), (91, 78), (91, 78), (11, 78), (11, 78)])
    tongue = _curve([(38, 40), (41, 27), (51, 29), (56, 40), (50, 46)])
    toe = _curve([(76, 54.6), (86, 56), (93, 66), (91, 78), (91, 78), (80, 78), (73, 68)])
    heel = _curve([(12, 40), (18, 37), (24, 41), (23, 78), (23, 78), (11, 78), (11, 78)])
    sole = _curve([(8, 75), (8, 75), (94, 75), (95, 80), (92, 87), (12, 87), (8, 84)])
    laces = [Part(PALE, [(46 + 6 * n, 38 + 5.6 * n), (39 + 7 * n, 47 + 4.6 * n)], 2.2) for n in range(4)]
    parts = [Part("plain", tongue), Part("fabric", upper), Part(PALE, toe), Part("deep", heel)]
    return [*parts, *laces, Part(PALE, sole), Part("deep", [(10, 82.5), (93, 82.5)], 1.4)], True


def _boots() -> Silhouette:
    shaft = [(22, 10), (22, 10), (53, 10), (53, 10), (52, 44), (58, 54), (80, 60)]
    upper = _curve([*shaft, (90, 72), (89, 83), (89, 83), (20, 83), (20, 83), (24, 50)])
    cuff = [(21.5, 9.0), (53.5, 9.0), (53.2, 17.0), (22.0, 17.0)]
    sole = [(18.0, 82.0), (91.0, 82.0), (91.0, 87.0), (46.0, 87.0), (44.0, 91.0), (18.0, 91.0)]
    laces = [Part(PALE, [(43, y), (52, y + 1)], 1.8) for y in (24, 31, 38, 45)]
    toe = _curve([(74, 58), (82, 61), (90, 72), (89, 83), (89, 83), (76, 83), (70, 70)])
    return [Part("fabric", upper), Part("deep", toe), Part("deep", cuff), *laces, Part(RUBBER, sole)], True


def _table_lamp() -> Silhouette:
    glow = Part(GLOW, _arc(50, 47, 25, 4.5))
    shade = [(36.0, 10.0), (64.0, 10.0), (78.0, 47.0), (22.0, 47.0)]
    vase = _both_sides([(3, 58), (5, 60), (15, 72), (12, 84), (6, 88), (0, 88)])
    foot = _curve(_box(36, 86, 64, 91))
    stem = Part(METAL, [(50, 45), (50, 62)], 3)
    return [stem, glow, Part("plain", vase), Part(WOOD, foot), Part("fabric", shade)], True


def _floor_lamp() -> Silhouette:
    legs = [Part(WOOD, [(50, 52), (x, 92)], 2.6) for x in (30, 50, 70)]
    pole = Part(METAL, [(50, 26), (50, 54)], 2.2)
    shade = [(39.0, 5.0), (61.0, 5.0), (70.0, 31.0), (30.0, 31.0)]
    joint, glow = Part(METAL, _arc(50, 53, 3.4, 3.4)), Part(GLOW, _arc(50, 31, 18, 3.4))
    return [*legs, pole, joint, glow, Part("fabric", shade)], True


SILHOUETTES: dict[str, Callable[[], Silhouette]] = {
    "T-shirt": _t_shirt,
    "jumper": _jumper,
    "hoodie": _hoodie,
    "dress": _dress,
    "trousers": _trousers,
    "shorts": _shorts,
    "tote bag": _tote,
    "backpack": _backpack,
    "trainers": _trainers,
    "boots": _boots,
    "table lamp": _table_lamp,
    "floor lamp": _floor_lamp,
}
