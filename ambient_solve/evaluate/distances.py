"""Measuring samplers against exact answers: sliced Wasserstein, a Gaussian's moments, and the MCGDiff protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.gaussian import MixturePrior


def sliced_wasserstein(a: Tensor, b: Tensor, n_slices: int = 100, seed: int = 0) -> float:
    """Sliced Wasserstein-1 distance: the mean over random directions of the distance of the projections.

    The distance of two finite sets of the same law is not 0: print that of two exact sets beside every value.

    Args:
        a: (n, *shape).
        b: The same shape.
        n_slices: Random unit directions, 1 or more.
        seed: Decides the directions.

    Returns:
        The distance, >= 0.

    Raises:
        AmbientSolveError: the sets differ in size.
    """
    if a.shape != b.shape:
        raise AmbientSolveError(
            f"sliced_wasserstein compares sets of equal size, got {tuple(a.shape)}, {tuple(b.shape)}."
        )
    a, b = a.flatten(1).double(), b.flatten(1).double()
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(a.shape[1], n_slices, generator=generator, dtype=a.dtype).to(a.device)
    directions = directions / directions.norm(dim=0)
    return float(((a @ directions).sort(0).values - (b.to(a.device) @ directions).sort(0).values).abs().mean())


@dataclass(frozen=True)
class GaussianReport:
    """How far the mean and variance of samples are from those of a Gaussian, over all its axes at once.

    Attributes:
        max_z: Largest |z-score| of the sample mean over the axes.
        z_threshold: What `max_z` stays below with probability 1 - alpha for exact samples (Bonferroni over the axes).
        ratio_mean, ratio_min, ratio_max: Sample variance / exact variance over the axes.
        ratio_band: Where `ratio_min` and `ratio_max` lie with probability 1 - alpha (chi-square, Bonferroni).
    """

    max_z: float
    z_threshold: float
    ratio_mean: float
    ratio_min: float
    ratio_max: float
    ratio_band: tuple[float, float]

    @property
    def passed(self) -> bool:
        """Whether every number lies inside its band."""
        low, high = self.ratio_band
        return self.max_z < self.z_threshold and low < self.ratio_min and self.ratio_max < high


def gaussian_report(samples: Tensor, mean: Tensor, covariance: Tensor, alpha: float = 1e-3) -> GaussianReport:
    """Test samples against a Gaussian.

    A covariance is tested along its eigenvectors, where an error in a correlation or in a direction of little variance
    shows; variances are tested entry by entry.

    Args:
        samples: (n, *shape).
        mean: (*shape).
        covariance: (d, d), or variances (*shape).
        alpha: Probability that exact samples fail, in (0, 1).

    Returns:
        The tests and their outcome.

    Raises:
        AmbientSolveError: the covariance is not positive definite.
    """
    x = (samples.double() - mean.double()).flatten(1)
    n, d = x.shape
    if covariance.numel() == d:
        variance = covariance.double().flatten()
    else:
        variance, axes = principal_axes(covariance)
        x = x @ axes
    if variance.min() <= 0:
        raise AmbientSolveError(
            f"gaussian_report needs a positive definite covariance, got {float(variance.min()):.3g}."
        )
    x = x / variance.sqrt()
    ratio = x.var(0)
    quantile = NormalDist().inv_cdf(1 - alpha / (2 * d))
    return GaussianReport(
        max_z=float(x.mean(0).abs().max()) * math.sqrt(n),
        z_threshold=quantile,
        ratio_mean=float(ratio.mean()),
        ratio_min=float(ratio.min()),
        ratio_max=float(ratio.max()),
        ratio_band=(_chi_square(n - 1, -quantile) / (n - 1), _chi_square(n - 1, quantile) / (n - 1)),
    )


def _chi_square(k: int, normal: float) -> float:
    """The chi-square quantile, k degrees of freedom, at the level of a normal quantile (Wilson and Hilferty, 1931)."""
    return k * max(0.0, 1 - 2 / (9 * k) + normal * math.sqrt(2 / (9 * k))) ** 3


class LinearProblem(NamedTuple):
    """A linear measurement `y = A x + N(0, sigma_y^2 I)` whose posterior is known."""

    prior: MixturePrior
    A: Tensor
    y: Tensor
    sigma_y: float
    posterior: MixturePrior


def mcgdiff_problem(d: int, dy: int, seed: int) -> LinearProblem:
    """One problem of the mixture protocol of Cardoso et al. (2023, arXiv 2308.07983, section 4).

    `A = U diag(s) V'` with random orthonormal U, V and s sorted U(0, 1) numbers; `sigma_y` is U(0, 1) times max s.

    Args:
        d: Dimension of the picture, even.
        dy: Dimension of the measurement, 1 to d.
        seed: Decides the problem.

    Returns:
        Prior, A (dy, d) float32, y (dy,) float32, `sigma_y` and the exact posterior.
    """
    generator = torch.Generator().manual_seed(seed)
    prior = MixturePrior.mcgdiff(d, generator)
    # Unlike eigenvectors these are unique: LAPACK fixes the signs of Householder's reflections.
    u, v = (torch.linalg.qr(torch.randn(n, dy, generator=generator, dtype=torch.float64)).Q for n in (dy, d))
    s = torch.rand(dy, generator=generator, dtype=torch.float64).sort(descending=True).values
    # Rounded before the posterior is taken, so that solver and posterior see the same numbers.
    A = (u * s @ v.T).float()
    sigma_y = float(torch.rand((), generator=generator) * s[0])
    y = A @ prior.sample(1, generator)[0] + sigma_y * torch.randn(dy, generator=generator)
    return LinearProblem(prior, A, y, sigma_y, prior.posterior(A, y, sigma_y))


def principal_axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (d,), rising, and eigenvectors (d, d) in columns, the same on every machine up to their signs.

    Where eigenvalues agree any basis of their space is one of eigenvectors, and each library returns its own. A small
    slope along the diagonal, far above rounding and far below what a test can see, tells them apart.
    """
    covariance = (covariance + covariance.mT).double() / 2
    slope = torch.linspace(0.5, 1.5, len(covariance), dtype=torch.float64, device=covariance.device) ** 3
    axes = torch.linalg.eigh(covariance + 1e-8 * covariance.diagonal().abs().mean() * slope.diag())[1]
    return (axes * (covariance @ axes)).sum(0), axes
