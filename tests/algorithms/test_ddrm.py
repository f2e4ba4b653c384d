"""DDRM against its definition in the singular basis, against the closed form for denoising, and its recorded bias."""

import dataclasses
import math

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise

from ambient_solve import DDNM, GaussianPrior, Solver
from ambient_solve.algorithms.ddrm import DDRM
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.exactness import GAUSSIAN, SIGMA_Y, gaussian_operator, gaussian_prior
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import dense
from ambient_solve.process import karras
from helpers import OPERATORS, Draws, problem, rand
from samplers import agrees


# Variances are half of the right ones since a measured mode forgets the state at every level: it is a draw around y / s
# shrunk by one denoiser.
@pytest.mark.parametrize("changed", [{"eta": 0.4}, {"eta_b": 0.7}])
def test_a_changed_setting_is_elsewhere(changed):
    assert not agrees(DDRM(**changed), "mask", "ddrm")


def by_singular_vectors(A, y, sigma_y, z0, z, n, sigma, t, eta, eta_b):
    """Equations 7 and 8 of the paper, mode by mode; everything float64, rows are samples."""
    u, s, vt = torch.linalg.svd(A)
    s = torch.cat([s, s.new_zeros(len(vt) - len(s))])
    measured = s > 1e-3
    w = torch.zeros_like(z0)
    w[:, : len(u)] = y @ u
    w = torch.where(measured, w / s.clamp_min(1e-3), 0)
    z0, z, n = z0 @ vt.T, z @ vt.T, n @ vt.T
    kept = math.sqrt(1 - eta**2)
    absent = z0 + kept * t * (z - z0) / sigma + eta * t * n
    noisy = z0 + kept * t * (w - z0) * s / sigma_y + eta * t * n
    left = (t**2 - eta_b**2 * sigma_y**2 / s.clamp_min(1e-3) ** 2).clamp_min(0).sqrt()
    good = (1 - eta_b) * z0 + eta_b * w + left * n
    return torch.where(~measured, absent, torch.where(s * t < sigma_y, noisy, good)) @ vt


@pytest.mark.parametrize("t", [3.0, 0.25, 0.02])
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_a_step_is_that_of_the_singular_basis(operator, t):
    """Without its singular vectors; all three lines of the formula occur, and eta_b is not 1."""
    prior, op = gaussian_prior(), gaussian_operator(operator)
    y = op.A(prior.decode(prior.sample(2, torch.Generator().manual_seed(0)))) + 0.02
    likelihood = Likelihood(y, op, prior, n_samples=2)
    z0, z, n = (torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3))
    found = DDRM._step(likelihood, z0, (z - z0) / 5.0, n, t, 0.85, 0.6)
    A, a, b = dense(op, prior.shape), prior.scale, prior.offset
    y_z = ((y.flatten(1).double() - b * A.sum(1)) / a).repeat_interleave(2, 0)
    if operator == "mask":
        y_z = y_z * (A.abs().sum(1) > 0)

    def wanted(sigma_y):
        flat = (v.flatten(1).double() for v in (z0, z, n))
        return by_singular_vectors(A, y_z, sigma_y, *flat, 5.0, t, 0.85, 0.6)

    right, wrong = wanted(SIGMA_Y / a), wanted(SIGMA_Y)
    assert (found.flatten(1) - right).norm() < 1e-4 * right.norm()
    # The control: the noise of the measurement in x units. Far above and far below it that does not show.
    assert t != 0.25 or (found.flatten(1) - wrong).norm() > 1e-3 * right.norm()


def moments(y, sigma_y, variance, sigmas, eta, share=1.0):
    """Mean and variance of DDRM for `y = x + sigma_y n`, `x ~ N(0, variance)`: every step is linear in one number.

    `share` multiplies the fresh noise.
    """
    t = sigmas[0]
    mean, var = (y, t**2) if t >= sigma_y else (0.0, t**2)
    for sigma, t in zip(sigmas, sigmas[1:], strict=False):
        d = variance / (variance + sigma**2)
        if t >= sigma_y:
            mean, var = y, share**2 * (t**2 - sigma_y**2)
            continue
        c = math.sqrt(1 - eta**2) * t / sigma_y
        mean, var = d * mean * (1 - c) + c * y, (d * (1 - c)) ** 2 * var + (share * eta * t) ** 2
    return mean, var


def test_denoising_has_the_law_of_the_closed_form():
    n, sigma_y, variance = 40_000, 0.3, 0.25
    prior = GaussianPrior(torch.zeros(1, 1, 1), torch.full((1, 1), variance), sigma_min=0.02, sigma_max=20.0)
    y = torch.full((1, 1, 1, 1), 0.7)
    likelihood = Likelihood(y, Denoising(GaussianNoise(sigma_y)), prior, n_samples=n)
    algorithm, draws = DDRM(), Draws(0)
    sigmas = karras(20, 0.02, 20.0)
    with torch.no_grad():
        start = sigmas[0] * draws.normal(torch.empty(n, 1, 1, 1))
        *_, last = algorithm.iterate(prior, likelihood, start, sigmas, draws)
    mean, var = moments(0.7, sigma_y, variance, sigmas, 0.85)
    assert abs(float(last.z.mean()) - mean) < 4.5 * math.sqrt(var / n)
    assert abs(float(last.z.var()) / var - 1) < 4.5 * math.sqrt(2 / n)
    # The control: noise divided by the root of two, as deepinv 0.5.0 has it.
    assert moments(0.7, sigma_y, variance, sigmas, 0.85, share=2**-0.5)[1] < 0.6 * var


