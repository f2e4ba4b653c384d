"""SBC, TARP, C2ST and the law of the misfit: exact samples pass each of them, and each wrong sampler fails one."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, PoissonNoise
from scipy.stats import binom, chi2, chisquare, kstest

from ambient_solve.algorithms.dps import DPS
from ambient_solve.algorithms.mmps import MMPS
from ambient_solve.algorithms.tds import TDS
from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.calibration import histogram, misfit_law, rank, sbc_ranks, tarp_ranks, uniformity
from ambient_solve.evaluate.distances import mcgdiff_problem
from ambient_solve.evaluate.exactness import gaussian_operator, gaussian_prior, matrix_operator
from ambient_solve.evaluate.simulation import SolverSampler, check_sampler
from ambient_solve.evaluate.two_sample import c2st
from ambient_solve.priors.gaussian import GaussianPrior, dense
from ambient_solve.solver import Solver
from helpers import one_sentence, randn

SHAPE, SIGMA_Y = (1, 2, 3), 0.05
CERTAIN = 1e-4
"""What is wrong must fall below it, what is exact must stay above .01 in all tests together (`Calibration.p`)."""


def small():
    """A picture of six correlated pixels, of which two numbers are measured."""
    root = randn(6, 6) / 2.5
    levels = {"sigma_min": 0.01, "sigma_max": 20.0, "sigma_data": 0.5}
    prior = GaussianPrior(torch.zeros(SHAPE), root @ root.T + 0.05 * torch.eye(6), scale=0.5, offset=0.5, **levels)
    return prior, matrix_operator(randn(2, 6, seed=1) / 2, SIGMA_Y, SHAPE)


def exact(prior, op, shrink=1.0, shift=0.0):
    """The posterior itself; `shrink` and `shift` (in its deviations) make it wrong."""
    A = dense(op, prior.shape)

    def sampler(y, op, n_samples, seed):
        generator, drawn = torch.Generator().manual_seed(seed), []
        for one in y:
            posterior = prior.posterior(A, one, float(op.noise_model.sigma))
            z, mean = posterior.sample(n_samples, generator), posterior.mean.float()
            drawn.append(mean + shrink * (z - mean) + shift * posterior.variance.sqrt().float())
        return prior.decode(torch.stack(drawn))

    return sampler


def test_rank_counts_what_lies_below_and_breaks_ties_evenly():
    samples = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0], [1.0, 5.0, 3.0]])
    assert rank(samples, torch.tensor([0.0, 4.0, 9.0])).tolist() == [0, 2, 3]
    tied = rank(torch.zeros(4000, 3), torch.zeros(4000))
    assert uniformity(tied, 3) > 0.01 and uniformity(tied.clamp_max(2), 3) < CERTAIN
    with pytest.raises(AmbientSolveError, match="numbers") as error:
        rank(samples, torch.zeros(2))
    assert one_sentence(error)


def test_uniformity_rejects_as_often_as_it_says():
    """400 sets of uniform ranks: p < .1 in 40 of them, deviation 6; unequal bins (24 ranks in 20) change nothing."""
    for n_samples in (19, 23, 9):
        p = [uniformity(torch.randint(n_samples + 1, (200,), generator=gen(i)), n_samples) for i in range(400)]
        assert 16 < sum(value < 0.1 for value in p) < 64
    # The control: 24 ranks in 20 bins, taken as equally wide.
    ranks = torch.randint(24, (20_000,), generator=gen(0))
    counts = histogram(ranks, 23).double()
    assert uniformity(ranks, 23) > 0.01 and chi2.sf(float(((counts - 1000) ** 2 / 1000).sum()), 19) < CERTAIN


@pytest.mark.parametrize(("n", "n_samples"), [(200, 19), (200, 23), (60, 9), (40, 1), (400, 99)])
def test_uniformity_is_the_chi_square_test_of_scipy(n, n_samples):
    """Ranks dealt out to bins one by one; one bin fewer is a degree of freedom."""
    bins = min(n_samples + 1, 20, n // 5)
    of_rank = [bins * r // (n_samples + 1) for r in range(n_samples + 1)]
    ranks = torch.cat([torch.randint(n_samples + 1, (n - 4,), generator=gen(n)), torch.zeros(4, dtype=torch.long)])
    found = [sum(of_rank[int(r)] == b for r in ranks) for b in range(bins)]
    expected = [n * of_rank.count(b) / (n_samples + 1) for b in range(bins)]
    assert histogram(ranks, n_samples).tolist() == found
    wanted = chisquare(found, expected).pvalue
    assert uniformity(ranks, n_samples) == pytest.approx(wanted, rel=1e-6)
    # The control: one degree of freedom more.
    assert abs(chi2.sf(chisquare(found, expected).statistic, bins) - wanted) > 1e-3


def gen(seed):
    return torch.Generator().manual_seed(seed)


def test_uniformity_rejects_narrow_wide_and_shifted_samples():
    x = randn(200, 20)
    assert uniformity(rank(x[:, 1:], x[:, 0]), 19) > 0.01
    for wrong in (0.5 * x, 2.0 * x, x + 0.7):
        assert uniformity(rank(wrong[:, 1:], x[:, 0]), 19) < CERTAIN
    with pytest.raises(AmbientSolveError, match="10 images or more"):
        uniformity(torch.zeros(9, dtype=torch.long), 19)


def test_sbc_sees_what_its_statistic_sees():
    """Right in each entry, wrong in the correlation: the sum shows it, one entry does not."""
    common = randn(300, 20, 1)
    x, apart = common + 0.3 * randn(300, 20, 5, seed=1), 1.044 * randn(300, 20, 5, seed=2)
    statistics = {"entry": lambda v: v[..., 0], "sum": lambda v: v.sum(-1)}
    right = sbc_ranks(x[:, 1:], x[:, 0], statistics)
    wrong = sbc_ranks(apart[:, 1:], x[:, 0], statistics)
    assert min(uniformity(r, 19) for r in (*right.values(), wrong["entry"])) > 0.01
    assert uniformity(wrong["sum"], 19) < CERTAIN


def test_tarp_needs_points_that_know_the_measurement():
    """y = x + n: draws of the prior ignore it. Points without `y` cannot see that, points with it do."""
    truth, y = randn(400, 3), None
    y = truth + 0.5 * randn(400, 3, seed=1)
    mean, deviation = y / 1.25, 0.2**0.5
    good = mean[:, None] + deviation * randn(400, 19, 3, seed=2)
    ignorant, narrow = randn(400, 19, 3, seed=3), mean[:, None] + 0.5 * (good - mean[:, None])
    assert uniformity(tarp_ranks(good, truth), 19) > 0.01 and uniformity(tarp_ranks(good, truth, y), 19) > 0.01
    assert uniformity(tarp_ranks(ignorant, truth), 19) > 0.01
    assert uniformity(tarp_ranks(ignorant, truth, y), 19) < CERTAIN
    assert uniformity(tarp_ranks(narrow, truth), 19) < CERTAIN
    with pytest.raises(AmbientSolveError, match="truth"):
        tarp_ranks(good, truth[:, :2])


@pytest.mark.parametrize("n", [10, 200])
def test_misfit_law_is_the_test_of_kolmogorov_and_smirnov(n):
    values = randn(n, 12).square().sum(1)
    for scale in (1.0, 0.8, 1.5):
        wanted = kstest((scale * values).numpy(), chi2(12).cdf).pvalue
        assert abs(misfit_law(scale * values, 12) - wanted) < 0.025
    # Another number of degrees of freedom, that of all entries where half are seen, is the plausible mistake.
    assert misfit_law(randn(200, 12).square().sum(1), 24) < CERTAIN


def test_c2st_is_a_half_for_one_law_and_more_for_two():
    """400 held-out points: .5 with deviation .025. The errors are a scale, a correlation and a missing mode.

    In 20 dimensions the network learns its 320 points by heart: an accuracy on those would be far above a half.
    """
    a, b = randn(200, 4, 5), randn(200, 4, 5, seed=1)
    same = c2st(a, b)
    assert abs(same.accuracy - 0.5) < 0.08 and same.p > 0.01 and c2st(a, b) == same
    a, b = randn(300, 2, 2), randn(300, 2, 2, seed=1)
    mixed = a.clone()
    mixed[:, 0, 0] = 0.6 * a[:, 0, 0] + 0.8 * a[:, 1, 1]
    bimodal = torch.where(randn(300, 2, 2, seed=2) > 0, 2.0, -2.0) + 0.3 * a
    for first, second in ((0.6 * a, b), (mixed, b), (bimodal, 2.0 * b), (a * 1e-3 + 5, b * 2e-3 + 5)):
        found = c2st(first, second)
        assert found.p < CERTAIN and found.accuracy > 0.58
        assert found.p == pytest.approx(binom.sf(round(600 * found.accuracy) - 1, 600, 0.5), rel=1e-6)
    with pytest.raises(AmbientSolveError, match="one size") as error:
        c2st(a, b[:50])
    assert one_sentence(error)


def test_exact_draws_pass_and_wrong_ones_fail():
    prior, op = small()
    good = check_sampler(exact(prior, op), prior, op)
    assert good.p > 0.01 and set(good.p_values) == {*good.ranks, "chi2", "c2st"}
    assert abs(good.variance_ratio - 1) < 0.15 and abs(good.coverage[0.9] - 0.9) < 0.03
    assert abs(good.chi2 - 1) < 4.5 * good.chi2_error and good.exact.bias < 0.1 and good.network_calls is None
    assert float((good.exact.ratios - 1).abs().max()) < 0.12  # deviation sqrt(2 / 3600) = .024
    narrow = check_sampler(exact(prior, op, shrink=0.5), prior, op)
    assert max(narrow.p_values[name] for name in ("log p", "tarp", "chi2", "c2st")) < CERTAIN
    assert abs(float(narrow.exact.ratios.mean()) - 0.25) < 0.02 and narrow.chi2 < 0.8 and narrow.exact.bias < 0.1
    shifted = check_sampler(exact(prior, op, shift=0.5), prior, op)
    assert shifted.p < CERTAIN and shifted.exact.bias > 0.4 and abs(float(shifted.exact.ratios.mean()) - 1) < 0.1


def test_samples_that_ignore_the_measurement_fail():
    """They pass SBC with statistics that do not see it; the misfit and TARP do."""
    prior, op = small()

    def ignorant(y, op, n_samples, seed):
        return prior.decode(prior.sample(len(y) * n_samples, gen(seed)).reshape(len(y), n_samples, *SHAPE))

    found = check_sampler(ignorant, prior, op, problems=600)
    assert min(found.p_values[name] for name in ("mean", "norm", "pixel", "log p")) > 0.01
    assert max(found.p_values[name] for name in ("misfit", "tarp", "chi2")) < CERTAIN


def test_converged_mmps_passes():
    prior, op = small()
    found = check_sampler(Solver(prior, MMPS(steps=30, iterations=2)), prior, op, n_samples=9)
    assert found.p > 0.01 and found.network_calls >= 30 and found.vjps >= 60


def test_dps_fails():
    prior, op = gaussian_prior(), gaussian_operator("blur")
    found = check_sampler(Solver(prior, DPS(steps=50)), prior, op, n_samples=9)
    assert min(found.p_values[name] for name in found.ranks if name != "tarp") < CERTAIN
    assert max(found.p_values[name] for name in ("tarp", "chi2", "c2st")) < CERTAIN


def test_particles_of_one_set_are_not_independent_samples():
    """tds: one particle of each of several sets passes; the particles of one set, related, give ranks too extreme."""
    problem = mcgdiff_problem(8, 2, seed=0)
    op, solver = matrix_operator(problem.A, problem.sigma_y, (8,)), Solver(problem.prior, TDS(steps=40))

    def one_set(y, op, n_samples, seed):
        seeds = [1000 * seed + i for i in range(len(y))]
        return solver.solve(y, op, n_samples=n_samples, seed=seeds).samples

    assert check_sampler(solver, problem.prior, op, problems=40, n_samples=9, particles=8).p > 0.01
    assert check_sampler(one_set, problem.prior, op, n_samples=9).p < CERTAIN


def test_the_kept_particle_is_any_of_its_set():
    """Systematic resampling sorts particles by ancestor: a fixed slot would favour the first ones."""
    prior, op = small()
    sampler = SolverSampler(Solver(prior, TDS(steps=30)), particles=4)
    y = op.A(prior.decode(prior.sample(3, gen(0)))).repeat(20, 1)
    kept = sampler(y, op, 2, 5)
    seeds = [5 * 1_000_000 + i for i in range(120)]
    sets = sampler.solver.solve(y.repeat_interleave(2, 0), op, n_samples=4, seed=seeds).samples
    slots = (sets == kept.flatten(0, 1)[:, None]).flatten(2).all(2)
    # 120 sets of 4: 30 for each slot, deviation 4.7, and those that hold one particle several times.
    assert bool(slots.any(1).all()) and all(12 < int(n) < 70 for n in slots.sum(0))
    assert sampler.network_calls == 4 * 30  # a sample costs its whole set


def test_every_image_has_noise_of_its_own():
    prior, op = small()
    y = op.A(prior.decode(prior.sample(1, gen(0)))).repeat(3, 1)
    samples = SolverSampler(Solver(prior, MMPS(steps=3)))(y, op, 2, 0).flatten(0, 1)
    assert len({tuple(x.flatten().tolist()) for x in samples}) == 6
    seen = []

    def spy(y, op, n_samples, seed):
        seen.append((seed, len(y)))
        return exact(prior, op)(y, op, n_samples, seed)

    done = []
    check_sampler(spy, prior, op, problems=25, n_samples=9, batch=10, tick=done.append)
    assert [n for _, n in seen] == done == [10, 10, 5] and len({s for s, _ in seen}) == 3


def test_what_it_refuses():
    prior, op = small()
    with pytest.raises(AmbientSolveError, match="problems=5") as error:
        check_sampler(exact(prior, op), prior, op, problems=5)
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match=r"\(images, samples, C") as error:
        check_sampler(lambda y, op, n, seed: torch.zeros(len(y), *SHAPE), prior, op)
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="diverged") as error:
        check_sampler(lambda y, op, n, seed: torch.full((len(y), n, *SHAPE), torch.nan), prior, op)
    assert one_sentence(error)
    for noiseless in (Denoising(GaussianNoise(0.0)), Denoising(PoissonNoise(0.1))):
        with pytest.raises(AmbientSolveError, match="noise level above 0"):
            check_sampler(exact(prior, op), prior, noiseless)
