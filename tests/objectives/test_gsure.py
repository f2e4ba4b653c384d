"""Stein's lemma in place of the truth: the expectation is the supervised loss, for every denoiser."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, edm_weight
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.objectives.gsure import GSURE
from ambient_solve.objectives.masked import project
from ambient_solve.priors.gaussian import MixturePrior
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from helpers import DECISIVE, NULL, Draws, one_sentence, rand, randn, standard_errors
from test_masked import net

SIGMA_NOISE, N = 0.3, 40_000


class Remembered:
    """Streams that say which noise they gave, so that a test can look behind the loss."""

    def __init__(self, seed: int) -> None:
        self.draws, self.given = Draws(seed), []

    def normal(self, like: Tensor) -> Tensor:
        self.given.append(self.draws.normal(like))
        return self.given[-1]


def mixture() -> MixturePrior:
    means = randn(2, 1, 2, 2, seed=1) * torch.tensor([0.3, 0.8])[:, None, None, None]
    return MixturePrior(torch.tensor([0.6, 0.4]), means, torch.tensor([0.05, 0.15]))


PRIOR = mixture()


def noisy_batch(damage: str, factor: float = 2.0) -> tuple[Batch, Tensor]:
    """Samples (N, 1, 2, 2) with noise, masked entries or coefficients, and the clean ones, which no loss sees."""
    z0 = PRIOR.sample(N, torch.Generator().manual_seed(2))
    y, noise = z0 + SIGMA_NOISE * Draws(3).normal(z0), torch.full((N,), SIGMA_NOISE)
    mask = None if damage == "noise" else (Draws(4).uniform(y) < 0.7).float()
    signs = (Draws(5).uniform(y) < 0.5).float() * 2 - 1 if damage == "coefficients" else None
    z = y if mask is None else project(y, mask, signs)
    return Batch(z, factor * noise, noise, noise, 0 * noise, mask, signs), z0


def bend(z: Tensor, sigma: Tensor) -> Tensor:
    """A wrong denoiser, neither linear nor alike in all entries, whose Jacobian is not symmetric."""
    return torch.tanh(1.5 * z + 0.5 * z.flip(-1).square()) * 0.6 + 0.3 * z.roll(1, -2)


DENOISERS = {
    "exact": PRIOR.denoise,
    "exact for twice the level": lambda z, s: PRIOR.denoise(z, 2 * s),
    "identity": lambda z, s: 1.0 * z,
    "bent": bend,
}


def supervised(denoise, batch: Batch, z0: Tensor, seed: int) -> Tensor:
    """`lambda |A (D(h) - z0)|^2` at the very `h` that the loss makes of these draws, written out."""
    n, mask = Draws(seed).normal(z0), torch.ones_like(z0) if batch.mask is None else batch.mask
    extra = (batch.sigma**2 - batch.sigma_noise**2).sqrt()
    kept = project(batch.z + per_sample(extra, n) * n, mask, batch.signs)
    noise = per_sample(batch.sigma, n) * n
    error = project(denoise(kept + noise - project(noise, mask, batch.signs), batch.sigma) - z0, mask, batch.signs)
    return edm_weight(batch.sigma, 0.5) * error.square().flatten(1).mean(1)


@pytest.mark.parametrize("damage", ["noise", "mask", "coefficients"])
def test_expectation_is_the_supervised_loss_for_every_denoiser(damage):
    batch, z0 = noisy_batch(damage)
    loss = GSURE().loss
    gaps = {}
    for name, denoise in DENOISERS.items():
        gaps[name] = loss(denoise, batch, Draws(6)).detach() - supervised(denoise, batch, z0, 6)
        assert abs(standard_errors(gaps[name])) < NULL, f"{name}: off by {standard_errors(gaps[name]):.1f}"
        if name == "exact":
            continue
        # What it says of two denoisers is what the truth says, and decisive.
        truth = supervised(denoise, batch, z0, 6) - supervised(PRIOR.denoise, batch, z0, 6)
        estimated = truth + gaps[name] - gaps["exact"]
        print(
            f"{damage}, {name}: {float(estimated.mean()):.4f} worse than exact, in truth {float(truth.mean()):.4f}, "
            f"{standard_errors(estimated):.0f} standard errors; difference {standard_errors(estimated - truth):.1f}"
        )
        assert abs(standard_errors(estimated - truth)) < NULL
        if damage == "noise":
            assert standard_errors(estimated) > DECISIVE, name


@pytest.mark.parametrize("wrong", ["no trace", "half of it", "level for noise"])
def test_control_another_trace_term_is_not_the_supervised_loss(wrong):
    """Without the trace the identity, which leaves the noise in, beats the exact denoiser."""
    factor = 2.0 if wrong == "level for noise" else 1.02
    batch, z0 = noisy_batch("noise", factor)
    scale = {"no trace": 0.0, "half of it": 0.5, "level for noise": factor**2}[wrong]

    def loss(denoise) -> Tensor:
        whole = GSURE().loss(denoise, batch, Draws(6)).detach()
        extra = (batch.sigma**2 - batch.sigma_noise**2).sqrt()
        h = batch.z + per_sample(extra, batch.z) * Draws(6).normal(batch.z)
        residual = edm_weight(batch.sigma, 0.5) * (denoise(h, batch.sigma) - batch.z).square().flatten(1).mean(1)
        return residual + scale * (whole - residual)

    gap = loss(bend) - supervised(bend, batch, z0, 6) - (loss(PRIOR.denoise) - supervised(PRIOR.denoise, batch, z0, 6))
    assert abs(standard_errors(gap)) > DECISIVE
    if wrong == "no trace":
        lead = standard_errors(loss(lambda z, s: 1.0 * z) - loss(PRIOR.denoise))
        print(f"without the trace the identity leads by {-lead:.0f} standard errors")
        assert lead < -DECISIVE
        right = GSURE().loss
        difference = right(lambda z, s: 1.0 * z, batch, Draws(6)) - right(PRIOR.denoise, batch, Draws(6))
        assert standard_errors(difference.detach()) > DECISIVE


def test_the_trace_reaches_the_parameters():
    """The gain that minimises the loss is Wiener's, var / (var + sigma^2), from noisy samples alone."""
    n, sigma = 200_000, torch.tensor(0.5)
    y = 0.4 * Draws(7).normal(torch.empty(n, 4)) + SIGMA_NOISE * Draws(8).normal(torch.empty(n, 4))
    noise = torch.full((n,), SIGMA_NOISE)
    batch = Batch(y, sigma.expand(n), noise, noise, 0 * noise)
    gain = torch.zeros((), requires_grad=True)

    def slope(at: float) -> float:
        gain.data.fill_(at)
        return float(torch.autograd.grad(GSURE().loss(lambda z, s: gain * z, batch, Draws(9)).mean(), gain)[0])

    # The loss is a parabola in the gain: two slopes find its minimum.
    best = slope(0.0) / (slope(0.0) - slope(1.0))
    assert abs(best - 0.16 / (0.16 + 0.25)) < 0.005
    # Control: had the trace no gradient, the minimum would be that of regressing the noisy sample.
    assert abs(best - (0.16 + SIGMA_NOISE**2) / (0.16 + 0.25)) > 0.2


