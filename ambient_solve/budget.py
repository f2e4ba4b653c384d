"""What a run costs: the calls of its network are counted, and `steps` is chosen to fit a budget.

A noise level is of one of three kinds: above `prior.sigma_jacobian`, where some algorithms take no backward pass,
below it, and the last, which ends at 0 and may take fewer passes. A trial takes one level of each kind, on the very
measurement and batch; a run is then expected to cost what the levels of its grid cost together, and the largest `steps`
that the budget allows is taken. Other knobs that cost (inner steps) stay as they are.

`calls` counts forward and backward passes alike, per sample, as `Restoration.network_calls + vjps` does. Their number
follows from no value, so that the trial asks a stand-in for the network: it is free, and the plan is the same anywhere.
`seconds` is wall time; its trial is made with the network, and taken off the budget with all that came before it.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Level, Streams, per_sample
from ambient_solve.priors.base import Prior, Vjp, start
from ambient_solve.priors.counted import CountedPrior

RESERVE = 0.1
"""Share of the seconds left after the trial that is not planned: levels do not all take the same time."""
BOUNDED = {"tolerance": 0.0}
"""Knobs by which a level may end early, and the value by which it never does: `calls` must hold in the worst case."""


class StandIn(CountedPrior):
    """The same without its network: counts as before, and answers as if the data were white."""

    def _gain(self, sigma: Level, like: Tensor) -> Level:
        v = self.sigma_data**2
        return v / (v + per_sample(sigma, like) ** 2)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`: one call, of no network."""
        self.network_calls += self.inner.passes(self.cond)
        return self._gain(sigma, z) * z

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `CountedPrior.denoise_vjp`."""

        def counted(v: Tensor) -> Tensor:
            self.vjps += self.inner.passes(self.cond)
            return self._gain(sigma, v) * v

        return self.denoise(z, sigma), counted


@dataclass(frozen=True)
class Cost:
    """The cost of one level or of many.

    Attributes:
        forwards: Forward passes through the network per sample.
        backwards: Backward passes per sample.
        seconds: Wall time of the whole batch.
    """

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Cost(*(a + b for a, b in pairs))

    @property
    def calls(self) -> int:
        """A backward pass counts as one call."""
        return self.forwards + self.backwards

    def __str__(self) -> str:
        took = f", {self.seconds:.3g} s" if self.seconds else ""
        return f"{self.forwards} forward + {self.backwards} backward passes{took}"


@dataclass(frozen=True)
class Plan:
    """The outcome of `Budget.plan`.

    Attributes:
        algorithm: The algorithm with the `steps` that fit.
        words: What was measured, and what the run is expected to cost.
    """

    algorithm: Algorithm
    words: str


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one call of `Solver.solve` may take; one of the two is given.

    Args:
        seconds: Wall time, > 0.
        calls: Forward and backward passes through the network per sample, 1 or more.

    Raises:
        AmbientSolveError: both are given, or one is not a positive number.
    """

    seconds: float | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.calls is None):
            given = f"seconds={self.seconds!r} and calls={self.calls!r}"
            raise AmbientSolveError(f"{given} were given, one of the two was expected; leave the other out.")
        whole = isinstance(self.calls, int) and not isinstance(self.calls, bool)
        if self.calls is not None and not (whole and self.calls >= 1):
            raise AmbientSolveError(f"calls={self.calls!r} was given, a whole number of at least 1 was expected.")
        number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if self.seconds is not None and not (number and 0 < self.seconds < math.inf):
            raise AmbientSolveError(f"seconds={self.seconds!r} was given, a number above 0 was expected.")

    def __str__(self) -> str:
        return f"seconds={self.seconds!r}" if self.calls is None else f"calls={self.calls!r}"

    def plan(
        self,
        algorithm: Algorithm,
        prior: CountedPrior,
        likelihood: Likelihood,
        streams: Streams,
        parts: int,
        start: float,
    ) -> Plan:
        """Choose `steps`, after a trial of one level of each kind.

        Args:
            algorithm: The algorithm; its other knobs stay.
            prior: The denoiser, whose calls are counted.
            likelihood: The measurement and its operator.
            streams: Noise of the trial, one stream for each row.
            parts: Runs of this size that the call makes.
            start: When the call began, by `time.perf_counter`.

        Returns:
            The algorithm with the most `steps` that fit, and the reckoning in words.

        Raises:
            AmbientSolveError: not even two levels fit.
        """
        if self.calls is not None:
            own = [k.name for k in knobs(type(algorithm))]
            given: dict[str, Any] = {name: BOUNDED[name] for name in own if name in BOUNDED}
            bounded = dataclasses.replace(algorithm, **given)
            costs = _trial(bounded, StandIn(prior.inner, prior.cond), likelihood, streams)
            costs = {kind: dataclasses.replace(cost, seconds=0.0) for kind, cost in costs.items()}
            return self._fitting(algorithm, prior, costs, self.calls, "no call of the network")
        trial = CountedPrior(prior.inner, prior.cond)
        costs = _trial(algorithm, trial, likelihood, streams)
        spent = time.perf_counter() - start
        limit = (1 - RESERVE) * ((self.seconds or 0.0) - spent) / parts
        about = f"{trial.network_calls} forward + {trial.vjps} backward passes; with what came before, {spent:.3g} s"
        return self._fitting(algorithm, prior, costs, limit, about, lambda s: spent + parts * s / (1 - RESERVE))

    def _fitting(
        self,
        algorithm: Algorithm,
        prior: Prior,
        costs: dict[str, Cost],
        limit: float,
        trial: str,
        needed: Callable[[float], float] | None = None,
    ) -> Plan:
        """The plan of at most `limit`; `needed` turns what levels take into the least budget that allows them."""

        def size(steps: int) -> float:
            total = _total(algorithm, steps, prior, costs)
            return total.calls if self.seconds is None else total.seconds

        most = _most_steps(algorithm)
        least = min(2, most)
        if size(least) > limit:
            enough = f"calls={size(least)}" if needed is None else f"seconds={needed(1.05 * size(least)):.2g}"
            raise AmbientSolveError(
                f"{self} was given, {algorithm.name} needs {enough} for the least of {least} noise levels of this "
                "measurement; give as much, or choose a cheaper algorithm such as 'proximal'."
            )
        steps = _largest(size, limit, least, most)
        each = "; ".join(f"{kind}, {cost}" for kind, cost in costs.items())
        total = _total(algorithm, steps, prior, costs)
        words = f"{self}: trial ({trial}): a level takes {each}. The most that fits is steps={steps}, {total}."
        return Plan(dataclasses.replace(algorithm, steps=steps), words)


