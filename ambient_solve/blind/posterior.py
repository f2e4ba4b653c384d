"""The posterior of unknown parameters on a grid that closes in on it: their values, and how sure they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.blind.family import Family, Unknown
from ambient_solve.blind.law import SpectralLaw
from ambient_solve.blind.photographs import PHOTOGRAPHS
from ambient_solve.errors import AmbientSolveError

NOISE = "sigma"
"""The parameter of a builder that is the noise level: it changes no kernel."""
POINTS = {1: 49, 2: 25}
"""Points of the grid on each axis, by the number of unknown parameters beside the noise level."""
CLOSER_POINTS = {1: 33, 2: 15}
"""Those of the grids after the first one."""
NOISE_POINTS = {0: 49, 1: 9, 2: 7}
"""Those on the axis of the noise level, by the same number."""
NOISE_CELL = 0.4
"""Where points of the logarithm of the noise level lie further apart, it is closed in on before all others."""
ROUNDS = 5
"""Most grids, each inside the one before."""
OUTSIDE = 1e-4
"""Probability on either side of what the next grid covers."""
FINE = 3
"""Points within one standard deviation at which a grid is fine enough."""
INTERVAL = 0.9
"""Probability of an interval."""
AT_ONCE = 64
"""Points of the grid whose evidence is computed together."""
DIGITS = 4
"""Significant digits of a value: what is written down is what is used."""


@final
@dataclass(frozen=True)
class BlurEstimate:
    """What is known of the unknown parameters.

    Attributes:
        values: Posterior mean of each, to four digits.
        intervals: Central interval of 90 % of each.
        at_end: Parameters that may lie outside of the range that was given, because the interval ends there.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    at_end: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """One line, such as "width 1.52 (1.41 to 1.63)"."""
        parts = []
        for name, value in self.values.items():
            low, high = self.intervals[name]
            end = ", at the end of its range" if name in self.at_end else ""
            parts.append(f"{name} {value:.3g} ({low:.3g} to {high:.3g}{end})")
        return ", ".join(parts)

    @property
    def record(self) -> dict[str, Any]:
        """Value and interval by name, for a file of settings."""
        return {name: {"value": value, "interval": list(self.intervals[name])} for name, value in self.values.items()}


@dataclass(frozen=True)
class _Axis:
    """Coordinates of one parameter, evenly spaced."""

    unknown: Unknown
    points: np.ndarray

    @property
    def cell(self) -> float:
        return float(self.points[1] - self.points[0])

    def quantile(self, mass: np.ndarray, p: float) -> float:
        """Where `mass`, spread evenly over each cell, reaches `p`, inside the range."""
        edges = np.append(self.points - self.cell / 2, self.points[-1] + self.cell / 2)
        found = float(np.interp(p, np.append(0, np.cumsum(mass)), edges))
        if self.unknown.periodic:
            return found
        low, high = self.unknown.coordinate(self.unknown.lo), self.unknown.coordinate(self.unknown.hi)
        return min(max(found, low), high)


def estimate_blur(
    y: Tensor, family: Family, *, sigma_y: float | None = None, law: SpectralLaw = PHOTOGRAPHS
) -> BlurEstimate:
    """The unknown parameters of a family of blurs, by the evidence of each value under a law of clean pictures.

    Args:
        y: Measurements (B, C, H, W), all of one operator.
        family: Up to two parameters are unknown, and `sigma`, the noise level.
        sigma_y: Noise level; by default that of the operators.
        law: Of the spectra of the clean pictures.

    Returns:
        Values and intervals.

    Raises:
        AmbientSolveError: `y` is no picture, or the operators are no blurs.
    """
    names = list(family.unknown)
    if not isinstance(y, Tensor) or y.ndim != 4 or y.is_complex():
        raise AmbientSolveError("y is no batch of pictures (B, C, H, W); only of those are parameters estimated.")
    shapes = [name for name in names if name != NOISE]
    if len(shapes) > max(POINTS):
        raise AmbientSolveError(
            f"{', '.join(names)} are unknown; at most {max(POINTS)} and {NOISE} are estimated together."
        )
    if NOISE in names and sigma_y is not None:
        raise AmbientSolveError(f"{NOISE} is unknown, and sigma_y={sigma_y} was given; leave one of them out.")
    first, later = (
        [(NOISE_POINTS if name == NOISE else points)[len(shapes)] for name in names]
        for points in (POINTS, CLOSER_POINTS)
    )
    axes = [_whole(u, n) for u, n in zip(family.unknown.values(), first, strict=True)]
    y = y.detach().cpu().double()
    for turn in range(ROUNDS):
        mass = _posterior(y, family, axes, sigma_y, law)
        marginals = [mass.sum(tuple(j for j in range(mass.ndim) if j != i)) for i in range(mass.ndim)]
        axes, marginals = zip(*map(_centered, axes, marginals), strict=True)
        spreads = [max(_std(a, m), 1e-12) for a, m in zip(axes, marginals, strict=True)]
        if all(a.cell * FINE <= 2 * s for a, s in zip(axes, spreads, strict=True)):
            break
        if turn < ROUNDS - 1:
            coarse = [name == NOISE and a.cell > NOISE_CELL for name, a in zip(names, axes, strict=True)]
            axes = [
                a if any(coarse) and not alone and shapes else _closer(a, m, n)
                for a, m, n, alone in zip(axes, marginals, later, coarse, strict=True)
            ]
    return _summary(dict(zip(names, zip(axes, marginals, strict=True), strict=True)))


