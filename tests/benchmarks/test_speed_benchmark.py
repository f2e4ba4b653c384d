"""The benchmarks of speed and of peers: what they count, in which units the peers run, what their verdicts need."""

from __future__ import annotations

import time

import pytest
import torch
from deepinv.physics import GaussianNoise, Inpainting

import adapters
import speed
from ambient_solve import MMPS, Solver, operators
from ambient_solve.evaluate import exactness
from ambient_solve.priors.base import Prior
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.network import NetworkConfig

SIDE, LEVELS = 24, 3
COUNTS = {
    "proximal": (1, 0),
    "dps": (1, 1),
    "pigdm": (1, 1),
    "mmps": (1, 4),
    "mmps, published, 1 iteration": (1, 1),
    "mmps, published, 3 iterations": (1, 3),
    "deepinv DPS": (1, 1),
    "deepinv DiffPIR": (1, 0),
    "deepinv DDRM": (1, 0),
    "deepinv PiGDM": (1, 1),
    "azula DPS": (1, 1),
    "azula PGDM": (1, 1),
    "azula TMPD": (1, 2),
    "azula MMPS": (1, 2),
    "azula MMPS, 3 iterations": (1, 4),
    "azula DiffPIR": (1, 0),
}
"""Forward and backward passes of a level."""
AZULA = [name for name in COUNTS if name.startswith("azula")]


class Slow(Prior):
    """Spends 2 ms of CPU on the way forth."""

    shape, sigma_min, sigma_max = (1, 4, 4), 0.01, 80.0

    def denoise(self, z, sigma, cond=None):
        ended = time.process_time() + 2e-3
        while time.process_time() < ended:
            pass
        return 0.5 * z


def toy(sigma_max=5.0):
    return speed.network("float32", NetworkConfig(widths=(8, 8), blocks=1, groups=4, embedding=8, sigma_max=sigma_max))


def test_passes_are_counted_however_they_are_asked_for():
    prior, z = adapters.Watched(Slow()), torch.ones(2, 1, 4, 4)
    with torch.no_grad():
        prior.denoise(z, 1.0)
    assert (prior.calls, prior.vjps) == (1, 0)
    _, vjp = prior.denoise_vjp(z, 1.0)
    assert torch.equal(vjp(z), 0.5 * z) and torch.equal(vjp(2 * z), z)
    assert (prior.calls, prior.vjps) == (2, 2)
    _, vjp = torch.func.vjp(lambda x: prior.denoise(x, 1.0), z)
    assert torch.equal(vjp(z)[0], 0.5 * z) and (prior.calls, prior.vjps) == (3, 3)
    leaf = z.clone().requires_grad_()
    (2 * prior.denoise(leaf, 1.0)).sum().backward()
    assert torch.equal(leaf.grad, z) and (prior.calls, prior.vjps) == (4, 4)


def test_only_the_time_inside_the_network_is_called_so():
    prior, z = adapters.Watched(Slow()), torch.ones(1, 1, 4, 4)
    started = time.process_time()
    prior.denoise(z, 1.0)
    assert prior.first >= started and 2e-3 <= prior.inside < 4e-3
    Slow().denoise(z, 1.0)  # elsewhere
    assert prior.inside < 4e-3
    prior.reset()
    assert (prior.calls, prior.vjps, prior.inside) == (0, 0, 0.0)


@pytest.fixture(scope="module")
def runs():
    pytest.importorskip("azula", reason="pip install azula")
    prior, op = adapters.Watched(toy()), speed.TASKS["inpainting"](SIDE)
    y = op(torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)))
    names = (*COUNTS, "deepinv MomentMatching")
    return {name: speed.timed(name, y, op, prior, LEVELS) for name in names}


@pytest.mark.parametrize("name", COUNTS)
def test_passes_of_a_level(runs, name):
    found = runs[name]
    assert (found.calls / LEVELS, found.vjps / LEVELS) == COUNTS[name]
    assert 0 < found.inside <= found.after and found.setup > 0


def test_the_same_iterate_costs_the_peer_more_passes(runs):
    ours, theirs = runs["mmps, published, 3 iterations"], runs["deepinv MomentMatching"]
    assert ours.vjps < theirs.vjps <= 5 * LEVELS  # k + 2, or fewer where its solver stops early


def test_rivals_and_methods_exist():
    assert set(speed.RIVALS) <= {*speed.METHODS, "ddrm", "tmpd"} and set(COUNTS) <= set(speed.METHODS)
    assert {rival for rivals in speed.RIVALS.values() for rival in rivals} <= set(speed.THEIRS)


