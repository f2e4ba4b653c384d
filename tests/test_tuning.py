"""Weights chosen on pictures: the best of the grid, inside it, the same at every run; bad requests in a sentence."""

from __future__ import annotations

import pytest
import torch

from ambient_solve import DPS, AmbientSolveError, GaussianPrior, Solver, operators
from ambient_solve.tuning import best_inside, tune

SHAPE = (1, 6, 6)


def gaussian() -> GaussianPrior:
    root = torch.randn(36, 36, generator=torch.Generator().manual_seed(3)) / 6
    return GaussianPrior(torch.zeros(SHAPE), root @ root.T + 0.01 * torch.eye(36))


def test_the_weight_is_the_best_of_its_neighbours():
    prior, op = gaussian(), operators.inpaint_random(SHAPE, missing=0.5, sigma=0.05)
    pictures = prior.sample(8, torch.Generator().manual_seed(1))
    found = tune(DPS(steps=30, zeta=8.0), prior, op, pictures)
    values = list(found.tried)
    place = values.index(found.algorithm.zeta)
    assert 0 < place < len(values) - 1 and found.tried[found.algorithm.zeta] == max(found.tried.values())
    assert found.algorithm.zeta < 8 and found.algorithm.steps == 30
    assert tune(DPS(steps=30, zeta=8.0), prior, op, pictures) == found
    # On pictures it has not seen it beats the weight that it started from: the search was for something.
    fresh = prior.sample(8, torch.Generator().manual_seed(2))
    y = op(fresh)
    tuned, start = (
        (Solver(prior, a).solve(y, op, n_samples=1).mean - fresh).square().mean()
        for a in (found.algorithm, DPS(steps=30, zeta=8.0))
    )
    assert tuned < 0.8 * start


def test_the_grid_grows_until_the_best_stands_inside():
    grid = [1.0, 2.0, 4.0]
    assert best_inside(grid, lambda v: -abs(v - 30)) == 32 and grid[-1] == 64
    assert best_inside([1.0, 2.0, 4.0], lambda v: -abs(v - 0.3)) == 0.25
    assert best_inside([1.0, 2.0, 4.0], lambda v: -abs(v - 2.2)) == 2
    assert best_inside([0.25, 0.5, 1.0], lambda v: v, most=1.0) == 1  # a knob has an end
    assert max([1.0, 2.0, 4.0], key=lambda v: -abs(v - 30)) == 4  # control: the best of the grid as it starts


def test_the_grid_ends_with_the_range_of_the_knob():
    tried: list[float] = []
    assert best_inside([0.25, 0.5, 1.0], lambda v: tried.append(v) or v, most=1.0) == 1
    assert len(tried) == len(set(tried)) == 3


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ("no algorithm 'dpss'. Did you mean 'dps'", {"algorithm": "dpss"}),
        ("no knob 'zetta'", {"algorithm": "dps", "knob": "zetta"}),
        ("does not scale", {"algorithm": "dps", "knob": "steps"}),
        ("has no weight", {"algorithm": "mmps"}),
        ("above 1", {"algorithm": "dps", "ratio": 1.0}),
    ],
)
def test_refusals(words, request_):
    op = operators.denoise(SHAPE, sigma=0.1)
    with pytest.raises(AmbientSolveError, match=words):
        tune(prior=gaussian(), op=op, pictures=torch.zeros(1, *SHAPE), **request_)