def test_a_network_learns_through_the_trace():
    """The gradient by the weights is the derivative of the loss, the trace included."""
    torch.manual_seed(0)
    prior = NetworkPrior(NetworkConfig(widths=(8, 8, 8, 8), groups=4, embedding=16), "float32").double()
    for parameter in prior.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    noise = torch.tensor([0.2, 0.4], dtype=torch.float64)
    batch = Batch(randn(2, 3, 16, 16).double(), 1.5 * noise, noise, noise, 0 * noise)
    weight = next(p for p in prior.parameters() if p.ndim == 4)
    direction = torch.randn_like(weight)
    direction /= direction.norm()

    def slope(loss) -> float:
        return float((torch.autograd.grad(loss().sum(), weight)[0] * direction).sum())

    def whole() -> Tensor:
        return GSURE().loss(prior, batch, Draws(10))

    def without_trace() -> Tensor:
        h = batch.z + per_sample((batch.sigma**2 - noise**2).sqrt(), batch.z) * Draws(10).normal(batch.z)
        return edm_weight(batch.sigma, 0.5) * (prior(h, batch.sigma) - batch.z).square().flatten(1).mean(1)

    found, wrong, start, ends = slope(whole), slope(without_trace), weight.data.clone(), []
    for step in (1e-2, -1e-2):
        weight.data = start + step * direction
        ends.append(float(whole().sum().detach()))
    wanted = (ends[0] - ends[1]) / 2e-2
    assert math.isclose(found, wanted, rel_tol=0.01)
    # Control: the trace has its part in it.
    assert not math.isclose(wrong, wanted, rel_tol=0.05)


