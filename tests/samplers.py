"""What the tests of single algorithms share: fast draws of one small problem, units, costs, recorded distances."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm
from ambient_solve.evaluate.exactness import Exactness, gaussian_operator, matrix_operator, on_gaussian
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.base import Prior
from ambient_solve.priors.gaussian import ExactPrior, GaussianPrior
from ambient_solve.process import ancestral_noise
from ambient_solve.solver import Solver
from exactness import sizes
from helpers import Draws

RECORD = json.loads((Path(__file__).parent / "exactness.json").read_text())["algorithms"]
FRESH = 1000
"""The first problem of the tests: none of those that were recorded."""


class OneStream(Draws):
    """`Streams` for one image, from one generator: many samples cost little."""

    def uniform_per_image(self) -> Tensor:
        return torch.rand(1, generator=self.generator)


def diagonal(gains: list[float], sigma_y: float) -> Physics:
    return matrix_operator(torch.diag(torch.tensor(gains)), sigma_y, (len(gains),))


def isotropic(d: int, variance: float, low: float, high: float) -> GaussianPrior:
    return GaussianPrior(torch.zeros(d), variance * torch.eye(d), sigma_min=low, sigma_max=high, sigma_data=0.5)


@torch.no_grad()
def draw(algorithm: Algorithm, prior: Prior, y: Tensor, op: Physics, n: int = 20_000, seed: int = 0) -> Tensor:
    """`n` samples (n, *shape) for the one measurement `y` (1, *measurement)."""
    likelihood, streams, sigmas = Likelihood(y, op, prior, n_samples=n), OneStream(seed), algorithm.levels(prior)
    z = sigmas[0] * streams.normal(torch.empty(n, *likelihood.z_shape))
    for state in algorithm.iterate(prior, likelihood, z, sigmas, streams):
        z = state.z
    return z


def ancestral_variance(variance: float, sigmas: list[float]) -> float:
    """That of one entry which the ancestral steps K_1 on this grid give under an isotropic Gaussian prior."""
    found = sigmas[0] ** 2
    for s, t in zip(sigmas, sigmas[1:], strict=False):
        kept, shrink = (t / s) ** 2, variance / (variance + s**2)
        found = (kept + (1 - kept) * shrink) ** 2 * found + ancestral_noise(s, t, 1.0) ** 2
    return found


def errors(z: Tensor, mean: Tensor, variance: Tensor) -> tuple[float, float]:
    """Largest error over the entries of the mean and of the variance, in standard errors of independent samples."""
    n = len(z)
    of_mean = (z.double().mean(0) - mean).abs() / (variance / n).sqrt()
    of_variance = (z.double().var(0) / variance - 1).abs() / math.sqrt(2 / n)
    return float(of_mean.max()), float(of_variance.max())


def calls(algorithm: Algorithm) -> tuple[int, int]:
    """Forward and backward passes of a run on a mask: what the prior was asked for, which the solver must report."""

    class Counting(GaussianPrior):
        forwards = backwards = 0

        def denoise(self, z, sigma, cond=None):
            type(self).forwards += 1
            return super().denoise(z, sigma, cond)

        def denoise_vjp(self, z, sigma, cond=None, *, once=False):
            type(self).forwards += 1
            z0, vjp = super().denoise_vjp(z, sigma, cond, once=once)

            def counted(v):
                type(self).backwards += 1
                return vjp(v)

            return z0, counted

    prior = Counting(torch.zeros(1, 6, 6), 0.25 * torch.eye(36), sigma_min=0.01, sigma_max=40.0)
    op = gaussian_operator("mask")
    r = Solver(prior, algorithm).solve(op.A(torch.zeros(1, 1, 6, 6)), op, n_samples=3)
    assert (r.network_calls, r.vjps) == (Counting.forwards, Counting.backwards)
    return Counting.forwards, Counting.backwards


def change_of_units(algorithm: Algorithm, scale: float = 10.0) -> float:
    """How far the samples are from `scale` times as large when the data and the noise are; relative, worst entry."""
    mixing = torch.tensor([[0.5, 0.0, 0.0], [0.4, 0.3, 0.0], [0.2, 0.2, 0.1]], dtype=torch.float64)
    y, found = torch.tensor([[0.4, 0.0, -0.3]]), []
    for a in (1.0, scale):
        prior = GaussianPrior(a * torch.ones(3), a**2 * mixing @ mixing.T)
        op = diagonal([1.0, 0.0, 1.0], 0.05 * a)
        found.append(Solver(prior, algorithm).solve(a * y, op, n_samples=8).samples / a)
    return float((found[1] - found[0]).abs().max() / found[0].std())


def recorded(name: str, operator: str) -> Exactness:
    """What `benchmarks/exactness.py --record` measured."""
    return Exactness.read(RECORD[name]["gaussian"][operator])


def agrees(algorithm: Algorithm | str, operator: str, name: str) -> bool:
    """Whether it is as far from the exact posterior, on other truths with other noise, as the row `name` was."""
    own = sizes(algorithm)
    measured = on_gaussian(algorithm, operator, own["n"], max(8, own["problems"] // 2), first=FRESH, seed=FRESH)
    print(f"\n{name}, {operator}: measured {measured}, recorded {recorded(name, operator)}")
    return measured.agrees(recorded(name, operator))


def modes(prior: ExactPrior, z: Tensor) -> Tensor:
    """Share of the samples nearest to each component's mean."""
    near = torch.cdist(z.double(), prior.components.means).argmin(1)
    return torch.bincount(near, minlength=len(prior.log_weights)) / len(z)
