"""Noise of photons: draws and DAPS against one-dimensional quadrature, chi2, and who refuses it."""

from __future__ import annotations

import pytest
import torch
from deepinv import physics as dp
from torch import Tensor

from ambient_solve import ALGORITHMS, DAPS, DPS, AmbientSolveError, GaussianPrior, Solver
from ambient_solve.likelihood import Likelihood
from helpers import OPERATORS, AffinePrior, Draws, kernel, one_sentence, rand, randn

SCALE, OFFSET = 0.5, 1.0  # x = SCALE z + OFFSET, so that nearly all of x is above 0
GRID = torch.linspace(1e-3, 5, 5001, dtype=torch.float64)


def log_law(y: float, gain: float, sigma: float) -> Tensor:
    """`log p(y | x)` on the grid but for a constant, of the law itself: a sum over the number of photons."""
    if sigma == 0:
        return y / gain * GRID.log() - GRID / gain
    photons = torch.arange(200, dtype=torch.float64)[:, None]
    count = photons * (GRID / gain).log() - GRID / gain - torch.lgamma(photons + 1)
    return torch.logsumexp(count - (y - gain * photons) ** 2 / (2 * sigma**2), 0)


def moments(log_density: Tensor) -> tuple[float, float]:
    weight = (log_density - log_density.max()).exp()
    mean = (weight * GRID).sum() / weight.sum()
    return float(mean), float(((weight * (GRID - mean) ** 2).sum() / weight.sum()).sqrt())


def likelihood(y: float, noise: dp.NoiseModel, prior: GaussianPrior | AffinePrior, n: int, **settings) -> Likelihood:
    return Likelihood(torch.full((1, 1, 1, 1), y), dp.Denoising(noise), prior, n_samples=n, cg_iterations=1, **settings)


def noise_model(gain: float, sigma: float) -> dp.NoiseModel:
    return dp.PoissonGaussianNoise(gain, sigma) if sigma else dp.PoissonNoise(gain)


def error(x: Tensor, mean: float, std: float) -> tuple[float, float]:
    """Of the mean, in posterior standard deviations, and the ratio of the standard deviations."""
    x = x.double().flatten()
    return float(x.mean() - mean) / std, float(x.std()) / std


@pytest.mark.parametrize(("gain", "sigma"), [(0.1, 0.0), (0.01, 0.0), (0.1, 0.1), (0.02, 0.2)])
@pytest.mark.parametrize(("y", "centre"), [(0.4, 0.7), (1.3, 1.0)])
def test_a_draw_is_one_of_the_exact_law(gain, sigma, y, centre):
    """From 4 photons up; the control has the variance of the wrong place, that of the brightest."""
    q, n = 0.4, 6000
    mean, std = moments(log_law(y, gain, sigma) - (GRID - centre) ** 2 / (2 * q**2))

    def off(noise: dp.NoiseModel) -> tuple[float, float]:
        prior = AffinePrior(SCALE, OFFSET)
        v = prior.encode(torch.full((n, 1, 1, 1), centre))
        return error(prior.decode(likelihood(y, noise, prior, n).draw(v, q / SCALE, Draws(0))), mean, std)

    bias, ratio = off(noise_model(gain, sigma))
    print(f"gain {gain}, sigma {sigma}, y {y}: bias {bias:+.3f}, ratio {ratio:.3f}")
    assert abs(bias) < 0.1 and 0.94 < ratio < 1.06
    bias, ratio = off(dp.GaussianNoise((2 * gain + sigma**2) ** 0.5))
    assert abs(bias) > 0.1 or not 0.94 < ratio < 1.06


def test_a_draw_in_several_dimensions():
    """Many photons, so that the law is nearly Gaussian, of a variance that differs from entry to entry."""
    gain, sigma, q, n, shape = 2e-4, 0.01, 0.05, 3000, (1, 2, 3)
    matrix = rand(8, 6, seed=1) * torch.linspace(0.1, 2, 8)[:, None]
    op = dp.LinearPhysics(A=lambda x: x.flatten(1) @ matrix.T, A_adjoint=lambda y: (y @ matrix).reshape(-1, *shape))
    op.set_noise_model(dp.PoissonGaussianNoise(gain, sigma))
    torch.manual_seed(0)
    y, v = op(0.5 + rand(1, *shape)), 0.5 + rand(1, *shape) + q * randn(1, *shape, seed=1)
    A, wanted = matrix.double(), v.double().flatten()
    for _ in range(50):  # the mode, by reweighting
        weights = 1 / (gain * A @ wanted + sigma**2)
        precision = A.T @ (weights[:, None] * A) + torch.eye(6).double() / q**2
        wanted = torch.linalg.solve(precision, A.T @ (weights * y[0].double()) + v.double().flatten() / q**2)
    root = torch.linalg.cholesky(precision)

    def off(**settings) -> tuple[float, float]:
        law = Likelihood(y, op, AffinePrior(), n_samples=n, **settings)
        white = (law.draw(v.expand(n, *shape), q, Draws(0)).flatten(1).double() - wanted) @ root
        cov = white.T @ white / n
        return float(white.mean(0).norm()), float((cov - torch.eye(6)).norm())

    shift, spread = off()
    print(f"six dimensions: shift {shift:.3f}, spread {spread:.3f}")
    assert shift < 0.15 and spread < 0.2
    shift, spread = off(sigma_y=float((1 / weights).mean().sqrt()))
    print(f"one variance for all: shift {shift:.3f}, spread {spread:.3f}")
    assert shift > 0.2 and spread > 0.4


