"""Processes with a drift: a non-linear one against its Fokker-Planck equation, and DDIM where the drift is linear."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError, Prior, generate
from ambient_solve.process import (
    SAMPLERS,
    Additive,
    Drift,
    ancestral_noise,
    linear_transition,
    log_linear,
    noise_shares,
)
from helpers import Draws, one_sentence, randn

F64 = torch.float64
FIRST, LAST = 0.01, 1.0


def f(z: Tensor, t: float) -> Tensor:
    """The drift of the test: two wells, at -1 and 1."""
    return -1.5 * (z**3 - z) / (1 + 0.3 * z**2)


class FokkerPlanck:
    """The densities of `dz = f dt + dw` from three modes, exact on a grid: the operator is symmetric in its own law.

    `dp/dt = -(f p)' + p'' / 2` with the jump rates `sqrt(pi_j / pi_i) / (2 dx^2)` to the neighbors, pi the law at rest.
    """

    def __init__(self, dx: float = 0.01, wide: float = 3.5) -> None:
        self.x = torch.arange(-wide, wide + dx / 2, dx, dtype=F64)
        slope = f(self.x, 0.0)
        potential = torch.cat([torch.zeros(1, dtype=F64), ((slope[1:] + slope[:-1]) / 2 * dx).cumsum(0)])
        self.root = potential.exp()  # sqrt(pi)
        up = self.root[1:] / self.root[:-1]
        leaving = torch.zeros_like(self.x)
        leaving[:-1] += up
        leaving[1:] += 1 / up
        off = torch.ones(len(self.x) - 1, dtype=F64)
        symmetric = (torch.diag(off, 1) + torch.diag(off, -1) - torch.diag(leaving)) / (2 * dx**2)
        self.rates, self.modes = torch.linalg.eigh(symmetric)
        start = sum(
            w / s * (-0.5 * ((self.x - m) / s) ** 2).exp()
            for w, m, s in zip((0.3, 0.5, 0.2), (-1.6, 0.2, 1.7), (0.15, 0.12, 0.2), strict=True)
        )
        self.start = self.modes.T @ (start / start.sum() / self.root)

    @cache  # noqa: B019  one object, for the tests of this file
    def density(self, t: float) -> Tensor:
        """Mass of each point of the grid at time `t`."""
        return (self.root * (self.modes @ ((self.rates * t).exp() * self.start))).clamp_min(1e-300)

    @cache  # noqa: B019
    def scores(self, t: float) -> np.ndarray:
        return torch.gradient(self.density(t).log(), spacing=(self.x,))[0].numpy()

    def score(self, z: Tensor, t: float) -> Tensor:
        return torch.from_numpy(np.interp(z.numpy(), self.x.numpy(), self.scores(t)))

    def quantiles(self, t: float, n: int = 4000) -> Tensor:
        mass = self.density(t)
        below = (mass.cumsum(0) - mass / 2) / mass.sum()
        return torch.from_numpy(np.interp((np.arange(n) + 0.5) / n, below.numpy(), self.x.numpy()))


@pytest.fixture(scope="module")
def exact() -> FokkerPlanck:
    return FokkerPlanck()


def w1(z: Tensor, law: Tensor) -> float:
    return float((z.sort().values - law).abs().mean())


def error(exact: FokkerPlanck, steps: int, horizon: str) -> float:
    """W1 to the law at time .01 of `steps` steps from that at time 1."""
    h = (LAST - FIRST) / steps
    process = Drift(f, 1.0, horizon={"flow": None, "root": max(h, 0.3 * math.sqrt(h)), "4h": 4 * h, "h": h}[horizon])
    z, levels = exact.quantiles(LAST), process.levels(steps + 1, FIRST, LAST)[:-1]
    for t, after in zip(levels, levels[1:], strict=False):
        score = exact.score(z, t)
        if horizon == "flow":
            z = process.descend(z, score, t, after)
        else:
            z = process.reverse(z, process.restored(z, score, t), t, after)
    return w1(z, exact.quantiles(FIRST))


def test_restoration_and_degradation_together_follow_a_non_linear_process(exact):
    """Daras et al., 2303.03384: both converge, with a horizon that shrinks more slowly than the step."""
    counts = (20, 40, 80, 160, 640)
    before = w1(exact.quantiles(LAST), exact.quantiles(FIRST))
    found = {kind: [error(exact, n, kind) for n in counts] for kind in ("flow", "root", "4h", "h")}
    slopes = {k: float(np.polyfit(np.log(counts[:4]), np.log(e[:4]), 1)[0]) for k, e in found.items()}
    print(f"\nbefore {before:.3f}")
    page = (Path(__file__).parents[2] / "docs" / "processes.md").read_text()
    for kind, errors in found.items():
        row = " | ".join(f"{e:.3f}" for e in errors)
        print(f"{kind}: {row}; slope {slopes[kind]:.2f}")
        assert row in page
    assert slopes["flow"] <= -0.9 and slopes["root"] <= -0.4
    # Controls: without the degradation half there is no progress; a horizon of a fixed number of steps leaves an error.
    assert min(found["h"]) > 0.8 * before
    assert found["4h"][-1] > 0.8 * found["4h"][-2] and found["root"][-1] < 0.7 * found["root"][-2]


def test_the_densities_are_those_of_paths_of_the_process(exact):
    n, steps = 4000, 200
    z0 = exact.quantiles(0.0, n)
    path = Draws(0).normal(torch.empty(steps, n, dtype=F64))
    process = Drift(f, 1.0)
    z = process.perturb(z0, 0.5, path)
    floor = w1(
        exact.quantiles(0.5, n)[torch.randint(n, (n,), generator=torch.Generator().manual_seed(1))],
        exact.quantiles(0.5, n),
    )
    one_step = process.perturb(z0, 0.5, path[0])
    print(
        f"\npaths {w1(z, exact.quantiles(0.5, n)):.4f}, floor {floor:.4f}, one step "
        f"{w1(one_step, exact.quantiles(0.5, n)):.4f}"
    )
    assert w1(z, exact.quantiles(0.5, n)) < 3 * floor < w1(one_step, exact.quantiles(0.5, n))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("t", "after"), [(5.0, 3.0), (1.0, 0.9), (0.4, 0.01), (0.4, 0.0)])
def test_with_a_linear_drift_and_the_whole_horizon_it_is_ddim(t, after, eta):
    """`dz = -z/2 dt + dw` has `alpha = exp(-t)`; Song et al., 2010.02502, equations 12 and 16."""
    process = Drift(lambda z, t: -z / 2, 1.0, transition=linear_transition(-0.5, 1.0))
    z, z0, n = (randn(5, 4, seed=i, dtype=F64) for i in range(3))
    alpha, alpha_next = math.exp(-t), math.exp(-after)
    deviation = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
    e = (z - alpha**0.5 * z0) / (1 - alpha) ** 0.5
    wanted = alpha_next**0.5 * z0 + max(0.0, 1 - alpha_next - deviation**2) ** 0.5 * e + deviation * n
    assert float((process.reverse(z, z0, t, after, deviation, n) - wanted).abs().max()) < 1e-12
    # The control: one step of Euler's method in the place of the transition is not, unless it ends at 0.
    euler = Drift(lambda z, t: -z / 2, 1.0).reverse(z, z0, t, after, deviation, n)
    assert (float((euler - wanted).abs().max()) > 1e-6) == (after > 0)


def test_without_a_drift_it_is_additive_noise_of_level_root_t():
    process = Drift(lambda z, t: 0 * z, 2.0)
    z, z0, n = (randn(5, 4, seed=i, dtype=F64) for i in range(3))
    s, s_next = 2 * math.sqrt(0.9), 2 * math.sqrt(0.4)
    assert process.deviations(0.9, 0.4) == pytest.approx((s, s_next))
    for sampler in SAMPLERS:
        kept, fresh = noise_shares(sampler, s, s_next)
        found = process.reverse(z, z0, 0.9, 0.4, fresh, n, kept)
        assert float((found - Additive().reverse(z, z0, s, s_next, fresh, n, kept)).abs().max()) < 1e-12
    fresh = ancestral_noise(s, s_next, 1.0)
    right = Additive().reverse(z, z0, s, s_next, fresh, n)
    assert float((process.reverse(z, z0, 0.9, 0.4, fresh, n) - right).abs().max()) < 1e-12


def test_the_drift_of_a_path_is_that_of_its_times():
    """`dz = t dt + dw` without its noise: the sum of the times of the steps, and of the times of a step back."""
    process, z = Drift(lambda z, t: t + 0 * z, 1.0, horizon=0.5), randn(3, 2, dtype=F64)
    found = process.perturb(z, 2.0, torch.zeros(4, 3, 2, dtype=F64))
    torch.testing.assert_close(found, z + 0.5 * (0.0 + 0.5 + 1.0 + 1.5))
    # From time 2, restored to 1.5, whose drift leads to z + 1.5 * .5 at time 2 and half of that at 1.75.
    torch.testing.assert_close(process.reverse(z + 0.75, z, 2.0, 1.75), z + 0.375)


@pytest.mark.parametrize("a", [-0.5, 0.0, 0.3])
def test_two_linear_transitions_in_turn_are_one(a):
    step, z = linear_transition(a, 0.7), randn(3, dtype=F64)
    torch.testing.assert_close(step.mean(step.mean(z, 0.0, 0.4), 0.4, 0.5), step.mean(z, 0.0, 0.9))
    both = math.exp(2 * a * 0.5) * step.deviation(0.0, 0.4) ** 2 + step.deviation(0.4, 0.5) ** 2
    assert both == pytest.approx(step.deviation(0.0, 0.9) ** 2)
    # In a short time it is a step of Euler's method.
    assert step.deviation(0.0, 1e-6) == pytest.approx(0.7 * 1e-3, rel=1e-5)


def test_the_restored_state_is_the_mean_of_the_state_before():
    """A stationary Gaussian: `E[z_{t-l} | z_t] = exp(-l/2) z_t`; the restoration is that up to `l^2`."""
    z, g = randn(5, dtype=F64), 0.6
    score = -z / g**2
    wrong = [
        float((Drift(lambda z, t: -z / 2, g, horizon=h).restored(z, score, 2.0) - math.exp(-h / 2) * z).abs().max())
        for h in (0.02, 0.01)
    ]
    assert wrong[0] / wrong[1] == pytest.approx(4, rel=0.02)
    # The flow of a law at rest rests.
    torch.testing.assert_close(Drift(lambda z, t: -z / 2, g).descend(z, score, 2.0, 1.5), z)
    whole = Drift(lambda z, t: -z / 2, 1.0).restored(z, -z, 0.01)
    torch.testing.assert_close(whole, Drift(lambda z, t: -z / 2, 1.0, horizon=7.0).restored(z, -z, 0.01))


class Ornstein(Prior):
    """`z0 ~ N(0, .3 I)` under `dz = -z/2 dt + dw`, which ends in unit noise; `denoise` gives `E[z0 | z_t]`."""

    shape, sigma_min, sigma_max = (50_000,), 1e-4, 9.0

    def __init__(self) -> None:
        super().__init__()
        self.process = self.on(None)

    def on(self, grid) -> Drift:
        return Drift(
            lambda z, t: -z / 2, 1.0, transition=linear_transition(-0.5, 1.0), law=lambda level, n: n, grid=grid
        )

    def denoise(self, z: Tensor, sigma: float, cond: object = None) -> Tensor:
        alpha = math.exp(-sigma)
        return 0.3 * alpha**0.5 / (0.3 * alpha + 1 - alpha) * z


def ddim_variance(levels: list[float], sampler: str = "deterministic", eta: float = 0.0) -> float:
    """That of one entry which a sampler gives from unit noise, in the variables of DDPM; DDIM unless said."""
    variance = 1.0
    for t, after in zip(levels, levels[1:], strict=False):
        alpha, alpha_next = math.exp(-t), math.exp(-after)
        shrink = 0.3 * alpha**0.5 / (0.3 * alpha + 1 - alpha)
        s, s_next = (1 - alpha) ** 0.5, (1 - alpha_next) ** 0.5
        kept, fresh = noise_shares(sampler, s, s_next)
        if eta > 0:  # of the whole process, from time 0: the deviations of DDPM
            fresh = ancestral_noise(s, s_next, eta)
            kept = math.sqrt(s_next**2 - fresh**2) / s
        variance = (alpha_next**0.5 * shrink + kept * (1 - alpha**0.5 * shrink)) ** 2 * variance + fresh**2
    return variance


def test_generate_draws_from_a_prior_of_a_drift():
    prior, law = Ornstein(), 0.3
    for grid, steps in ((None, 20), (log_linear, 20), (log_linear, 200)):
        prior.process = prior.process if grid is None else prior.on(grid)
        found = float(generate(prior, 1, steps=steps, order=1).var())
        wanted = ddim_variance(prior.process.levels(steps, prior.sigma_min, prior.sigma_max))
        print(f"\nvariance {law}: {found:.4f} in {steps} steps, DDIM {wanted:.4f}")
        assert found == pytest.approx(wanted, rel=0.03)
    assert wanted == pytest.approx(law, rel=0.03)
    # Fresh noise is a share of the noise, not of the time; the variance of each setting tells it from the others.
    settings = ({}, {"eta": 1.0}, {"sampler": "momentum"}, {"sampler": "naive"})
    levels = prior.process.levels(20, prior.sigma_min, prior.sigma_max)
    expected = [ddim_variance(levels, **s) for s in settings]
    for i, given in enumerate(settings):
        found = float(generate(prior, 1, steps=20, order=1, **given).var())
        near = [j for j, value in enumerate(expected) if value == pytest.approx(found, rel=0.02)]
        print(f"{given}: {found:.4f}, expected {expected[i]:.4f}")
        assert near == [i]


def test_what_does_not_fit_is_one_sentence():
    z = randn(2, 3)
    with pytest.raises(AmbientSolveError, match=r"from 1 to 0.5 passes the time 0.7 .*horizon=0.3") as error:
        Drift(f, 1.0, horizon=0.3).reverse(z, z, 1.0, 0.5)
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="terminal law of a Drift is not known") as error:
        Drift(f, 1.0).terminal(1.0, z)
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="given 2 times") as error:
        Drift(f, 1.0).perturb(z, torch.ones(2), z)
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="g=0") as error:
        Drift(f, 0)
    assert one_sentence(error)
