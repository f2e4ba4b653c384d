"""Scratches of an old photograph, as a first mask that is to be corrected by hand.

A scratch is thin, long, and brighter or darker than what lies on both of its sides. A median over a window that is
wider than the scratch takes it away and leaves the edges of things. What it took away is averaged along straight pieces
of each direction, which the grain does not survive, and compared with the averages beside it: the smaller of the two
differences is what stands out, in units of what all directions show round it. Hair, wires and masts are thin and long
too: look at the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 9
"""Side of the median, in pixels: scratches of up to half of it are found."""
BESIDE = (2, 3, 5)
"""Distances, in pixels, of the averages that one is compared with."""
NEAR = 16.0
"""Scale, in pixels, of what the contrast of a line is compared with."""
CONTRAST = 11.5
"""Contrast in units of the texture round it from which on a line is a scratch, at a readiness of one half."""
BUSY = 2.0
"""Texture counts up to so many times that of the whole picture: scratches are no texture."""
GRAIN = 0.004
"""Texture that every picture has at least."""
FAINT = 0.4
"""Share of that contrast down to which a scratch goes on."""
FAINTEST = 0.02
"""Least contrast, where pixel values go from 0 to 1."""
STRONGEST = 0.3
"""Most that a pixel stands out: a bright speck is no line."""
LONG = 0.12
"""Length of a straight piece, in shorter sides of the picture."""
LENGTHS = (21, 41)
"""And in pixels, at least and at most."""
DIRECTIONS = 24
"""In which straight pieces are looked for."""
MARGIN = 1
"""Pixels round a line that are taken for missing with it."""


def find_scratches(y: Tensor, readiness: float = 0.5) -> Tensor:
    """The pixels of a picture that no scratch covers.

    Args:
        y: (1, C, H, W) in [0, 1].
        readiness: How readily a line is taken for a scratch, above 0 and up to 1.

    Returns:
        (H, W), 1 = observed, 0 = scratched.

    Raises:
        AmbientSolveError: `readiness` is out of its range, or `y` is no picture.
    """
    import torch
    from scipy.ndimage import binary_dilation, gaussian_filter, median_filter
    from skimage.filters import apply_hysteresis_threshold

    if not 0 < readiness <= 1 or y.ndim != 4 or len(y) != 1:
        raise AmbientSolveError(
            f"readiness={readiness} was given for y of shape {tuple(y.shape)}; a number above 0 and up to 1, and one "
            "picture (1, C, H, W), were expected."
        )
    gray = y[0].mean(0).cpu().numpy().astype(np.float32)
    thin = (gray - median_filter(gray, WINDOW)).clip(-STRONGEST, STRONGEST)
    bright, dark, texture = _lines(thin)
    texture = gaussian_filter(np.minimum(texture, BUSY * np.median(texture) + GRAIN), NEAR) + GRAIN
    found = np.zeros(gray.shape, bool)
    for line in (bright, dark):
        contrast = np.where(line > FAINTEST, line / texture, 0) * (2 * readiness)
        found |= apply_hysteresis_threshold(contrast, FAINT * CONTRAST, CONTRAST)
    seen = ~binary_dilation(found, iterations=MARGIN) if found.any() else ~found
    return torch.from_numpy(seen).float()


def _lines(thin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far lines stand out of both sides, brighter and darker, and what all directions show on average."""
    least, most = LENGTHS
    length = int(min(max(least, LONG * min(thin.shape)), most)) | 1
    half = length // 2
    border = half + max(BESIDE) + 1
    wide = np.pad(thin, border, mode="reflect" if border < min(thin.shape) else "edge")
    bright, dark, texture = (np.zeros_like(wide) for _ in range(3))
    for turn in range(DIRECTIONS):
        down, across = np.sin(np.pi * turn / DIRECTIONS), np.cos(np.pi * turn / DIRECTIONS)
        reach = np.linspace(-half, half, 2 * length)
        places = sorted({(round(down * r), round(across * r)) for r in reach})
        along = sum(np.roll(wide, place, (0, 1)) for place in places) / len(places)
        for far in BESIDE:
            step = np.array([round(across * far), round(-down * far)])
            one, other = along - np.roll(along, step, (0, 1)), along - np.roll(along, -step, (0, 1))
            np.maximum(bright, np.minimum(one, other), out=bright)
            np.maximum(dark, np.minimum(-one, -other), out=dark)
            texture += np.abs(one + other) / (2 * DIRECTIONS * len(BESIDE))
    inside = slice(border, -border)
    return bright[inside, inside], dark[inside, inside], texture[inside, inside]
