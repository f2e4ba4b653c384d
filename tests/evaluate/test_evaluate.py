"""Distances, reports and calibration: each passes exact samples and rejects a plausible wrong sampler."""

from __future__ import annotations

import math

import pytest
import torch

from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.calibration import coverage, variance_ratio
from ambient_solve.evaluate.distances import gaussian_report, mcgdiff_problem, sliced_wasserstein
from ambient_solve.priors.gaussian import GaussianPrior


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sliced_wasserstein_of_a_shift() -> None:
    """A shift by t moves every projection by its cosine: |t| in one dimension, |t| 2 / pi on average in the plane."""
    a = torch.randn(500, 1, generator=gen(1))
    assert abs(sliced_wasserstein(a, a.flip(0) - 0.7) - 0.7) < 1e-6
    a = torch.randn(500, 2, 1, generator=gen(2))
    shifted = a + torch.tensor([3.0, 4.0])[:, None]
    # The mean of 5 |cos| over 4000 directions has a standard error of 5 * .31 / sqrt(4000) = .025.
    assert abs(sliced_wasserstein(a, shifted, n_slices=4000) - 5 * 2 / math.pi) < 0.1
    # Control: the root mean square over directions, W2's answer.
    assert abs(sliced_wasserstein(a, shifted, n_slices=4000) - 5 / 2**0.5) > 0.2
    assert sliced_wasserstein(a, a[torch.randperm(500, generator=gen(3))]) < 1e-7
    assert sliced_wasserstein(a, shifted, seed=1) == sliced_wasserstein(a, shifted, seed=1)
    with pytest.raises(AmbientSolveError, match="equal size"):
        sliced_wasserstein(a, a[:10])


def test_sliced_wasserstein_floor() -> None:
    """Two exact sets of 1000 differ by about sqrt(2) / sqrt(1000) = .045 a slice; a shift of .2 stands well above."""
    a, b = torch.randn(2, 1000, 8, generator=gen(4))
    assert 0.01 < sliced_wasserstein(a, b) < 0.06
    assert sliced_wasserstein(a, 1.3 * b) > 0.15
    assert sliced_wasserstein(a, b + 0.2) > 2 * sliced_wasserstein(a, b)


def test_gaussian_report() -> None:
    """alpha = .001 for the mean and for the ratios; the errors are ones that entry-by-entry variances do not show."""
    root = torch.randn(12, 12, generator=gen(5), dtype=torch.float64) / 3
    prior = GaussianPrior(torch.ones(3, 4), root @ root.T + 0.1 * torch.eye(12))
    x, C = prior.sample(4000, gen(6)), prior.covariance
    report = gaussian_report(x, prior.mean, C)
    assert report.passed and abs(report.ratio_mean - 1) < 0.03  # sd sqrt(2 / (4000 * 12)) = .0065
    assert 0.85 < report.ratio_band[0] < 0.95 and 1.05 < report.ratio_band[1] < 1.15
    assert 3.5 < report.z_threshold < 4.5
    assert gaussian_report(x, prior.mean, prior.variance).passed
    independent = prior.variance.sqrt() * torch.randn(4000, 3, 4, generator=gen(7)) + 1
    assert gaussian_report(independent, prior.mean, prior.variance).passed  # right variances,
    assert not gaussian_report(independent, prior.mean, C).passed  # no correlations
    assert not gaussian_report(x + 0.1 * prior.variance.sqrt(), prior.mean, C).passed
    assert not gaussian_report(prior.mean + 0.9 * (x - prior.mean), prior.mean, C).passed


def test_gaussian_report_rate() -> None:
    """At alpha = .2 exact samples fail on the mean or the ratios in at most 40 %, and in more than 20 %, of 200 trials.

    Each of the two tests fails with probability 1 - (1 - .2 / 5)^5 = .185, both independent: .335, deviation .033.
    """
    x = torch.randn(200, 300, 5, generator=gen(8))
    failed = sum(not gaussian_report(t, torch.zeros(5), torch.ones(5), alpha=0.2).passed for t in x) / 200
    assert 0.22 < failed < 0.45


@pytest.mark.parametrize(("d", "dy"), [(8, 1), (8, 4), (80, 2)])
def test_mcgdiff_problem(d: int, dy: int) -> None:
    prior, A, y, sigma_y, posterior = problem = mcgdiff_problem(d, dy, seed=3)
    again = mcgdiff_problem(d, dy, seed=3)
    assert (
        torch.equal(problem.A, again.A)
        and torch.equal(y, again.y)
        and not torch.equal(A, mcgdiff_problem(d, dy, seed=4).A)
    )
    s = torch.linalg.svdvals(A)
    assert A.shape == (dy, d) and y.shape == (dy,) and 0 < sigma_y < s[0] <= 1
    x, x2 = posterior.sample(1000, gen(9)), posterior.sample(1000, gen(10))
    # The posterior predictive residual of the truth's own y: chi^2 / dy is about 1 + spread, never near the prior's.
    chi2 = (((x @ A.T - y) / sigma_y) ** 2).mean()
    assert chi2 < 0.2 * (((prior.sample(1000, gen(11)) @ A.T - y) / sigma_y) ** 2).mean()
    assert sliced_wasserstein(x, x2) < 0.7 < 3 < sliced_wasserstein(x, prior.sample(1000, gen(12)))


def test_posterior_samples_are_calibrated() -> None:
    """Truth and samples of one posterior: V / B is 1 and coverage the level, whatever the number of samples.

    4000 x 6 independent entries: B has a relative error of sqrt(2 / 24000) = .009, V less; coverage .0019 to .0032.
    """
    x = torch.randn(4000, 20, 6, generator=gen(13))
    truth, samples = x[:, 0], x[:, 1:]
    for S in (2, 4, 19):
        assert abs(variance_ratio(samples[:, :S], truth) - 1) < 0.05
    assert abs(coverage(samples, truth, 0.9) - 0.9) < 0.01
    assert abs(coverage(samples[:, :3], truth, 0.5) - 0.5) < 0.015
    assert abs(coverage(samples, truth, 0.75) - 0.75) < 0.015  # between two order statistics
    # Controls: the uncorrected ratio with few samples, plain quantiles, and an overconfident sampler.
    few = samples[:, :4]
    assert abs(float(few.var(1).mean() / ((few.mean(1) - truth) ** 2).mean()) - 0.8) < 0.05
    low, high = samples.quantile(0.05, 1), samples.quantile(0.95, 1)
    assert float(((low <= truth) & (truth <= high)).float().mean()) < 0.87
    assert variance_ratio(0.7 * samples, truth) < 0.6 and coverage(0.7 * samples, truth, 0.9) < 0.8
    with pytest.raises(AmbientSolveError, match="19 samples"):
        coverage(samples[:, :18], truth, 0.9)
    with pytest.raises(AmbientSolveError, match="truth"):
        variance_ratio(samples, truth[:, :3])


def test_variance_ratio_of_an_overfit_sampler() -> None:
    """A sampler with the right mean and a quarter of the variance has V / B = 1/4, in any shape."""
    truth = torch.randn(3000, 2, 3, generator=gen(14))
    samples = 0.5 * torch.randn(3000, 5, 2, 3, generator=gen(15))
    assert abs(variance_ratio(samples, truth) - 0.25) < 0.02
    assert math.isinf(variance_ratio(samples, samples.mean(1)))
