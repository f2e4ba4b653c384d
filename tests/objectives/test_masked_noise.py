"""Masked and noisy samples alone teach every entry at every level, and no objective divides by a level that is 0."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, Objective
from ambient_solve.objectives.consistency import WHERE, Consistency
from ambient_solve.objectives.denoise import WEIGHTS, Denoise, buffer
from ambient_solve.objectives.gsure import GSURE
from ambient_solve.objectives.kspace import KSpace
from ambient_solve.objectives.masked import Masked, project
from ambient_solve.transforms import hartley
from helpers import DECISIVE, NULL, Draws, rand, randn, standard_errors
from test_masked import SIDE, SIZE, bernoulli, make_batch, smooth

ROWS, NOISE, LOWEST = 12_000, 0.3, 0.05
COVARIANCE = smooth(3.0, 0.6)


def exact(z: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
    """`E[z0 | A~ z_sigma, A~]` of `z0 ~ N(0, COVARIANCE)`, on all entries: kriging."""
    seen, flat = cond.flatten(1).double(), z.flatten(1).double()
    noisy = COVARIANCE + torch.eye(SIZE) * sigma.double()[:, None, None] ** 2
    root = torch.linalg.cholesky(seen[:, :, None] * noisy * seen[:, None] + torch.diag_embed(1 - seen))
    white = torch.cholesky_solve((seen * flat)[..., None], root)[..., 0]
    return (white @ COVARIANCE).float().reshape(z.shape)


def wrong_below(change):
    """Right above the noise of the data, where they hold it, and `change(D, z, sigma, cond)` below."""

    def denoise(z: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        d = exact(z, sigma, cond)
        return torch.where(per_sample(sigma < NOISE, z), change(d, z, sigma, cond), d)

    return denoise


WRONG = {
    "5 % smaller": lambda d, z, s, k: 0.95 * d,
    "hidden ones 25 % larger": lambda d, z, s, k: d + 0.25 * (1 - k) * d,
    "hidden ones left empty": lambda d, z, s, k: k * d,
    "mask not believed": lambda d, z, s, k: exact(z, s, torch.ones_like(k)),
    "given twice the level": lambda d, z, s, k: exact(z, 2 * s, k),
}


def masked_and_noisy(sigma: float = 0.5) -> Batch:
    draws = Draws(4)
    z0 = draws.normal(torch.empty(ROWS, SIZE, dtype=torch.float64)) @ torch.linalg.cholesky(COVARIANCE).T
    return make_batch(z0, bernoulli(ROWS, 0.6, seed=5), sigma, sigma_noise=NOISE)


def term(objective: Consistency, denoise, batch: Batch, seed: int = 2) -> Tensor:
    """The consistency term alone, (B,)."""
    both = objective.loss(denoise, batch, Draws(seed))
    return both - replace(objective, consistency=0.0).loss(denoise, batch, Draws(seed))


@pytest.mark.parametrize("where", ["below", "boundary"])
def test_exact_mean_of_masked_and_noisy_data_is_consistent_and_every_wrong_one_is_not(where):
    objective = Consistency(where=where, mask_channels=1, consistency=1.0, sigma_min=LOWEST, sigma_data=0.8)
    batch = masked_and_noisy()
    found = term(objective, exact, batch)
    null = float(found.mean() / found.std() * math.sqrt(ROWS))
    print(f"\n{where}: the term of the exact mean is {null:.1f} standard errors from 0")
    assert abs(null) < NULL
    for name, change in WRONG.items():
        lead = standard_errors(term(objective, wrong_below(change), batch))
        print(f"{name}: {lead:.1f}")
        assert lead > DECISIVE, name


def test_control_without_the_term_nothing_holds_the_levels_below_the_noise():
    batch, objective = masked_and_noisy(), Masked()
    right = objective.loss(exact, batch, Draws(2))
    assert all(torch.equal(objective.loss(wrong_below(change), batch, Draws(2)), right) for change in WRONG.values())


def test_control_a_run_that_sees_hidden_entries_is_not_consistent():
    """What the objective would ask for if a run were shown entries that its start was not."""
    objective = Consistency(where="boundary", mask_channels=1, consistency=1.0, sigma_min=LOWEST, sigma_data=0.8)
    batch, calls = masked_and_noisy(), []

    def shown_more(z: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        calls.append(len(z))
        more = torch.maximum(cond, (rand(*cond.shape, seed=len(calls)) < 0.5).float()) if len(z) > ROWS else cond
        return exact(z, sigma, more)

    assert standard_errors(term(objective, shown_more, batch)) > DECISIVE and max(calls) == 2 * ROWS


def test_coefficients_are_consistent_too():
    signs = (2.0 * (rand(1, 1, SIDE, SIDE, seed=6) > 0.5) - 1).expand(ROWS, 1, SIDE, SIDE)
    basis = hartley(torch.eye(SIZE).reshape(-1, 1, SIDE, SIDE)).reshape(SIZE, SIZE).double() * signs[0].flatten()
    domain = basis @ COVARIANCE @ basis.T
    batch = masked_and_noisy()
    whole = replace(
        batch,
        mask=None,
        z=make_batch(
            Draws(4).normal(torch.empty(ROWS, SIZE, dtype=torch.float64)) @ torch.linalg.cholesky(COVARIANCE).T,
            None,
            0.5,
            NOISE,
        ).z,
    )
    batch = replace(whole, z=project(whole.z, batch.mask, signs), mask=batch.mask, signs=signs)

    def mean(z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        c = z.flatten(1).double() @ basis.T
        seen = (c.abs() > 1e-5).double()
        noisy = domain + torch.eye(SIZE) * sigma.double()[:, None, None] ** 2
        root = torch.linalg.cholesky(seen[:, :, None] * noisy * seen[:, None] + torch.diag_embed(1 - seen))
        white = torch.cholesky_solve((seen * c)[..., None], root)[..., 0]
        return (white @ domain @ basis).float().reshape(z.shape)

    objective = Consistency(consistency=1.0, sigma_min=LOWEST, sigma_data=0.8)
    assert abs(standard_errors(term(objective, mean, batch))) < NULL

    def smaller(z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        return per_sample(torch.where(sigma < NOISE, 0.95, 1.0), z) * mean(z, sigma)

    assert standard_errors(term(objective, smaller, batch)) > DECISIVE


def small() -> Batch:
    mask = (rand(6, 1, 4, 4, seed=1) > 0.4).float()
    zero = torch.zeros(6)
    return Batch(mask * randn(6, 1, 4, 4), zero + 0.6, zero + NOISE, zero, zero, mask)


class Net(torch.nn.Module):
    """Linear in what it is given, with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, z: Tensor, sigma: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.a * z + (0 if cond is None else 0.1 * cond[:, :1])


