"""DAPS part by part in dense algebra: the flow of a Gaussian, the law of its draw, the chain of its Langevin steps."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import GaussianNoise, Physics
from torch import Tensor

from ambient_solve.algorithms.daps import DAPS
from ambient_solve.evaluate.exactness import gaussian_prior, matrix_operator
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import GaussianPrior
from helpers import Draws, randn, relative

N, NOISE = 40_000, 0.2
MATRIX = randn(3, 4, seed=1) / 2
Y = torch.tensor([[0.5, -1.0, 0.3]])


def small(variance: float = 0.25) -> GaussianPrior:
    """Four numbers, white, their deviation known."""
    deviation = variance**0.5
    return GaussianPrior(torch.zeros(4), variance * torch.eye(4), sigma_min=0.01, sigma_max=20.0, sigma_data=deviation)


def off(x: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """Largest error of mean and covariance over the entries, in standard errors of independent rows."""
    x, scale = x.double(), covariance.diagonal().sqrt()
    means = ((x.mean(0) - mean) / scale).abs().max()
    correlation = covariance / scale / scale[:, None]
    entries = (torch.cov(x.T) / scale / scale[:, None] - correlation) / (1 + correlation**2).sqrt()
    return float(torch.maximum(means, entries.abs().max())) * len(x) ** 0.5


@pytest.mark.parametrize("sigma", [5.0, 0.5])
def test_the_estimate_is_the_end_of_the_flow_of_a_gaussian(sigma):
    """`C^1/2 (C + sigma^2 I)^-1/2 z` in closed form, which Euler's steps approach; one step is the posterior mean."""
    prior, z = gaussian_prior(), sigma * randn(3, 1, 6, 6)
    values, axes = torch.linalg.eigh(prior.covariance)
    end = z.flatten(1).double() @ axes * (values / (values + sigma**2)).sqrt() @ axes.T
    errors = [relative(DAPS(ode_steps=k)._flow(prior, z, sigma), end) for k in (1, 25, 50, 100)]
    assert errors[3] < 0.05 and errors[0] > 0.1
    assert 1.7 < errors[1] / errors[2] < 2.4 and 1.7 < errors[2] / errors[3] < 2.4  # of the first order
    torch.testing.assert_close(DAPS(ode_steps=1)._flow(prior, z, sigma), prior.denoise(z, sigma))


def test_an_euler_step_goes_along_the_flow_of_the_paper():
    """`dz = (z - D(z)) / sigma dsigma` over geometric levels, down to the least of the prior and from there to 0."""
    prior, sigma = small(), 2.0
    grid = [sigma * (0.01 / sigma) ** (i / 3) for i in range(4)] + [0.0]
    z = found = randn(3, 4)
    for level, lower in zip(grid, grid[1:], strict=False):
        found = found + (lower - level) * (found - 0.25 / (0.25 + level**2) * found) / level
    torch.testing.assert_close(DAPS(ode_steps=4)._flow(prior, z, sigma), found, rtol=1e-4, atol=1e-5)
    # The control: levels evenly spaced, which few steps tell apart.
    assert relative(DAPS(ode_steps=5)._flow(prior, z, sigma), found) > 0.01


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_a_level_is_a_draw_around_the_estimate_and_new_noise(width):
    sigma, sigma_next = 0.7, 0.4
    prior = small()
    likelihood = Likelihood(Y, matrix_operator(MATRIX, NOISE, (4,)), prior, n_samples=N)
    z = torch.tensor([1.0, -0.5, 0.2, 2.0]).expand(N, 4)
    algorithm = DAPS(steps=1, ode_steps=1, width=width)
    (state,) = algorithm.iterate(prior, likelihood, z, [sigma, sigma_next], Draws(0))
    A, estimate = MATRIX.double(), z[0].double() * 0.25 / (0.25 + sigma**2)

    def law(q2: float) -> tuple[Tensor, Tensor]:
        covariance = torch.linalg.inv(A.T @ A / NOISE**2 + torch.eye(4) / q2)
        return covariance @ (A.T @ Y[0].double() / NOISE**2 + estimate / q2), covariance

    mean, covariance = law(width**2 / (1 / sigma**2 + 1 / 0.25))
    assert off(state.z0, mean, covariance) < 4.5
    assert off(state.z, mean, covariance + sigma_next**2 * torch.eye(4)) < 4.5
    assert off(state.z0, *law(sigma**2)) > 10  # the control: the paper's q, as wide as the noise
    fresh = torch.corrcoef(torch.cat([state.z.double() - state.z0, z + 0 * state.z0, state.z0], 1)[:, [0, 1, 8, 9]].T)
    assert float(fresh[:2, 2:].abs().max()) * N**0.5 < 4.5


class Opaque(Physics):
    """The same matrix, not known to be linear."""

    def __init__(self) -> None:
        super().__init__(noise_model=GaussianNoise(NOISE))
        self.img_size = (4,)

    def A(self, x: Tensor, **_: object) -> Tensor:
        return x @ MATRIX.T


@pytest.mark.parametrize("steps", [1, 5, 60])
def test_langevin_steps_are_the_chain_of_their_formula(steps):
    """For a linear map, which the algorithm does not know, mean and covariance of the chain obey a recursion."""
    q, curvature, rate, prior = 0.4, 9.0, 0.2, small()
    likelihood = Likelihood(Y, Opaque(), prior, n_samples=N)
    assert not likelihood.linear
    centre = torch.tensor([0.3, -0.2, 0.1, 0.6])
    algorithm = DAPS(langevin_steps=steps, rate=rate)
    z = algorithm._langevin(likelihood, centre.expand(N, 4), q, torch.full((N, 1), curvature), Draws(0))
    A, b = MATRIX.double(), Y[0].double()

    def chain(length: float) -> tuple[Tensor, Tensor]:
        precision = A.T @ A / NOISE**2 + torch.eye(4) / q**2
        mean, covariance, keep = centre.double(), torch.zeros(4, 4).double(), torch.eye(4) - length * precision
        for _ in range(steps):
            mean = keep @ mean + length * (A.T @ b / NOISE**2 + centre.double() / q**2)
            covariance = keep @ covariance @ keep + 2 * length * torch.eye(4)
        return mean, covariance

    length = rate / (curvature + 1 / q**2)
    assert off(z, *chain(length)) < 4.5
    assert off(z, *chain(1.2 * length)) > 10 or steps == 60  # the control; a long chain forgets its steps
    exact = torch.linalg.inv(A.T @ A / NOISE**2 + torch.eye(4) / q**2)
    mean = exact @ (A.T @ b / NOISE**2 + centre.double() / q**2)
    ratio = float((torch.cov(z.T.double()) @ torch.linalg.inv(exact)).trace() / 4)
    assert (float((z.double().mean(0) - mean).norm() / mean.norm()) < 0.02 and 1.0 < ratio < 1.2) == (steps == 60)


def test_the_curvature_that_scales_a_langevin_step_is_the_largest_of_the_data():
    likelihood = Likelihood(Y, Opaque(), small(), n_samples=2)
    found, _ = likelihood.curvature(torch.zeros(2, 4), randn(2, 4), 40)
    wanted = torch.linalg.matrix_norm(MATRIX.double(), 2) ** 2 / NOISE**2
    torch.testing.assert_close(found.double(), wanted.expand(2), rtol=1e-3, atol=0)
