"""Reconstruction guidance of a mask-conditioned prior: predictions by several masks are made to agree."""

from __future__ import annotations

import torch
from torch import Tensor

from ambient_solve import AmbientPrior, Prior, generate
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import MaskConditionedGaussian
from helpers import rand, randn
from test_ambient import D, correlated


class Counted(Prior):
    """`MaskConditionedGaussian`, with its calls counted, and those under gradient."""

    def __init__(self, prior: MaskConditionedGaussian) -> None:
        super().__init__()
        self.inner, self.shape, self.calls, self.graphs = prior, prior.shape, 0, 0
        self.sigma_min, self.sigma_max = prior.sigma_min, prior.sigma_max

    def denoise(self, z: Tensor, sigma: float, cond: Tensor | None = None) -> Tensor:
        self.calls += 1
        self.graphs += torch.is_grad_enabled()
        return self.inner.denoise(z, sigma, cond)


def test_guidance_of_weight_0_costs_nothing_and_changes_nothing():
    counted = Counted(MaskConditionedGaussian(correlated()))
    prior, steps = AmbientPrior(counted, 0.5), 6
    plain = generate(prior, 4, steps=steps)
    assert (counted.calls, counted.graphs) == (2 * steps - 1, 0)
    assert torch.equal(generate(prior, 4, steps=steps, guidance=0.0, masks=5), plain)
    assert (counted.calls, counted.graphs) == (4 * steps - 2, 0)
    counted.calls = 0
    guided = generate(prior, 4, steps=steps, guidance=0.05, masks=3)
    # At each level the run's mask and two others, under gradient; Heun's second call without.
    assert (counted.calls, counted.graphs) == (3 * steps + steps - 1, 3 * steps) and not torch.allclose(guided, plain)
    for batch in (1, 3):
        torch.testing.assert_close(generate(prior, 4, steps=steps, guidance=0.05, masks=3, batch=batch), guided)


def test_guidance_makes_predictions_agree(monkeypatch):
    prior, n = AmbientPrior(MaskConditionedGaussian(correlated()), 0.5), 100
    judges = [(rand(n, D, seed=s) < 0.5).float() for s in range(5)]

    def disagreement(**settings) -> float:
        z = generate(prior, n, batch=n, steps=20, **settings)
        first, *others = (prior.denoise(z, prior.sigma_min, mask) for mask in judges)
        return float(sum((first - o).square().sum(1).mean() for o in others))

    plain, guided, more = disagreement(), disagreement(guidance=0.1), disagreement(guidance=0.1, masks=4)
    descent = AmbientPrior.disagreement
    monkeypatch.setattr(AmbientPrior, "disagreement", lambda *a: (descent(*a)[0], -descent(*a)[1]))
    uphill = disagreement(guidance=0.01)
    print(f"\ndisagreement {plain:.2f}, guided {guided:.2f}, by four masks {more:.2f}; uphill {uphill:.2f}")
    assert guided < 0.75 * plain and more < guided
    assert uphill > 1.05 * plain


def test_the_gradient_is_that_of_the_disagreement_of_each_sample():
    exact = correlated()
    prior, z, sigma = AmbientPrior(MaskConditionedGaussian(exact), 0.5), randn(3, D), 0.6
    prior.begin((3, D), Streams([0], 3))
    others = [(rand(3, D, seed=s) < 0.5).float() for s in (1, 2)]
    z0, gradient = prior.disagreement(z, sigma, others)
    assert torch.equal(z0, prior.denoise(z, sigma))

    def total(at: Tensor) -> Tensor:
        return sum((prior.denoise(at, sigma) - prior.denoise(at, sigma, m)).square().sum(1) for m in others) / 4

    direction = randn(3, D, seed=8).double()
    slope = total(z.double() + direction) - total(z.double() - direction)  # exact: the disagreement is quadratic
    torch.testing.assert_close(slope / 2, (gradient.double() * direction).sum(1), rtol=1e-4, atol=1e-4)
