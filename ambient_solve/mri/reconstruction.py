"""One slice of a scan to a picture, with samples, a std and a misfit; and the classical pictures beside it.

    scan = read_scan("scan.h5")
    made = reconstruct(scan.slice(0), load_mri_prior("brain-mri"), n_samples=8)
    made.mean, made.std, made.chi2              # in the units of the scan

Coil maps and scale come from the calibration region alone, the noise level from the noise scan or the outermost of
k-space: nothing is used that a real, undersampled scan would lack.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ambient_solve.algorithms import auto
from ambient_solve.errors import AmbientSolveError, DoubtfulResult, shown
from ambient_solve.mri.classical import CLASSICAL, default_weight, zero_filled
from ambient_solve.mri.problem import NOTICE, Problem, misfit, problem
from ambient_solve.mri.scan import Scan
from ambient_solve.operators.kspace_masks import acceleration
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.priors.foreign import is_pipeline
from ambient_solve.priors.load import load_prior, prior_folder
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.solver import Solver

MISFIT = 2.0
"""A misfit above this, or below what a picture can fit over this, is said."""


@dataclass(frozen=True)
class Reconstruction:
    """One slice reconstructed, in the units of the scan.

    Attributes:
        samples: (S, 2, H, W), real and imaginary part; S is 1 for a classical method.
        chi2: Mean squared residual of the mean in units of the noise, over sampled k-space; well above 1, the picture
            does not explain the scan.
        settings: How it was made. metrics: NRMSE, PSNR and SSIM where there is a reference, else empty.
        doubts: Why not to trust it, in sentences: poor coil maps, a misfit far from 1. Empty where there is no reason.
    """

    problem: Problem
    samples: Tensor
    chi2: float
    seconds: float
    settings: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    @property
    def mean(self) -> Tensor:
        """(2, H, W)."""
        return self.samples.mean(0)

    @property
    def magnitude(self) -> Tensor:
        """The magnitude (H, W) of the mean."""
        return self.mean.norm(dim=0)

    @property
    def std(self) -> Tensor | None:
        """Posterior standard deviation of the magnitude, (H, W), in the units of the scan; None with one sample."""
        return self.samples.norm(dim=1).std(0) if len(self.samples) > 1 else None


def load_mri_prior(name: str | Path, device: str = "cpu") -> Prior:
    """Load a prior of complex pictures.

    Args:
        name: Embedded prior, folder, or hub id.
        device: Where it is to run.

    Returns:
        The prior; a mask-conditioned one has no mask yet, `reconstruct` gives it that of the scan.

    Raises:
        AmbientSolveError: it cannot be loaded, or does not make two channels.
    """
    folder = prior_folder(name)
    prior = load_prior(name, device=device) if is_pipeline(folder) else NetworkPrior.load(folder).to(device)
    if prior.shape[0] != 2:
        raise AmbientSolveError(
            f"{name} makes {prior.shape[0]} channels; a prior for MRI makes 2, real and imaginary part: "
            "ambient-solve mri-train makes one."
        )
    return prior


def classical(p: Problem, method: str, factor: float = 1.0) -> Reconstruction:
    """Reconstruct one slice by a classical method.

    Args:
        p: The problem of one slice.
        method: "zero-filled", or one of `CLASSICAL`.
        factor: Regularisation, in multiples of `default_weight`.

    Returns:
        The reconstruction, one picture. A `DoubtfulResult` warns of what is in its `doubts`.
    """
    weight = factor * default_weight(p, method)
    started = time.perf_counter()
    x = zero_filled(p) if method == "zero-filled" else CLASSICAL[method](p, weight)
    return _said(reconstruction(p, x, time.perf_counter() - started, {"method": method, "weight": weight}))


def reconstruct(
    p: Problem,
    prior: Prior,
    *,
    algorithm: str = "auto",
    options: Mapping[str, Any] | None = None,
    n_samples: int = 8,
    seed: int = 0,
    prior_mask: Tensor | None = None,
    progress: bool | None = False,
) -> Reconstruction:
    """Draw posterior samples of one slice.

    Args:
        p: The problem of one slice.
        prior: A prior of two channels, as `load_mri_prior` returns it.
        algorithm: Its name; "auto" chooses.
        options: Knobs of the algorithm.
        n_samples: Posterior samples, 1 or more; "aos" draws one.
        seed: Decides the samples.
        prior_mask: Mask for a mask-conditioned prior, (H, W), 1 = sampled; that of the scan by default.
        progress: Show a progress bar; None shows one in a terminal and in a notebook.

    Returns:
        The reconstruction: samples, their mean and standard deviation. A `DoubtfulResult` warns of what is in its
        `doubts`.

    Raises:
        AmbientSolveError: the prior, the algorithm or a knob does not fit.
    """
    why = auto.why_for_scans(algorithm)
    algorithm = auto.for_scans(algorithm)
    prior = for_scan(prior, p, prior_mask)
    n_samples = 1 if algorithm == "aos" else n_samples
    found = Solver(prior, algorithm, **(options or {})).solve(
        p.y, p.op, n_samples=n_samples, seed=seed, sigma_y=p.sigma, progress=progress
    )
    made = {"method": "prior", **found.settings, **why}
    return _said(reconstruction(p, found.samples[0].cpu(), found.seconds, made))


def for_scan(prior: Prior, p: Problem, prior_mask: Tensor | None = None) -> Prior:
    """The prior for one slice: a mask-conditioned one is given a mask, any other stays as it is.

    Args:
        prior: A prior of two channels.
        p: The problem of one slice.
        prior_mask: The mask, (H, W), 1 = sampled; that of the scan by default.

    Returns:
        The prior to sample with.
    """
    if not _is_mask_conditioned(prior):
        return prior
    return AmbientPrior(prior, policy="measurement", mask=p.mask if prior_mask is None else prior_mask, maps=p.maps)


def _is_mask_conditioned(prior: Prior) -> bool:
    return isinstance(prior, NetworkPrior) and prior.config.mask_channels > 0


def retrospective(scan: Scan, kind: str, acceleration: float, acs: int, seed: int) -> Scan:
    """Undersample a fully sampled slice; the picture of all its data becomes the reference where it has none.

    Args:
        scan: One slice, sampled in full.
        kind: Mask, one of the kinds of `make_mask`.
        acceleration: Entries for each one that is kept, > 1.
        acs: Side of the fully sampled centre, in lines.
        seed: Decides the mask.

    Returns:
        The undersampled scan.

    Raises:
        AmbientSolveError: the scan is undersampled already, or the mask cannot be made.
    """
    part = scan.undersampled(kind, acceleration, acs, seed)
    if scan.reference is not None:
        return part
    whole = problem(scan)
    return replace(part, reference=whole.scale * zero_filled(whole)[0].norm(dim=0)[None])


def middle(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of a picture, as fastMRI cuts it out.

    Args:
        x: (..., H, W).
        size: Its rows and columns, at most (H, W).

    Returns:
        (..., *size).
    """
    top, left = ((n - side) // 2 for n, side in zip(x.shape[-2:], size, strict=True))
    return x[..., top : top + size[0], left : left + size[1]]


def magnitude_metrics(x: Tensor, reference: Tensor) -> dict[str, float]:
    """NRMSE, PSNR in dB and SSIM as fastMRI defines them: the data range is the maximum of the reference.

    Args:
        x: Magnitude, (H, W).
        reference: Magnitude, (H, W), or the middle of it, which is then compared.

    Returns:
        The three by the names "nrmse", "psnr" and "ssim".
    """
    from skimage.metrics import structural_similarity

    x, reference = middle(x, tuple(reference.shape)).double(), reference.double()
    top, error = float(reference.max()), (x - reference).square()
    return {
        "nrmse": float((error.sum() / reference.square().sum()).sqrt()),
        "psnr": float(10 * torch.log10(top**2 / error.mean())),
        "ssim": float(structural_similarity(reference.numpy(), x.numpy(), data_range=top)),
    }


def reconstruction(p: Problem, x: Tensor, seconds: float, settings: dict[str, Any]) -> Reconstruction:
    """The outcome of `p`, in the units of the scan.

    Args:
        p: The slice.
        x: Samples, (S, 2, H, W), as a method made them: normalised.
        seconds: Wall time of the method.
        settings: How they were made.

    Returns:
        The reconstruction, with its metrics where the scan has a reference.
    """
    x = x.detach()
    known = {"coils": len(p.maps), "R": acceleration(p.mask), "acs": p.scan.acs, "sigma_y": p.sigma, "scale": p.scale}
    known |= {"noise": {"from": p.level.source, "estimates": dict(p.level.estimates)}}
    known |= {"simulated_kspace": p.scan.simulated, "notes": list(p.scan.notes), "notice": NOTICE}
    chi2 = misfit(p, x.mean(0, keepdim=True))
    # What is zero-filled is no picture that explains the scan.
    doubts = () if settings.get("method") == "zero-filled" else (*p.doubts, *misfit_doubts(p, chi2))
    known |= {"doubts": list(doubts)}
    made = Reconstruction(p, p.scale * x, chi2, seconds, {**settings, **known}, doubts=doubts)
    if p.scan.reference is None:
        return made
    return replace(made, metrics=magnitude_metrics(made.magnitude, p.scan.reference[0]))


def misfit_doubts(p: Problem, chi2: float) -> tuple[str, ...]:
    """What a misfit that is far from 1 says of a reconstruction.

    A picture has as many unknowns as pixels. What explains k-space with them leaves `1 - R / coils` of the noise where
    it fits as much of it as it can, which is no fault; half of that is one.

    Args:
        p: The problem of one slice.
        chi2: The misfit of the picture.

    Returns:
        A sentence, or none.
    """
    stated = p.level.source == "stated"
    level = "the noise level" if stated else f"the noise level ({p.level.sigma:.3g}, from the {p.level.source})"
    if chi2 > MISFIT:
        low = f"the coil maps are poor, or {level} is too low (--sigma states it)"
        cause = "the coil maps are the likely cause" if p.doubts and not stated else low
        return (f"a part of the scan is not explained, misfit {chi2:.3g} where 1 is right: {cause}",)
    if chi2 < max(1 - acceleration(p.mask) / len(p.maps), 0) / MISFIT:
        cause = f"{level} is too high (--sigma states it), or noise was taken for signal"
        return (f"misfit {chi2:.2g} where about 1 is right: {cause}",)
    return ()


def _said(made: Reconstruction) -> Reconstruction:
    """`made`, once its doubts are warned of."""
    for doubt in made.doubts:
        warnings.warn(f"{shown(Path(made.problem.scan.source).name)}: {doubt}.", DoubtfulResult, stacklevel=3)
    return made
