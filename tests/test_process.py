"""The additive process: its reverse kernel against a Brownian path and the paper's own variables; who may use it."""

from __future__ import annotations

import pytest
import torch

from ambient_solve.priors.base import reverse
from ambient_solve.process import Additive, ancestral_noise
from helpers import Draws, randn
from samplers import isotropic

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
    found = Additive().reverse(z, z0, s, t, ancestral_noise(s, t, 1.0), noise)
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
    found = alpha_next**0.5 * Additive().reverse(x / alpha**0.5, x0, s, t, ancestral_noise(s, t, eta), noise)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8)


def test_without_fresh_noise_none_is_drawn_and_at_level_0_the_estimate_comes_out():
    z, z0, draws = randn(5, 4), randn(5, 4, seed=1), Draws(3)
    prior = isotropic(4, 1.0, 0.01, 10.0)
    moved = reverse(prior, z, z0, 2.0, 1.0, 0.0, draws)
    torch.testing.assert_close(moved, z0 + (z - z0) / 2)
    assert torch.equal(draws.normal(z), Draws(3).normal(z))
    assert torch.equal(reverse(prior, z, z0, 2.0, 0.0, ancestral_noise(2.0, 0.0, 1.0), draws), z0)
