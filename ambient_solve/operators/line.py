"""A movement along a straight line."""

from __future__ import annotations

import math

import torch
from deepinv.physics import Blur, BlurFFT
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.builders import Size, _blur


def line_blur(
    img_size: Size, length: float = 15.0, angle: float = 0.0, sigma: float = 0.02, boundary: str = "circular"
) -> BlurFFT | Blur:
    """Blur of a movement along a straight line.

    Args:
        img_size: (C, H, W) of the images.
        length: Of the movement, in pixels, 1 or more.
        angle: Its direction in degrees: 0 is along a row, 90 along a column.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1].
        boundary: "circular" (the image repeats; closed form) or "valid" (only where the kernel fits: y is smaller).

    Returns:
        The operator on images (B, C, H, W).

    Raises:
        AmbientSolveError: a value is out of its range, or the kernel is larger than the image.
    """
    if not (length >= 1 and math.isfinite(length) and math.isfinite(angle)):
        raise AmbientSolveError(
            f"length={length} and angle={angle} were given, at least 1 pixel and a number of degrees were expected."
        )
    return _blur(img_size, line_kernel(length, angle), sigma, boundary)


def line_kernel(length: float, angle: float) -> Tensor:
    """A line of points, each shared by the four pixels round it.

    Args:
        length: In pixels, above 0.
        angle: In degrees: 0 is along a row, 90 along a column.

    Returns:
        (n, n), n odd, not normalised.
    """
    reach = math.ceil(length / 2)
    t = torch.linspace(-0.5, 0.5, 64 * reach + 1) * length
    turn = math.radians(angle)
    across = torch.arange(-reach, reach + 1.0)
    columns = (1 - (across - t[:, None] * math.cos(turn)).abs()).clamp_min(0)
    rows = (1 - (across + t[:, None] * math.sin(turn)).abs()).clamp_min(0)
    return torch.einsum("ti,tj->ij", rows, columns)