@pytest.mark.parametrize("masked", [False, True])
def test_without_noise_it_is_the_supervised_loss_bit_for_bit(masked):
    n, zero = 8, torch.zeros(8)
    batch = Batch(randn(n, 3, 6, 6), 0.3 + rand(n), zero, zero, zero)
    denoise = net()
    if not masked:
        found = GSURE(0.4).loss(denoise, batch, Streams(range(n), 1))
        assert torch.equal(found, Denoise(sigma_data=0.4).loss(denoise, batch, Streams(range(n), 1)))
    mask = (rand(n, 1, 6, 6, seed=3) > 0.5).float()
    batch = replace(batch, z=mask * batch.z, mask=mask)
    seen = []

    def listening(z: Tensor, sigma: Tensor) -> Tensor:
        seen.append(z)
        return denoise(z, sigma)

    found = GSURE(0.4).loss(listening, batch, Streams(range(n), 1))
    noise = per_sample(batch.sigma, batch.z) * Streams(range(n), 1).normal(batch.z)
    torch.testing.assert_close(seen[0], batch.z + noise)
    wanted = (mask * (denoise(seen[0], batch.sigma) - batch.z)).square().flatten(1).mean(1)
    torch.testing.assert_close(found, edm_weight(batch.sigma, 0.4) * wanted)
    # Control: noise changes it.
    assert not torch.equal(
        GSURE(0.4).loss(denoise, replace(batch, sigma_noise=zero + 0.1), Streams(range(n), 1)), found
    )


def test_it_needs_no_level_above_the_noise_and_uses_nothing_unobserved():
    batch, _ = noisy_batch("mask", factor=1.0)
    first = GSURE().loss(bend, batch, Draws(11))
    other = replace(batch, z=batch.z + (1 - batch.mask) * randn(*batch.z.shape, seed=12))
    assert torch.isfinite(first).all() and torch.equal(GSURE().loss(bend, other, Draws(11)), first)
    # Control: the unbiased target of the other objectives does not exist there, and they learn nothing.
    assert first.any() and not Denoise().loss(bend, replace(batch, mask=None), Draws(11)).any()


def test_noise_of_a_row_depends_on_its_stream_only():
    noise = torch.full((5,), 0.1)
    batch = Batch(randn(5, 3, 6, 6), 0.3 + rand(5), noise, noise, 0 * noise, (rand(5, 1, 6, 6) > 0.4).float())

    def loss(rows: list[int], seeds: list[int]) -> Tensor:
        part = Batch(**{k: v[rows] for k, v in vars(batch).items() if v is not None})
        return GSURE().loss(lambda z, s: torch.tanh(z), part, Streams(seeds, 1))

    together = loss([0, 1, 2, 3, 4], [10, 11, 12, 13, 14])
    assert torch.equal(loss([3, 1], [13, 11]), together[[3, 1]])
    changed = loss([0, 1, 2, 3, 4], [10, 11, 99, 13, 14])
    assert torch.equal(changed != together, torch.tensor([False, False, True, False, False]))
    with torch.no_grad():  # validation asks for the value alone
        assert torch.equal(loss([0, 1, 2, 3, 4], [10, 11, 12, 13, 14]), together)


def test_bad_input_is_one_sentence():
    noise = torch.full((2,), 0.1)
    maps = torch.ones(2, 1, 6, 6, dtype=torch.complex64)
    batch = Batch(randn(2, 2, 6, 6), 2 * noise, noise, noise, 0 * noise, maps=maps)
    with pytest.raises(AmbientSolveError, match="coil maps") as error:
        GSURE().loss(net(2), batch, Streams([0, 1], 1))
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="sigma_data"):
        GSURE(sigma_data=0.0)
