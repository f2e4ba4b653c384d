"""PnP-DM against the exact law of its chain at a fixed distance, and its recorded distance when that falls."""

import math

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise

from ambient_solve import GaussianPrior, Solver
from ambient_solve.algorithms.pnpdm import PnPDM
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.distances import gaussian_report
from ambient_solve.evaluate.exactness import GAUSSIAN, SIGMA_Y, gaussian_operator, gaussian_prior
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import dense
from ambient_solve.process import ancestral_noise, karras, log_linear
from helpers import Draws, one_sentence, problem
from samplers import agrees

# Few ancestral steps make a draw of the image narrow, the last distance (.1, like the noise in z units) makes the
# posterior wide: they nearly cancel.
SHORT = "pnpdm, 60 rounds of 12"


@pytest.mark.parametrize("changed", [{"rho_min": 0.3}, {"inner_steps": 5}])
def test_a_changed_setting_is_elsewhere(changed):
    assert not agrees(PnPDM(**({"steps": 60, "inner_steps": 12} | changed)), "mask", SHORT)


def blurred(prior, A, y, rho):
    """The exact posterior of y = A x + N(0, sigma_y^2 I + scale^2 rho^2 A A'), whitened for `posterior`.

    Integrating the copy out, `y | x ~ N(A x, sigma_y^2 I + A Cov[copy | x] A')`, its covariance rho^2 in z units.
    """
    cov = SIGMA_Y**2 * torch.eye(len(A)) + (prior.scale * rho) ** 2 * A @ A.T
    white = torch.linalg.inv(torch.linalg.cholesky(cov))
    return prior.posterior(white @ A, white @ y.flatten().double(), 1.0)


def law(prior, A, y, rho, rounds, inner):
    """Mean and covariance of the chain, which is linear in Gaussians, its finite steps included."""
    one, C = torch.eye(36, dtype=torch.float64), prior.covariance
    noise2, y = (SIGMA_Y / prior.scale) ** 2, (y.flatten().double() - prior.offset * A.sum(1)) / prior.scale
    spread = torch.linalg.inv(A.T @ A / noise2 + one / rho**2)
    image, fresh = one, 0 * one
    grid = karras(inner, prior.sigma_min, rho)
    for sigma, t in zip(grid, grid[1:], strict=False):
        D, b = C @ torch.linalg.inv(C + sigma**2 * one), ancestral_noise(sigma, t, 1.0)
        step = D + math.sqrt(t**2 - b**2) / sigma * (one - D)
        image, fresh = step @ image, step @ fresh @ step.T + b**2 * one
    mean, cov = torch.zeros(36, dtype=torch.float64), prior.sigma_data**2 * one
    for _ in range(rounds):
        mean = image @ spread @ (A.T @ y / noise2 + mean / rho**2)
        kept = image @ spread / rho**2
        cov = kept @ cov @ kept.T + image @ spread @ image.T + fresh
    return mean, cov


def setting(operator):
    prior, op = gaussian_prior(), gaussian_operator(operator)
    prior.sigma_min = 0.02
    generator = torch.Generator().manual_seed(0)
    y = op.A(prior.decode(prior.sample(1, generator)))
    return prior, op, y + SIGMA_Y * torch.randn(y.shape, generator=generator) * (y != 0)


def report(prior, op, y, rho, rounds, inner, factor=1.0):
    """Samples of the chain against `law`; `factor` multiplies the distance in the draw of the copy."""
    likelihood = Likelihood(y, op, prior, n_samples=1000)
    draw, draws = likelihood.draw, Draws(0)
    likelihood.draw = lambda v, q, streams: draw(v, factor * q, streams)
    with torch.no_grad():
        start = rho * draws.normal(torch.empty(1000, *prior.shape))
        sigmas = [rho] * rounds + [0.0]
        *_, last = PnPDM(steps=rounds, inner_steps=inner).iterate(prior, likelihood, start, sigmas, draws)
    mean, cov = law(prior, dense(op, prior.shape), y, rho, rounds, inner)
    return gaussian_report(last.z, mean.reshape(prior.shape), cov)


@pytest.mark.parametrize("operator", GAUSSIAN)
def test_at_a_fixed_distance_the_chain_has_the_law_of_its_formula(operator):
    found = report(*setting(operator), 0.3, rounds=10, inner=10)
    print(f"{operator}: {found}")
    assert found.passed and abs(found.ratio_mean - 1) < 4.5 * math.sqrt(2 / 36_000)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_wrong_distance_in_one_half_step_is_found(factor):
    found = report(*setting("mask"), 0.3, rounds=10, inner=10, factor=factor)
    print(f"factor {factor}: {found}")
    assert abs(found.ratio_mean - 1) > 6 * math.sqrt(2 / 36_000)


