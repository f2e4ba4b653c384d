"""Every algorithm against the exact posterior, its recorded distance from it, and what it costs."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch

from ambient_solve import ADPS, ALGORITHMS, DAPS, DDNM, DPS, MMPS, TDS, PiGDM, Proximal, Solver
from ambient_solve.algorithms.base import Guided
from ambient_solve.evaluate.distances import mcgdiff_problem
from ambient_solve.evaluate.exactness import (
    GAUSSIAN,
    gaussian_operator,
    gaussian_prior,
    matrix_operator,
    on_gaussian,
    on_mixture,
)
from ambient_solve.process import Additive, ancestral_noise, karras, log_linear
from exactness import ALGORITHMS as MEASURED
from exactness import SHORT
from samplers import RECORD, agrees, calls

# Those that claim exactness have tests of their own; those without a row in SHORT are fast enough as they are.
EXACT = ["auto", "tds", "mmps, 100 levels, k = 12"]
SLOW = ["fps", "mgps", "pnpdm", "reddiff", "sitcom", "tmpd"]
ROWS = {name: a for name, a in (MEASURED | SHORT).items() if name not in EXACT + SLOW}
SETTINGS = (ADPS, DAPS, DDNM, DPS, MMPS, PiGDM, Proximal)
"""Whose changed settings are tried here; the others have a file of their own."""
CASES = [(name, operator) for name in ROWS for operator in RECORD[name]["gaussian"]]


def worse(algorithm):
    """A plausible mistake in a setting of each method."""
    if isinstance(algorithm, DPS | ADPS):
        return dataclasses.replace(algorithm, **{"zeta": 2.0} if isinstance(algorithm, DPS) else {"l_ss": 0.6})
    if isinstance(algorithm, MMPS):
        return dataclasses.replace(algorithm, covariance_noise=not algorithm.covariance_noise)
    if isinstance(algorithm, PiGDM):
        return dataclasses.replace(algorithm, width=2.0)
    if isinstance(algorithm, DDNM):
        return dataclasses.replace(algorithm, eta=0.5)
    if isinstance(algorithm, DAPS):
        return dataclasses.replace(algorithm, width=0.5)
    flipped = {"mean": True} if algorithm.draw else {}
    return (
        dataclasses.replace(algorithm, draw=not algorithm.draw) if flipped or algorithm.trust != "data" else algorithm
    )


def exact(algorithm, operator):
    """As exact as the draws of 16 measurements can tell: error of the mean, variance, distance."""
    e = on_gaussian(algorithm, operator)
    print(f"\n{operator}: {e}")
    return abs(e.z) < 4.4 and abs(e.ratio.value - 1) < 0.05 and e.excess.value < 4.4 * e.excess.error


@pytest.mark.parametrize(("name", "operator"), CASES)
def test_on_other_problems_it_is_as_far_from_the_exact_posterior_as_recorded(name, operator):
    assert agrees(ROWS[name], operator, name)


@pytest.mark.parametrize("name", [name for name, a in ROWS.items() if isinstance(a, SETTINGS)])
def test_a_changed_setting_is_elsewhere(name):
    assert not agrees(worse(ROWS[name]), "mask", name)


@pytest.mark.parametrize("operator", GAUSSIAN)
def test_converged_mmps_is_exact_on_gaussians(operator):
    assert exact(MMPS(steps=100, iterations=12), operator)


@pytest.mark.parametrize("operator", GAUSSIAN)
def test_tds_is_exact_on_gaussians(operator):
    e = on_gaussian(TDS(steps=150), operator, 48, problems=3)
    print(f"\n{operator}: {e}")
    # Resampled particles are not independent: their means differ more, and their variance is a little smaller.
    assert e.bias < 0.3 and abs(e.ratio.value - 1) < 0.1 and e.distance.value < 1.4 * e.floor.value


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.85])
def test_mmps_keeps_the_variance_at_every_eta(eta):
    """The share of the fluctuation is the coefficient of z0 in the kernel, not only that of eta = 1."""
    e = on_gaussian(MMPS(steps=50, iterations=12, eta=eta), "mask")
    assert abs(e.ratio.value - 1) < 0.06 and abs(e.excess.value) < 4.4 * e.excess.error


@dataclass(frozen=True, kw_only=True)
class WithoutJacobian(Guided):
    """The negative control: moment matching with the identity in place of the Jacobian."""

    name = "without-jacobian"
    paper = "none"

    def guide(self, prior, likelihood, z, sigma):
        z0 = prior.denoise(z, sigma)
        _, shift = likelihood.solve_carrying(lambda v: sigma**2 * v, likelihood.residual(z0), 12)
        return z0 + shift


@pytest.mark.parametrize("operator", ["mask", "dense"])
def test_without_the_jacobian_it_is_not_exact(operator):
    e = on_gaussian(WithoutJacobian(steps=300), operator)
    assert e.z > 10 and e.excess.value > 6 * e.excess.error


def test_the_published_mmps_converges_in_the_number_of_levels():
    rules = [MMPS(steps=steps, iterations=12, covariance_noise=False) for steps in (25, 50, 100, 200)]
    ratios = [on_gaussian(rule, "mask").ratio.value for rule in rules]
    errors = [1 - r for r in ratios]
    assert all(later < 0.65 * earlier for earlier, later in zip(errors, errors[1:], strict=False))


# The mixture protocol (arXiv 2308.07983), distances averaged over the problems.


def distances(algorithm, d, dy, problems):
    rows = on_mixture(algorithm, d, dy, range(problems))
    found, floor = (torch.tensor([row[i] for row in rows]) for i in (0, 1))
    name = algorithm if isinstance(algorithm, str) else algorithm.name
    middle = f"mean {found.mean():.3f}, median {found.median():.3f}, floor {floor.mean():.3f}"
    print(f"{name} ({d}, {dy}), {problems} problems: {middle}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("d", [8, 80])
def test_mmps_on_the_mixture_protocol(d):
    """Steps taken twice forget part of their error: at equal cost the once-taken ones do not pass."""
    twice, once = (distances(a, d, 4, 20).mean() for a in (MMPS(steps=13, time_travel=1), MMPS(steps=25)))
    assert twice <= 0.35 and twice < 0.85 * once


@pytest.mark.parametrize("operator", GAUSSIAN)
def test_taking_steps_back_keeps_the_exact_posterior(operator):
    assert exact(MMPS(steps=50, iterations=12, time_travel=1), operator)


@pytest.mark.slow
@pytest.mark.parametrize(("dy", "ceiling"), [(1, 0.6), (2, 0.3), (4, 0.12)])
def test_tds_on_the_mixture_protocol(dy, ceiling):
    assert distances(TDS(steps=100), 8, dy, 12).mean() <= ceiling


@pytest.mark.parametrize(("cell", "problems"), [((8, 1), 6), ((8, 4), 6), ((80, 2), 3)])
def test_the_default_is_not_behind_mmps_at_no_more_cost(cell, problems):
    """Where mmps taken twice is behind it (80, 2), and where that is best (8, 4)."""
    auto, mmps = (distances(a, *cell, problems).mean() for a in ("auto", MMPS()))
    assert auto <= 1.05 * mmps
    if cell == (8, 1):
        assert auto < 0.5 * mmps
    problem = mcgdiff_problem(*cell, 0)
    op = matrix_operator(problem.A, problem.sigma_y, cell[:1])
    runs = [Solver(problem.prior, a).solve(problem.y[None], op, n_samples=64) for a in ("auto", MMPS())]
    default, once = (r.network_calls + r.vjps for r in runs)
    assert default <= once


@pytest.mark.slow
@pytest.mark.parametrize("dy", [1, 2, 4])
def test_tds_comes_near_the_floor(dy):
    found, floor = torch.tensor(on_mixture(TDS(), 8, dy, range(100, 106))).mean(0)
    print(f"tds (8, {dy}): {found:.3f}, floor {floor:.3f}")
    assert found < 2 * floor
    # The control: so few levels that a trajectory cannot follow the modes apart.
    assert torch.tensor(on_mixture(TDS(steps=12), 8, dy, range(100, 106))).mean(0)[0] > 2 * floor


def test_the_jacobian_free_rules_fail_on_the_mixture_protocol():
    """The ceiling is not one that anything passes."""
    assert distances(WithoutJacobian(steps=50), 8, 4, 4).median() > 0.6
    assert distances(Proximal(steps=50), 80, 4, 2).median() > 3


# Costs.


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (Proximal(steps=7), (7, 0)),
        (Proximal.flower(steps=7), (7, 0)),
        (DDNM(steps=7), (7, 0)),
        (DPS(steps=7), (7, 7)),
        (PiGDM(steps=7), (7, 7)),
        (MMPS(steps=7, iterations=1, covariance_noise=False), (7, 7)),
        (MMPS(steps=7, iterations=4, covariance_noise=False), (7, 28)),
        (MMPS(steps=7, iterations=4), (7, 35)),
        (MMPS(steps=7, iterations=4, time_travel=2), (19, 95)),
        (DAPS(steps=7, ode_steps=3), (21, 0)),
        (TDS(steps=7, twist="isotropic"), (7, 7)),
    ],
    ids=lambda a: getattr(a, "name", None),
)
def test_network_calls(algorithm, expected):
    assert calls(algorithm) == expected


def test_mmps_spends_no_vjp_above_the_trusted_jacobian():
    prior, op = gaussian_prior(), gaussian_operator("mask")
    prior.sigma_jacobian = 1.0
    algorithm = MMPS(steps=20, iterations=2, covariance_noise=False)
    below = sum(0 < sigma <= 1.0 for sigma in algorithm.levels(prior))
    r = Solver(prior, algorithm).solve(op.A(torch.zeros(1, 1, 6, 6)), op, n_samples=1)
    assert (r.network_calls, r.vjps) == (20, 2 * below) and 0 < below < 20


# The settings of one rule.


def test_diffpir_dds_and_flower_are_settings_of_proximal():
    assert Proximal.diffpir(lambda_=3.0) == Proximal(steps=100, trust="sigma", lambda_=3.0, kernel="loose", zeta=0.3)
    assert Proximal.dds(gain=2.0) == Proximal(trust="constant", gain=2.0, kernel="ancestral", eta=0.85)
    assert Proximal.flower().draw and Proximal.flower().zeta == 1.0


def test_every_algorithm_names_itself():
    assert all(name == cls.name and cls.paper for name, cls in ALGORITHMS.items())


# Grids and the reverse kernel.


@pytest.mark.parametrize("grid", [karras, log_linear])
def test_grids_decrease_to_exactly_zero(grid):
    levels = grid(10, 0.01, 80.0)
    assert len(levels) == 11 and levels[-1] == 0.0
    assert math.isclose(levels[0], 80.0) and math.isclose(levels[-2], 0.01)
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    assert grid(1, 0.01, 80.0)[1:] == [0.0]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_reverse_kernel_keeps_the_level_of_the_noise(eta):
    """Given the true clean image the next state holds noise of exactly the next level."""
    from ambient_solve.noise import Streams

    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(200_000, 1, generator=generator)
    z = z0 + 2.0 * torch.randn(200_000, 1, generator=generator)
    streams = Streams([0], 1)
    moved = Additive().reverse(z.T, z0.T, 2.0, 1.2, ancestral_noise(2.0, 1.2, eta), streams.normal(z.T)).T
    assert abs(float((moved - z0).std()) / 1.2 - 1) < 0.01
    # The control: fresh noise on top, without taking old noise away.
    wrong = z0 + 0.6 * (z - z0) + ancestral_noise(2.0, 1.2, 1.0) * torch.randn(200_000, 1, generator=generator)
    assert abs(float((wrong - z0).std()) / 1.2 - 1) > 0.05