def test_the_levels_of_the_benchmark_all_pay_for_the_jacobian():
    op = operators.denoise((3, SIDE, SIDE), sigma=0.1)
    y = op(torch.rand(1, 3, SIDE, SIDE))
    wide = speed.timed("mmps", y, op, adapters.Watched(toy(sigma_max=80.0)), LEVELS)
    assert wide.vjps < 4 * LEVELS  # the control: with the levels of the embedded prior some are free


def test_rows_and_what_cannot_run():
    methods = ["proximal", "deepinv DDRM"]
    rows = speed.measure(toy(), ["inpainting", "super-resolution"], methods, levels=2, rounds=2, side=SIDE)
    assert [(r["task"], r["method"], "skipped" in r) for r in rows] == [
        ("inpainting", "proximal", False),
        ("inpainting", "deepinv DDRM", False),
        ("super-resolution", "proximal", False),
        ("super-resolution", "deepinv DDRM", True),
    ]
    assert all(len(rows[0][key]) == 2 for key in ("network", "forward", "both", "setup"))
    text = speed.table(rows)
    assert text.count("\n## ") == 2 and "needs a DecomposablePhysics" in text


def row(method, network, counts=(1, 0)):
    return {
        "precision": "float32",
        "task": "fft blur",
        "method": method,
        "calls": counts[0],
        "vjps": counts[1],
        "network": network,
        "seconds": {"forward": [0.03], "both": [0.06]},
    }


def test_verdicts():
    rows = [
        row("proximal", [1.01, 1.02, 1.9]),
        row("deepinv DiffPIR", [1.2]),
        row("dps", [1.05], (1, 1)),
        row("azula DPS", [1.0], (1, 1)),
        row("mmps", [1.0], (1, 5)),
    ]
    assert speed.cost(rows[2]) == pytest.approx(2.1)  # F + B = 2 F here
    verdicts = [(holds, text.split(":")[0].split(",")[0]) for holds, text in speed.targets(rows)]
    assert verdicts == [(True, "proximal"), (True, "proximal"), (False, "dps"), (False, "dps"), (False, "mmps")]


EXACT = (0.759, 0.0928)
"""Mean and deviation of x ~ N(.5, .25^2) given y = x + N(0, .1^2) = .8."""


def denoised(name, span=1.0, sigma=0.1):
    prior = GaussianPrior(
        torch.zeros(1, 2, 2),
        0.25 * torch.eye(4),
        scale=0.5,
        offset=0.5,
        sigma_min=0.005,
        sigma_max=40.0,
        sigma_data=0.5,
    )
    op = Inpainting((1, 2, 2), mask=torch.ones(1, 2, 2), noise_model=GaussianNoise(sigma))
    y = torch.full((1, 1, 2, 2), 0.8)
    x = adapters.PEERS[name].prepare(y, op, prior, 300, 1, levels=60, span=span)()
    assert x.shape == (300, 1, 2, 2) and bool((y == 0.8).all()) and float(op.noise_model.sigma) == pytest.approx(sigma)
    return float(x.mean()), float(x.var()) / EXACT[1] ** 2


@pytest.mark.parametrize("name", ["deepinv MomentMatching", "azula TMPD", "azula MMPS"])
@pytest.mark.parametrize("span", [1.0, 3.0])
def test_a_sane_sampler_finds_the_mean_in_every_unit(name, span):
    if name.startswith("azula"):
        pytest.importorskip("azula", reason="pip install azula")
    assert denoised(name, span)[0] == pytest.approx(EXACT[0], abs=0.01)
    assert denoised(name, span, sigma=0.05)[0] > EXACT[0] + 0.02  # the control: a noise level in the wrong units


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("deepinv DPS", 6.6), ("deepinv DiffPIR", 1.96), ("deepinv DiffPIR, lambda 1, zeta 1", 0.23)],
)
def test_known_faults_of_peers_show_as_they_were_measured_elsewhere(name, ratio):
    """Variance over the exact one, recorded with the package called by hand in [0, 1]."""
    assert denoised(name)[1] == pytest.approx(ratio, rel=0.25)


def test_any_sampler_is_measured_as_an_algorithm_is():
    ours = MMPS(steps=3)

    def draw(y, op, prior, n, seed):
        return Solver(prior, ours).solve(y, op, n_samples=n, seed=seed).samples[0]

    theirs, own = (exactness.on_gaussian(sampler, "blur", 8, problems=3) for sampler in (draw, ours))
    assert theirs.agrees(own, 1e-3)  # alone or in a batch, up to rounding
    assert not theirs.agrees(exactness.on_gaussian(draw, "blur", 8, problems=3, seed=5), 1e-3)  # control
    assert exactness.on_mixture(draw, 8, 2, [1], 20) == exactness.on_mixture(ours, 8, 2, [1], 20)