@pytest.mark.parametrize("where", WHERE)
def test_weight_zero_is_masked_bit_for_bit(where):
    batch, net = small(), Net()
    expected = Masked().loss(net, batch, Streams(range(6), 1))
    off = Consistency(where=where, mask_channels=1, consistency=0.0)
    assert torch.equal(off.loss(net, batch, Streams(range(6), 1)), expected)
    assert not torch.equal(replace(off, consistency=0.3).loss(net, batch, Streams(range(6), 1)), expected)
    assert off.keep_probability(0.5) == Masked().keep_probability(0.5) and Consistency().keep_probability(0.5) is None


@pytest.mark.parametrize("where", WHERE)
def test_what_was_never_observed_reaches_neither_network_nor_loss(where):
    batch, objective = small(), Consistency(where=where, mask_channels=1)
    other = replace(batch, z=batch.z + (1 - batch.mask) * randn(*batch.z.shape, seed=3))
    losses = [objective.loss(Net(), b, Streams(range(6), 1)) for b in (batch, other)]
    assert torch.equal(*losses)


# A level that is that of the noise itself ---


def at_the_noise(kind: str) -> Batch:
    n, zero = 6, torch.zeros(6)
    channels = 2 if kind == "kspace" else 1
    z = randn(n, channels, 4, 4)
    noise = zero + NOISE
    sigma = torch.where(torch.arange(n) % 2 == 0, noise, 2 * noise)
    mask = None if kind == "whole" else (rand(n, 1, 4, 4, seed=1) > 0.4).float()
    maps = torch.ones(n, 1, 4, 4, dtype=torch.complex64) if kind == "kspace" else None
    return Batch(z if mask is None or kind == "kspace" else mask * z, sigma, noise, zero, zero, mask, maps=maps)


