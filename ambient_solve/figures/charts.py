"""Small charts as pictures (SIDE, SIDE, 3) uint8, the tiles of a contact sheet: no plotting library."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from ambient_solve.figures.sheet import INK, SOFT

SIDE = 168
"""Side of a chart, in pixels."""
BAR = (72, 108, 168)
"""Colour of bars and curves, RGB 0 to 255."""
BAND = (226, 230, 238)
"""Colour of the band that exact samples stay in, RGB 0 to 255."""
BAD = (212, 72, 66)
"""Colour of what lies outside, RGB 0 to 255."""


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    return image, ImageDraw.Draw(image)


def bars(counts: np.ndarray, bad: bool) -> np.ndarray:
    """A rank histogram; the band holds 99 % of the bars of an exact sampler.

    Args:
        counts: Ranks in each bin, (bins,).
        bad: Whether the ranks failed the test, which changes the colour.

    Returns:
        (SIDE, SIDE, 3) uint8.
    """
    image, pen = _canvas()
    expected = counts.mean()
    band = 2.58 * np.sqrt(expected * (1 - 1 / len(counts)))
    scale = 0.95 * SIDE / max(counts.max(), 2 * expected, expected + band)
    level = lambda value: SIDE - 1 - scale * value  # noqa: E731
    pen.rectangle((0, level(expected + band), SIDE, level(max(expected - band, 0))), BAND)
    edges = np.linspace(0, SIDE, len(counts) + 1)
    for left, right, count in zip(edges, edges[1:], counts, strict=False):
        pen.rectangle((left + 1, level(count), right - 2, SIDE), BAD if bad else BAR)
    pen.line((0, level(expected), SIDE, level(expected)), INK)
    return np.asarray(image)


def curve(coverage: Mapping[float, float]) -> np.ndarray:
    """Coverage found over coverage wanted; the diagonal is right, below it is overconfident."""
    image, pen = _canvas()
    pen.rectangle((0, 0, SIDE - 1, SIDE - 1), None, BAND)
    pen.line((0, SIDE - 1, SIDE - 1, 0), SOFT)
    points = [(level * (SIDE - 1), (1 - held) * (SIDE - 1)) for level, held in sorted(coverage.items())]
    pen.line([(0, SIDE - 1), *points], BAR, 3)
    for x, y in points:
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), BAR)
    return np.asarray(image)


def ratio_bars(ratios: np.ndarray) -> np.ndarray:
    """Variance over the exact one along each axis, thinnest first, from 1/4 (bottom) to 4 (top); 1 is right."""
    image, pen = _canvas()
    height = SIDE / 2 * (1 - np.log2(np.clip(ratios, 0.25, 4)) / 2)
    edges = np.linspace(0, SIDE, len(ratios) + 1)
    for left, right, y in zip(edges, edges[1:], height, strict=False):
        top, bottom = sorted((float(y), SIDE / 2))
        pen.rectangle((left + 1, top, max(right - 2, left + 1), bottom), BAR)
    pen.line((0, SIDE / 2, SIDE, SIDE / 2), INK)
    return np.asarray(image)
