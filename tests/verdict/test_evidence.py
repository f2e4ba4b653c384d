"""The numbers that a verdict rests on: their laws where prior, operator and sampler are exact, and their controls."""

from __future__ import annotations

import math

import pytest
import torch
from deepinv.physics import BlurFFT, GaussianNoise
from torch.fft import fft2, fftfreq

from ambient_solve import NetworkConfig, NetworkPrior, Solver, operators
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.verdict.evidence import (
    LAGS,
    Evidence,
    autocorrelation,
    blind,
    from_record,
    joined_evidence,
    measure_samples,
    responses_to_impulse,
    rim,
    unclipped,
)
from helpers import randn

TINY = NetworkConfig(widths=(8, 16), groups=4, embedding=16)

SIDE, SIGMA, PROBLEMS = 16, 0.05, 400
SHAPE = (1, SIDE, SIDE)
SURE = 4.5
"""Standard errors that an exact law keeps within, and a wrong statement exceeds."""


def blur(width: float) -> BlurFFT:
    line = torch.exp(-0.5 * (torch.arange(-3, 4) / width) ** 2)
    kernel = torch.outer(line, line)
    return BlurFFT(SHAPE, (kernel / kernel.sum())[None, None], noise_model=GaussianNoise(SIGMA))


def transfer(op: BlurFFT) -> torch.Tensor:
    impulse = torch.zeros(1, *SHAPE)
    impulse[..., 0, 0] = 1
    return fft2(op.A(impulse).double())[0]


def residuals(true: float, stated: float, noise: float = 1.0) -> torch.Tensor:
    """Of one exact posterior sample of each problem, in units of the stated noise `noise * SIGMA`."""
    k = fftfreq(SIDE)
    spectrum = 1 / (0.05 + 40 * (k[:, None] ** 2 + k**2))
    prior = GaussianPrior.stationary(torch.zeros(SHAPE), spectrum[None], scale=0.2, offset=0.5)
    generator = torch.Generator().manual_seed(0)
    x = prior.decode(prior.sample(PROBLEMS, generator)).float()
    y = blur(true).A(x) + SIGMA * torch.randn(x.shape, generator=generator)
    op, found = blur(stated), []
    for one in y:
        posterior = prior.posterior_circulant(transfer(op), one, noise * SIGMA)
        sample = posterior.decode(posterior.sample(1, generator)).float()
        found.append((one - op.A(sample)) / (noise * SIGMA))
    return torch.cat(found)


def evidence(u: torch.Tensor) -> Evidence:
    seen = torch.ones_like(u, dtype=torch.bool)
    return measure_samples(u, u, seen, u, torch.randn(u.shape, generator=torch.Generator().manual_seed(1)), seen)