@pytest.mark.parametrize("operator", GAUSSIAN)
def test_that_law_tends_to_the_exact_posterior_of_the_blurred_measurement(operator):
    """At a rate of one over the inner steps; the sharp posterior, the control, stays elsewhere."""
    prior, op, y = setting(operator)
    prior.sigma_min = 0.002
    A = dense(op, prior.shape)
    blunt, sharp = blurred(prior, A, y, 0.3), prior.posterior(A, y.flatten().double(), SIGMA_Y)

    def distance(exact, inner):
        mean, cov = law(prior, A, y, 0.3, 200, inner)
        error = (mean - exact.mean.flatten()).norm() / exact.mean.norm()
        return float(error), float((cov - exact.covariance).norm() / exact.covariance.norm())

    coarse, fine, away = distance(blunt, 20), distance(blunt, 400), distance(sharp, 400)
    print(f"{operator}: {coarse}, {fine}, {away}")
    assert fine[0] < 0.01 and fine[1] < 0.015 and fine[1] < 0.1 * coarse[1] and min(away) > 4 * max(fine)


def test_the_law_of_one_pixel_round_by_round():
    """Denoising of one number: mean and variance of the chain after every round, not only in the end."""
    n, sigma_y, v, rho, y = 20_000, 0.3, 0.25, 0.4, 0.9
    prior = GaussianPrior(torch.zeros(1, 1, 1), torch.full((1, 1), v), sigma_min=0.002, sigma_max=20.0, sigma_data=0.5)
    op = Denoising(GaussianNoise(sigma_y))
    likelihood, draws = Likelihood(torch.full((1, 1, 1, 1), y), op, prior, n_samples=n), Draws(0)
    algorithm, mean, var = PnPDM(steps=4, inner_steps=150), 0.0, v
    with torch.no_grad():
        start = rho * draws.normal(torch.empty(n, 1, 1, 1))
        for state in algorithm.iterate(prior, likelihood, start, [rho] * 4 + [0.0], draws):
            gain = rho**2 / (rho**2 + sigma_y**2)
            mean, var = mean + gain * (y - mean), (1 - gain) ** 2 * var + gain * sigma_y**2
            gain = v / (v + rho**2)
            mean, var = gain * mean, gain**2 * var + gain * rho**2
            assert abs(float(state.z.mean()) - mean) < 4.5 * math.sqrt(var / n)
            assert abs(float(state.z.var()) / var - 1) < 4.5 * math.sqrt(2 / n) + 0.01
    # The limit is the posterior of noise sigma_y^2 + rho^2, and not that of sigma_y^2.
    assert abs(mean / y - v / (v + sigma_y**2 + rho**2)) < 0.02 < abs(mean / y - v / (v + sigma_y**2)) - 0.1


def test_the_distances_fall_geometrically_in_units_of_the_data():
    prior = GaussianPrior(torch.zeros(1, 2, 2), 4 * torch.eye(4), sigma_min=0.01, sigma_max=100.0, sigma_data=2.0)
    assert PnPDM(steps=5, rho_max=10.0, rho_min=0.1).levels(prior) == pytest.approx(log_linear(5, 0.4, 40.0))


@pytest.mark.parametrize("settings", [{"rho_max": 500.0}, {"rho_min": 0.001}, {"rho_min": 1.0, "rho_max": 0.5}])
def test_a_distance_outside_the_levels_of_the_prior_is_refused(settings):
    prior, op = gaussian_prior(), gaussian_operator("mask")
    with pytest.raises(AmbientSolveError, match="choose rho_max and rho_min") as error:
        Solver(prior, PnPDM(**settings)).solve(op.A(torch.zeros(1, 1, 6, 6)), op)
    assert one_sentence(error)


def test_it_takes_linear_operators_only():
    likelihood, _ = problem("mask")
    PnPDM().check(likelihood)
    likelihood.operator_linear = False
    with pytest.raises(AmbientSolveError, match="pnpdm needs a linear operator"):
        PnPDM().check(likelihood)


def test_network_calls():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    r = Solver(prior, PnPDM(steps=7, inner_steps=3)).solve(op.A(torch.zeros(1, 1, 6, 6)), op, n_samples=3)
    assert (r.network_calls, r.vjps) == (21, 0)