EVERY: dict[str, tuple[Objective, str]] = {
    **{f"denoise {w}": (Denoise(w), "whole") for w in WEIGHTS},
    **{f"masked {w}": (Masked(weight=w), "masked") for w in WEIGHTS},
    **{f"kspace {w}": (KSpace(weight=w), "kspace") for w in WEIGHTS},
    **{f"consistency {where}": (Consistency(where=where), "whole") for where in WHERE},
    **{f"consistency {where}, omni": (Consistency(where=where, weight="omni"), "whole") for where in WHERE},
    **{f"masked consistency {where}": (Consistency(where=where, mask_channels=1), "masked") for where in WHERE},
    "at the very noise": (Consistency(s_max=math.inf), "whole"),
    "gsure": (GSURE(), "whole"),
    "masked gsure": (GSURE(), "masked"),
}


@pytest.mark.parametrize("name", EVERY)
def test_level_of_the_noise_itself_gives_finite_losses_and_gradients(name):
    objective, kind = EVERY[name]
    batch, net = at_the_noise(kind), Net()
    loss = objective.loss(net, batch, Streams(range(6), 1))
    (gradient,) = torch.autograd.grad(loss.sum(), net.a)
    assert bool(loss.isfinite().all()) and bool(gradient.isfinite())
    # The other rows are what they are without the rows at the level of their noise.
    odd = {k: v[1::2] for k, v in vars(batch).items() if v is not None}
    torch.testing.assert_close(objective.loss(net, Batch(**odd), Streams([1, 3, 5], 1)), loss[1::2])


# GSURE learns at this level by design, consistency by its term.
NOTHING = [name for name, (objective, _) in EVERY.items() if isinstance(objective, (Denoise, Masked, KSpace))]


@pytest.mark.parametrize("name", NOTHING)
def test_sample_at_the_level_of_its_noise_teaches_nothing(name):
    objective, kind = EVERY[name]
    batch, net = at_the_noise(kind), Net()
    loss = objective.loss(net, batch, Streams(range(6), 1))
    assert torch.equal(loss[::2], torch.zeros(3)) and bool((loss[1::2] > 0).all())
    assert float(torch.autograd.grad(loss[::2].sum(), net.a)[0]) == 0


def test_gradient_falls_to_that_limit_from_above():
    """`inverse_variance` and `laws` have the limit 0; `omni` has none, which is why the level is left out."""
    found = {}
    for weight in WEIGHTS:
        for near in (1e-2, 1e-4):
            batch, net = at_the_noise("whole"), Net()
            batch = replace(batch, sigma=batch.sigma_noise * (1 + near))
            draws = (Denoise(weight).loss(net, batch, Streams(range(6 * k, 6 * k + 6), 1)) for k in range(40))
            found[weight, near] = sum(abs(float(torch.autograd.grad(loss.sum(), net.a)[0])) for loss in draws)
    for weight in ("laws", "inverse_variance"):
        assert found[weight, 1e-4] < 0.3 * found[weight, 1e-2]
    assert found["omni", 1e-4] > 3 * found["omni", 1e-2]


# Advice that leads somewhere ---


def test_sentences_of_masked_and_noisy_data_lead_to_what_works(monkeypatch):
    import importlib
    from pathlib import Path

    import numpy as np

    from ambient_solve.data.loader import Levels, Loader
    from ambient_solve.data.sample import Sample

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "trainers"))
    sources = pytest.importorskip("accelerate") and importlib.import_module("ambient_solve.training.sources")
    mask = (rand(1, 8, 8, seed=1) > 0.4).to(torch.uint8)
    samples = [Sample(str(k), (mask * randn(1, 8, 8, seed=k)).half(), NOISE, mask=mask) for k in range(4)]

    def load(objective: Objective) -> Loader:
        sources.refuse_unsuited(objective, samples)
        levels = Levels(-0.9, 1.6, 0.01, 80.0)
        known = {"crop": 8, "buffer": buffer(4.0), "batch": 2, "seed": 0, "below": objective.below}
        return Loader(samples, np.ones(4), levels, **known)

    with pytest.raises(AmbientSolveError, match="'consistency' with mask_channels: 1"):
        load(Masked())
    with pytest.raises(AmbientSolveError, match=r"set objective: \{kind: consistency, mask_channels: 1\}"):
        load(Consistency())
    objective = Consistency(mask_channels=1)
    batch, streams = load(objective)(0)
    assert bool(objective.loss(Net(), batch, streams).isfinite().all())
