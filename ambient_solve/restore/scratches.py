"""Scratches of an old photograph, as a first mask that is to be corrected by hand.

A scratch is thin, long, and brighter or darker than what lies on both of its sides. A median over a window that is
wider than the scratch takes it away and leaves the edges of things; in what it took away, ridges are enhanced (Sato
et al., 1998, "Three-dimensional multi-scale line filter", Medical Image Analysis 2(2)), compared with the grain and
the texture round them, and kept where they hold a long straight piece. Hair, wires and masts are thin and long too:
look at the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 9
"""Side of the median, in pixels: scratches of up to half of it are found."""
WIDTHS = (1.0, 2.0)
"""Scales of the ridge filter, in pixels."""
NEAR = 12.0
"""Scale, in pixels, of what the contrast of a ridge is compared with."""
CONTRAST = 4.0
"""Contrast in units of the texture round it from which on a ridge is a scratch, at a readiness of one half."""
GRAIN = 0.004
"""Texture that every picture has at least."""
FAINT = 0.4
"""Share of that down to which a scratch goes on."""
FAINTEST = 0.02
"""Least contrast, where pixel values go from 0 to 1."""
LONG = 0.07
"""Length of a straight piece at least, in shorter sides of the picture."""
SHORTEST = 12
"""And in pixels."""
DIRECTIONS = 24
"""In which straight pieces are looked for."""
MARGIN = 2
"""Pixels round a scratch that are taken for missing with it."""


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
    from skimage.filters import apply_hysteresis_threshold, sato

    if not 0 < readiness <= 1 or y.ndim != 4 or len(y) != 1:
        raise AmbientSolveError(
            f"readiness={readiness} was given for y of shape {tuple(y.shape)}; a number above 0 and up to 1, and one "
            "picture (1, C, H, W), were expected."
        )
    gray = y[0].mean(0).cpu().numpy().astype(np.float32)
    thin = gray - median_filter(gray, WINDOW)
    common = 4 * float(np.median(np.abs(thin))) + 0.02
    texture = gaussian_filter(np.minimum(np.abs(thin), common), NEAR) + GRAIN
    found = np.zeros(gray.shape, bool)
    for ridge in (sato(sign * thin, WIDTHS, black_ridges=False) for sign in (1, -1)):
        contrast = np.where(ridge > FAINTEST, ridge / texture, 0) * (2 * readiness)
        lines = apply_hysteresis_threshold(contrast, FAINT * CONTRAST, CONTRAST)
        found |= _straight(lines)
    seen = ~binary_dilation(found, iterations=MARGIN) if found.any() else ~found
    return torch.from_numpy(seen).float()


def _straight(lines: np.ndarray) -> np.ndarray:
    """What of them holds a straight piece of some direction: a union of openings, in which crossings do no harm."""
    from scipy.ndimage import binary_opening

    length = int(max(SHORTEST, LONG * min(lines.shape))) | 1
    kept = np.zeros_like(lines)
    for turn in range(DIRECTIONS):
        kept |= binary_opening(lines, _piece(length, np.pi * turn / DIRECTIONS))
    return kept


def _piece(length: int, angle: float) -> np.ndarray:
    """A straight line through the middle of a square of `length` pixels, True on it."""
    reach = np.linspace(-(length // 2), length // 2, 2 * length)
    places = [np.round(reach * f).astype(int) + length // 2 for f in (np.sin(angle), np.cos(angle))]
    square = np.zeros((length, length), bool)
    square[places[0], places[1]] = True
    return square
