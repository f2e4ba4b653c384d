"""RED-diff against Adam on the loss of the paper, its fixed point under a Gaussian prior, and its recorded bias."""

import dataclasses

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, Physics

from ambient_solve import MMPS, GaussianPrior, Solver
from ambient_solve.algorithms.reddiff import REDdiff
from ambient_solve.evaluate.exactness import GAUSSIAN, gaussian_operator, gaussian_prior, on_gaussian
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import dense
from helpers import Draws, rand
from samplers import agrees

# The samples differ as far as the optimisation differs; the measurement is not weighted by its noise, and where the
# blur sees little the noise is fitted.
SHORT = REDdiff(steps=200)


@pytest.mark.parametrize(("operator", "changed"), [("blur", {"lambda_": 1.0}), ("mask", {"lr": 0.03})])
def test_a_changed_setting_is_elsewhere(operator, changed):
    assert not agrees(dataclasses.replace(SHORT, **changed), operator, "reddiff, 200 steps")


class Squares(Physics):
    """|x|^2 of each pixel: not linear, blind to the sign."""

    def __init__(self):
        super().__init__(noise_model=GaussianNoise(0.1))
        self.img_size = (1, 6, 6)

    def A(self, x, **_):
        return x**2


def iterates(prior, likelihood, algorithm, sigmas, rows, seed=0):
    draws = Draws(seed)
    with torch.no_grad():
        start = sigmas[0] * draws.normal(torch.empty(rows, *prior.shape))
        return [s.z for s in algorithm.iterate(prior, likelihood, start, sigmas, draws)]


@pytest.mark.parametrize("op", [gaussian_operator("blur"), Squares()], ids=["linear", "squares"])
def test_a_step_is_that_of_adam_on_the_loss_of_the_paper(op):
    """Written again with autograd and torch's Adam, in the paper's variance-preserving variables."""
    prior, rows = gaussian_prior(), 3
    likelihood = Likelihood(op.A(rand(1, 1, 6, 6)), op, prior, sigma_y=0.1, n_samples=rows)
    algorithm = REDdiff(steps=12, lambda_=0.4)
    sigmas = algorithm.levels(prior)
    found = iterates(prior, likelihood, algorithm, sigmas, rows)

    def reference(weight):
        draws = Draws(0)
        mu = (0.5 * draws.normal(torch.empty(rows, 1, 6, 6))).requires_grad_()
        adam = torch.optim.Adam([mu], lr=0.1, betas=(0.9, 0.99))
        for sigma in sigmas[:-1]:
            alpha = (1 + sigma**2) ** -0.5
            n = draws.normal(mu)
            with torch.no_grad():
                x = alpha * mu + alpha * sigma * n  # deviation of the noise: sqrt(1 - alpha^2) = alpha sigma
                e = (x - alpha * prior.denoise(x / alpha, sigma)) / (alpha * sigma)
            snr = alpha / (alpha * sigma)
            loss = likelihood.residual(mu).square().sum() / 2 + 0.4 * weight(snr) * ((e - n) * mu).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return mu.detach()

    right, wrong = reference(lambda snr: 1 / snr), reference(lambda snr: 1.0)
    assert (found[-1] - right).norm() < 1e-4 * right.norm()
    assert (found[-1] - wrong).norm() > 0.05 * right.norm()  # the control: all levels weigh the same


@pytest.mark.parametrize("operator", GAUSSIAN)
def test_the_fixed_point_under_a_gaussian_prior_is_the_shrinkage_mean(operator):
    """At one level, repeated. Adam is odd in the distance from the fixed point, hence unbiased whatever its noise."""
    prior, op, sigma, rows = gaussian_prior(), gaussian_operator(operator), 0.4, 60
    A, C = dense(op, prior.shape), prior.covariance
    y = op.A(prior.decode(prior.sample(1, torch.Generator().manual_seed(0))))
    likelihood = Likelihood(y, op, prior, n_samples=rows)
    algorithm = REDdiff(steps=500, lr=0.05)
    states = iterates(prior, likelihood, algorithm, [sigma] * 500 + [0.0], rows)
    chains = torch.stack(states[250:]).mean(0).flatten(1).double()
    mean, error = chains.mean(0), chains.std(0) / rows**0.5

    def fixed_point(weight):
        pull = weight * sigma**2 * torch.linalg.inv(C + sigma**2 * torch.eye(36))
        y_z = (y.flatten().double() - prior.offset * A.sum(1)) / prior.scale
        return torch.linalg.solve(A.T @ A + pull, A.T @ y_z)

    def z(wanted):
        return float(((mean - wanted) / error).abs().max())

    print(f"{operator}: {z(fixed_point(0.25)):.1f}, controls {z(fixed_point(0.5)):.1f}, {z(fixed_point(0.1)):.1f}")
    assert z(fixed_point(0.25)) < 4.5 and min(z(fixed_point(0.5)), z(fixed_point(0.1))) > 10


def test_the_samples_of_an_image_hardly_differ():
    """Their spread is that of the optimisation: it falls with the length of a step. The control is a sampler."""
    tight, loose = (on_gaussian(REDdiff(steps=500, lr=lr), "mask", problems=4).ratio.value for lr in (0.01, 0.1))
    assert tight < 0.03 < 0.2 < loose < 0.5
    assert on_gaussian(MMPS(), "mask", problems=4).ratio.value > 0.9


def test_without_a_prior_it_fits_the_measurement():
    prior, op = gaussian_prior(), Denoising(GaussianNoise(0.1))
    y = rand(1, 1, 6, 6)
    fitted, held = (
        Solver(prior, REDdiff(lambda_=w, steps=300)).solve(y, op, n_samples=1).samples[:, 0] for w in (0.0, 100.0)
    )
    assert (fitted - y).abs().max() < 1e-3
    assert (held - y).abs().max() > 0.1


def test_it_takes_operators_that_are_not_linear():
    """Either sign explains the squares: the start decides, and both signs occur among the samples."""
    prior = GaussianPrior(torch.zeros(1, 6, 6), torch.eye(36), sigma_min=0.01, sigma_max=40.0, sigma_data=1.0)
    y = Squares().A(1 + rand(1, 1, 6, 6))
    r = Solver(prior, REDdiff(steps=300)).solve(y, Squares(), n_samples=4)
    assert float(((r.samples**2 - y[:, None]).abs()).max()) < 0.3
    signs = r.samples.sign().mean()
    assert -1 < float(signs) < 1


def test_network_calls():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    r = Solver(prior, REDdiff(steps=7)).solve(op.A(torch.zeros(1, 1, 6, 6)), op, n_samples=3)
    assert (r.network_calls, r.vjps) == (7, 0)


def test_a_sample_does_not_depend_on_its_batch_nor_a_step_on_the_units_of_the_data():
    op, y = gaussian_operator("mask"), rand(2, 1, 6, 6)
    prior = gaussian_prior()
    both = Solver(prior, REDdiff(steps=30)).solve(y, op, n_samples=3).samples
    one = Solver(prior, REDdiff(steps=30)).solve(y[1:], op, n_samples=2).samples
    assert torch.allclose(both[1, :2], one[0], atol=1e-4)
    levels = {"sigma_min": 0.05, "sigma_max": 400.0, "sigma_data": 5.0}
    wide = GaussianPrior(torch.zeros(1, 6, 6), 100 * prior.covariance, scale=0.05, offset=0.5, **levels)
    same = Solver(wide, REDdiff(steps=30)).solve(y[1:], op, n_samples=2).samples
    assert torch.allclose(same, one, atol=1e-3)
