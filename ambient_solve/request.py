"""`Request`: what is asked of a solver, and what of it belongs to which row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood.noise_levels import Given
from ambient_solve.likelihood.packed import Measurement


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a solver; see `Solver.solve`.

    Attributes:
        y, op: The measurement and the operator that made it; neither is changed.
        n_samples: Samples of each measurement.
        seed: One integer, or one for each measurement.
        sigma_y: Noise of the measurement where the operator does not hold it.
        cond: Passed on to the prior.
        first_sample: The number of the first sample in a larger set.
    """

    y: Measurement
    op: Physics
    n_samples: int = 1
    seed: int | Sequence[int] = 0
    sigma_y: Given | None = None
    cond: Any = None
    first_sample: int = 0


def seeds_of(seed: Any, images: int) -> list[int]:
    """The seed of each measurement.

    Args:
        seed: A whole number of 0 or more, or one for each of `images` measurements.
        images: B.

    Returns:
        B whole numbers.

    Raises:
        AmbientSolveError: it is something else.
    """
    seeds = [seed] * images if isinstance(seed, int) else list(seed) if isinstance(seed, Sequence) else []
    if len(seeds) != images or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        raise AmbientSolveError(f"seed={seed!r}: one non-negative integer, or a sequence of {images}, was expected.")
    return seeds


def condition_of_rows(cond: Any, images: int, n_samples: int) -> Any:
    """A condition of each measurement for each of its samples; one for all as it is.

    Args:
        cond: What the prior is conditioned on; a list of whole numbers is a tensor of them.
        images: B.
        n_samples: Samples of each measurement.

    Returns:
        The condition, a tensor of one entry for each measurement repeated for its samples.
    """
    if isinstance(cond, (list, tuple)) and cond and all(type(c) is int for c in cond):
        cond = torch.tensor(cond)
    if isinstance(cond, (list, tuple)) and len(cond) == images:
        return [one for one in cond for _ in range(n_samples)]
    if n_samples > 1 and isinstance(cond, Tensor) and cond.ndim and len(cond) == images:
        return cond.repeat_interleave(n_samples, 0)
    return cond
