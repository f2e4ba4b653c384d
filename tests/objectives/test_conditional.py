"""The conditional objective: the exact posterior denoiser wins, and what is hidden is shown to nobody."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.base import Batch, edm_weight
from ambient_solve.objectives.conditional import Conditional, condition
from ambient_solve.priors.gaussian import GaussianPrior
from helpers import one_sentence, rand, randn

SHAPE, SIGMA_Y, DRAWS = (2, 1, 3), 0.2, 60_000
OBJECTIVE = Conditional(missing=0.6, sigma_y=SIGMA_Y, channels=2)
# In standard errors: an effect must exceed DECISIVE. The draws are the same in every run.
DECISIVE = 6.0


class Draws:
    """`Streams`, but one stream for all rows: a test of means needs many rows, not one stream for each."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self.generator)

    def uniform(self, like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=self.generator)


def gaussian() -> GaussianPrior:
    root = 0.4 * randn(6, 6, seed=1)
    return GaussianPrior(0.3 * randn(*SHAPE, seed=2), root @ root.T + 0.02 * torch.eye(6))


PRIOR = gaussian()
PRECISION = torch.linalg.inv(PRIOR.covariance).float()


def exact(z: Tensor, sigma: Tensor, cond: Tensor, sigma_y: float = SIGMA_Y) -> Tensor:
    """`E[z0 | z_sigma, y, m]`: precisions add, `C^-1 + I / sigma^2 + m / sigma_y^2`."""
    y, mask = cond[:, :2].flatten(1), cond[:, 2:].expand(-1, 2, -1, -1).flatten(1)
    known = mask / sigma_y**2
    system = PRECISION + torch.diag_embed(known + 1 / sigma[:, None] ** 2)
    wanted = PRECISION @ PRIOR.mean.flatten().float() + known * y + z.flatten(1) / sigma[:, None] ** 2
    return torch.linalg.solve(system, wanted[..., None])[..., 0].reshape(z.shape)


def clean_batch(n: int = DRAWS, seed: int = 3) -> Batch:
    z, zero = PRIOR.sample(n, torch.Generator().manual_seed(seed)), torch.zeros(n)
    return Batch(z=z, sigma=0.05 * 100 ** rand(n, seed=seed), sigma_noise=zero, sigma_min=zero, sigma_max=zero)


def all_seen(cond: Tensor) -> Tensor:
    return torch.cat([cond[:, :2], torch.ones_like(cond[:, 2:])], 1)


PERTURBED = {
    "5 % larger": lambda z, s, c: 1.05 * exact(z, s, c),
    "5 % smaller": lambda z, s, c: 0.95 * exact(z, s, c),
    "measurement ignored": lambda z, s, c: PRIOR.denoise(z, s),
    "measurement trusted twice as much": lambda z, s, c: exact(z, s, c, SIGMA_Y / 2),
    "measurement trusted half as much": lambda z, s, c: exact(z, s, c, 2 * SIGMA_Y),
    "zeros of hidden pixels believed": lambda z, s, c: exact(z, s, all_seen(c)),
    "given a level 10 % too high": lambda z, s, c: exact(z, 1.1 * s, c),
}


def standard_errors(difference: Tensor) -> float:
    return float(difference.mean() / (difference.std() / math.sqrt(len(difference))))


def test_exact_conditional_mean_beats_every_perturbation():
    batch = clean_batch()
    best, least = OBJECTIVE.loss(exact, batch, Draws(4)), math.inf
    for what, wrong in PERTURBED.items():
        lead = standard_errors(OBJECTIVE.loss(wrong, batch, Draws(4)) - best)
        least = min(lead, least)
        assert lead > DECISIVE, f"{what}: the exact conditional mean leads by {lead:.1f} standard errors only"
    print(f"\nthe exact conditional mean leads by at least {least:.1f} standard errors")


def shared_noise_loss(denoise, batch: Batch, draws: Draws) -> Tensor:
    """A plausible wrong loss: `y` is cut out of a noisy picture made with the noise of z_sigma."""
    n = draws.normal(batch.z)
    mask = (draws.uniform(batch.z[:, :1]) >= OBJECTIVE.missing).float()
    cond = condition(batch.z + SIGMA_Y * n, mask)
    error = denoise(batch.z + per_sample(batch.sigma, n) * n, batch.sigma, cond) - batch.z
    return edm_weight(batch.sigma, 0.5) * error.square().flatten(1).mean(1)


