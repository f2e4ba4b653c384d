"""Held-out pictures of which a damaged copy is trained on.

A damaged copy is not found by its perceptual hash: noise and gaps change too many of its bits. Its cells of 16 x 16 are
compared instead, each the mean of the pixels that were observed in it: noise and gaps leave these alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.data.sample import Sample

CELLS = 16
"""Cells along a side to which a picture is averaged."""
ALIKE = 0.97
"""Correlation of the cells from which on two pictures count as the same."""
BRIGHTNESS = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness of a pixel (BT.601)."""
SHOWN = 0.25
"""Share of the cells that must be seen for a comparison."""
CONTRAST = 0.02
"""Least standard deviation of the cells for a comparison, in [-1, 1] units."""
CHUNK = 4096
"""Pictures that are compared at once."""


def damaged_copies(
    held_out: Sequence[tuple[str, Tensor]], samples: Sequence[Sample], alike: float = ALIKE
) -> list[list[str]]:
    """For each held-out picture that has any: its name, and those of its copies among `samples`.

    Args:
        held_out: (name, picture), uint8 or floats in the units of the prior, (C, H, W).
        samples: Damaged or not, of another size too; uint8 as well. Their noise is allowed for as far as it is stated.
        alike: Correlation from which on two pictures count as the same.

    Returns:
        A list for each held-out picture with copies: its name, then theirs.
    """
    if not held_out or not samples:
        return []
    found: dict[int, list[str]] = {}
    for start in range(0, len(samples), CHUNK):
        part = samples[start : start + CHUNK]
        for i, j in (alikeness([p for _, p in held_out], part) >= alike).nonzero().tolist():
            found.setdefault(i, []).append(part[j].name)
    return [[held_out[i][0], *names] for i, names in sorted(found.items())]


def alikeness(pictures: Sequence[Tensor], samples: Sequence[Sample]) -> Tensor:
    """How much alike pictures and samples are: the correlation of their cells.

    Args:
        pictures: uint8 or floats in the units of the prior, (C, H, W) each.
        samples: As for `damaged_copies`.

    Returns:
        (N, M), -1 where two cannot be compared.
    """
    ours = torch.stack([_cells(prior_units(p), None)[0] for p in pictures]).double()
    theirs, seen, noise = zip(*(_cells(prior_units(s.z), s) for s in samples), strict=True)
    return correlation(ours, torch.stack(theirs).double(), torch.stack(seen).double(), torch.tensor(noise))


def correlation(ours: Tensor, theirs: Tensor, seen: Tensor, noise: Tensor) -> Tensor:
    """Correlation of every picture of one set with every picture of another, over the cells that are observed.

    Args:
        ours: Thumbnails, (N, K), one number for each cell.
        theirs: Thumbnails to compare with, (M, K).
        seen: How much of each cell of `theirs` is observed, (M, K), 0 to 1.
        noise: Variance that noise adds to a cell of `theirs`, (M,); it is taken off.

    Returns:
        (N, M); -1 where too little is observed, or a picture is flat.
    """
    weight = seen / seen.sum(1, keepdim=True).clamp_min(1e-9)
    mean, square = ours @ weight.T, ours**2 @ weight.T
    own = (weight * theirs).sum(1)
    variance = (weight * theirs**2).sum(1) - own**2
    signal = torch.maximum(variance - noise, variance / 4)
    both = ours @ (weight * theirs).T - mean * own
    variance = (square - mean**2).clamp_min(0)
    flat = (variance < CONTRAST**2) | (signal < CONTRAST**2) | ((seen > 0).double().mean(1) < SHOWN)
    return torch.where(flat, -1.0, both / (variance * signal).clamp_min(1e-12).sqrt())


def prior_units(picture: Tensor) -> Tensor:
    """A picture, uint8 or already in the units of the prior, in these, float32."""
    return picture.float() / 127.5 - 1 if picture.dtype == torch.uint8 else picture.float()


def _cells(z: Tensor, sample: Sample | None) -> tuple[Tensor, Tensor, float]:
    """Means of the cells, (K,), what share of each was observed, (K,), and the variance of their noise."""
    # A complex picture, of two channels, is compared by its magnitude.
    # Of colours the brightness is, which strong compression leaves best.
    share = torch.tensor(BRIGHTNESS) if len(z) == 3 else torch.full((len(z),), 1 / len(z))
    z = z.square().sum(0, keepdim=True).sqrt() if len(z) == 2 else torch.einsum("c,chw->hw", share, z)[None]
    mask, noise = torch.ones_like(z), 0.0
    if sample is not None:
        if sample.mask is not None and sample.signs is None and sample.maps is None:
            mask = sample.mask.float().amin(0, keepdim=True)
        pixels = max(float(mask.sum()) / CELLS**2, 1.0)
        noise = sample.sigma_noise**2 * float(share.square().sum()) / pixels
    total, seen = (F.adaptive_avg_pool2d(t, CELLS).flatten() for t in (mask * z, mask))
    return total / seen.clamp_min(1e-9), seen, noise
