"""One slice of a scan, whitened, normalised, with its maps: what every method is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.scan import Scan, calibration_scale
from ambient_solve.operators.coils import compress, espirit, prewhiten
from ambient_solve.operators.mri import MultiCoil

NOTICE = "For research, not for diagnosis: what was not measured is a learned guess."
"""What every result of MRI says."""
OUTER = 0.05
"""The share of the sampled k-space, farthest from the middle, that is taken for noise."""
GAUSSIAN = 1.4826
"""Deviation over median modulus of a Gaussian."""


@dataclass(frozen=True)
class Problem:
    """One slice, normalised: what every method is given.

    Attributes:
        y: (1, 2, coils, H, W), `op` and maps (coils, H, W) that belong to it; `sigma` its noise, each part.
        scale: What k-space was divided by: a picture times `scale` is in the units of the scan.
    """

    scan: Scan
    y: Tensor
    op: MultiCoil
    maps: Tensor
    mask: Tensor
    sigma: float
    scale: float


def noise_level(kspace: Tensor, mask: Tensor) -> float:
    """The noise level of k-space, estimated from its outermost sampled entries.

    Args:
        kspace: (coils, H, W) complex.
        mask: Sampled entries, (H, W), 1 = sampled.

    Returns:
        Standard deviation of each real and imaginary part, in the units of `kspace`.
    """
    down, across = ((torch.arange(n) - n // 2) / n for n in mask.shape)
    far = torch.hypot(down[:, None], across)
    seen = mask > 0
    edge = far[seen].quantile(1 - OUTER)
    outer = torch.view_as_real(kspace[:, seen & (far >= edge)])
    return GAUSSIAN * float(outer.abs().flatten().median())


def problem(scan: Scan, coils: int = 0, maps: Tensor | None = None) -> Problem:
    """The inverse problem of one slice: whitened, compressed, scaled, its noise level and its coil maps estimated.

    Args:
        scan: A scan of one slice.
        coils: Virtual coils to compress to; 0 keeps all.
        maps: Coil maps to use in place of the estimated ones, (coils, H, W) complex, for comparison.

    Returns:
        The problem, in units in which the picture reaches about 1.

    Raises:
        AmbientSolveError: the scan has several slices, or no calibration region.
    """
    if len(scan) != 1:
        raise AmbientSolveError(f"{scan.source} has {len(scan)} slices; one at a time: problem(scan.slice(0)).")
    kspace, mask, sigma = scan.kspace[0], scan.mask[0], None
    if scan.noise is not None:
        # White, and about as loud as it was: the units stay those of the scan.
        sigma = float(scan.noise.abs().square().mean().div(2).sqrt())
        kspace = sigma * prewhiten(kspace, scan.noise)
    if coils and maps is None:
        kspace = compress(kspace, coils, scan.acs)
    scale = calibration_scale(kspace)
    kspace = kspace / scale
    sigma = noise_level(kspace, mask) if sigma is None else sigma / scale
    if not sigma > 0:
        raise AmbientSolveError(
            f"{scan.source}: the outermost k-space is empty, so that no noise level can be found; it was zero-filled, "
            "leave these lines out of the mask, or give a noise scan."
        )
    if maps is None:
        acs = min(scan.acs, 32, *mask.shape)
        # Smaller windows leave more of them in a narrow region; all pixels keep a map, the background too.
        maps = espirit(kspace, acs, kernel=min(max(acs // 3, 4), 6), crop=0.0) if len(kspace) > 1 else None
    maps = torch.ones(1, *mask.shape, dtype=torch.complex64) if maps is None else maps
    y = torch.view_as_real(mask * kspace).movedim(-1, 0)[None].contiguous()
    return Problem(scan, y, MultiCoil(maps, mask, sigma), maps, mask, sigma, scale)


def misfit(p: Problem, x: Tensor) -> float:
    """The data misfit of a picture, reduced chi-squared: 1 where the residual is as large as the noise.

    Args:
        p: The problem of one slice.
        x: Real and imaginary part, (1, 2, H, W).

    Returns:
        Mean of `|A x - y|^2 / (2 sigma^2)` over the sampled entries of all coils, `sigma` that of each part.
    """
    residual = (p.op.A(x) - p.y).square().sum()
    return float(residual / (2 * len(p.maps) * p.mask.sum() * p.sigma**2))
