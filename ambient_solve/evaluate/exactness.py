"""How far an algorithm is from the exact posterior, on problems where that is known.

Four operators under a Gaussian prior (a mask, a periodic blur, 2x super-resolution, a dense matrix), and the mixture
protocol of `mcgdiff_problem`. `benchmarks/exactness.py` prints these numbers with their sampling errors; the tests
measure every algorithm on other problems and hold it to what was recorded, within those errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import BlurFFT, Downsampling, GaussianNoise, Inpainting, LinearPhysics, Physics
from torch import Tensor

from ambient_solve.algorithms import Algorithm
from ambient_solve.errors import own_words_for_misfit
from ambient_solve.evaluate.distances import LinearProblem, mcgdiff_problem, principal_axes, sliced_wasserstein
from ambient_solve.priors.base import Prior
from ambient_solve.priors.gaussian import GaussianPrior, dense
from ambient_solve.solver import Solver

Draw = Callable[[Tensor, Physics, Prior, int, int], Tensor]
"""Any sampler: `(y (1, *measurement), op, prior, n, seed) -> images (n, *shape)`."""
SIDE = 6
"""Side of the images of the Gaussian problems, in pixels."""
SIGMA_Y = 0.05
"""Measurement noise of all problems."""
GAUSSIAN = ("mask", "blur", "super-resolution", "dense")
"""Operators of the problems with a Gaussian prior."""


@dataclass(frozen=True)
class Estimate:
    """A mean over independent problems and its standard error: what another set of problems may be compared with."""

    value: float
    error: float

    @classmethod
    def over(cls, problems: Tensor) -> Estimate:
        """From one number for each problem, (P,), two or more."""
        return cls(float(problems.mean()), float(problems.std()) / math.sqrt(len(problems)))

    def standard_errors(self, other: Estimate) -> float:
        """How far two estimates are apart, in standard errors of their difference."""
        return abs(self.value - other.value) / max(math.hypot(self.error, other.error), 1e-12)


@dataclass(frozen=True)
class Exactness:
    """Distances from the exact posterior, each a mean over problems.

    Attributes:
        squared_bias: Squared error of the mean, in posterior variances, mean over the axes; what the finite number of
            samples adds is taken off, so that exact samples have 0 on average.
        ratio: Variance of the samples over the exact variance, mean over the axes; 1 is right.
        distance: Sliced Wasserstein distance to as many exact samples.
        excess: The same less the distance of two exact sets; exact samples have 0 on average.
        floor: The distance of two exact sets.
        z: Error of all means together, as a z-score: independent exact samples stay below 4.4 in either direction.
    """

    squared_bias: Estimate
    ratio: Estimate
    distance: Estimate
    excess: Estimate
    floor: Estimate
    z: float

    @property
    def bias(self) -> float:
        """Root of the squared bias: the error of the mean in posterior standard deviations."""
        return math.sqrt(max(self.squared_bias.value, 0.0))

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Exactness:
        """From what `dataclasses.asdict` made of one."""
        return cls(**{k: Estimate(**v) if isinstance(v, Mapping) else v for k, v in stored.items()})

    def agrees(self, other: Exactness, errors: float = 4.4) -> bool:
        """Whether two sets of problems give the same numbers within the error of their difference.

        Args:
            other: The other set.
            errors: Largest difference, in standard errors.

        Returns:
            True where all numbers agree.
        """
        names = ("squared_bias", "ratio", "excess")
        return all(getattr(self, name).standard_errors(getattr(other, name)) < errors for name in names)


def matrix_operator(A: Tensor, sigma_y: float, shape: tuple[int, ...]) -> LinearPhysics:
    """A dense matrix as a deepinv operator.

    Args:
        A: (m, d).
        sigma_y: Standard deviation of the noise, >= 0.
        shape: Shape of the picture, of d entries.

    Returns:
        The operator from (B, *shape) to (B, m).
    """
    return LinearPhysics(
        A=lambda x, **_: x.flatten(1) @ A.T,
        A_adjoint=lambda u, **_: (u @ A).reshape(-1, *shape),
        noise_model=GaussianNoise(sigma_y),
    )


def gaussian_prior() -> GaussianPrior:
    """A correlated 6x6 "picture" with standard deviation 0.5 in z units and images in [0, 1]."""
    axis = torch.arange(SIDE, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    covariance = 0.25 * torch.exp(-torch.cdist(place, place) / 3)
    return GaussianPrior(
        torch.zeros(1, SIDE, SIDE), covariance, scale=0.5, offset=0.5, sigma_min=0.005, sigma_max=40.0, sigma_data=0.5
    )


def gaussian_operator(name: str) -> Physics:
    """One of `GAUSSIAN`."""
    generator = torch.Generator().manual_seed(0)
    shape, noise = (1, SIDE, SIDE), GaussianNoise(SIGMA_Y)
    if name == "mask":
        return Inpainting(shape, mask=(torch.rand(shape, generator=generator) > 0.5).float(), noise_model=noise)
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(row, row)[None, None]
    if name == "blur":
        return BlurFFT(shape, filter=kernel, noise_model=noise)
    if name == "super-resolution":
        return Downsampling(shape, filter=kernel, factor=2, padding="circular", noise_model=noise)
    return matrix_operator(torch.randn(SIDE**2 // 3, SIDE**2, generator=generator) / SIDE, SIGMA_Y, shape)


def _draw(sampler: Algorithm | str | Draw, y: Tensor, op: Physics, prior: Prior, n: int, seed: int) -> Tensor:
    """Images (B, n, *shape) for measurements (B, *measurement), the noise of each its own."""
    if callable(sampler):
        return torch.stack([sampler(one[None], op, prior, n, seed + i) for i, one in enumerate(y)])
    seeds = [seed + i for i in range(len(y))]
    with own_words_for_misfit():
        return Solver(prior, sampler).solve(y, op, n_samples=n, seed=seeds, progress=False).samples


def on_gaussian(
    sampler: Algorithm | str | Draw, name: str, n: int = 32, problems: int = 16, first: int = 0, seed: int = 0
) -> Exactness:
    """Posterior samples under `gaussian_prior` and one of the operators, for measurements of several truths.

    Args:
        sampler: An algorithm, its name, or any function that draws.
        name: One of `GAUSSIAN`.
        n: Samples of each measurement.
        problems: How many truths are drawn and measured, 2 or more; the errors are sampling errors over them.
        first: Number of the first problem: other numbers are other truths, other noise.
        seed: Of the sampler.

    Returns:
        Errors of mean, variance and distance, each with its sampling error.
    """
    prior, op = gaussian_prior(), gaussian_operator(name)
    A, truths = dense(op, prior.shape), []
    for i in range(first, first + problems):
        generator = torch.Generator().manual_seed(i)
        clean = op.A(prior.decode(prior.sample(1, generator)))
        y = clean + SIGMA_Y * torch.randn(clean.shape, generator=generator) * (clean != 0)
        posterior = prior.posterior(A, y[0], SIGMA_Y)
        exact = [posterior.sample(n, generator).double() - posterior.mean for _ in range(2)]
        truths.append((y, posterior.mean, *exact))
    y, mean, reference, second = (torch.stack(part) for part in zip(*truths, strict=True))
    samples = prior.encode(_draw(sampler, y[:, 0], op, prior, n, seed)).double() - mean[:, None]
    variance, axes = principal_axes(posterior.covariance)
    white = samples.flatten(2) @ (axes / variance.sqrt())
    means, variances = white.mean(1), white.var(1)
    squares = n * means.square() / variances.mean(0)
    distances, floors = (
        torch.tensor([sliced_wasserstein(a, b) for a, b in zip(found, reference, strict=True)])
        for found in (samples, second)
    )
    return Exactness(
        squared_bias=Estimate.over((means.square() - variances / n).mean(1)),
        ratio=Estimate.over(variances.mean(1)),
        distance=Estimate.over(distances),
        excess=Estimate.over(distances - floors),
        floor=Estimate.over(floors),
        z=float((squares - 1).sum()) / math.sqrt(2 * squares.numel()),
    )


def on_mixture(
    sampler: Algorithm | str | Draw, d: int, dy: int, seeds: Sequence[int], n: int = 1000
) -> list[tuple[float, float]]:
    """The distance of a sampler's samples from the known posteriors of the problems of `mcgdiff_problem`.

    Args:
        sampler: An algorithm, its name, or a function that draws.
        d: Dimension of the picture, even.
        dy: Dimension of the measurement.
        seeds: One problem each.
        n: Samples of each problem.

    Returns:
        For each problem the sliced Wasserstein distance of the samples, and that of two exact sets.
    """
    rows = []
    for seed in seeds:
        problem: LinearProblem = mcgdiff_problem(d, dy, seed)
        op = matrix_operator(problem.A, problem.sigma_y, (d,))
        samples = _draw(sampler, problem.y[None], op, problem.prior, n, seed)[0]
        generator = torch.Generator().manual_seed(1000 + seed)
        first, second = problem.posterior.sample(n, generator), problem.posterior.sample(n, generator)
        rows.append((sliced_wasserstein(samples, first), sliced_wasserstein(second, first)))
    return rows
