"""One slice of a scan to a picture, with samples, a std and a misfit; and the classical pictures beside it.

    scan = read_scan("scan.h5")
    made = reconstruct(scan.slice(0), load_mri_prior("brain-mri"), n_samples=8)
    made.mean, made.std, made.chi2              # in the units of the scan

Coil maps and scale come from the calibration region alone, the noise level from the noise scan or the outermost of
k-space: nothing is used that a real, undersampled scan would lack.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ambient_solve.algorithms import auto
from ambient_solve.errors import AmbientSolveError
from ambient_solve.mri.classical import CLASSICAL, default_weight, zero_filled
from ambient_solve.mri.problem import NOTICE, Problem, misfit, problem
from ambient_solve.mri.scan import Scan
from ambient_solve.operators.kspace_masks import acceleration
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior
from ambient_solve.priors.load import load_prior, prior_folder
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.priors.pipeline import INDEX
from ambient_solve.solver import Solver


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
    prior = load_prior(name, device=device) if (folder / INDEX).is_file() else NetworkPrior.load(folder).to(device)
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
        The reconstruction, one picture.
    """
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
        The reconstruction: samples, their mean and standard deviation.

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
    return reconstruction(p, found.samples[0].cpu(), found.seconds, made)


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
    """Undersample a fully sampled slice; the picture of all its data becomes the reference.

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
    whole = problem(scan)
    reference = whole.scale * zero_filled(whole)[0].norm(dim=0)[None] if not scan.simulated else scan.reference
    return replace(scan.undersampled(kind, acceleration, acs, seed), reference=reference)


def magnitude_metrics(x: Tensor, reference: Tensor) -> dict[str, float]:
    """NRMSE, PSNR in dB and SSIM as fastMRI defines them: the data range is the maximum of the reference.

    Args:
        x: Magnitude, (H, W).
        reference: Magnitude, (H, W).

    Returns:
        The three by the names "nrmse", "psnr" and "ssim".
    """
    from skimage.metrics import structural_similarity

    x, reference = x.double(), reference.double()
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
    known |= {"simulated_kspace": p.scan.simulated, "notes": list(p.scan.notes), "notice": NOTICE}
    made = Reconstruction(p, p.scale * x, misfit(p, x.mean(0, keepdim=True)), seconds, {**settings, **known})
    if p.scan.reference is None:
        return made
    return replace(made, metrics=magnitude_metrics(made.magnitude, p.scan.reference[0]))
