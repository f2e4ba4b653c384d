"""A chart of a grid of levels: how far apart the laws of consecutive ones are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from PIL import Image, ImageDraw, ImageFont

from ambient_solve.figures.charts import BAR
from ambient_solve.figures.sheet import INK, SOFT


def levels_chart(
    levels: Sequence[float], distances: Sequence[float], size: tuple[int, int] = (640, 360)
) -> Image.Image:
    """Draw a grid of levels over the distance of the laws along it: a point for each, evenly high if equally far.

    Args:
        levels: Above 0, decreasing; two or more.
        distances: Between the laws of consecutive ones, one less than levels.
        size: (width, height) in pixels.

    Returns:
        The chart.
    """
    (width, height), (left, top, right, bottom) = size, (64, 24, 20, 48)
    image = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    low, high = math.log(levels[-1]), math.log(levels[0])
    length = [*accumulate(reversed(distances), initial=0.0)]
    x = [left + (math.log(level) - low) / (high - low) * (width - left - right) for level in reversed(levels)]
    y = [height - bottom - along / length[-1] * (height - top - bottom) for along in length]
    for i, level in enumerate(reversed(levels)):
        pen.line((left, y[i], x[i], y[i]), SOFT)
        pen.line((x[i], y[i], x[i], height - bottom), SOFT)
        if i in (0, len(levels) - 1):
            pen.text((x[i], height - bottom + 6), f"{level:.3g}", INK, font, anchor="mt")
    pen.line([*zip(x, y, strict=True)], BAR, 2)
    for at in zip(x, y, strict=True):
        pen.ellipse((at[0] - 3, at[1] - 3, at[0] + 3, at[1] + 3), BAR)
    pen.text((left - 6, y[0]), "0", INK, font, anchor="rm")
    pen.text((left - 6, y[-1]), f"{length[-1]:.3g}", INK, font, anchor="rm")
    pen.text(((left + width - right) / 2, height - 8), "level (logarithmic)", INK, font, anchor="ms")
    pen.text((left, top - 6), "distance of the laws, from the lowest level on", INK, font, anchor="lb")
    return image
