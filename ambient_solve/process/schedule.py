r"""Grids of levels whose consecutive laws are equally far apart, so that no step carries more than the others.

Soft Diffusion (Daras et al., 2022, arXiv 2209.05442) chooses its levels by the distance between the laws of consecutive
ones. For N steps along one path from the lowest to the highest level the sum of squared distances, the cost of the
transport, is least where all are equal (Cauchy and Schwarz); equal shares of the length of the path are that grid.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError


def equal_distances(
    distance: Callable[[float, float], float], steps: int, lowest: float, highest: float, pieces: int = 2000
) -> list[float]:
    """The grid of levels that cuts the path from the lowest to the highest into pieces of equal length.

    Args:
        distance: Between the laws of two levels, 0 or more, such as `gaussian_distance(...)`, or one measured on data.
        steps: Levels above 0, 1 or more.
        lowest: The last of them, > 0.
        highest: The first of them.
        pieces: Geometric pieces in which the length is measured; between two of their ends it is taken as linear.

    Returns:
        `steps + 1` floats, decreasing from `highest` by way of `lowest` to exactly 0.

    Raises:
        AmbientSolveError: the levels are out of order, or the laws do not differ.
    """
    if not 0 < lowest < highest:
        raise AmbientSolveError(f"0 < lowest < highest was expected, got lowest={lowest} and highest={highest}.")
    fine = [lowest * (highest / lowest) ** (i / pieces) for i in range(pieces)] + [highest]
    length = [0.0, *accumulate(distance(a, b) for a, b in pairwise(fine))]
    if not length[-1] > 0:
        raise AmbientSolveError(f"distance is 0 all the way from {lowest} to {highest}; it must grow with the level.")
    inside = []
    for k in range(1, steps - 1):
        wanted = length[-1] * (1 - k / (steps - 1))
        i = bisect_left(length, wanted)
        part = (wanted - length[i - 1]) / (length[i] - length[i - 1])
        inside.append(fine[i - 1] + part * (fine[i] - fine[i - 1]))
    return [highest, *inside, *([lowest] if steps > 1 else []), 0.0]


def gaussian_distance(
    power: Tensor, gains: Callable[[float], Tensor | float], noise: Callable[[float], float] = lambda level: level
) -> Callable[[float, float], float]:
    """The Wasserstein distance between levels of Gaussian data, whose covariance the corruption is diagonal with.

    Each part is Gaussian with deviation `sqrt(gain^2 power + noise^2)`; the distance is that of the deviations.

    Args:
        power: Variance of each part of the data.
        gains: Level to the gains of the corruption, the shape of `power`; 1 for additive noise.
        noise: Level to the deviation of the noise, in `z` units; the level itself unless given.

    Returns:
        `(level, other) -> W2`, in `z` units.
    """

    def deviation(level: float) -> Tensor:
        return (gains(level) ** 2 * power + noise(level) ** 2).sqrt()

    return lambda level, other: float(torch.linalg.vector_norm(deviation(level) - deviation(other)))
