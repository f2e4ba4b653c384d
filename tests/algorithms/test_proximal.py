"""The settings of proximal sampling, each against its paper's own variables in dense algebra; the draw by its law."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve.algorithms.proximal import Proximal
from ambient_solve.evaluate.exactness import GAUSSIAN, SIGMA_Y, gaussian_operator, gaussian_prior, matrix_operator
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import GaussianPrior, dense
from helpers import Draws, rand, randn, relative

LEVELS = [3.0, 1.2, 0.4, 0.1, 0.0]
NOISE = 2 * SIGMA_Y
"""Of the measurement in z units, where images are z / 2 + 1 / 2."""


class Dense:
    """The problem as matrices: `y = A x + noise` in z units, and the denoiser of the papers' `x_t`."""

    def __init__(self, operator: str) -> None:
        self.prior, self.op = gaussian_prior(), gaussian_operator(operator)
        y = self.op.A(rand(1, 1, 6, 6))
        self.likelihood = Likelihood(y, self.op, self.prior, n_samples=4)
        self.A, self.C = dense(self.op, self.prior.shape), self.prior.covariance
        self.y = self.likelihood.residual(torch.zeros(4, 1, 6, 6)).flatten(1).double()

    def estimate(self, x: Tensor, alpha: float) -> Tensor:
        """`E[x0 | x_t]` of `x_t = sqrt(alpha) x0 + sqrt(1 - alpha) n`."""
        return x @ torch.linalg.inv(alpha * self.C + (1 - alpha) * torch.eye(36)) @ (alpha**0.5 * self.C)

    def argmin(self, x0: Tensor, data: float, prior: float) -> Tensor:
        """`argmin_x data |y - A x|^2 + prior |x - x0|^2`."""
        left = data * self.A.T @ self.A + prior * torch.eye(36)
        return torch.linalg.solve(left, (data * self.y @ self.A + prior * x0).T).T

    def run(self, algorithm: Proximal) -> list[Tensor]:
        draws = Draws(0)
        z = LEVELS[0] * draws.normal(torch.empty(4, 1, 6, 6))
        return [s.z for s in algorithm.iterate(self.prior, self.likelihood, z, LEVELS, draws)]


def paper(problem: Dense, step) -> list[Tensor]:
    """States in z units of a variance-preserving algorithm: `step(x, xh, alpha, alpha_next, noise)` makes the next."""
    draws = Draws(0)
    z = LEVELS[0] * draws.normal(torch.empty(4, 1, 6, 6)).flatten(1).double()
    states = []
    for sigma, sigma_next in zip(LEVELS, LEVELS[1:], strict=False):
        alpha, alpha_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        x = alpha**0.5 * z
        noise = lambda: draws.normal(torch.empty(4, 1, 6, 6)).flatten(1).double()  # noqa: E731
        x = step(x, problem.estimate(x, alpha), alpha, alpha_next, noise)
        z = x / alpha_next**0.5
        states.append(z)
    return states


