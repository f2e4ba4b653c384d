r"""Grids of levels whose consecutive laws are equally far apart, so that no step carries more than the others.

Soft Diffusion (Daras et al., 2022, arXiv 2209.05442) chooses its levels by the distance between the laws of consecutive
ones. For N steps along one path from the lowest to the highest level the sum of squared distances, the cost of the
transport, is least where all are equal (Cauchy and Schwarz); equal shares of the length of the path are that grid.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from PIL import Image


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


@final
@dataclass(frozen=True)
class Schedule:
    """A grid of levels, and how far apart the laws of consecutive ones are.

    Attributes:
        levels: Decreasing, the last one 0, as `Process.levels` gives them.
        distances: Between those above 0, one less than there are.
    """

    levels: list[float]
    distances: list[float]

    def chart(self) -> Image.Image:
        """The grid over the distance along it: points that are evenly high if all steps go equally far."""
        from ambient_solve.figures.levels import levels_chart

        return levels_chart(self.levels[:-1], self.distances)


def select_levels(
    distance: Callable[[float, float], float], steps: int, lowest: float, highest: float, pieces: int = 2000
) -> Schedule:
    """The grid of `equal_distances` with what it is chosen by, to be looked at.

    Args:
        distance: Between the laws of two levels, 0 or more.
        steps: Levels above 0, 2 or more.
        lowest: The last of them, > 0.
        highest: The first of them.
        pieces: See `equal_distances`.

    Returns:
        The grid, the distances of its steps, and a chart of both.

    Raises:
        AmbientSolveError: as `equal_distances`; or fewer than two levels were asked for.
    """
    if steps < 2:
        raise AmbientSolveError(f"steps={steps} was given; a distance lies between 2 levels or more.")
    levels = equal_distances(distance, steps, lowest, highest, pieces)
    return Schedule(levels, [distance(a, b) for a, b in pairwise(levels[:-1])])


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
