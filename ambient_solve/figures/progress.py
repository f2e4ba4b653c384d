"""One picture of how a training goes: curves, samples, and held-out pictures denoised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ambient_solve.figures.lines import line_chart
from ambient_solve.figures.sheet import INK, MARGIN, SOFT, enlarge

WIDTH = 1240
"""Of the picture, in pixels."""
PANEL = 440
"""Height of the curves and of the samples, in pixels."""
TILE = 176
"""Side of a picture that is denoised, in pixels."""
GAP = 20
"""Space between two parts, in pixels."""


@dataclass(frozen=True)
class Denoised:
    """One picture at one noise level: noisy and denoised, (H, W, 3) uint8, each with its caption."""

    level: str
    noisy: np.ndarray
    denoised: np.ndarray
    captions: tuple[str, str] = ("", "")


def progress_figure(
    title: str,
    heading: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    samples: Sequence[np.ndarray] = (),
    clean: np.ndarray | None = None,
    clean_caption: str = "",
    denoised: Sequence[Denoised] = (),
    note: str = "",
) -> Image.Image:
    """Draw how a training goes.

    Args:
        title: Of the picture.
        heading: Of the curves.
        curves: (samples seen, loss) by noise level, the lowest first.
        samples: Pictures (H, W, 3) uint8, at most 16 are shown.
        clean: The held-out picture as it is.
        clean_caption: What it is.
        denoised: The same one at each noise level.
        note: What the numbers are, written above it.

    Returns:
        The picture.
    """
    big, bold, small = (ImageFont.load_default(size=n) for n in (30, 22, 16))
    top = MARGIN + 56
    lower = top + 34 + PANEL + 24
    height = lower + (34 + 2 * (TILE + 30) + 30 if denoised else -24) + MARGIN - GAP
    image = Image.new("RGB", (WIDTH, height), "white")
    pen = ImageDraw.Draw(image)
    pen.text((MARGIN, MARGIN), title, INK, big, anchor="lt")
    pen.text((MARGIN, top + 22), heading, INK, bold, anchor="ls")
    wide = WIDTH - 2 * MARGIN - (PANEL + 2 * GAP if samples else 0)
    chart = line_chart(curves, (wide, PANEL), "images seen", "noise level")
    image.paste(chart, (MARGIN, top + 34))
    if samples:
        left = WIDTH - MARGIN - PANEL
        pen.text((left, top + 22), "Samples", INK, bold, anchor="ls")
        side = PANEL // 4
        for k, picture in enumerate(samples[:16]):
            image.paste(enlarge(picture, side - 4), (left + k % 4 * side, top + 34 + k // 4 * side))
    if denoised:
        pen.text((MARGIN, lower + 22), "A held-out picture, denoised", INK, bold, anchor="ls")
        pen.text((WIDTH - MARGIN, lower + 22), note, SOFT, small, anchor="rs")
        pitch = TILE + GAP
        upper = lower + 34 + 24
        if clean is not None:
            image.paste(enlarge(clean, TILE), (MARGIN, upper))
            pen.text((MARGIN + TILE / 2, upper - 6), clean_caption, SOFT, small, anchor="ms")
        for k, one in enumerate(denoised[:5]):
            x = MARGIN + (k + (clean is not None)) * pitch
            pen.text((x + TILE / 2, upper - 6), one.level, SOFT, small, anchor="ms")
            for row, (picture, caption) in enumerate(zip((one.noisy, one.denoised), one.captions, strict=True)):
                y = upper + row * (TILE + 30)
                image.paste(enlarge(picture, TILE), (x, y))
                pen.text((x + TILE / 2, y + TILE + 6), caption, SOFT, small, anchor="mt")
    return image