def furthest(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(relative(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("lambda_", "zeta"), [(1.0, 0.3), (7.0, 1.0), (0.5, 0.0)])
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_diffpir_is_the_algorithm_of_its_paper(operator, lambda_, zeta):
    """Zhu et al., algorithm 1: `rho_t = lambda sigma_n^2 / s_t^2`, `s_t^2 = (1 - alpha) / alpha`."""
    problem = Dense(operator)

    def step(weight):
        def one(x, x0, alpha, alpha_next, noise):
            rho = weight * NOISE**2 / ((1 - alpha) / alpha)
            x0 = problem.argmin(x0, 1.0, rho)
            e = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
            fresh = noise() if zeta and alpha_next < 1 else 0
            return alpha_next**0.5 * x0 + (1 - alpha_next) ** 0.5 * ((1 - zeta) ** 0.5 * e + zeta**0.5 * fresh)

        return one

    found = problem.run(Proximal.diffpir(4, lambda_, zeta))
    assert furthest(found, paper(problem, step(lambda_))) < 2e-3
    assert furthest(found, paper(problem, step(2 * lambda_))) > 0.01  # the control


@pytest.mark.parametrize(("gain", "eta"), [(5.0, 0.85), (0.5, 0.0), (50.0, 1.0)])
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_dds_weighs_the_data_by_a_constant_and_steps_as_ddim_does(operator, gain, eta):
    """Chung et al., algorithm 1: `argmin gamma / 2 |y - A x|^2 + |x - xh|^2 / 2`, then equation 12 of DDIM."""
    problem = Dense(operator)

    def step(gamma):
        def one(x, x0, alpha, alpha_next, noise):
            x0 = problem.argmin(x0, gamma, 1.0)
            e = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
            b = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5
            fresh = noise() if b > 0 else 0
            return alpha_next**0.5 * x0 + (1 - alpha_next - b**2) ** 0.5 * e + b * fresh

        return one

    found = problem.run(Proximal.dds(4, gain, eta))
    assert furthest(found, paper(problem, step(gain))) < 2e-3
    assert furthest(found, paper(problem, step(gain / 10))) > 0.01  # the control


def test_flower_draws_from_the_gaussian_around_its_estimate_and_noises_that_anew():
    """In flow variables `x_u = u x0 + (1 - u) n`, of which `(1 - u)^2 / (u^2 + (1 - u)^2)` is the paper's variance.

    The law of both parts in closed form, for data of variance 1, and many rows.
    """
    n, sigma, sigma_next = 40_000, 0.7, 0.3
    u = 1 / (1 + sigma)
    matrix, y = randn(3, 4, seed=1) / 2, torch.tensor([[0.5, -1.0, 0.3]])
    prior = GaussianPrior(torch.zeros(4), torch.eye(4), sigma_min=0.01, sigma_max=20.0, sigma_data=1.0)
    likelihood = Likelihood(y, matrix_operator(matrix, 0.2, (4,)), prior, n_samples=n)
    z = torch.tensor([1.0, -0.5, 0.2, 2.0]).expand(n, 4)
    (state,) = Proximal.flower(1).iterate(prior, likelihood, z, [sigma, sigma_next], Draws(0))
    A = matrix.double()
    estimate = z[0].double() / (1 + sigma**2)

    def law(variance):
        covariance = torch.linalg.inv(A.T @ A / 0.2**2 + torch.eye(4) / variance)
        return covariance @ (A.T @ y[0].double() / 0.2**2 + estimate / variance), covariance

    def off(x, mean, covariance):
        """Largest error of mean and covariance, in standard errors."""
        scale = covariance.diagonal().sqrt()
        means = ((x.mean(0) - mean) / scale).abs().max() * n**0.5
        entries = (torch.cov(x.T) - covariance) / scale / scale[:, None]
        return float(means), float(
            (entries / (1 + (covariance / scale / scale[:, None]) ** 2).sqrt()).abs().max() * n**0.5
        )

    variance = (1 - u) ** 2 / (u**2 + (1 - u) ** 2)
    mean, covariance = law(variance)
    assert max(off(state.z0.double(), mean, covariance)) < 4.5
    assert max(off(state.z.double(), mean, covariance + sigma_next**2 * torch.eye(4))) < 4.5
    # Controls: the variance of the noise itself, which is that of data without one; the mean in place of a draw.
    assert max(off(state.z0.double(), *law(sigma**2))) > 10
    assert off(state.z.double(), mean, sigma_next**2 * torch.eye(4))[1] > 10
    fresh = state.z.double() - state.z0
    assert max(off(fresh, torch.zeros(4).double(), sigma_next**2 * torch.eye(4).double())) < 4.5
    correlation = torch.corrcoef(torch.cat([fresh, state.z0.double()], 1).T)[:4, 4:]
    assert float(correlation.abs().max()) * n**0.5 < 4.5  # new noise: nothing of the state before is in it


def test_the_trust_of_each_setting_is_its_formula():
    """A hidden pixel keeps its estimate, a seen one goes `q^2 / (q^2 + sigma_y^2)` of the way to the measurement."""
    prior = GaussianPrior(torch.zeros(2), 0.25 * torch.eye(2), sigma_min=0.01, sigma_max=20.0, sigma_data=0.5)
    likelihood = Likelihood(
        torch.tensor([[1.0, 0.0]]), matrix_operator(torch.diag(torch.tensor([1.0, 0.0])), 0.1, (2,)), prior
    )
    z, sigma = torch.tensor([[-0.4, 0.8]]), 0.3
    estimate = z * 0.25 / (0.25 + sigma**2)
    widths = {
        Proximal(trust="sigma", lambda_=2.0): sigma**2 / 2.0,
        Proximal(trust="data"): 1 / (1 / sigma**2 + 1 / 0.25),
        Proximal(trust="constant", gain=3.0): 3.0 * 0.1**2,
    }
    for algorithm, q2 in widths.items():
        (state,) = algorithm.iterate(prior, likelihood, z, [sigma, 0.0], Draws(0))
        seen = estimate[0, 0] + q2 / (q2 + 0.01) * (1.0 - estimate[0, 0])
        torch.testing.assert_close(state.z, torch.stack([seen, estimate[0, 1]])[None])
    shares = sorted(q2 / (q2 + 0.01) for q2 in widths.values())
    assert min(b - a for a, b in zip(shares, shares[1:], strict=False)) > 0.01  # the control: they differ
