"""The noise level of a picture file, from whatever has been done to it since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.jpeg import quantisation_tables, turned
from ambient_solve.restore.estimate import jpeg_quality, noise_level
from ambient_solve.restore.jpeg_files import jpeg_coding
from ambient_solve.restore.jpeg_noise import FileNoise, jpeg_noise

if TYPE_CHECKING:
    from ambient_solve.restore.pictures import Picture

ROUNDED = 0.002
"""Level below which rounding to 8 bits, half a gray level, hides noise."""


def picture_noise(picture: Picture) -> FileNoise:
    """The noise level of a picture file: of a JPEG, and of what once was one, that before it was compressed.

    Args:
        picture: As `read_measurement` returns it.

    Returns:
        The level, or that it is hidden, and below which level all is.

    Raises:
        AmbientSolveError: the picture is too small.
    """
    steps, orientation = _steps(picture)
    if steps is not None:
        try:
            return jpeg_noise(turned(picture.y[0], orientation), steps)
        except AmbientSolveError:
            pass  # too few blocks: it is looked at as any other picture, whose noise is hidden as that of a JPEG
    level = float(noise_level(picture.y[:, :1] if picture.copies > 1 else picture.y)[0])
    return FileNoise(level, ROUNDED, "rounding") if level >= ROUNDED else FileNoise(None, ROUNDED, "rounding")


def _steps(picture: Picture) -> tuple[Tensor | None, int]:
    """Quantisation of the luminance, (8, 8), or None, and how the file lies."""
    coding = jpeg_coding(picture.path)
    if coding is None:
        quality = jpeg_quality(picture.path)
        return (None if quality is None else quantisation_tables(quality)[0]), 1
    if coding.space != "YCbCr":
        return None, 1
    steps = coding.steps()
    return (quantisation_tables(coding.quality) if steps is None else torch.as_tensor(steps).float())[0], (
        coding.orientation
    )
