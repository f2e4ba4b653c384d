"""TMPD against its formula in dense algebra, where it is exact, where it is MMPS, and its recorded distances."""

import statistics
from dataclasses import dataclass

import pytest
import torch

from ambient_solve import MMPS, GaussianPrior, Solver
from ambient_solve.algorithms.base import Guided
from ambient_solve.algorithms.tmpd import TMPD
from ambient_solve.errors import Diverged
from ambient_solve.evaluate.distances import mcgdiff_problem
from ambient_solve.evaluate.exactness import (
    GAUSSIAN,
    SIGMA_Y,
    gaussian_operator,
    gaussian_prior,
    matrix_operator,
    on_mixture,
)
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.gaussian import dense
from helpers import randn
from samplers import agrees

# Row sums bound the covariance of a blur and of correlated pixels from above, so that the measurement is trusted too
# little there, and the variance is too large.


@dataclass(frozen=True, kw_only=True)
class Variant(Guided):
    """The same rule with another variance of the measurement."""

    name = "variant"
    paper = "none"
    rule: str = "floored"

    def guide(self, prior, likelihood, z, sigma):
        z0, vjp = prior.denoise_vjp(z, sigma)
        r = likelihood.residual(z0)
        rows = likelihood.A(sigma**2 * vjp(likelihood.At(torch.ones_like(r))))
        rows = {"floored": rows.clamp_min(0), "signed": rows, "doubled": 2 * rows.abs()}[self.rule]
        return z0 + sigma**2 * vjp(likelihood.At(r / (rows + per_sample(likelihood.sigma, r) ** 2)))


@pytest.mark.parametrize(("operator", "rule"), [("mask", "doubled"), ("blur", "doubled"), ("dense", "signed")])
def test_another_variance_is_elsewhere(operator, rule):
    assert not agrees(Variant(steps=100, rule=rule), operator, "tmpd, 100 levels")


def state(prior, op, sigma, images=3, seed=0):
    """A likelihood with one sample of each image and a noisy state."""
    x = prior.decode(prior.sample(images, torch.Generator().manual_seed(seed)))
    y = op.A(x)
    y = y + SIGMA_Y * randn(*y.shape, seed=seed + 1) * (y != 0)
    return Likelihood(y, op, prior), prior.encode(x) + sigma * randn(*x.shape, seed=seed + 2)


@pytest.mark.parametrize("sigma", [20.0, 0.5, 0.05])
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_the_estimate_is_the_formula_in_dense_algebra(operator, sigma):
    prior, op = gaussian_prior(), gaussian_operator(operator)
    likelihood, z = state(prior, op, sigma)
    A, C = dense(op, prior.shape), prior.covariance
    cov = C @ torch.linalg.inv(C + sigma**2 * torch.eye(36)) * sigma**2
    z0 = z.flatten(1).double() @ cov.T / sigma**2
    r = likelihood.residual(z0.reshape(z.shape).float()).flatten(1).double()
    noise2 = (SIGMA_Y / prior.scale) ** 2

    def wanted(variance):
        return z0 + (r / (variance + noise2)) @ A @ cov.T

    found = TMPD().guide(prior, likelihood, z, sigma).flatten(1).double()
    right, wrong = wanted((A @ cov @ A.T).sum(1).abs()), wanted((A @ cov @ A.T).diagonal())
    shift = (right - z0).norm()
    assert (found - right).norm() < 1e-3 * shift
    # The control: the diagonal of the covariance in place of its row sums. At the lowest level J is nearly diagonal.
    assert sigma < 0.1 or (found - wrong).norm() > 0.03 * shift


