"""The two laws of noise: weighted residuals are the derivatives of the laws, and chi2 is 1 where it should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve.likelihood.noise_law import FAINT, CountingLaw, GaussianLaw
from helpers import rand, randn

SCALE, GAIN = 0.5, torch.tensor([0.05, 0.2])


def counted(y: Tensor, sigma: float, seen: Tensor | None = None) -> CountingLaw:
    """The law of measurements `y` (2, n) in the operator's units; `sigma` in the same units."""
    seen = torch.ones_like(y, dtype=torch.bool) if seen is None else seen
    return CountingLaw(torch.full((2,), sigma / SCALE), GAIN, SCALE, y, seen)


def score(law: GaussianLaw | CountingLaw, y: Tensor, p: Tensor) -> Tensor:
    """`d log p(y | p) / d p` in the operator's units."""
    r = (y - p) / SCALE
    return law.weights(r) * r / SCALE


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_the_score_of_counted_photons_is_that_of_the_shifted_poisson_law(sigma):
    y, p = 1 + rand(2, 7), (1 + rand(2, 7, seed=1)).requires_grad_()
    shift = sigma**2 / GAIN[:, None]
    photons = (y + shift) / GAIN[:, None]
    (photons * (p + shift).log() - (p + shift) / GAIN[:, None]).sum().backward()
    torch.testing.assert_close(score(counted(y, sigma), y, p.detach()), p.grad)
    gaussian = GaussianLaw(torch.full((2,), 0.3 / SCALE), torch.full((2,), 7.0))
    assert not torch.allclose(score(gaussian, y, p.detach()), p.grad, rtol=0.1)  # the control


def test_the_score_of_gaussian_noise_of_one_level_per_row():
    y, p, sigma = randn(2, 7), randn(2, 7, seed=1), torch.tensor([0.1, 2.0])
    law = GaussianLaw(sigma / SCALE, torch.full((2,), 7.0))
    torch.testing.assert_close(score(law, y, p), (y - p) / sigma[:, None] ** 2)
    torch.testing.assert_close(law.chi2((y - p) / SCALE), ((y - p) / sigma[:, None]).square().mean(1))


def test_what_is_not_seen_has_no_weight_and_no_photon_a_finite_one():
    y = torch.zeros(2, 4)
    seen = torch.tensor([True, True, False, True]).expand(2, 4)
    law, r = counted(y, 0.0, seen), torch.zeros(2, 4)
    faintest = FAINT * (GAIN / SCALE) ** 2
    torch.testing.assert_close(law.weights(r), seen / faintest[:, None])
    torch.testing.assert_close(law.step_weights(r), seen / (GAIN / SCALE)[:, None] ** 2)


@pytest.mark.parametrize("law", [GaussianLaw(torch.ones(2), torch.full((2,), 7.0)), counted(1 + rand(2, 7), 0.1)])
def test_the_direction_has_a_weighted_norm_of_one(law):
    """`u = W r / |W^1/2 r|` with `W` relative to its mean: `sum u^2 / W = 1`."""
    r = 0.1 * randn(2, 7)
    weights = law.weights(r).expand(2, 7)
    relative = weights / weights.mean(1, keepdim=True)
    u = law.direction(r)
    torch.testing.assert_close((u.square() / relative).sum(1), torch.ones(2))
