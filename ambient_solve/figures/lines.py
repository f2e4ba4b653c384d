"""A chart of several curves over a common axis, drawn with Pillow; the values on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from ambient_solve.figures.sheet import HEAT, SOFT

GRID = (226, 228, 232)
"""Color of the lines behind the curves, RGB 0 to 255."""
LEFT, RIGHT, TOP, BOTTOM = 64, 92, 12, 52
"""Space around the axes, in pixels."""
MANTISSAS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(k / 10 for k in range(10, 100)))
"""Numbers from 1 to 10 that are written beside an axis: coarse ones first."""
APART = 20
"""Least distance of two labels, in pixels."""


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], size: tuple[int, int], across: str, labels: str
) -> Image.Image:
    """Draw curves; each is named beside its end, in its color, dark for the first one to bright for the last.

    Args:
        curves: (x, y) by name, y above 0; the points of each in the order of x.
        size: (width, height) of the picture, in pixels.
        across: What the horizontal axis shows.
        labels: What the names say, written above them.

    Returns:
        The chart.
    """
    image = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=16)
    points = [point for curve in curves.values() for point in curve if point[1] > 0 and math.isfinite(point[1])]
    if not points:
        pen.text((size[0] / 2, size[1] / 2), "nothing measured yet", SOFT, font, anchor="mm")
        return image
    most = max(x for x, _ in points)
    low, high = min(y for _, y in points) / 1.15, max(y for _, y in points) * 1.15
    width, height = size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + width * x / most, TOP + height * math.log(high / y) / math.log(high / low)

    for y in _log_ticks(low, high):
        level = place(0, y)[1]
        pen.line((LEFT, level, LEFT + width, level), GRID)
        pen.text((LEFT - 8, level), f"{y:g}", SOFT, font, anchor="rm")
    for x in _ticks(most):
        pen.text((place(x, high)[0], TOP + height + 8), _short(x), SOFT, font, anchor="mt")
    pen.line((LEFT, TOP, LEFT, TOP + height, LEFT + width, TOP + height), SOFT)
    pen.text((LEFT + width / 2, size[1] - 4), across, SOFT, font, anchor="mb")
    ends = []
    for k, (name, curve) in enumerate(curves.items()):
        color = _color(k / max(len(curves) - 1, 1))
        drawn = [place(x, y) for x, y in curve if y > 0 and math.isfinite(y)]
        if not drawn:
            continue
        pen.line(drawn, color, 3, joint="curve")
        for x, y in drawn if len(drawn) < 30 else drawn[-1:]:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), color)
        ends.append((drawn[-1][1], name, color))
    ends.sort()
    for y, (_, name, color) in zip(_spread([y for y, *_ in ends], TOP + 24, TOP + height), ends, strict=True):
        pen.text((LEFT + width + 12, y), name, color, font, anchor="lm")
    pen.text((size[0] - 2, TOP - 10), labels, SOFT, font, anchor="rt")
    return image


def _spread(wanted: Sequence[float], low: float, high: float) -> list[float]:
    """Places near those `wanted`, in their rising order, APART from each other, between two ends where they fit."""
    places: list[float] = []
    for y in wanted:
        places.append(max(y, places[-1] + APART if places else low))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high - APART * (len(places) - 1 - i))
    return places


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range: as few per power of ten as make three of them, where that can be."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for parts in MANTISSAS:
        found = [n for p in powers for m in parts if low <= (n := float(f"{m}e{p}")) <= high]
        if len(found) >= 3:
            break
    return found


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to `most`, about five."""
    raw = most / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [k * step for k in range(math.floor(most / step + 1e-9) + 1)]


def _short(number: float) -> str:
    for unit, sign in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{sign}"
    return f"{number:g}"


def _color(at: float) -> tuple[int, int, int]:
    """A color of HEAT that is seen on white: dark at 0, orange at 1."""
    stop = at * 0.72 * (len(HEAT) - 1)
    k = min(int(stop), len(HEAT) - 2)
    pair = [bytes.fromhex(HEAT[k + j]) for j in (0, 1)]
    return tuple(round(a + (stop - k) * (b - a)) for a, b in zip(*pair, strict=True))