def _most_steps(algorithm: Algorithm) -> int:
    return next(int(k.hi) for k in knobs(type(algorithm)) if k.name == "steps" and k.hi is not None)


def _levels(algorithm: Algorithm, steps: int, prior: Prior) -> list[tuple[str, float, float]]:
    """(kind, level, next level) of each level of a run."""
    grid = dataclasses.replace(algorithm, steps=steps).levels(prior)

    def kind(sigma: float, sigma_next: float) -> str:
        if sigma_next == 0:
            return "down to 0"
        return "at high noise" if sigma > prior.sigma_jacobian else "at most levels"

    return [(kind(s, t), s, t) for s, t in zip(grid, grid[1:], strict=False)]


def _total(algorithm: Algorithm, steps: int, prior: Prior, costs: dict[str, Cost]) -> Cost:
    return sum((costs[kind] for kind, _, _ in _levels(algorithm, steps, prior)), Cost())


def _trial(algorithm: Algorithm, prior: CountedPrior, likelihood: Likelihood, streams: Streams) -> dict[str, Cost]:
    """The cost of one level of each kind, from the middle of those of the finest grid."""
    levels = _levels(algorithm, _most_steps(algorithm), prior)
    _level(algorithm, prior, likelihood, *levels[-1][1:], streams)  # what the first call alone takes is not measured
    costs = {}
    for kind in dict.fromkeys(kind for kind, _, _ in levels):
        same = [(s, t) for other, s, t in levels if other == kind]
        costs[kind] = _level(algorithm, prior, likelihood, *same[len(same) // 2], streams)
    return costs


def _level(
    algorithm: Algorithm, prior: CountedPrior, likelihood: Likelihood, sigma: float, sigma_next: float, streams: Streams
) -> Cost:
    z = start(prior, (likelihood.rows, *likelihood.z_shape), sigma, streams)
    forwards, backwards, started = prior.network_calls, prior.vjps, time.perf_counter()
    for state in dataclasses.replace(algorithm, steps=1).iterate(prior, likelihood, z, [sigma, sigma_next], streams):
        z = state.z
    wait(z)
    seconds = time.perf_counter() - started
    return Cost(prior.network_calls - forwards, prior.vjps - backwards, seconds)


def wait(z: Tensor) -> None:
    """Return when `z` is computed, whatever the device: a clock read before would not tell."""
    float(z.flatten()[0])


def _largest(size: Callable[[int], float], limit: float, low: int, high: int) -> int:
    """The largest whole number in [low, high] with `size` at most `limit`; `size` grows and `size(low)` fits."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle) <= limit else (low, middle - 1)
    return low