@torch.no_grad()
def posterior_samples(algorithm: DAPS | DPS, law: Likelihood, prior: GaussianPrior) -> Tensor:
    algorithm.check(law)
    sigmas, streams = algorithm.levels(prior), Draws(1)
    z = sigmas[0] * streams.normal(torch.empty(law.rows, *law.z_shape))
    for state in algorithm.iterate(prior, law, z, sigmas, streams):
        z = state.z
    return prior.decode(z)


@pytest.mark.parametrize(("gain", "sigma"), [(0.1, 0.0), (0.1, 0.1)])
def test_daps_against_the_exact_posterior(gain, sigma):
    y, n = 0.4, 1500
    prior = GaussianPrior(
        torch.zeros(1, 1, 1), torch.eye(1), scale=SCALE, offset=OFFSET, sigma_min=0.01, sigma_max=20.0
    )
    mean, std = moments(log_law(y, gain, sigma) - (GRID - OFFSET) ** 2 / (2 * SCALE**2))
    algorithm = DAPS(steps=25, ode_steps=3, width=1.0)

    def off(noise: dp.NoiseModel) -> tuple[float, float]:
        return error(posterior_samples(algorithm, likelihood(y, noise, prior, n), prior), mean, std)

    bias, ratio = off(noise_model(gain, sigma))
    control = off(dp.GaussianNoise((2 * gain + sigma**2) ** 0.5))
    print(f"daps, gain {gain}, sigma {sigma}: bias {bias:+.3f}, ratio {ratio:.3f}; control {control}")
    assert abs(bias) < 0.15 and 0.9 < ratio < 1.1
    assert abs(control[0]) > 0.15 and control[1] > 1.3


# chi2 ----------------------------------------------------------------------------------------------------------------

LAWS = {"gaussian": dp.GaussianNoise(0.1), "poisson": dp.PoissonNoise(0.05), "both": dp.PoissonGaussianNoise(0.05, 0.1)}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", ["blur", "mask"])
def test_chi2_of_the_truth_is_one(law, kind):
    x = rand(1, 3, 64, 64) ** 3  # a third of it is darker than one photon
    mask = (rand(3, 64, 64, seed=2) > 0.7).float()
    op = dp.BlurFFT((3, 64, 64), filter=kernel()) if kind == "blur" else dp.Inpainting((3, 64, 64), mask=mask)
    torch.manual_seed(0)
    op.set_noise_model(LAWS[law])
    y, prior = op(x), AffinePrior(0.5, 0.5)
    if kind == "mask":
        y = y + 50 * (1 - mask)  # garbage where nothing is seen
    found = Likelihood(y, op, prior).chi2(prior.encode(x))
    assert abs(float(found) - 1) < 0.1
    # The controls: a constant variance half as large as it should be, and half the photons.
    assert (
        float(Likelihood(y, op, prior, sigma_y=float((y - op.A(x))[y < 20].std()) / 2**0.5).chi2(prior.encode(x))) > 1.8
    )
    if law != "gaussian":
        wrong = dp.PoissonNoise(0.02) if law == "poisson" else dp.PoissonGaussianNoise(0.02, 0.07)
        op.set_noise_model(wrong)
        assert float(Likelihood(y, op, prior).chi2(prior.encode(x))) > 1.6


def test_the_score_is_the_derivative_of_the_law():
    """Shifted Poisson, written out; for an affine prior, an operator that is not linear, and one that is."""
    gain, sigma, z = 0.05, 0.1, torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    noise = dp.PoissonGaussianNoise(gain, sigma)
    prior, y = AffinePrior(-0.2, 1.0), rand(2, 1, 3, 4, seed=3)
    for op in (dp.Physics(A=lambda x: x**2 + 0.1, noise_model=noise), dp.Denoising(noise)):
        leaf = z.clone().requires_grad_()
        p, shift = op.A(prior.decode(leaf)), sigma**2 / gain
        wanted = torch.autograd.grad(((y + shift) / gain * (p + shift).log() - p / gain).sum(), leaf)[0]
        torch.testing.assert_close(Likelihood(y, op, prior).score(z.float()), wanted.float(), rtol=1e-3, atol=1e-3)