def test_control_one_noise_for_both_is_won_by_a_wrong_denoiser():
    """With one noise, `(sigma_y z_sigma - sigma y) / (sigma_y - sigma)` is the clean picture, and no posterior mean."""
    batch = clean_batch()
    batch.sigma = batch.sigma + 2 * SIGMA_Y

    def subtracts(z: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        s, mask = per_sample(sigma, z), cond[:, 2:]
        return mask * (SIGMA_Y * z - s * cond[:, :2]) / (SIGMA_Y - s) + (1 - mask) * exact(z, sigma, cond)

    fooled = standard_errors(shared_noise_loss(subtracts, batch, Draws(5)) - shared_noise_loss(exact, batch, Draws(5)))
    ours = standard_errors(OBJECTIVE.loss(subtracts, batch, Draws(5)) - OBJECTIVE.loss(exact, batch, Draws(5)))
    print(f"\na denoiser that subtracts: {fooled:.0f} standard errors with one noise for both, {ours:.0f} with ours")
    assert fooled < -DECISIVE and ours > DECISIVE


def condition_of(z: Tensor, seeds: range = range(8)) -> Tensor:
    """What the network is shown of pictures z (8, 2, 5, 4)."""
    seen = []

    def denoise(z: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        seen.append(cond)
        return z

    one, zero = torch.ones(len(z)), torch.zeros(len(z))
    OBJECTIVE.loss(denoise, Batch(z, one, zero, zero, zero), Streams(seeds, 1))
    return seen[0]


def test_hidden_values_are_shown_to_nobody():
    z = randn(8, 2, 5, 4, seed=6)
    cond = condition_of(z)
    mask = cond[:, 2:]
    assert cond.shape == (8, OBJECTIVE.mask_channels, 5, 4) and torch.equal(mask, mask.square())
    other = torch.where(mask > 0, z, randn(8, 2, 5, 4, seed=7))
    assert torch.equal(condition_of(other), cond)
    # Control: a change of what is observed is shown.
    assert not torch.equal(condition_of(torch.where(mask > 0, z + 1, z)), cond)
    # The measurement has noise, and another one at the next training step.
    seen = (mask > 0).expand_as(z)
    assert 0.1 < float((cond[:, :2] - z)[seen].std()) < 0.3
    again = condition_of(z, range(8, 16))
    assert not torch.equal(again[:, 2:], mask)


def test_row_depends_on_its_stream_only():
    z = randn(8, 2, 5, 4, seed=8)
    assert torch.equal(condition_of(z)[3:5], condition_of(z[3:5], range(3, 5)))


def test_share_of_hidden_pixels():
    mask = condition_of(torch.zeros(200, 2, 10, 10), range(200))[:, 2:]
    # 20000 pixels: a standard error of .0035.
    assert abs(float(mask.mean()) - 0.4) < 0.016
    none = Conditional(missing=0.0, sigma_y=0.1, channels=2)
    seen = []
    batch = Batch(torch.zeros(2, 2, 3, 3), *[torch.ones(2)] * 4)
    none.loss(lambda z, s, c: (seen.append(c), z)[1], batch, Streams([0, 1], 1))
    assert bool((seen[0][:, 2:] == 1).all())


def test_bad_input_is_one_sentence():
    for bad in ({"missing": 1.0}, {"sigma_y": -0.1}, {"channels": 0}):
        with pytest.raises(AmbientSolveError, match=next(iter(bad))) as error:
            Conditional(**bad)
        assert one_sentence(error)
    batch = clean_batch(4)
    for wrong, match in (
        (Batch(batch.z[:, :1], *[batch.sigma] * 4), "of 1 channels"),
        (Batch(batch.z, *[batch.sigma] * 4, mask=torch.ones(4, 1, 1, 3)), "masked samples"),
    ):
        with pytest.raises(AmbientSolveError, match=match) as error:
            OBJECTIVE.loss(exact, wrong, Draws(0))
        assert one_sentence(error)