@pytest.mark.parametrize("sigma", [20.0, 0.5, 0.05])
def test_it_is_exact_where_the_measurements_are_independent(sigma):
    """A mask and independent pixels: each pixel is a product of three Gaussians, its own, `z` and `y`."""
    variance = torch.linspace(0.1, 1.0, 36)
    prior = GaussianPrior(torch.zeros(1, 6, 6), torch.diag(variance), scale=0.5, offset=0.5)
    op = gaussian_operator("mask")
    likelihood, z = state(prior, op, sigma)
    y = likelihood.residual(torch.zeros_like(z))
    seen = likelihood.A(torch.ones_like(z))
    noise2 = (SIGMA_Y / 0.5) ** 2
    precision = 1 / variance.reshape(1, 6, 6) + 1 / sigma**2 + seen / noise2
    right = (z / sigma**2 + y / noise2) / precision
    shift = (right - prior.denoise(z, sigma)).norm()
    assert (TMPD().guide(prior, likelihood, z, sigma) - right).norm() < 1e-3 * shift
    # The control: a variance twice as large.
    assert (Variant(rule="doubled").guide(prior, likelihood, z, sigma) - right).norm() > 0.03 * shift


@pytest.mark.parametrize("sigma", [50.0, 5.0, 0.5])
def test_one_measurement_makes_it_mmps(sigma):
    """One conjugate-gradient step solves a system of one row, whatever the prior."""

    def both(dy):
        problem = mcgdiff_problem(8, dy, 3)
        op = matrix_operator(problem.A, problem.sigma_y, (8,))
        likelihood = Likelihood(problem.y[None], op, problem.prior, n_samples=20)
        z = problem.prior.sample(20, torch.Generator().manual_seed(0)) + sigma * randn(20, 8)
        published = MMPS(iterations=dy, covariance_noise=False)
        mmps = published._guide(problem.prior, likelihood, z, sigma, Streams([0], 20), last=False)[0]
        return TMPD().guide(problem.prior, likelihood, z, sigma), mmps

    found, mmps = both(1)
    assert (found - mmps).norm() < 1e-4 * mmps.norm()
    found, mmps = both(2)  # the control: two measurements share their pixels
    assert (found - mmps).norm() > 1e-3 * mmps.norm()


def test_row_sums_of_both_signs_do_not_make_it_diverge():
    """Problem 5 of (80, 4). The controls: floored at zero it ends in overflow; with its sign it is far off."""
    (distance, _), *_ = on_mixture(TMPD(), 80, 4, [5], n=50)
    assert distance < 4
    with pytest.raises(Diverged):
        on_mixture(Variant(steps=100), 80, 4, [5], n=50)
    signed, own = (
        statistics.median(d for d, _ in on_mixture(rule, 8, 4, range(12), n=50))
        for rule in (Variant(steps=100, rule="signed"), TMPD())
    )
    assert signed > 3 * own and own < 1


def test_network_calls():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    y = op.A(torch.zeros(1, 1, 6, 6))
    r = Solver(prior, TMPD(steps=7)).solve(y, op, n_samples=3)
    assert (r.network_calls, r.vjps) == (7, 14)
    prior.sigma_jacobian = 1.0
    below = sum(0 < sigma <= 1.0 for sigma in TMPD(steps=20).levels(prior))
    r = Solver(prior, TMPD(steps=20)).solve(y, op, n_samples=1)
    assert (r.network_calls, r.vjps) == (20, 2 * below) and 0 < below < 20


def test_above_the_trusted_jacobian_it_takes_that_of_white_data():
    """Which is the Jacobian of a white prior: there the two agree, elsewhere they do not."""
    op = gaussian_operator("blur")
    white = GaussianPrior(torch.zeros(1, 6, 6), 0.25 * torch.eye(36), scale=0.5, offset=0.5, sigma_data=0.5)
    for prior, same in ((white, True), (gaussian_prior(), False)):
        likelihood, z = state(prior, op, 2.0)
        exact = TMPD().guide(prior, likelihood, z, 2.0)
        prior.sigma_jacobian = 1.0
        assert ((TMPD().guide(prior, likelihood, z, 2.0) - exact).norm() < 1e-4 * exact.norm()) == same