def test_every_image_has_its_own_gain():
    gains, x = torch.tensor([0.01, 0.1]), rand(2, 3, 6, 5) + 0.2
    op = dp.Inpainting((3, 6, 5), mask=(rand(3, 6, 5) > 0.5).float(), noise_model=dp.PoissonNoise(gains))
    torch.manual_seed(0)
    y, z = op(x), rand(4, 3, 6, 5, seed=4)
    together = Likelihood(y, op, AffinePrior(), n_samples=2)
    for i in range(2):
        op.set_noise_model(dp.PoissonNoise(gains[i]))
        alone = Likelihood(y[i : i + 1], op, AffinePrior(), n_samples=2)
        rows = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(together.score(z)[rows], alone.score(z[rows]))
        torch.testing.assert_close(together.chi2(z)[rows], alone.chi2(z[rows]))


# The boundary --------------------------------------------------------------------------------------------------------


def counting() -> tuple[GaussianPrior, dp.Physics, Tensor]:
    prior = GaussianPrior(torch.zeros(1, 4, 4), torch.eye(16), scale=0.2, offset=0.5)
    op = dp.Inpainting((1, 4, 4), mask=(rand(1, 4, 4) > 0.3).float(), noise_model=dp.PoissonGaussianNoise(0.05, 0.05))
    torch.manual_seed(0)
    return prior, op, op(rand(2, 1, 4, 4))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name not in ("aos", "soft")])
def test_all_others_refuse_before_the_first_network_call(name):
    prior, op, y = counting()
    before = (y.clone(), op.mask.clone(), op.noise_model.gain.clone())
    solver = Solver(prior, name, steps=2)
    if not ALGORITHMS[name].gaussian:
        r = solver.solve(y, op, n_samples=2)
        assert torch.isfinite(r.samples).all() and r.samples.shape == (2, 2, 1, 4, 4)
    else:
        with pytest.raises(AmbientSolveError, match="'daps' or 'dps'.*sigma_y") as caught:
            solver.solve(y, op)
        assert one_sentence(caught) and name in str(caught.value)
        assert solver.solve(y, op, sigma_y=0.2, n_samples=2).settings["sigma_y"] == pytest.approx([0.2])
    after = (y, op.mask, op.noise_model.gain)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_daps_and_dps_are_the_ones_that_can():
    assert {"daps", "dps"} <= {name for name, cls in ALGORITHMS.items() if not cls.gaussian}


@pytest.mark.parametrize(
    ("noise", "y", "match"),
    [
        (dp.LaplaceNoise(0.1), rand(2, 3, 6, 5), "LaplaceNoise.*Gaussian, Poisson"),
        (dp.PoissonNoise(0.1, normalize=False), rand(2, 3, 6, 5), "counts.*gain"),
        (dp.PoissonNoise(0.1), rand(2, 3, 6, 5) - 0.5, "negative.*sigma_y"),
        (dp.PoissonNoise(0.0), rand(2, 3, 6, 5), "above 0"),
        (dp.PoissonNoise(torch.ones(3)), rand(2, 3, 6, 5), "2 image"),
        (dp.PoissonGaussianNoise(0.1, torch.ones(3)), rand(2, 3, 6, 5), "3 noise levels"),
    ],
)
def test_refusals_are_one_sentence(noise, y, match):
    op = dp.Inpainting((3, 6, 5), mask=(rand(3, 6, 5) > 0.5).float(), noise_model=noise)
    with pytest.raises(AmbientSolveError, match=match) as caught:
        Likelihood(y, op, AffinePrior())
    assert one_sentence(caught)


def test_photons_are_not_counted_in_complex_numbers():
    op = OPERATORS["multi-coil"][0]()
    y = op.A(rand(1, 2, 8, 7))
    op.set_noise_model(dp.PoissonNoise(0.1))
    with pytest.raises(AmbientSolveError, match="complex"):
        Likelihood(y, op, AffinePrior())


def test_what_needs_one_level_of_noise_says_so():
    prior, op, y = counting()
    law = Likelihood(y, op, prior)
    z = torch.zeros(2, 1, 4, 4)
    for call in (lambda: law.prox(z, 1.0), lambda: law.solve(1.0, z), lambda: law.spectral(torch.sqrt, z)):
        with pytest.raises(AmbientSolveError, match="needs Gaussian noise") as caught:
            call()
        assert one_sentence(caught)
    stack = op.stack(op)
    assert Likelihood(stack(rand(2, 1, 4, 4)), stack, prior).gain.tolist() == pytest.approx([0.05])
