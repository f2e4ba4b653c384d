"""A blur kernel from a picture of it: where the light went, without the background it was drawn or photographed on."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ambient_solve.errors import UnreadableFile
from ambient_solve.reading.pictures import has_alpha, is_deep

FLAT = 2 / 255
"""Two pixels of one background differ by less, relative to the brightest."""
BORDER = 0.9
"""Share of the pixels at the border that a background fills."""
DARK = 0.5
"""Level of a background, relative to the brightest pixel, above which the kernel is drawn dark on bright."""


def kernel_values(image: Image.Image, name: object) -> tuple[np.ndarray, tuple[str, ...]]:
    """The kernel that a picture shows, its black edges cut off by equal margins, which keeps its middle.

    Args:
        image: The picture, of any depth; a kernel has no scale. Transparent parts are black.
        name: What an error calls it.

    Returns:
        (h, w) float32, 0 to 1, and notes on its background.

    Raises:
        AmbientSolveError: it is black everywhere, or has values below 0.
    """
    kernel, notes = _gray(image, name), ()
    if not np.isfinite(kernel).all() or kernel.min() < 0:
        raise UnreadableFile(
            name, "has values below 0, or none; a blur kernel says how much light went where.", "The kernel "
        )
    if kernel.max() > 0:
        kernel, notes = _without_background(kernel / kernel.max())
    lit = np.argwhere(kernel > 0)
    if not len(lit):
        raise UnreadableFile(name, "is black everywhere; a blur kernel is bright where the light went.", "The kernel ")
    # Equal margins on both sides: the middle of the picture stays the middle of the kernel. The middle of an even side
    # is n // 2, so that there is one pixel more before it than behind.
    (top, left), (bottom, right), (height, width) = lit.min(0), lit.max(0), kernel.shape
    rows, columns = _margin(top, bottom, height), _margin(left, right, width)
    return np.ascontiguousarray(kernel[rows, columns], np.float32), notes


def _margin(first: int, last: int, length: int) -> slice:
    cut = int(min(first, length - 1 - last))
    return slice(cut, length - cut)


def _gray(image: Image.Image, name: object) -> np.ndarray:
    """Its gray values (H, W), on any scale."""
    if is_deep(image):
        return np.asarray(image).astype(np.float64)
    if has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return np.asarray(image.convert("RGB").convert("L")).astype(np.float64)


def _without_background(kernel: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """`kernel` (H, W), its largest value 1, on black: the border of a picture that shows one is flat, if not black."""
    border = np.concatenate([kernel[0], kernel[-1], kernel[1:-1, 0], kernel[1:-1, -1]])
    level = float(np.median(border))
    flat = float((np.abs(border - level) <= FLAT).mean()) >= BORDER
    if not flat or level <= FLAT:
        return kernel, ()
    if level <= DARK:
        cleaned = (kernel - level - FLAT).clip(0, None)
        cleaned = np.where(cleaned > 0, kernel - level, 0)
        note = f"the kernel stands on a gray of {100 * level:.0f} %, which was taken off"
        return cleaned / cleaned.max(), (note,)
    dark = (level - kernel).clip(0, None)
    dark = np.where(dark > FLAT, dark, 0)
    # A kernel that fills its picture has no background: nothing in it is dark.
    if not dark.any() or (dark > 0).mean() > DARK:
        return kernel, ()
    return dark / dark.max(), ("the kernel is dark on white and was inverted; give it a black margin if it is not",)
