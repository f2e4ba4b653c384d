"""The reverse kernel against a Brownian path and the paper's own variables; streams that no two samples share."""

from __future__ import annotations

import pytest
import torch

from ambient_solve.noise import Streams, ancestral_noise, reverse
from helpers import Draws, randn

STEPS = [(80.0, 60.0), (2.0, 1.9), (1.0, 0.3), (0.1, 0.001)]


@pytest.mark.parametrize(("s", "t"), STEPS)
def test_the_ancestral_step_is_the_conditional_law_of_a_brownian_path(s, t):
    """`z_u = z0 + W(u^2)`: the law of `z_t` given `z0` and `z_s`, from the covariance of the path."""
    covariance = torch.tensor([[min(a, b) for b in (t**2, s**2)] for a in (t**2, s**2)], dtype=torch.float64)
    slope = covariance[0, 1] / covariance[1, 1]
    variance = covariance[0, 0] - slope * covariance[1, 0]
    assert ancestral_noise(s, t, 1.0) ** 2 == pytest.approx(float(variance), rel=1e-9)
    z, z0 = randn(5, 4), randn(5, 4, seed=1)
    noise = Draws(3).normal(z)
    found = reverse(z, z0, s, t, ancestral_noise(s, t, 1.0), Draws(3))
    right = z0 + float(slope) * (z - z0) + float(variance) ** 0.5 * noise
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4 * t)
    # The control: all of the noise fresh, as for data that keep nothing of the state before.
    wrong = z0 + t * noise
    assert float((found - wrong).norm() / (found - z0).norm()) > 0.02


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("s", "t"), STEPS)
def test_the_kernel_is_that_of_ddim_in_its_own_variables(s, t, eta):
    """Song et al., equations 12 and 16: variance-preserving states, `alpha` the cumulative product."""
    alpha, alpha_next = 1 / (1 + s**2), 1 / (1 + t**2)
    deviation = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5
    x, x0 = (alpha**0.5 * randn(5, 4, dtype=torch.float64)), randn(5, 4, seed=1, dtype=torch.float64)
    noise = Draws(3).normal(x)
    e = (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5
    wanted = alpha_next**0.5 * x0 + (1 - alpha_next - deviation**2) ** 0.5 * e + deviation * noise
    found = alpha_next**0.5 * reverse(x / alpha**0.5, x0, s, t, ancestral_noise(s, t, eta), Draws(3))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_without_fresh_noise_none_is_drawn_and_at_level_0_the_estimate_comes_out():
    z, z0, draws = randn(5, 4), randn(5, 4, seed=1), Draws(3)
    moved = reverse(z, z0, 2.0, 1.0, 0.0, draws)
    torch.testing.assert_close(moved, z0 + (z - z0) / 2)
    assert torch.equal(draws.normal(z), Draws(3).normal(z))
    assert torch.equal(reverse(z, z0, 2.0, 0.0, ancestral_noise(2.0, 0.0, 1.0), draws), z0)


SEEDS = [0, 1, 2, 3, 17, 2**31, 2**32, 2**32 + 1, 2**63 + 5]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_no_two_pairs_of_seed_and_sample_share_a_stream(kind):
    like = torch.empty(len(SEEDS) * 7, 400)
    found = getattr(Streams(SEEDS, 7), kind)(like).double()
    correlation = torch.corrcoef(found) - torch.eye(len(like))
    # Deviation .05 for independent rows, 2000 pairs; rows of one stream have 1.
    assert float(correlation.abs().max()) < 0.3
    # The control: two images of one seed do share theirs.
    twins = getattr(Streams([3, 3], 2), kind)(torch.empty(4, 400))
    assert torch.equal(twins[:2], twins[2:]) and not torch.equal(twins[0], twins[1])


def test_a_stream_goes_on_and_does_not_repeat():
    streams = Streams([0, 1], 2)
    found = torch.cat([streams.normal(torch.empty(4, 400)) for _ in range(4)]).double()
    assert float((torch.corrcoef(found) - torch.eye(16)).abs().max()) < 0.3


def test_sample_s_of_an_image_is_the_same_in_every_set():
    like = torch.empty(15, 9)
    whole = Streams([5, 6, 7], 5).normal(like).reshape(3, 5, 9)
    assert torch.equal(Streams([6], 5).normal(like[:5]), whole[1])
    assert torch.equal(Streams([7, 5], 2, first_sample=3).normal(like[:4]).reshape(2, 2, 9), whole[[2, 0], 3:])
    assert not torch.equal(Streams([6], 2).normal(like[:2]), whole[1, 3:])  # the control


def test_the_number_of_an_image_is_of_no_sample_and_of_no_other_image():
    seeds = SEEDS[:6]
    streams = Streams(seeds, 6)
    numbers = torch.cat([streams.uniform_per_image(), streams.uniform_per_image()])
    samples = Streams(seeds, 6).uniform(torch.empty(len(seeds) * 6, 2)).flatten()
    every = torch.cat([numbers, samples])
    assert len(every.unique()) == len(every)
    assert torch.equal(Streams(seeds[2:], 1).uniform_per_image(), numbers[2 : len(seeds)])
