"""How far an algorithm is from the exact posterior, on problems where that is known.

Four operators under a Gaussian prior (a mask, a periodic blur, 2x super-resolution, a dense matrix), and the mixture
protocol of `mcgdiff_problem`. The tests hold every algorithm to recorded values of these numbers;
`benchmarks/exactness.py` prints them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from deepinv.physics import BlurFFT, Downsampling, GaussianNoise, Inpainting, LinearPhysics, Physics
from torch import Tensor

from ambient_solve.algorithms import Algorithm
from ambient_solve.evaluate.exact import Problem, mcgdiff_problem, sliced_wasserstein
from ambient_solve.priors.base import Prior
from ambient_solve.priors.gaussian import GaussianPrior, dense
from ambient_solve.solver import Solver

Draw = Callable[[Tensor, Physics, Prior, int, int], Tensor]
"""Any sampler: `(y (1, *measurement), op, prior, n, seed) -> images (n, *shape)`."""
SIDE, SIGMA_Y = 6, 0.05
GAUSSIAN = ("mask", "blur", "super-resolution", "dense")


@dataclass(frozen=True)
class Exactness:
    """Distances from the exact posterior.

    Attributes:
        bias: Largest error of the mean over the posterior's axes, in posterior standard deviations.
        z: The same as a z-score: `bias * sqrt(n)`; exact samples stay below about 4.3.
        ratio: Variance of the samples over the exact variance, mean over the axes; 1 is right.
        distance, floor: Sliced Wasserstein distance to exact samples, and that of two exact sets.
        floor_bias: The bias of as many exact samples.
    """

    bias: float
    z: float
    ratio: float
    distance: float
    floor: float
    floor_bias: float


def matrix_operator(A: Tensor, sigma_y: float, shape: tuple[int, ...]) -> LinearPhysics:
    """A dense matrix (m, d) as a deepinv operator on images of `shape`."""
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
    if callable(sampler):
        return sampler(y, op, prior, n, seed)
    return Solver(prior, sampler).solve(y, op, n_samples=n, seed=seed).samples[0]


def on_gaussian(sampler: Algorithm | str | Draw, name: str, n: int = 1000, seed: int = 0) -> Exactness:
    """`n` samples of the posterior under `gaussian_prior` and that operator."""
    prior, op = gaussian_prior(), gaussian_operator(name)
    generator = torch.Generator().manual_seed(seed)
    y = op.A(prior.decode(prior.sample(1, generator)))
    y = y + SIGMA_Y * torch.randn(y.shape, generator=generator) * (y != 0)
    exact = prior.posterior(dense(op, prior.shape), y[0], SIGMA_Y)
    samples = prior.encode(_draw(sampler, y, op, prior, n, seed))
    first, second = exact.sample(n, generator), exact.sample(n, generator)
    variance, axes = torch.linalg.eigh(exact.covariance)
    whitened = ((samples.double() - exact.mean).flatten(1) @ axes) / variance.sqrt()
    reference = ((second.double() - exact.mean).flatten(1) @ axes) / variance.sqrt()
    bias = float(whitened.mean(0).abs().max())
    return Exactness(
        bias=bias,
        z=bias * n**0.5,
        ratio=float(whitened.var(0).mean()),
        distance=sliced_wasserstein(samples, first),
        floor=sliced_wasserstein(second, first),
        floor_bias=float(reference.mean(0).abs().max()),
    )


def on_mixture(
    sampler: Algorithm | str | Draw, d: int, dy: int, seeds: Sequence[int], n: int = 1000
) -> list[tuple[float, float]]:
    """Sliced Wasserstein distance and its floor for each problem of the mixture protocol of `mcgdiff_problem`."""
    rows = []
    for seed in seeds:
        problem: Problem = mcgdiff_problem(d, dy, seed)
        op = matrix_operator(problem.A, problem.sigma_y, (d,))
        samples = _draw(sampler, problem.y[None], op, problem.prior, n, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        first, second = problem.posterior.sample(n, generator), problem.posterior.sample(n, generator)
        rows.append((sliced_wasserstein(samples, first), sliced_wasserstein(second, first)))
    return rows
