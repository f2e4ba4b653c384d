"""Weights that no formula gives, chosen on a few pictures: `zeta` of DPS, `l_ss` of A-DPS, any other knob that scales.

    found = tune("dps", prior, op, pictures)
    Solver(prior, found.algorithm).solve(y, op)

The pictures are measured as `op` measures, restored with a geometric grid of values, and compared with themselves. Give
pictures like those to be restored, but not these: two or three tell a good weight from a bad one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.algorithms import ALGORITHMS, Algorithm
from ambient_solve.errors import AmbientSolveError, Diverged, own_words_for_misfit, suggestion
from ambient_solve.knobs import Knob, build, knobs
from ambient_solve.priors.base import Prior
from ambient_solve.solver import Solver

WEIGHTS = {"dps": "zeta", "adps": "l_ss", "mgps": "rate", "sitcom": "lambda_", "reddiff": "lambda_"}
"""The knob of each algorithm that has no default which fits all data."""
FAILED = -99.0
"""PSNR of a run that did not stay finite."""


@dataclass(frozen=True)
class Tuned:
    """The outcome of `tune`.

    Attributes:
        algorithm: The algorithm with its best weight.
        tried: The mean PSNR in dB of every value tried, in the order of the values.
    """

    algorithm: Algorithm
    tried: dict[float, float]


def tune(
    algorithm: Algorithm | str,
    prior: Prior,
    op: Physics,
    pictures: Tensor,
    *,
    knob: str | None = None,
    ratio: float = 2.0,
    seed: int = 0,
) -> Tuned:
    """Choose a weight by the mean PSNR of one sample of each picture.

    Args:
        algorithm: With the other knobs as they shall be, or a name.
        prior: Any `Prior`.
        op: As for `Solver.solve`; its noise is drawn once.
        pictures: What `op` works on, (B, C, *spatial), in its units.
        knob: Name of the weight; by default that of `WEIGHTS`.
        ratio: Quotient of two neighboring values of the grid, > 1. The grid starts at the algorithm's own value and is
            extended until the best stands inside, or at the end of the knob's range.
        seed: Decides the noise of the measurements and of the samples.

    Returns:
        The algorithm with its best weight, and the PSNR of every value tried.

    Raises:
        AmbientSolveError: no such algorithm or knob, or one that does not scale; and all that `Solver.solve` refuses.
    """
    if isinstance(algorithm, str) and algorithm not in ALGORITHMS:
        raise AmbientSolveError(f"There is no algorithm {algorithm!r}. {suggestion(algorithm, ALGORITHMS)}")
    start_from: Algorithm = build(ALGORITHMS[algorithm]) if isinstance(algorithm, str) else algorithm
    if not ratio > 1:
        raise AmbientSolveError(f"ratio={ratio} was given, a number above 1 was expected, such as 2.")
    chosen = _knob(start_from, knob)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        y = op(pictures)
    tried: dict[float, float] = {}

    def psnr(value: float) -> float:
        run = _with(start_from, chosen, value)
        tried[value] = FAILED
        with own_words_for_misfit(), contextlib.suppress(Diverged):
            error = (Solver(prior, run)(y, op, seed=seed) - pictures.to(prior.device)).square()
            tried[value] = float(torch.nan_to_num(-10 * error.flatten(1).mean(1).log10().mean(), nan=FAILED))
        return tried[value]

    start = float(getattr(start_from, chosen.name))
    most, least = chosen.hi or math.inf, chosen.lo or 0.0
    grid = [v for v in (start / ratio, start, start * ratio) if least <= v <= most]
    best = best_inside(grid, psnr, most, least)
    return Tuned(_with(start_from, chosen, best), dict(sorted(tried.items())))


def best_inside(
    values: list[float], score: Callable[[float], float], most: float = math.inf, least: float = 0.0
) -> float:
    """The best of a geometric grid, which is extended until the best stands inside.

    Args:
        values: The grid, increasing, 2 values or more; it is extended in place, to two digits.
        score: What is to be large.
        most: No value above this.
        least: No value at or below this.

    Returns:
        The value with the highest score.
    """
    ratio = values[1] / values[0]
    known: dict[float, float] = {}
    while True:
        known |= {value: score(value) for value in values if value not in known}
        best = max(values, key=known.__getitem__)
        beyond = best / ratio if best == values[0] else best * ratio if best == values[-1] else None
        if beyond is None or not least < beyond <= most:
            return best
        values.append(float(f"{beyond:.2g}"))
        values.sort()


def _knob(algorithm: Algorithm, name: str | None) -> Knob:
    own = {k.name: k for k in knobs(type(algorithm))}
    name = name or WEIGHTS.get(algorithm.name)
    if name is None:
        raise AmbientSolveError(f"{algorithm.name} has no weight that needs tuning; name one of its knobs: knob=....")
    if name not in own:
        raise AmbientSolveError(f"{algorithm.name} has no knob {name!r}. {suggestion(name, own)}")
    if own[name].type is not float or not getattr(algorithm, name) > 0:
        raise AmbientSolveError(
            f"{name}={getattr(algorithm, name)!r} does not scale; a number above 0 was expected as the start."
        )
    return own[name]


def _with(algorithm: Algorithm, knob: Knob, value: float) -> Algorithm:
    changed: dict[str, Any] = {knob.name: value}
    return dataclasses.replace(algorithm, **changed)
