"""One slice of a scan to a picture, with samples, a spread and a misfit; and the classical pictures beside it.

    scan = read_scan("scan.h5")
    made = reconstruct(scan.slice(0), load_mri_prior("brain-mri"), n_samples=8)
    made.mean, made.spread, made.chi2           # in the units of the scan

Coil maps and scale come from the calibration region alone, the noise level from the noise scan or the outermost of
k-space: nothing is used that a real, undersampled scan would lack.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ambient_solve.data.mri import Scan, calibration_scale
from ambient_solve.errors import AmbientSolveError
from ambient_solve.krylov import conjugate_gradient
from ambient_solve.operators.coils import compress, espirit, prewhiten
from ambient_solve.operators.masks import acceleration
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.priors.load import load_prior, prior_folder
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.priors.pipeline import INDEX
from ambient_solve.solver import Solver

NOTICE = "For research, not for diagnosis: what was not measured is a learned guess."
OUTER = 0.05
"""The share of the sampled k-space, farthest from the middle, that is taken for noise."""
GAUSSIAN = 1.4826
"""Deviation over median modulus of a Gaussian."""
POWER = 0.35
"""Deviation of each part of a normalised picture, what CG-SENSE supposes of it."""
WEIGHTS = {"l1-wavelet": 0.5, "tv": 1.0}
"""The lambda of sigpy's reconstructions, in units of the noise level."""


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


@dataclass(frozen=True)
class Reconstruction:
    """One slice reconstructed, in the units of the scan.

    Attributes:
        samples: (S, 2, H, W), real and imaginary part; S is 1 for a classical method.
        chi2: Mean squared residual of the mean in units of the noise, over sampled k-space; well above 1, the picture
            does not explain the scan.
        settings: How it was made. metrics: NRMSE, PSNR and SSIM where there is a reference, else empty.
    """

    problem: Problem
    samples: Tensor
    chi2: float
    seconds: float
    settings: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> Tensor:
        """(2, H, W)."""
        return self.samples.mean(0)

    @property
    def magnitude(self) -> Tensor:
        """The magnitude (H, W) of the mean."""
        return self.mean.norm(dim=0)

    @property
    def spread(self) -> Tensor | None:
        """The deviation of the magnitude over the samples, (H, W); None with one sample."""
        return self.samples.norm(dim=1).std(0) if len(self.samples) > 1 else None


def load_mri_prior(name: str | Path, device: str = "cpu") -> Prior:
    """A prior of complex pictures; one that is told masks of k-space comes bare, `reconstruct` tells it the scan's."""
    folder = prior_folder(name)
    prior = load_prior(name, device=device) if (folder / INDEX).is_file() else NetworkPrior.load(folder).to(device)
    if prior.shape[0] != 2:
        raise AmbientSolveError(
            f"{name} makes {prior.shape[0]} channels; a prior for MRI makes 2, real and imaginary part: "
            "ambient-solve mri-train makes one."
        )
    return prior


