"""FPS-SMC: what its particles converge to, exactly; two modes; its distance from exactness; its costs."""

import pytest
import torch

from ambient_solve import AmbientSolveError, MixturePrior, Proximal, Solver
from ambient_solve.algorithms import fps
from ambient_solve.algorithms.fps import FPS
from ambient_solve.evaluate.distances import sliced_wasserstein
from ambient_solve.evaluate.exactness import GAUSSIAN, gaussian_operator, gaussian_prior, matrix_operator
from ambient_solve.likelihood import Likelihood
from ambient_solve.process import karras
from helpers import one_sentence
from samplers import (
    OneStream,
    agrees,
    ancestral_variance,
    calls,
    change_of_units,
    diagonal,
    draw,
    errors,
    isotropic,
)

C, SIGMA_Y, LOW, HIGH = 0.25, 0.4, 0.02, 5.0
MATRIX, Y = torch.tensor([[1.0, 0.5], [0.0, 0.7]]), torch.tensor([[0.5, -0.6]])


def law(variance):
    """The posterior under a Gaussian of that variance."""
    exact = isotropic(2, variance, LOW, HIGH).posterior(MATRIX, Y[0], SIGMA_Y)
    values, axes = torch.linalg.eigh(exact.covariance)
    return exact.mean, values, axes


def apart(z, variance):
    mean, values, axes = law(variance)
    return max(errors((z.double() - mean) @ axes, torch.zeros(2, dtype=torch.float64), values))


def test_many_particles_reweight_the_unconditional_sampler_exactly():
    """The weights telescope: the limit is (law of the ancestral sampler on this grid) x (likelihood), at any grid."""
    prior, op = isotropic(2, C, LOW, HIGH), matrix_operator(MATRIX, SIGMA_Y, (2,))
    z = draw(FPS(steps=10), prior, Y, op, n=40_000)
    discrete = ancestral_variance(C, karras(10, LOW, HIGH))
    # Particles share ancestors: their errors are some times those of independent samples.
    assert apart(z, discrete) < 8
    assert apart(z, C) > 16, "the control: the law of infinitely many levels"
    z = draw(FPS(steps=60), prior, Y, op, n=10_000)
    assert apart(z, ancestral_variance(C, karras(60, LOW, HIGH))) < 8


@pytest.fixture
def filtering(monkeypatch):
    """The weights of a filter whose measurements of all levels are independent: no denominator."""
    right = fps._log_normal

    def switch(levels):
        counted = {t**2 for t in levels[1:-1]}

        def wrong(likelihood, z, variance):
            return 0.0 if variance in counted else right(likelihood, z, variance)

        monkeypatch.setattr(fps, "_log_normal", wrong)

    return switch


def test_without_its_denominator_the_measurement_counts_again_at_each_level(filtering):
    prior, op, levels = isotropic(2, C, LOW, HIGH), matrix_operator(MATRIX, SIGMA_Y, (2,)), karras(10, LOW, HIGH)
    filtering(levels)
    assert apart(draw(FPS(steps=10), prior, Y, op, n=10_000), ancestral_variance(C, levels)) > 30


def test_two_modes_get_their_weights():
    means = torch.tensor([[2.0, 2.0], [2.5, -2.0], [-2.0, 0.0]])
    prior = MixturePrior(torch.tensor([0.3, 0.4, 0.3]), means, 0.1 * torch.ones(3), sigma_min=0.01, sigma_max=40.0)
    y, op = torch.tensor([[2.1, 0.0]]), diagonal([1.0, 0.0], 0.3)
    exact = prior.posterior(torch.tensor([[1.0, 0.0]]), y[0, :1], 0.3)
    generator = torch.Generator().manual_seed(0)
    first, second = exact.sample(12_000, generator), exact.sample(12_000, generator)
    floor = sliced_wasserstein(second, first)
    assert sliced_wasserstein(draw(FPS(steps=100), prior, y, op, n=12_000), first) < 4 * floor
    assert sliced_wasserstein(draw(Proximal(steps=100), prior, y, op, n=12_000), first) > 8 * floor


def test_the_move_is_the_product_of_two_gaussians():
    """One level from a known state: mean and variance of K_1 times the noised likelihood."""
    prior, op, s, t = isotropic(2, C, LOW, HIGH), diagonal([1.0, 0.0], SIGMA_Y), 1.5, 1.0
    likelihood = Likelihood(Y, op, prior, n_samples=20_000)
    states = FPS(steps=2).iterate(prior, likelihood, torch.ones(20_000, 2), [s, t, 0.0], OneStream(0))
    z, b2, shrink = next(states).z, t**2 * (1 - t**2 / s**2), C / (C + s**2)
    m = shrink + (t / s) ** 2 * (1 - shrink)
    precision = torch.tensor([1 / b2 + 1 / (SIGMA_Y**2 + t**2), 1 / b2], dtype=torch.float64)
    mean = (m / b2 + torch.tensor([Y[0, 0] / (SIGMA_Y**2 + t**2), 0])) / precision
    assert max(errors(z, mean, 1 / precision)) < 4.4
    assert max(errors(z, torch.full_like(mean, m), torch.full_like(mean, b2))) > 10, "the control: K_1 alone"


# 128 particles for 9 to 36 measurements share ancestors, and the grid's ancestral steps give too little variance.
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_the_filter_is_elsewhere(operator, filtering):
    filtering(karras(50, 0.005, 40.0))
    assert not agrees(FPS(steps=50), operator, "fps, 50 levels")


def test_images_of_a_batch_do_not_meet():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    y = op.A(torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)))
    both, alone = (Solver(prior, FPS(steps=10)).solve(part, op, n_samples=6).samples for part in (y, y[1:]))
    assert torch.allclose(both[1], alone[0], atol=1e-5)


def test_costs_and_units():
    assert calls(FPS(steps=7)) == (7, 0)
    assert change_of_units(FPS(steps=20)) < 1e-3


def test_one_sample_is_refused_in_one_sentence():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    with pytest.raises(AmbientSolveError, match="n_samples") as error:
        Solver(prior, FPS()).solve(op.A(torch.zeros(1, 1, 6, 6)), op)
    assert one_sentence(error)
