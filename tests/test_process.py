"""The additive process: its reverse kernel against a Brownian path and the paper's own variables; who may use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from ambient_solve import ALGORITHMS, Algorithm, AmbientSolveError, Solver, State, generate
from ambient_solve.priors.base import reverse
from ambient_solve.process import Additive, Process, ancestral_noise, degrade_again, karras
from helpers import Draws, one_sentence, randn
from samplers import diagonal, isotropic

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


def test_perturb_adds_noise_of_the_level_of_each_row_and_a_run_starts_from_noise_alone():
    z0, n, level = randn(3, 4), randn(3, 4, seed=1), torch.tensor([0.0, 1.0, 2.0])
    found = Additive().perturb(z0, level, n)
    assert torch.equal(found, torch.stack([z0[0], z0[1] + n[1], z0[2] + 2 * n[2]]))
    assert torch.equal(Additive().perturb(z0, 0.5, n), z0 + 0.5 * n)
    assert torch.equal(Additive().terminal(10.0, n), 10 * n)
    assert Additive().levels(7, 0.02, 5.0) == karras(7, 0.02, 5.0)


@pytest.mark.parametrize("fresh", [0.0, 0.3])
def test_the_bits_of_the_additive_step_are_those_of_one_interpolation(fresh):
    """Samples stay what they were, whatever other processes do: `lerp`, then fresh noise in its place."""
    z, z0, n = randn(50, 4), randn(50, 4, seed=1), randn(50, 4, seed=2)
    kept = (1.3**2 - fresh**2) ** 0.5 / 2.0
    assert torch.equal(Additive().reverse(z, z0, 2.0, 1.3, fresh, n), z0.lerp(z, kept).add_(n, alpha=fresh))
    # The control: the same step by the formula that all processes share differs in the last bits.
    shared = degrade_again(z, z0, z0, kept, fresh, n)
    torch.testing.assert_close(Additive().reverse(z, z0, 2.0, 1.3, fresh, n), shared)
    assert not torch.equal(Additive().reverse(z, z0, 2.0, 1.3, fresh, n), shared)


class Shrinking(Process):
    """`z_s = (1 - s) z0 + s n`: not additive."""

    def perturb(self, z0, level, n):
        return (1 - level) * z0 + level * n

    def terminal(self, level, n):
        return level * n

    def reverse(self, z, z0, level, level_next, fresh=0.0, n=None, kept=None):
        return z0 + level_next / level * (z - z0)

    def levels(self, steps, lowest, highest):
        return [highest * (1 - k / steps) for k in range(steps)] + [0.0]


@dataclass(frozen=True, kw_only=True)
class AnyProcess(Algorithm):
    """Needs nothing of the process but its reverse step."""

    name: ClassVar[str] = "any"
    paper: ClassVar[str] = "none"
    additive: ClassVar[bool] = False

    def iterate(self, prior, likelihood, z, sigmas, streams):
        for i, (s, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, s)
            z = reverse(prior, z, z0, s, t, 0.0, streams)
            yield State(i + 1, self.steps, s, z, z0)


def test_a_prior_of_another_process_is_refused_by_who_needs_additive_noise():
    prior, op, y = isotropic(2, 1.0, 0.1, 0.9), diagonal([1.0, 1.0], 0.1), randn(1, 2)
    prior.process = Shrinking()
    for name in ("auto", *ALGORITHMS):
        with pytest.raises(AmbientSolveError, match="additive noise.* Shrinking") as error:
            Solver(prior, name).solve(y, op, n_samples=2)
        assert one_sentence(error) and str(error.value).startswith("mmps" if name == "auto" else name)
    with pytest.raises(AmbientSolveError, match=r"generate, unless order=1 .* needs additive noise.* Shrinking"):
        generate(prior, 1)
    assert generate(prior, 1, steps=3, order=1).shape == (1, 2)
    # The control: who does not need it takes any process, and its levels.
    (*_, last) = Solver(prior, AnyProcess(steps=3)).stream(y, op)
    assert last.sigma == pytest.approx(0.3)
    prior.process = Additive()
    assert Solver(prior, "mmps", steps=2).solve(y, op, n_samples=1).samples.shape == (1, 1, 2)
