r"""Processes with any drift: `dz = f(z, t) dt + g dw`, and the restoration-degradation step of their flow.

The flow `dz / dt = f - g^2 score / 2` has the marginals of the process. Daras et al. (2023, arXiv 2303.03384) take its
steps without the score, by restoring and degrading. With a horizon l and a step h <= l, from t to t' = t - h:

    restore    v  = E[z_{t-l} | z_t] = z - l f(z, t) + l g^2 score(z) + O(l^2)        (`restored` takes this estimate)
    read off   n  = (z - M_t(v)) / s_t,      M_t(v) = v + l f(v, t - l),         s_t  = g sqrt(l)
    degrade    z' = M_t'(v) + s_t' n,        M_t'(v) = v + (l - h) f(v, t - l),  s_t' = g sqrt(l - h)

so that z' = z - h f + l (1 - sqrt(1 - h / l)) g^2 score + O(l^2): a step of the flow, z - h f + h g^2 score / 2, as
h / l vanishes. Both must shrink with the number of steps, l more slowly than h: l = h has no degradation, s_t' = 0, and
goes twice as far along the score; a fixed ratio of the two leaves an error.

M and s need not be steps of Euler's method. Where the drift is linear `linear_transition` gives them exactly, for any
horizon; with l = t, so that v = E[z0 | z], the step is DDIM.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.process.base import Process, degrade_again, share_kept
from ambient_solve.process.soft import Grid, Law


@final
@dataclass(frozen=True)
class Transition:
    """Where states at time t are at `t + h`: a mean, and white noise round it.

    Args:
        mean: `(z, t, h) -> M`, the shape of `z`.
        deviation: `(t, h) -> s`, 0 or more, that of the noise.
    """

    mean: Callable[[Tensor, float, float], Tensor]
    deviation: Callable[[float, float], float]


@final
class Drift(Process):
    """`dz = f(z, t) dt + g dw`; levels are times.

    The estimate that `reverse` takes, and that a prior of this process gives, is `E[z_{t-l} | z_t]`. With no horizon l
    that is the clean state.

    Args:
        f: The drift, `(z, t) -> ` the shape of z, at one time.
        g: Deviation of the noise per unit of time, > 0.
        horizon: l, in units of time, > 0, cut where it would pass time 0; None restores to time 0 at once.
        transition: Mean and deviation ahead of a state, such as `linear_transition(a, g)`; one step of Euler's method
            unless given.
        law: The terminal law, which is not known in general: without it no run starts from noise.
        grid: The times of a run, such as `log_linear`; evenly spaced unless given.
    """

    def __init__(
        self,
        f: Callable[[Tensor, float], Tensor],
        g: float,
        horizon: float | None = None,
        transition: Transition | None = None,
        law: Law | None = None,
        grid: Grid | None = None,
    ) -> None:
        if not g > 0 or not (horizon is None or horizon > 0):
            raise AmbientSolveError(f"Drift: g={g} and horizon={horizon} were given; both must be above 0.")
        self.f, self.g, self.horizon, self.law, self.grid = f, g, horizon, law, grid or _evenly
        euler = Transition(lambda z, t, h: z + h * f(z, t), lambda t, h: g * math.sqrt(h))
        self.transition = euler if transition is None else transition

    def perturb(self, z0: Tensor, level: Level, n: Tensor) -> Tensor:
        """See `Process.perturb`, for one level.

        Args:
            z0: Clean states, (B, *shape).
            level: The time, a float: the rows share it.
            n: Unit noise: the shape of `z0` for one step, or (steps, B, *shape) for a path of so many.

        Returns:
            States at that time, (B, *shape); of one step they are exact only where `transition` is.

        Raises:
            AmbientSolveError: a level for each row was given.
        """
        if isinstance(level, Tensor) and level.numel() > 1:
            raise AmbientSolveError(
                f"Drift.perturb was given {level.numel()} times; a path ends at one time, so give one, for all rows."
            )
        path = n if n.ndim > z0.ndim else n[None]
        z, h = z0, float(level) / len(path)
        for i, unit in enumerate(path):
            z = self.transition.mean(z, i * h, h) + self.transition.deviation(i * h, h) * unit
        return z

    def terminal(self, level: float, n: Tensor) -> Tensor:
        """See `Process.terminal`.

        Raises:
            AmbientSolveError: no law was given.
        """
        if self.law is None:
            raise AmbientSolveError(
                "The terminal law of a Drift is not known in general; give law=, such as lambda level, n: n where the "
                "process ends in unit noise."
            )
        return self.law(level, n)

    def reverse(
        self,
        z: Tensor,
        z0: Tensor,
        level: float,
        level_next: float,
        fresh: float = 0.0,
        n: Tensor | None = None,
        kept: float | None = None,
    ) -> Tensor:
        """See `Process.reverse`; `z0` is the estimate of the states at `level - l`.

        Raises:
            AmbientSolveError: the step is longer than the horizon.
        """
        start = self._restores_to(level, level_next)
        degraded, degraded_next = (self.transition.mean(z0, start, t - start) for t in (level, level_next))
        if kept is None:
            kept = share_kept(*self.deviations(level, level_next), fresh)
        return degrade_again(z, degraded, degraded_next, kept, fresh, n)

    def deviations(self, level: float, level_next: float) -> tuple[float, float]:
        """See `Process.deviations`: the noise since the time that was restored to."""
        start = self._restores_to(level, level_next)
        return self.transition.deviation(start, level - start), self.transition.deviation(start, level_next - start)

    def restored(self, z: Tensor, score: Tensor, level: float) -> Tensor:
        """The restoration by the score, of first order in the horizon.

        Args:
            z: States at `level`, (B, *shape).
            score: Their score, `grad log p_t(z)`, the same shape.
            level: The time, > 0.

        Returns:
            An estimate of `E[z_{t-l} | z_t]`, the shape of `z`.
        """
        horizon = self._reach(level)
        return z - horizon * self.f(z, level) + horizon * self.g**2 * score

    def descend(self, z: Tensor, score: Tensor, level: float, level_next: float) -> Tensor:
        """A step of Euler's method for the flow, which the restoration-degradation step tends to.

        Args:
            z: States at `level`, (B, *shape).
            score: Their score, the same shape.
            level: The time before the step, > 0.
            level_next: The time after it, 0 to `level`.

        Returns:
            States at `level_next`, the shape of `z`.
        """
        return z - (level - level_next) * (self.f(z, level) - 0.5 * self.g**2 * score)

    def levels(self, steps: int, lowest: float, highest: float) -> list[float]:
        """See `Process.levels`; those of `grid`."""
        return self.grid(steps, lowest, highest)

    def _reach(self, level: float) -> float:
        """The horizon at a level, cut where it would pass time 0."""
        return level if self.horizon is None else min(self.horizon, level)

    def _restores_to(self, level: float, level_next: float) -> float:
        """The time that is restored to, or an `AmbientSolveError` where the step passes it."""
        start = level - self._reach(level)
        if level_next < start - 1e-9 * level:
            raise AmbientSolveError(
                f"A step from {level:.4g} to {level_next:.4g} passes the time {start:.4g} to which horizon="
                f"{self.horizon} restores; take more steps, or a longer horizon."
            )
        return min(start, level_next)


def _evenly(steps: int, lowest: float, highest: float) -> list[float]:
    """Times evenly apart, and 0."""
    return [highest + i / max(steps - 1, 1) * (lowest - highest) for i in range(steps)] + [0.0]


def linear_transition(a: float, g: float) -> Transition:
    """The exact transition of the linear process `dz = a z dt + g dw`.

    Args:
        a: Rate of the drift; below 0 the states shrink.
        g: Deviation of the noise per unit of time, > 0.

    Returns:
        Mean `e^(a h) z` and deviation `g sqrt((e^(2 a h) - 1) / (2 a))`.
    """

    def deviation(level: float, ahead: float) -> float:
        return g * math.sqrt(ahead if a == 0 else math.expm1(2 * a * ahead) / (2 * a))

    return Transition(lambda z, level, ahead: math.exp(a * ahead) * z, deviation)