def noise_level(kspace: Tensor, mask: Tensor) -> float:
    """The deviation of each part of the noise in (coils, H, W), from the outermost of what `mask` (H, W) sampled."""
    down, across = ((torch.arange(n) - n // 2) / n for n in mask.shape)
    far = torch.hypot(down[:, None], across)
    seen = mask > 0
    edge = far[seen].quantile(1 - OUTER)
    outer = torch.view_as_real(kspace[:, seen & (far >= edge)])
    return GAUSSIAN * float(outer.abs().flatten().median())


def problem(scan: Scan, coils: int = 0, maps: Tensor | None = None) -> Problem:
    """The one slice of `scan`, whitened, compressed to `coils` virtual coils (0 keeps all), normalised, its maps found.

    `maps` (coils, H, W) replace the estimated ones, for comparison.
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


def zero_filled(p: Problem) -> Tensor:
    """`A^H y`, (1, 2, H, W)."""
    return p.op.A_adjoint(p.y)


def cg_sense(p: Problem, weight: float, iterations: int = 30) -> Tensor:
    """`(A^H A + weight I)^-1 A^H y` (Pruessmann et al., 2001): the mean under a white prior."""
    return conjugate_gradient(lambda x: p.op.A_adjoint_A(x) + weight * x, p.op.A_adjoint(p.y), iterations)


def l1_wavelet(p: Problem, weight: float, iterations: int = 100) -> Tensor:
    """sigpy's `L1WaveletRecon` (Lustig et al., 2007)."""
    return _sigpy("L1WaveletRecon", p, weight, iterations)


def total_variation(p: Problem, weight: float, iterations: int = 100) -> Tensor:
    """sigpy's `TotalVariationRecon` (Block et al., 2007)."""
    return _sigpy("TotalVariationRecon", p, weight, iterations)


CLASSICAL: dict[str, Callable[..., Tensor]] = {
    "zero-filled": zero_filled,
    "cg-sense": cg_sense,
    "l1-wavelet": l1_wavelet,
    "tv": total_variation,
}


def default_weight(p: Problem, method: str) -> float:
    """What the regularisation of a classical method weighs by default: a function of the noise level alone."""
    return (p.sigma / POWER) ** 2 if method == "cg-sense" else WEIGHTS.get(method, 0.0) * p.sigma


def classical(p: Problem, method: str, factor: float = 1.0) -> Reconstruction:
    """The picture of one of CLASSICAL, its weight `factor` times the default."""
    weight = factor * default_weight(p, method)
    started = time.perf_counter()
    x = zero_filled(p) if method == "zero-filled" else CLASSICAL[method](p, weight)
    return reconstruction(p, x, time.perf_counter() - started, {"method": method, "weight": weight})


def reconstruct(
    p: Problem,
    prior: Prior,
    *,
    algorithm: str = "auto",
    options: Mapping[str, Any] | None = None,
    n_samples: int = 8,
    seed: int = 0,
    told: Tensor | None = None,
    progress: bool = False,
) -> Reconstruction:
    """Posterior samples of one slice. A prior that is told masks is told that of the scan, or `told` (H, W)."""
    algorithm = automatic(algorithm)
    prior = for_scan(prior, p, told)
    n_samples = 1 if algorithm == "aos" else n_samples
    device = prior.device
    found = Solver(prior, algorithm, **(options or {})).solve(
        p.y.to(device), p.op.to(device), n_samples=n_samples, seed=seed, sigma_y=p.sigma, progress=progress
    )
    return reconstruction(p, found.samples[0].cpu(), found.seconds, {"method": "prior", **found.settings})


def automatic(algorithm: str) -> str:
    """What "auto" stands for here: `proximal`, which needs no backward pass and no weight (docs/benchmarks/mri.md)."""
    return "proximal" if algorithm == "auto" else algorithm


def for_scan(prior: Prior, p: Problem, told: Tensor | None = None) -> Prior:
    """`prior` as it is or, if it is told masks, told that of the scan, or `told` (H, W)."""
    if not _is_told(prior):
        return prior
    return AmbientPrior(prior, policy="measurement", mask=p.mask if told is None else told, maps=p.maps)


def _is_told(prior: Prior) -> bool:
    return isinstance(prior, NetworkPrior) and prior.config.planes > 0


def retrospective(scan: Scan, kind: str, acceleration: float, acs: int, seed: int) -> Scan:
    """One slice, `scan` fully sampled, with a part of it left; compared with the picture that all of it gives."""
    whole = problem(scan)
    reference = whole.scale * zero_filled(whole)[0].norm(dim=0)[None] if not scan.simulated else scan.reference
    return replace(scan.undersampled(kind, acceleration, acs, seed), reference=reference)


def magnitude_metrics(x: Tensor, reference: Tensor) -> dict[str, float]:
    """NRMSE, PSNR and SSIM of the magnitude (H, W), as fastMRI defines them: the range is the reference's maximum."""
    from skimage.metrics import structural_similarity

    x, reference = x.double(), reference.double()
    top, error = float(reference.max()), (x - reference).square()
    return {
        "nrmse": float((error.sum() / reference.square().sum()).sqrt()),
        "psnr": float(10 * torch.log10(top**2 / error.mean())),
        "ssim": float(structural_similarity(reference.numpy(), x.numpy(), data_range=top)),
    }


def misfit(p: Problem, x: Tensor) -> float:
    """Mean squared residual of `x` (1, 2, H, W) over the sampled entries, in units of the noise."""
    residual = (p.op.A(x) - p.y).square().sum()
    return float(residual / (2 * len(p.maps) * p.mask.sum() * p.sigma**2))


def reconstruction(p: Problem, x: Tensor, seconds: float, settings: dict[str, Any]) -> Reconstruction:
    """What became of `p`: samples `x` (S, 2, H, W) as a method made them, normalised, in the units of the scan."""
    x = x.detach()
    known = {"coils": len(p.maps), "R": acceleration(p.mask), "acs": p.scan.acs, "sigma_y": p.sigma, "scale": p.scale}
    known |= {"simulated_kspace": p.scan.simulated, "notes": list(p.scan.notes), "notice": NOTICE}
    made = Reconstruction(p, p.scale * x, misfit(p, x.mean(0, keepdim=True)), seconds, {**settings, **known})
    if p.scan.reference is None:
        return made
    return replace(made, metrics=magnitude_metrics(made.magnitude, p.scan.reference[0]))


def _sigpy(app: str, p: Problem, weight: float, iterations: int) -> Tensor:
    try:
        from sigpy.mri import app as apps
    except ImportError:
        raise AmbientSolveError("This method needs sigpy: pip install 'ambient-solve[mri]'.") from None
    y = torch.complex(p.y[0, 0], p.y[0, 1]).numpy()
    mask = p.mask.numpy().astype(y.dtype)
    made = getattr(apps, app)(y, p.maps.numpy(), weight, weights=mask, max_iter=iterations, show_pbar=False).run()
    return torch.view_as_real(torch.from_numpy(made)).permute(2, 0, 1)[None].float().contiguous()


__all__ = [
    "CLASSICAL",
    "NOTICE",
    "Problem",
    "Reconstruction",
    "automatic",
    "classical",
    "for_scan",
    "load_mri_prior",
    "magnitude_metrics",
    "misfit",
    "noise_level",
    "problem",
    "reconstruct",
    "reconstruction",
    "retrospective",
]
