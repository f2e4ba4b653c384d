r"""Which state of a soft process a measurement is: its strength, its level, and the noise that is missing there.

A measurement y = A z0 + sigma e is lifted to a picture, L y: as it is, where it is one; each small pixel as a block; or
the waves of a small picture. If L A is C_b, a member of the family, L y has gains g_b and in each part noise of some
variance nu^2 (sigma^2 times what L makes of white noise). At a level t with r = g_t / g_b at most 1,

    z_t = r L y + sqrt(s_t^2 - r^2 nu^2) n

is a state of the process if the root is real. The lowest such level loses least: nothing, where s_t = r nu.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import per_sample
from ambient_solve.process import LinearFamily, Soft

Lift = Callable[[Tensor], Tensor]
"""A measurement (N, *measurement) to a picture (N, *z_shape)."""
HALVINGS = 50
"""Halvings of an interval in which a level or a strength is looked for."""
COARSE = 65
"""Strengths that are tried first."""


@dataclass(frozen=True)
class Match:
    """The member of a family that a lifted operator is nearest to.

    Attributes:
        lift: Measurement to picture.
        strength: That of the member.
        away: Deviation of what the two make of a photograph, at most, in z units.
    """

    lift: Lift
    strength: float
    away: float


def nearest(process: Soft, family: LinearFamily, likelihood: Likelihood, highest: float, deviation: float) -> Match:
    """The member of a family that an operator is nearest to, by what both make of a random photograph.

    Args:
        process: The process.
        family: Its corruption.
        likelihood: The measurement and its operator.
        highest: The highest level of the process.
        deviation: Standard deviation of one entry of a photograph, in z units.

    Returns:
        The nearest of all lifts.

    Raises:
        AmbientSolveError: the measurement has not the form of a picture.
    """
    shape = (likelihood.rows, *likelihood.z_shape)
    like = likelihood.residual(torch.zeros(shape, device=likelihood.sigma.device))
    white = torch.randn(shape[1:], generator=torch.Generator().manual_seed(0)).to(like.device).expand(shape)
    photograph = deviation * family.synthesize(family.power(white).sqrt() * family.analyze(white))
    seen, strongest = likelihood.A(photograph), float(process.strength(highest))
    found = []
    for lift in lifts(tuple(like.shape[1:]), shape[1:]):
        lifted = lift(seen)

        def away(strength: float, lifted: Tensor = lifted) -> float:
            return float((lifted - family(photograph, strength)).square().flatten(1).mean(1).max().sqrt())

        grid = [strongest * i / (COARSE - 1) for i in range(COARSE)]
        best = min(range(COARSE), key=lambda i: away(grid[i]))
        strength = _least(away, grid[max(best - 1, 0)], grid[min(best + 1, COARSE - 1)])
        strength = min((strength, grid[best]), key=away)
        found.append(Match(lift, strength, away(strength)))
    if not found:
        raise AmbientSolveError(
            f"soft starts from a measurement that is a state of the process, a picture {shape[1:]} or a smaller one; "
            f"this one is {tuple(like.shape[1:])}. Take 'mmps' with a prior of additive noise."
        )
    return min(found, key=lambda match: match.away)


def lifts(measurement: tuple[int, ...], picture: tuple[int, ...]) -> Iterator[Lift]:
    """The ways in which a measurement of a shape may be a picture of another.

    Args:
        measurement: Its shape, (C, h, w).
        picture: The other shape, (C, H, W).

    Returns:
        Functions from measurements (B, C, h, w) to pictures (B, C, H, W); none where the shapes do not fit.
    """
    if measurement == picture:
        yield lambda y: y
    elif len(measurement) == len(picture) == 3 and measurement[0] == picture[0]:
        factor = picture[-1] // measurement[-1]
        if factor > 1 and picture[1:] == tuple(factor * side for side in measurement[1:]):
            yield lambda y: y.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
            yield lambda y: _waves(y, factor, 0.0)
            yield lambda y: _waves(y, factor, (factor - 1) / 2)


def _waves(y: Tensor, factor: int, shift: float) -> Tensor:
    """The waves of small pictures in `factor` times as many pixels; the first of them lies `shift` pixels inside."""
    large = [factor * side for side in y.shape[-2:]]
    parts = y.new_zeros((*y.shape[:-2], *large), dtype=torch.complex64)
    rows, columns = (torch.fft.fftfreq(side, 1 / side, device=y.device).long() for side in y.shape[-2:])
    keep = (2 * rows.abs()[:, None] < y.shape[-2]) & (2 * columns.abs() < y.shape[-1])
    phase = shift * (rows[:, None] / large[0] + columns / large[1])
    small = torch.fft.fft2(y) * keep * torch.exp(-2j * math.pi * phase)
    parts[..., rows[:, None] % large[0], columns % large[1]] = small
    return factor**2 * torch.fft.ifft2(parts).real


def _least(of: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one valley is least, by golden sections."""
    golden = (math.sqrt(5) - 1) / 2
    for _ in range(HALVINGS // 2):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if of(a) < of(b) else (a, high)
    return (low + high) / 2


@dataclass(frozen=True)
class Start:
    """The state of a process that a measurement is.

    Attributes:
        level: Its level.
        z: It without the noise that is missing, (N, *z_shape).
        missing: Deviation of that noise, by part; broadcasts to the parts of `z`.
    """

    level: float
    z: Tensor
    missing: Tensor


def start_of(
    process: Soft, family: LinearFamily, match: Match, likelihood: Likelihood, lowest: float, highest: float
) -> Start | None:
    """The lowest level whose states a measurement can be made one of; None where its noise is above them all.

    Args:
        process: The process.
        family: Its corruption.
        match: The member of the family that the operator is.
        likelihood: The measurement.
        lowest: The lowest level of the process above 0.
        highest: The highest.

    Returns:
        The state.
    """
    zero = torch.zeros((likelihood.rows, *likelihood.z_shape), device=likelihood.sigma.device)
    y = likelihood.residual(zero)
    white = torch.randn(y.shape[1:], generator=torch.Generator().manual_seed(1)).to(y.device).expand(y.shape)
    lifted, own = match.lift(y), family.gains(zero, match.strength)
    # What the lift makes of white noise: nothing in parts that it lacks, else the same in all (its picture has factor^2
    # times as many entries, and as many parts with noise as the measurement has entries).
    held = family.analyze(match.lift(white)).abs().square()
    factor = zero[0].numel() / y[0].numel()
    nu = factor * per_sample(likelihood.sigma, held) ** 2 * (held > 1e-8 * held.mean())

    def noise(level: float) -> tuple[Tensor, Tensor]:
        r = torch.where(own > 0, family.gains(zero, process.strength(level)) / own, 0.0).clamp(max=1)
        return r, float(process.noise(level)) ** 2 - r**2 * nu

    blurred = _first(lambda t: float(process.strength(t)) >= match.strength * (1 - 1e-6), lowest, highest)
    level = None if blurred is None else _first(lambda t: bool((noise(t)[1] >= 0).all()), blurred, highest)
    if level is None:
        return None
    r, missing = noise(level)
    return Start(level, family.synthesize(r * family.analyze(lifted)), missing.clamp_min(0).sqrt())


def _first(holds: Callable[[float], bool], low: float, high: float) -> float | None:
    """The lowest level from `low` to `high` at which a condition holds that goes on to hold above it."""
    if holds(low):
        return low
    if not holds(high):
        return None
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
