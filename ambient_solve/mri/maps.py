"""Coil maps of one slice: windows and thresholds that fit the calibration there is, and how far to trust the maps.

The calibration region of whole lines is as long as the lines are: eight lines of 48 entries hold six times as many
windows as their middle square. Which singular values are noise follows from the noise level. Maps are judged by what
they predict: on each calibration line a third of the coils is held out, and compared with what a CG-SENSE picture of
all else makes of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.operators.coils import centre, espirit
from ambient_solve.transforms import from_kspace, to_kspace

LONGEST = 48
"""Entries of a calibration line that are used: farther out there is more noise than signal."""
WIDEST = 32
"""Calibration lines that are used."""
KERNELS = (3, 6)
"""Sides of the smallest and the largest ESPIRiT window."""
POWER = 0.35
"""Deviation of each part of a normalised picture, what CG-SENSE supposes of it."""
ITERATIONS = 15
"""Steps of CG-SENSE for a prediction."""
MISFIT = 4.0
"""A misfit of lines held out up to this is what noise does to a prediction."""
PLACES = 100
"""Places that a window must have in the region: signal takes some fifty directions."""
RETRIED = 0.04
"""A part of the amplitude of entries held out, beyond noise, up to which no other size of window is tried."""
UNEXPLAINED = 0.05
"""A part of the amplitude of lines held out, beyond noise, up to which maps are trusted."""


@dataclass(frozen=True)
class Maps:
    """Coil maps, and how well they predict calibration lines that were held out.

    Attributes:
        maps: (coils, H, W) complex.
        misfit: Mean squared error of the prediction in units of the noise, 1 is perfect; None where none could be made.
        unexplained: The part of the amplitude of these lines that is not predicted, noise taken off; 0 to about 1.
        kernel: Side of the ESPIRiT windows; 0 for one coil, which needs no map.
    """

    maps: Tensor
    misfit: float | None = None
    unexplained: float = 0.0
    kernel: int = 0

    @property
    def trusted(self) -> bool:
        """Whether what is unexplained is small, or noise."""
        return self.misfit is None or self.misfit <= MISFIT or self.unexplained <= UNEXPLAINED


def calibration_region(mask: Tensor, acs: int) -> tuple[int, int]:
    """Rows and columns of the largest fully sampled rectangle round the middle that serves calibration.

    Args:
        mask: Sampled entries, (H, W), 1 = sampled.
        acs: Calibration lines, or the side of the square.

    Returns:
        One side at most WIDEST, the other at most LONGEST.
    """
    narrow = [min(acs, WIDEST, n) for n in mask.shape]
    tall, wide = (_longest(m, n) for m, n in ((mask, narrow[1]), (mask.mT, narrow[0])))
    return (max(tall, narrow[0]), narrow[1]) if tall >= wide else (narrow[0], max(wide, narrow[1]))


def estimated_maps(kspace: Tensor, mask: Tensor, region: tuple[int, int], sigma: float) -> Maps:
    """ESPIRiT maps of one slice; where they cannot be trusted, the best of all sizes of window.

    Args:
        kspace: (coils, H, W) complex, about 1 in the picture.
        mask: Sampled entries, (H, W), 1 = sampled.
        region: Rows and columns of the calibration region.
        sigma: Noise of each real and imaginary part, in the units of `kspace`.

    Returns:
        The maps of all pixels, the background too, and how well they predict.
    """
    if len(kspace) == 1:
        return Maps(torch.ones(1, *mask.shape, dtype=torch.complex64))
    first = _kernel(region)
    best = _judged(kspace, mask, region, sigma, first)
    if best.misfit is None or best.misfit <= MISFIT or best.unexplained <= RETRIED:
        return best
    sizes = range(KERNELS[0], min(KERNELS[1], min(region) - 1) + 1)
    return min([best, *(_judged(kspace, mask, region, sigma, n) for n in sizes if n != first)], key=lambda m: m.misfit)


def _kernel(region: tuple[int, int]) -> int:
    """Side of the largest window of a third of the lines that has PLACES in the region.

    Wider ones suit CG-SENSE, but predict what is held out less well, and a prior is sensitive to what they make up.
    """
    low, high = KERNELS
    sizes = range(low, min(high, (min(region) + 1) // 3) + 1)
    fits = [n for n in sizes if math.prod(side - n + 1 for side in region) >= PLACES]
    return max(fits, default=low)


def _judged(kspace: Tensor, mask: Tensor, region: tuple[int, int], sigma: float, kernel: int) -> Maps:
    maps = espirit(kspace, region, kernel=kernel, crop=0.0, noise=sigma)
    return Maps(maps, *prediction(kspace, mask, maps, region, sigma), kernel)


def prediction(
    kspace: Tensor, mask: Tensor, maps: Tensor, region: tuple[int, int], sigma: float
) -> tuple[float | None, float]:
    """How well maps predict a third of the coils on each calibration line from all that was sampled besides.

    Args:
        kspace: (coils, H, W) complex.
        mask: Sampled entries, (H, W), 1 = sampled.
        maps: (coils, H, W) complex.
        region: Rows and columns of the calibration region; the lines run along its longer side.
        sigma: Noise of each real and imaginary part.

    Returns:
        `misfit` and `unexplained` of `Maps`, the first over that of noise which goes the same way, so that true maps
        have 1; None and 0 where the region has fewer than four lines.
    """
    if min(region) < 4:
        return None, 0.0
    (top, height), (left, width) = ((n // 2 - side // 2, side) for n, side in zip(mask.shape, region, strict=True))
    turn = torch.arange(len(kspace))[:, None, None]
    along = torch.arange(mask.shape[1]) if height >= width else torch.arange(mask.shape[0])[:, None]
    unseen = torch.zeros(kspace.shape)
    unseen[:, top : top + height, left : left + width] = 1
    unseen = unseen * ((along + turn) % 3 == 0) * mask
    seen, weight = mask - unseen, (sigma / POWER) ** 2
    data, maps = (_evenly(t, kspace, region)[None] for t in (kspace, maps))

    def missed(y: Tensor) -> float:
        """The energy of what a CG-SENSE picture of the entries `seen` makes wrong of those `unseen`."""
        solved = conjugate_gradient(
            lambda z: from_kspace(seen * to_kspace(z, maps), maps) + weight * z, from_kspace(seen * y, maps), ITERATIONS
        )
        return float((unseen * (to_kspace(solved, maps) - y)).abs().square().sum())

    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal((2, *data.shape), dtype=np.float32))
    left_over, noise = missed(data), missed(sigma * torch.complex(*drawn))
    return left_over / noise, (max(left_over - noise, 0.0) / float((unseen * data).abs().square().sum())) ** 0.5


def _evenly(t: Tensor, kspace: Tensor, region: tuple[int, int]) -> Tensor:
    """`t` (coils, H, W) in coils of equal strength: the virtual coils of `kspace`, mixed. White noise stays white."""
    low = centre(kspace, region).flatten(1)
    virtual = torch.einsum("cv,chw->vhw", torch.linalg.eigh(low @ low.mH)[1].conj(), t)
    return torch.fft.fft(virtual, dim=0, norm="ortho")


def _longest(mask: Tensor, columns: int) -> int:
    """Rows round the middle, at most LONGEST, in which that many columns are all sampled."""
    height, width = mask.shape
    whole = mask[:, width // 2 - columns // 2 : width // 2 - columns // 2 + columns].bool().all(1)
    found = 0
    for n in range(1, min(height, LONGEST) + 1):
        if not bool(whole[height // 2 - n // 2 : height // 2 - n // 2 + n].all()):
            break
        found = n
    return found
