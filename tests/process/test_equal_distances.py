"""Grids of equally distant laws, exact for Gaussians."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from ambient_solve import AmbientSolveError
from ambient_solve.process import equal_distances, gaussian_distance, karras, log_linear

F64 = torch.float64


@pytest.mark.parametrize("power", [0.0, 0.3, 100.0])
def test_the_grid_of_white_data_is_even_in_the_deviation(power):
    """`sqrt(power + s^2)` in equal steps; the grid is then known in closed form."""
    distance = gaussian_distance(torch.full((5,), power, dtype=F64), lambda level: 1.0)
    assert distance(2.0, 1.0) == pytest.approx(5**0.5 * (math.sqrt(power + 4) - math.sqrt(power + 1)))
    grid = equal_distances(distance, 9, 0.02, 5.0)
    low, high = (math.sqrt(power + s**2) for s in (0.02, 5.0))
    wanted = [math.sqrt(max(0.0, (high + k / 8 * (low - high)) ** 2 - power)) for k in range(9)]
    assert grid == pytest.approx([*wanted, 0.0], rel=1e-3)
    assert (grid[0], grid[-2], grid[-1], len(grid)) == (5.0, 0.02, 0.0, 10)


def test_noise_that_is_not_the_level_counts_as_it_is():
    distance = gaussian_distance(torch.full((4,), 0.3, dtype=F64), lambda level: 1 - level, lambda level: 2 * level)
    assert distance(0.5, 0.0) == pytest.approx(2 * (math.sqrt(0.25 * 0.3 + 1) - math.sqrt(0.3)))


def cost(distance, grid: list[float]) -> float:
    """Sum of squared distances between the consecutive laws of a grid."""
    return sum(distance(a, b) ** 2 for a, b in pairwise(grid[:-1]))


def test_of_all_grids_it_has_the_least_transport_cost():
    frequency = torch.arange(64, dtype=F64)
    power = 1 / (1 + (frequency / 3) ** 2.2)

    def gains(level: float) -> torch.Tensor:
        return (-0.08 * level**2 * frequency).exp()

    distance = gaussian_distance(power, gains)
    grid = equal_distances(distance, 12, 0.01, 1.0)
    steps = [distance(a, b) for a, b in pairwise(grid[:-1])]
    assert max(steps) < 1.05 * min(steps)
    costs = {g.__name__: cost(distance, g(12, 0.01, 1.0)) for g in (log_linear, karras)}
    print(f"\nequal {cost(distance, grid):.4f}, {costs}")
    assert all(c > 1.2 * cost(distance, grid) for c in costs.values())
    for k in range(1, 11):
        for by in (0.97, 1.03):
            moved = [s * by if i == k else s for i, s in enumerate(grid)]
            assert cost(distance, moved) > cost(distance, grid)


def test_few_levels_and_what_does_not_fit():
    distance = gaussian_distance(torch.ones(3), lambda level: 1.0)
    assert equal_distances(distance, 1, 0.1, 2.0) == [2.0, 0.0]
    assert equal_distances(distance, 2, 0.1, 2.0) == [2.0, 0.1, 0.0]
    with pytest.raises(AmbientSolveError, match="0 < lowest < highest"):
        equal_distances(distance, 3, 2.0, 0.1)
    with pytest.raises(AmbientSolveError, match="distance is 0"):
        equal_distances(lambda a, b: 0.0, 3, 0.1, 2.0)
