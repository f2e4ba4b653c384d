"""Which pixels a picture of a mask marks as missing: white ones, or those of what was painted or cut out."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ambient_solve.errors import UnreadableFile
from ambient_solve.reading.pictures import STORED, deep_values, has_alpha, is_deep

TOUCHED = 3 / 255
"""Brightness above that of what is kept from which on a pixel is touched by what was painted."""
JPEG_TOUCHED = 64 / 255
"""The same where the mask is a JPEG, which rings about every edge."""
GRAY = (32 / 255, 223 / 255)
"""Between these a pixel is neither black nor white."""
BLACK = 0.1
"""Share of the pixels of a mask that are black, at least."""
HALF = 128 / 255
"""Brightness from which on a pixel of a mask that fades is missing."""
FADES = 0.2
"""Share of the touched pixels that are far from any bright one, above which a mask fades rather than has an edge."""
MOSTLY = 0.5
"""Share of the pixels above which a mask is most likely none, or turned round."""


def missing_pixels(image: Image.Image, name: object) -> tuple[np.ndarray, tuple[str, ...]]:
    """The missing pixels of a mask: white is missing, black is kept, and what is gray at an edge is missing too.

    Where white fades over many pixels, those above half of it are missing.
    Transparent pixels are not painted, so that strokes of any one color on a transparent layer are missing. Of a
    photograph with transparent holes, the holes are missing. In a mask with two colors the brighter one is missing.

    Args:
        image: The picture of the mask.
        name: What an error calls it.

    Returns:
        (H, W) bool, True = missing, and notes on what was made of it.

    Raises:
        AmbientSolveError: it may mean two things.
    """
    alpha = np.asarray(image.convert("RGBA").getchannel("A")) / 255 if has_alpha(image) else None
    if alpha is not None and (alpha < 1).any():
        return _cut_or_painted(image, alpha, name)
    value = _brightness(image, name)
    levels = np.unique(value)
    if len(levels) == 2:
        missing, notes = value == levels[1], []  # whatever the two colors are: 0 and 1, or red on black
    else:
        missing, notes = _above_the_background(value, name, image.info.get(STORED) == "JPEG")
    if missing.mean() > MOSTLY and not missing.all():
        share = f"{100 * missing.mean():.0f} %"
        notes.append(f"the mask marks {share} of the picture as MISSING, which is white; invert it if black was meant")
    return missing, tuple(notes)


def _above_the_background(value: np.ndarray, name: object, jpeg: bool) -> tuple[np.ndarray, list[str]]:
    """What was painted on the dark background of a mask with many gray values."""
    if _share(value, GRAY) > MOSTLY and (value <= GRAY[0]).mean() < BLACK:
        raise UnreadableFile(
            name, "is gray in most of its pixels: a mask is white where pixels are missing, and black.", "The mask "
        )
    touched = value > _background(value) + (JPEG_TOUCHED if jpeg else TOUCHED)
    near = _grown(_grown(value >= HALF))
    if (touched & ~near).sum() > FADES * touched.sum():
        return value >= HALF, ["the mask fades over many pixels; those above half of white were taken for missing"]
    if not jpeg and (touched & (value < GRAY[1])).any():
        return touched, ["the mask is gray at the edges of its white; every pixel that it touches is missing"]
    return touched, []


def _cut_or_painted(image: Image.Image, alpha: np.ndarray, name: object) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whether the opaque part of a mask was painted, or the transparent part was cut out of a photograph."""
    solid, colors = alpha > 1 - TOUCHED, np.asarray(image.convert("RGBA"))[..., :3] / 255
    value = colors.max(-1)
    if not solid.any():
        solid = alpha > TOUCHED
    inside = value[solid]
    one_color = len(inside) > 0 and float(np.ptp(colors[solid], 0).max()) <= 2 * TOUCHED
    if one_color and solid.mean() > MOSTLY:
        raise UnreadableFile(
            name,
            "has one color and transparent parts that are the smaller half: either may be what is missing. Save it "
            "without transparency, white where pixels are missing.",
            "The mask ",
        )
    if one_color:
        return alpha > TOUCHED, ("the mask is transparent where nothing was painted, and was taken by its opaque part",)
    if _share(inside, GRAY) > 0.2:
        return alpha < 1 - TOUCHED, ("the mask is a photograph with holes, its transparent pixels are missing",)
    return value * alpha > TOUCHED, ()


def _share(value: np.ndarray, between: tuple[float, float]) -> float:
    return float(((value > between[0]) & (value < between[1])).mean())


def _brightness(image: Image.Image, name: object) -> np.ndarray:
    """The strongest color of each pixel, (H, W), 0 to 1; red counts as much as white."""
    if is_deep(image):
        return deep_values(image, name)[0].astype(np.float64)
    return np.asarray(image.convert("RGB")).max(-1) / 255


def _background(value: np.ndarray) -> float:
    """The commonest of the dark values, which is that of what is kept: black, or nearly."""
    dark = value[value <= 0.5]
    if not len(dark):
        return 0.0
    counts = np.bincount((255 * dark).round().astype(int))
    return float(counts.argmax()) / 255


def _grown(missing: np.ndarray) -> np.ndarray:
    """`missing` and the eight neighbors of each of its pixels."""
    padded = np.pad(missing, 1)
    height, width = missing.shape
    grown = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.any(grown, 0)
