"""The sheet of an entry: held-out pictures denoised by its first prior, and samples of it."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ambient_solve.figures.sheet import Row, contact_sheet, picture_tile
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior

SHOWN = 3
"""Held-out pictures on the sheet."""
NOISE = (0.4, 1.6)
"""Noise levels at which they are denoised, in units of z."""
SIDE = 144
"""Side of a picture on the sheet, in pixels."""


@torch.no_grad()
def entry_sheet(title: str, prior: Prior, held_out: Tensor, drawn: Tensor) -> Image.Image:
    """Draw the sheet of an entry.

    Args:
        title: Of the sheet.
        prior: The prior of its first seed.
        held_out: uint8 (N, C, H, W).
        drawn: Samples of the prior, (n, C, H, W) in [-1, 1], at least 5.

    Returns:
        The sheet.
    """
    z = held_out[:SHOWN].float() / 127.5 - 1
    columns, pictures = ["held out"], [z]
    for number, sigma in enumerate(NOISE):
        noisy = z + sigma * Streams(range(len(z)), 1).branch(number).normal(z)
        columns += [f"noise {sigma:g}", "denoised"]
        pictures += [noisy, prior.denoise(noisy.to(prior.device), sigma).cpu()]
    rows = [Row("", "", [picture_tile((p[i] + 1) / 2) for p in pictures]) for i in range(len(z))]
    rows.append(Row("samples of the prior", "", [picture_tile((x + 1) / 2) for x in drawn[: len(columns)]]))
    return contact_sheet(title, columns, rows, side=SIDE)