def known(y: Any, op: Physics | Family, sigma_y: Any = None) -> tuple[Physics, dict[str, Any]]:
    """The operator itself, or of a family the one that was estimated, and what settings should say of it.

    Args:
        y: The measurement.
        op: The operator, or a family of them.
        sigma_y: Noise level, a number or one per measurement; by default that of the operators.

    Returns:
        The operator, and entries of the settings; none for an operator.

    Raises:
        AmbientSolveError: as `estimate_blur`.
    """
    if not isinstance(op, Family):
        return op, {}
    level = None if sigma_y is None else float(torch.as_tensor(sigma_y).double().mean())
    found = estimate_blur(y, op, sigma_y=level)
    return op.at(found.values, tuple(y.shape)), {"estimated": found.record}


def _whole(unknown: Unknown, count: int) -> _Axis:
    """The whole range; the ends of a period are one point."""
    low, high = unknown.coordinate(unknown.lo), unknown.coordinate(unknown.hi)
    if unknown.periodic:
        return _Axis(unknown, low + (high - low) * np.arange(count) / count)
    cell = (high - low) / count
    return _Axis(unknown, low + cell * (np.arange(count) + 0.5))


def _posterior(y: Tensor, family: Family, axes: list[_Axis], sigma_y: float | None, law: SpectralLaw) -> np.ndarray:
    """Probability of each point of the grid."""
    values, made, logs = [[a.unknown.value(float(p)) for p in a.points] for a in axes], {}, []
    for points in _batches(itertools.product(*values)):
        kernels, sigmas = [], []
        for point in points:
            named = dict(zip(family.unknown, point, strict=True))
            shape = tuple(value for name, value in named.items() if name != NOISE)
            if shape not in made:
                made[shape] = family.kernel(named)
            kernels.append(made[shape][0])
            sigmas.append(named.get(NOISE, made[shape][1]) if sigma_y is None else sigma_y)
        logs.append(sum(law.log_evidence(picture, kernels, sigmas) for picture in y))
    return torch.cat(logs).softmax(0).reshape([len(v) for v in values]).numpy()


def _batches(points: Iterator[tuple[float, ...]]) -> Iterator[list[tuple[float, ...]]]:
    while batch := list(itertools.islice(points, AT_ONCE)):
        yield batch


def _centered(axis: _Axis, mass: np.ndarray) -> tuple[_Axis, np.ndarray]:
    """A period that begins opposite of the mode; another axis as it is."""
    period = axis.unknown.hi - axis.unknown.lo
    if not axis.unknown.periodic or not math.isclose(len(mass) * axis.cell, period):
        return axis, mass
    shift = int(mass.argmax()) - len(mass) // 2
    return _Axis(axis.unknown, axis.points + shift * axis.cell), np.roll(mass, -shift)


def _std(axis: _Axis, mass: np.ndarray) -> float:
    mean = mass @ axis.points
    return math.sqrt(mass @ (axis.points - mean) ** 2)


def _closer(axis: _Axis, mass: np.ndarray, count: int) -> _Axis:
    """`count` points where all but little of the mass is, and one old cell on either side."""
    low, high = axis.quantile(mass, OUTSIDE) - axis.cell, axis.quantile(mass, 1 - OUTSIDE) + axis.cell
    if not axis.unknown.periodic:
        ends = (axis.unknown.coordinate(axis.unknown.lo), axis.unknown.coordinate(axis.unknown.hi))
        low, high = max(low, ends[0]), min(high, ends[1])
    cell = (high - low) / count
    return _Axis(axis.unknown, low + cell * (np.arange(count) + 0.5))


def _summary(found: dict[str, tuple[_Axis, np.ndarray]]) -> BlurEstimate:
    values, intervals, at_end = {}, {}, []
    for name, (axis, mass) in found.items():
        u = axis.unknown
        ends = [axis.quantile(mass, p) for p in ((1 - INTERVAL) / 2, (1 + INTERVAL) / 2)]
        values[name] = _rounded(u.value(float(mass @ axis.points)))
        # An interval of a direction may go past the end of the period: 178 to 183 degrees.
        shift = values[name] - float(mass @ axis.points) if u.periodic else 0.0
        intervals[name] = tuple(_rounded(e + shift if u.periodic else u.value(e)) for e in ends)
        if not u.periodic:
            tails = [axis.quantile(mass, p) for p in (OUTSIDE, 1 - OUTSIDE)]
            near = [abs(t - u.coordinate(e)) <= axis.cell for t, e in zip(tails, (u.lo, u.hi), strict=True)]
            at_end += [name] if any(near) else []
    return BlurEstimate(values, intervals, tuple(at_end))


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