def z_scores(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the mean misfit, of the mean autocorrelation at each lag, and of the variances of both, by their laws."""
    found, n = evidence(u), u[0].numel()
    misfit = (u.flatten(1).square().mean(1) - 1) / math.sqrt(2 / n)
    lags = found.lags * found.pairs.sqrt()
    assert (found.entries == n).all() and found.pairs[0].tolist() == [
        (SIDE - down) * (SIDE - abs(right)) for down, right in LAGS
    ]
    mean = torch.cat([misfit[:, None], lags], 1).mean(0) * PROBLEMS**0.5
    variance = torch.cat([misfit[:, None], lags], 1).var(0)
    return mean[:1], mean[1:], (variance - 1) / math.sqrt(2 / PROBLEMS)


def test_the_residual_of_exact_samples_is_white_noise_of_the_stated_level():
    misfit, lags, deviations = z_scores(residuals(1.0, 1.0))
    assert misfit.abs().max() < SURE and lags.abs().max() < SURE
    assert deviations.abs().max() < SURE, "the sampling deviations are those of the law"


def test_wrong_statements_break_these_laws():
    misfit, lags, _ = z_scores(residuals(0.5, 1.5))
    assert misfit.abs().max() > SURE and lags.abs().max() > SURE, "a blur that is too wide leaves outlines"
    misfit, _, _ = z_scores(residuals(1.0, 1.0, noise=0.8))
    assert misfit.min() > SURE, "noise that is stated too low"


def test_the_autocorrelation_is_that_of_seen_pairs_alone():
    u, seen = randn(1, 1, 12, 10), torch.ones(1, 1, 12, 10, dtype=torch.bool)
    seen[..., 3:6, 4:] = False
    found, pairs = autocorrelation(torch.where(seen, u, 1e3), seen, u)
    power = u[seen].square().mean()
    for lag, (down, right) in enumerate(LAGS):
        products = [
            float(u[0, 0, i, j] * u[0, 0, i + down, j + right])
            for i in range(12 - down)
            for j in range(10)
            if 0 <= j + right < 10 and seen[0, 0, i, j] and seen[0, 0, i + down, j + right]
        ]
        assert pairs[0, lag] == len(products)
        assert float(found[0, lag]) == pytest.approx(sum(products) / len(products) / float(power), rel=1e-4)


def test_a_gray_picture_counts_once():
    y, u = randn(1, 1, 12, 10).expand(-1, 3, -1, -1), randn(1, 3, 12, 10, seed=1)
    seen = torch.ones_like(u, dtype=torch.bool)
    gray, pairs = autocorrelation(u, seen, y)
    alone, _ = autocorrelation(u.mean(1, keepdim=True), seen[:, :1], y[:, :1])
    torch.testing.assert_close(gray, alone)
    assert pairs[0, 0] == 12 * 9 and autocorrelation(u, seen, u)[1][0, 0] == 3 * 12 * 9


def test_the_rim_of_a_shifted_mask_is_a_step():
    y = 0.5 + 0.01 * randn(1, 3, 32, 32)
    seen = torch.ones(1, 3, 32, 32, dtype=torch.bool)
    seen[..., 10:16, 8:24] = False
    assert abs(float(rim(y, seen))) < 1.5 and math.isnan(float(rim(y, torch.ones_like(seen))))
    for shift in (1, 2, 3):
        shifted = y.clone()
        shifted[..., 10 + shift : 16 + shift, 8:24] = 1.0
        assert float(rim(shifted, seen)) > 4, "what lies beside the mask ends at a fixed distance"
    noise = y + 0.3 * randn(1, 3, 32, 32, seed=1)
    assert abs(float(rim(noise, seen))) < 1.5, "a rough picture is rough everywhere"


def test_frequencies_that_a_blur_takes_away_hold_the_noise_alone():
    op = blur(1.5)
    power = transfer(op)[0].abs().square().float()
    u = residuals(1.5, 1.5)
    found = blind(u, power)
    assert abs(float(found.mean()) - 1) < SURE * float(found.std()) / PROBLEMS**0.5
    # A sampler that fits the noise takes it out where the blur lets it through, and nowhere else.
    fitted = torch.fft.ifft2(torch.fft.fft2(u) * (1 - power)).real
    overfit = float(blind(fitted, power).mean())
    assert float(fitted.square().mean()) < 0.96 and abs(overfit - 1) < 0.05
    low = residuals(1.5, 1.5, noise=0.8)
    assert float(blind(low, power).mean()) == pytest.approx(1 / 0.64, rel=0.05)
    assert math.isnan(float(blind(u[:1], torch.ones_like(power)))), "nothing is taken away"


@pytest.mark.parametrize(("name", "settings"), [("gaussian_blur", {"width": 1.0}), ("motion_blur", {"length": 5})])
@pytest.mark.parametrize("boundary", ["circular", "valid"])
def test_the_impulse_becomes_the_kernel(name, settings, boundary):
    op = getattr(operators, name)((3, 24, 20), sigma=0.05, boundary=boundary, **settings)
    likelihood = Likelihood(op(torch.zeros(2, 3, 24, 20)), op, NetworkPrior(TINY, "float32").eval(), n_samples=3)
    found = responses_to_impulse(likelihood)
    full = torch.zeros(found.shape[1:])
    kernel = op.filter[0, 0]
    full[: kernel.shape[0], : kernel.shape[1]] = kernel
    for one in found:
        torch.testing.assert_close(fft2(one).abs().square(), fft2(full).abs().square(), atol=1e-4, rtol=1e-3)


def test_each_measurement_has_the_kernel_of_its_own():
    line = torch.tensor([[[[1.0, 0.0, 0.0]]], [[[0.2, 0.6, 0.2]]]])
    op = BlurFFT(SHAPE, line, noise_model=GaussianNoise(SIGMA))
    prior = GaussianPrior.stationary(torch.zeros(SHAPE), torch.ones(1, SIDE, SIDE), scale=0.2, offset=0.5)
    found = responses_to_impulse(Likelihood(op.A(torch.zeros(2, *SHAPE)), op, prior, n_samples=2))
    assert found.shape == (2, SIDE, SIDE) and sorted(found.flatten(1).amax(1).tolist()) == pytest.approx([0.6, 1.0])


@pytest.mark.parametrize("name", ["inpaint_random", "super_resolution", "jpeg"])
def test_what_is_no_blur_has_no_kernel(name):
    op = getattr(operators, name)((3, 16, 16), sigma=0.05)
    x = randn(1, 3, 16, 16).sigmoid()
    assert responses_to_impulse(Likelihood(op(x), op, NetworkPrior(TINY, "float32").eval())) is None


def test_a_jpeg_changes_nothing_that_it_has_made():
    x = randn(1, 3, 32, 32).sigmoid()
    levels = {}
    y = operators.jpeg((3, 32, 32), 30, sigma=0.02).A(x)
    for quality in (10, 30):
        op = operators.jpeg((3, 32, 32), quality, sigma=0.02)
        solver = Solver(NetworkPrior(TINY, "float32").eval(), "dps", steps=1)
        levels[quality] = float(solver.solve(y, op, n_samples=1).evidence.repeated)
    assert levels[30] < 0.5 < 2 < levels[10]


def test_values_outside_are_counted_before_clipping():
    x = torch.full((1, 3, 8, 8), 0.5)
    x[..., 0, :] = torch.tensor([-0.03, -0.01, 1.01, 1.03, 2.0, 0.0, 1.0, 0.5])
    zero = torch.zeros_like(x)
    found = measure_samples(zero, x, zero == 0, x, x, zero == 0)
    assert float(found.outside) == pytest.approx(3 / 64) and 1.03 < float(found.white) <= 2
    assert math.isnan(float(measure_samples(zero, x, zero == 0, x, x, None).outside))


@pytest.mark.parametrize("name", ["denoise", "inpaint_random", "gaussian_blur", "super_resolution"])
def test_a_run_brings_its_evidence_for_each_sample(name):
    op = getattr(operators, name)((3, 40, 36), sigma=0.05)
    x = randn(2, 3, 40, 36).sigmoid()
    y, solver = op(x), Solver(NetworkPrior(TINY, "float32").eval(), "proximal", steps=3)
    whole = solver.solve(y, op, n_samples=3)
    parts = solver.solve(y, op, n_samples=3, at_once=2)
    assert whole.evidence.outside.shape == (2, 3) and whole.evidence.lags.shape == (2, 3, len(LAGS))
    torch.testing.assert_close(whole.evidence.lags, parts.evidence.lags, atol=1e-3, rtol=1e-2)
    again = from_record(whole.evidence.record())
    torch.testing.assert_close(again.lags, whole.evidence.lags.cpu())
    torch.testing.assert_close(again.sigma, torch.full((2, 3), 0.05))
    if name == "gaussian_blur":
        torch.testing.assert_close(parts.evidence.spectra.power, again.spectra.power)
    else:
        assert again.spectra is None
    assert joined_evidence([whole.evidence, None]) is None


def test_noise_that_was_cut_off_is_left_out():
    sigma, x = 0.05, torch.zeros(1, 3, 32, 32)
    x[..., 16:] = 0.5
    y = (x + sigma * randn(*x.shape)).clamp(0, 1)
    inside = unclipped(y, x, torch.tensor(sigma))
    assert bool(inside[..., 16:].all()) and not bool(inside[..., :16].any())
    seen = torch.ones_like(inside)
    u = (y - x) / sigma
    cut, whole = (measure_samples(u, y, seen, x, x, kept) for kept in (inside, seen))
    assert float(cut.misfit) == pytest.approx(1, abs=0.1) and float(whole.misfit) < 0.8
    assert bool(unclipped(y - 0.01, x, torch.tensor(sigma)).all()), "nothing was cut off"
    assert bool(unclipped(y, torch.zeros_like(x), torch.tensor(sigma)).all()), "nothing would be left"
