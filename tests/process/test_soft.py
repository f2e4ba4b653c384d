"""Soft processes: families and their spectra, and the samplers, whose law on Gaussian data is known exactly."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError, Prior, generate
from ambient_solve.process import (
    SAMPLERS,
    Additive,
    Downsample,
    Fade,
    GaussianBlur,
    LinearFamily,
    Process,
    Soft,
    ancestral_noise,
    karras,
    log_linear,
    noise_shares,
)
from helpers import Draws, randn

FAMILIES = {"blur": (GaussianBlur(), 1.3), "fade": (Fade(), 2.2), "downsample": (Downsample(), 1.6)}
F64 = torch.float64


def dense(family: LinearFamily, strength: float, shape: tuple[int, ...] = (1, 8, 8)) -> Tensor:
    """`C_t` as a matrix."""
    eye = torch.eye(math.prod(shape), dtype=F64)
    return family(eye.reshape(-1, *shape), strength).flatten(1).T


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_what_its_spectrum_says(name):
    family, strength = FAMILIES[name]
    c = dense(family, strength)
    torch.testing.assert_close(dense(family, 0.0), torch.eye(64, dtype=F64))
    torch.testing.assert_close(c, c.T)
    other = dense(family, 2 * strength)
    torch.testing.assert_close(c @ other, other @ c)
    z = randn(3, 2, 8, 8, dtype=F64)
    parts = family.analyze(z)
    torch.testing.assert_close(parts.abs().square().sum(), z.square().sum())
    torch.testing.assert_close(family.synthesize(parts), z)
    # The eigenvalues of the matrix are gains of the spectrum, and stronger is weaker in each of them.
    gains = family.gains(z[:1, :1], strength)
    found = torch.linalg.eigvalsh(c)
    assert float((found[:, None] - gains.flatten()).abs().min(1).values.max()) < 1e-9
    assert (family.gains(z, 2 * strength) <= gains).all() and not torch.equal(family.gains(z, 2 * strength), gains)
    # One strength for each row.
    rows = family(z, torch.tensor([0.0, strength, 2 * strength], dtype=F64))
    torch.testing.assert_close(rows, torch.stack([z[0], family(z, strength)[1], family(z, 2 * strength)[2]]))


def test_the_families_are_what_their_names_say():
    point = torch.zeros(1, 1, 32, 32, dtype=F64)
    point[..., 16, 16] = 1
    blurred, squares = GaussianBlur()(point, 1.5), (torch.arange(32, dtype=F64) - 16) ** 2
    assert float(blurred.sum()) == pytest.approx(1)
    assert float((blurred.sum(-1) * squares).sum()) == pytest.approx(1.5**2, rel=1e-3)
    z = randn(1, 1, 8, 8, dtype=F64)
    blocks = z.reshape(1, 1, 2, 4, 2, 4).mean((3, 5)).repeat_interleave(4, -1).repeat_interleave(4, -2)
    torch.testing.assert_close(Downsample()(z, 2.0), blocks)
    torch.testing.assert_close(Downsample()(z, 1.25), 0.75 * Downsample()(z, 1.0) + 0.25 * blocks)
    torch.testing.assert_close(Downsample()(z, 9.0), z.mean().expand_as(z))
    faded = Fade(edge=1.0)(torch.ones(1, 1, 9, 9), 2.0)[0, 0]
    assert faded[4].tolist() == [1, 1, 1, 0, 0, 0, 1, 1, 1] and float(faded[4, 4]) == 0
    assert not Fade()(torch.ones(1, 1, 9, 9), 9.0).any()
    with pytest.raises(AmbientSolveError, match="edge=0"):
        Fade(edge=0)


def test_perturb_is_the_corruption_and_noise_of_each_row():
    process = Soft(GaussianBlur(), lambda t: 2 * t, lambda t: 0.1 * t)
    z0, n = randn(2, 1, 8, 8), randn(2, 1, 8, 8, seed=1)
    found = process.perturb(z0, torch.tensor([0.0, 1.5]), n)
    torch.testing.assert_close(found[0], z0[0])
    torch.testing.assert_close(found[1], GaussianBlur()(z0, 3.0)[1] + 0.15 * n[1])
    assert torch.equal(process.terminal(2.0, n), 0.2 * n)
    assert process.levels(3, 0.1, 10.0) == log_linear(3, 0.1, 10.0)
    assert Soft(Fade(), lambda t: t, grid=karras).levels(3, 0.1, 10.0) == karras(3, 0.1, 10.0)
    assert torch.equal(Soft(Fade(), lambda t: t, law=lambda level, n: 3 + n).terminal(2.0, n), 3 + n)


def plain(z: Tensor, strength: object) -> Tensor:
    return z


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_without_a_corruption_the_step_is_that_of_additive_noise(eta):
    z, z0, n = randn(5, 4), randn(5, 4, seed=1), Draws(2).normal(randn(5, 4))
    fresh = ancestral_noise(2.0, 1.3, eta)
    found, right = (p.reverse(z, z0, 2.0, 1.3, fresh, n) for p in (Soft(plain, lambda t: t), Additive()))
    torch.testing.assert_close(found, right)
    kept = (p.reverse(z, z0, 2.0, 1.3, 0.5, n, 0.2) for p in (Soft(plain, lambda t: t), Additive()))
    torch.testing.assert_close(*kept)


@pytest.mark.parametrize("s", [0.0, 0.3])
def test_with_a_noise_that_does_not_change_it_is_the_sampler_of_cold_diffusion(s):
    """Bansal et al., section 3.3: with `D(z, t) = z + t e` any restoration ends at the truth, exactly."""
    e, truth = randn(1, 6, seed=3, dtype=F64), randn(4, 6, dtype=F64)
    process = Soft(lambda z, t: z + t * e, lambda t: t, noise=lambda t: s)
    levels = [1.0, 0.8, 0.4, 0.1, 0.0]
    ends = {}
    for sampler in ("deterministic", "naive"):
        z = process.corrupt(truth, 1.0)
        for t, after in zip(levels, levels[1:], strict=False):
            wrong = (z - 0.3).tanh()
            kept, fresh = noise_shares(sampler, s, s)
            assert (kept, fresh) == {"deterministic": (1.0, 0.0), "naive": (0.0, s)}[sampler]
            z = process.reverse(z, wrong, t, after, 0.0, None, kept)
        ends[sampler] = float((z - truth).abs().max())
    assert ends["deterministic"] < 1e-12 and ends["naive"] > 0.1


@pytest.mark.parametrize(("s", "t"), [(2.0, 1.5), (1.0, 0.2), (0.1, 0.001)])
def test_momentum_is_the_formula_of_the_paper(s, t):
    """Daras et al., 2209.05442: denoise by part of the way, add noise of that variance, then deblur."""
    process = Soft(GaussianBlur(), lambda level: 2 * level)
    z, z0, n = (randn(2, 1, 8, 8, seed=i, dtype=F64) for i in range(3))
    c, c_next = GaussianBlur()(z0, 2 * s), GaussianBlur()(z0, 2 * t)
    wanted = z + (1 - t**2 / s**2) * (c - z) + math.sqrt(s**2 - t**2) * n + c_next - c
    kept, fresh = noise_shares("momentum", s, t)
    torch.testing.assert_close(process.reverse(z, z0, s, t, fresh, n, kept), wanted)
    naive = process.reverse(z, z0, s, t, t, n, 0.0)
    torch.testing.assert_close(naive, c_next + t * n)
    assert noise_shares("momentum", s, 0.0) == noise_shares("naive", s, 0.0) == (0.0, 0.0)


FREQUENCY = torch.arange(64, dtype=F64)
POWER = 1 / (1 + (FREQUENCY / 3) ** 2.2)
LOW, HIGH = 0.01, 1.0


def gain(level: float) -> Tensor:
    """The blur of a level: `exp(-.08 u^2 f)`, u from 0 at the lowest level to 1 at the highest."""
    u = max(0.0, math.log(max(level, LOW) / LOW) / math.log(HIGH / LOW))
    return (-0.08 * u**2 * FREQUENCY).exp()


def diagonal_soft() -> Process:
    return Soft(lambda z, g: g * z, gain)


def relative_error(sampler: str, steps: int, start: str = "exact") -> float:
    """Relative W2 to the data of what a sampler makes of the exact denoiser: the recursion of the variance, exact."""
    process, levels = diagonal_soft(), log_linear(steps + 1, LOW, HIGH)
    variance = (gain(HIGH) ** 2 * POWER if start == "exact" else 0) + HIGH**2
    one, zero = torch.ones(1, 64, dtype=F64), torch.zeros(1, 64, dtype=F64)
    for s, t in zip(levels, levels[1:], strict=False):
        shrink = gain(s) * POWER / (gain(s) ** 2 * POWER + s**2)
        kept, fresh = noise_shares(sampler, s, t)
        slope = process.reverse(one, shrink * one, s, t, 0.0, None, kept)[0]
        variance = slope**2 * variance + process.reverse(zero, zero, s, t, fresh, one, kept)[0] ** 2
    return float((variance.sqrt() - POWER.sqrt()).norm() / POWER.sqrt().norm())


def test_momentum_and_restoration_degradation_converge_and_the_naive_sampler_does_not():
    counts = (5, 10, 25, 50, 100, 400)
    found = {(n, k): relative_error(n, k) for n in SAMPLERS for k in counts}
    page = (Path(__file__).parents[2] / "docs" / "processes.md").read_text()
    for name in SAMPLERS:
        row = f"`{name}` | " + " | ".join(f"{found[name, k]:.3f}" for k in counts)
        print(f"\n{row}", end="")
        assert row in page
    assert found["momentum", 50] < 0.03 and found["naive", 400] > 0.2
    assert all(found["deterministic", k] <= found["momentum", k] for k in (5, 10, 25))
    # Of first order: twice the steps, half of the error.
    assert all(found[n, 100] == pytest.approx(found[n, 50] / 2, rel=0.15) for n in ("momentum", "deterministic"))


def test_a_terminal_law_that_forgets_the_data_costs_what_no_number_of_steps_gives_back():
    """At the highest level the blur leaves the low frequencies, which are not small against this noise."""
    few, many = (relative_error("deterministic", k, start="noise") for k in (50, 400))
    print(f"\nfrom noise alone: {few:.3f} (50), {many:.3f} (400)")
    assert many > 0.1 and many > 20 * relative_error("deterministic", 400)


class Frequencies(Prior):
    """The Gaussian data above, denoised exactly, float32; every row of a sample is one frequency of the 64."""

    shape, sigma_min, sigma_max = (64, 4000), LOW, HIGH

    def __init__(self) -> None:
        super().__init__()
        deviation = (gain(HIGH) ** 2 * POWER + HIGH**2).sqrt().float()[:, None]
        self.process = Soft(
            lambda z, g: g.float()[:, None] * z, gain, law=lambda level, n: deviation * n
        )  # the exact start

    def denoise(self, z: Tensor, sigma: float, cond: object = None) -> Tensor:
        shrink = gain(sigma) * POWER / (gain(sigma) ** 2 * POWER + sigma**2)
        return shrink.float()[:, None] * z


def test_generate_takes_the_step_of_the_sampler():
    """The relative error of samples is that of the recursion for the sampler that was asked for, and for no other."""
    prior = Frequencies()
    for name in SAMPLERS:
        z = generate(prior, 1, steps=11, order=1, sampler=name)[0].double()
        found = float((z.var(1).sqrt() - POWER.sqrt()).norm() / POWER.sqrt().norm())
        near = [other for other in SAMPLERS if abs(relative_error(other, 10) - found) < 0.01]
        assert near == [name], f"{name}: {found}"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "unless order=1 .* needs additive noise.* Soft"),
        ({"sampler": "momentum"}, "sampler='momentum' was given with order=2"),
        ({"sampler": "naive", "order": 1, "eta": 0.5}, "eta=0.5; it is a step of order 1"),
        ({"sampler": "moment", "order": 1}, "Did you mean .momentum"),
    ],
)
def test_generate_refuses_what_does_not_fit_in_a_sentence(settings, words):
    with pytest.raises(AmbientSolveError, match=words):
        generate(Frequencies(), 1, **settings)
