"""One slice of a scan, whitened, normalised, with its maps: what every method is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.maps import Maps, calibration_region, estimated_maps
from ambient_solve.mri.noise import NoiseLevel, noise_level
from ambient_solve.mri.scan import Scan, calibration_scale
from ambient_solve.operators.coils import coils_above_noise, compress, prewhiten
from ambient_solve.operators.mri import MultiCoil

NOTICE = "For research, not for diagnosis: what was not measured is a learned guess."
"""What every result of MRI says."""


@dataclass(frozen=True)
class Problem:
    """One slice, normalised: what every method is given.

    Attributes:
        y: (1, 2, coils, H, W), `op` and maps (coils, H, W) that belong to it; `sigma` its noise, each part.
        scale: What k-space was divided by: a picture times `scale` is in the units of the scan.
        level: The noise level in the units of the scan, and where it is from.
        doubts: What is wrong with the coil maps, in sentences; empty where nothing is.
    """

    scan: Scan
    y: Tensor
    op: MultiCoil
    maps: Tensor
    mask: Tensor
    sigma: float
    scale: float
    level: NoiseLevel = field(default_factory=lambda: NoiseLevel(0.0, "stated"))
    doubts: tuple[str, ...] = ()


def problem(scan: Scan, coils: int = 0, maps: Tensor | None = None, sigma: float | None = None) -> Problem:
    """The inverse problem of one slice: whitened, compressed, scaled, its noise level and its coil maps estimated.

    Args:
        scan: A scan of one slice.
        coils: Virtual coils to compress to; 0 keeps those that hold more than noise.
        maps: Coil maps to use in place of the estimated ones, (coils, H, W) complex, for comparison.
        sigma: Noise of each real and imaginary part, in the units of the scan; that of the noise scan, or estimated, by
            default.

    Returns:
        The problem, in units in which the picture reaches about 1.

    Raises:
        AmbientSolveError: the scan has several slices, no calibration region, or no noise that can be found.
    """
    if len(scan) != 1:
        raise AmbientSolveError(f"{scan.source} has {len(scan)} slices; one at a time: problem(scan.slice(0)).")
    if sigma is not None and not 0 < sigma < math.inf:
        raise AmbientSolveError(
            f"sigma={sigma!r} was given; a noise level above 0, in the units of k-space, was expected."
        )
    kspace, mask = scan.kspace[0], scan.mask[0]
    region = calibration_region(mask, scan.acs)
    level = None if sigma is None else NoiseLevel(sigma, "stated")
    if scan.noise is not None:
        # White, and about as loud as it was: the units stay those of the scan.
        heard = float(scan.noise.abs().square().mean().div(2).sqrt())
        kspace = heard * prewhiten(kspace, scan.noise)
        level = level or NoiseLevel(heard, "noise scan")
    level = level or noise_level(kspace, mask, region)
    if not level.sigma > 0:
        raise AmbientSolveError(
            f"{scan.source}: no noise is found in k-space, at its edge or elsewhere: it was filled with zeros, or made "
            "without noise; state the level (sigma=, on the command line --sigma), or give a noise scan."
        )
    if maps is None:
        kspace = compress(kspace, coils or coils_above_noise(kspace, region, level.sigma), region)
    scale = calibration_scale(kspace)
    kspace, sigma = kspace / scale, level.sigma / scale
    found = estimated_maps(kspace, mask, region, sigma) if maps is None else Maps(maps)
    doubts = () if found.trusted else (_poor(found, scan.acs),)
    y = torch.view_as_real(mask * kspace).movedim(-1, 0)[None].contiguous()
    return Problem(scan, y, MultiCoil(found.maps, mask, sigma), found.maps, mask, sigma, scale, level, doubts)


def _poor(found: Maps, acs: int) -> str:
    return (
        f"the coil maps, of {acs} calibration lines, are poor: of entries that were held out they leave "
        f"{found.unexplained:.0%} unexplained, a misfit of {found.misfit:.1f} where 1 is right; trust no detail, and "
        "sample more lines in the middle"
    )


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