def test_the_closed_form_shows_the_too_small_variance_that_was_seen_elsewhere():
    """Levels 1 to 0 in 100 steps, variance .25^2, noise .1: .287 of the exact variance was measured, .14 with the
    noise divided by the root of two."""
    sigmas = torch.linspace(1, 0, 100).tolist()
    exact = 1 / (1 / 0.25**2 + 1 / 0.1**2)
    assert abs(moments(0.3, 0.1, 0.25**2, sigmas, 0.85)[1] / exact - 0.287) < 0.02
    assert abs(moments(0.3, 0.1, 0.25**2, sigmas, 0.85, share=2**-0.5)[1] / exact - 0.14) < 0.01


def test_with_eta_b_one_it_is_ddnm_from_another_start():
    prior, op = gaussian_prior(), gaussian_operator("blur")
    y = op.A(prior.decode(prior.sample(1, torch.Generator().manual_seed(1))))
    samples = {a: Solver(prior, a).solve(y, op, n_samples=4).samples for a in (DDRM(), DDNM(steps=20), DDRM(eta_b=0.7))}
    same, ddnm, other = samples.values()
    assert (same - ddnm).abs().max() < 1e-3 < 1e-2 < (other - ddnm).abs().max()


def test_the_start_holds_the_measurement():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    y = op.A(torch.full((1, 1, 6, 6), 1.0))
    sigmas = [2.0, 0.0]
    seen = op.mask.expand(1, 1, 6, 6) > 0
    likelihood = Likelihood(y, op, prior, n_samples=5000)
    start = []

    class Looking(GaussianPrior):
        def denoise(self, z, sigma, cond=None):
            start.append(z)
            return super().denoise(z, sigma, cond)

    looking = Looking(prior.mean, prior.covariance, scale=0.5, offset=0.5)
    draws = Draws(0)
    list(DDRM(steps=1).iterate(looking, likelihood, 2.0 * draws.normal(torch.empty(5000, 1, 6, 6)), sigmas, draws))
    mean, std = start[0].mean(0), start[0].std(0)
    # z is 1 where x is 1: (1 - .5) / .5.
    assert torch.allclose(mean, seen[0].float(), atol=4.5 * 2 / math.sqrt(5000))
    assert torch.allclose(std[seen[0]], torch.tensor(math.sqrt(4 - (SIGMA_Y / 0.5) ** 2)), atol=0.15)


def test_it_asks_for_a_spectrum_and_leaves_the_measurement_alone():
    likelihood, _ = problem("reflect-blur")
    with pytest.raises(AmbientSolveError, match="ddrm needs an operator with a closed-form spectrum"):
        DDRM().check(likelihood)
    prior = gaussian_prior()
    op = Denoising(GaussianNoise(0.1))  # U is the identity, where deepinv 0.5.0 writes into y
    y = rand(1, 1, 6, 6)
    before = y.clone()
    Solver(prior, DDRM()).solve(y, op)
    assert torch.equal(y, before)


@pytest.mark.parametrize("name", ["denoising", "single-coil", "super-resolution", "tall-svd", "compressed"])
def test_it_takes_every_closed_form(name):
    """A measured mode far above the noise ends at the measurement."""
    build, shape = OPERATORS[name]
    op, d = build(), math.prod(shape)
    prior = GaussianPrior(torch.zeros(shape), 0.25 * torch.eye(d), sigma_min=0.005, sigma_max=40.0)
    y = op.A(rand(1, *shape))
    r = Solver(prior, DDRM(steps=50)).solve(y, op, n_samples=2, sigma_y=0.01)
    assert torch.isfinite(r.samples).all() and float(r.chi2.max()) < 60
    # The control: unguided samples are far from the measurement.
    free = prior.sample(2, torch.Generator().manual_seed(0))
    assert float(Likelihood(y, op, prior, sigma_y=0.01, n_samples=2).chi2(free).min()) > 600


def test_network_calls():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    r = Solver(prior, DDRM(steps=7)).solve(op.A(torch.zeros(1, 1, 6, 6)), op, n_samples=3)
    assert (r.network_calls, r.vjps) == (7, 0)


def test_a_sample_does_not_depend_on_its_batch():
    prior, op = gaussian_prior(), gaussian_operator("dense")
    y = op.A(rand(2, 1, 6, 6))
    both = Solver(prior, DDRM()).solve(y, op, n_samples=3).samples
    one = Solver(prior, DDRM()).solve(y[1:], op, n_samples=2).samples
    assert torch.allclose(both[1, :2], one[0], atol=1e-4)


def test_its_knobs_are_those_of_the_paper():
    assert (DDRM().eta, DDRM().eta_b, DDRM().steps) == (0.85, 1.0, 20)
    with pytest.raises(AmbientSolveError):
        dataclasses.replace(DDRM(), eta=1.5)
