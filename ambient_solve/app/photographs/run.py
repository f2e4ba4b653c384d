"""Run a `Problem` and report on it: a preview now and then, and a result after every finished sample."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ambient_solve.app.panels import duration
from ambient_solve.app.photographs.job import PreparedRequest
from ambient_solve.app.watched import watched
from ambient_solve.solver import Request, Run
from ambient_solve.verdict import evidence
from ambient_solve.verdict.evidence import Evidence
from ambient_solve.verdict.judge import Verdict, judge

INTERVAL = 1 / 3
"""Shortest time between two previews, in seconds."""
FRAMES = 8
"""Number of estimates of the first sample that are kept for the strip of steps."""
FRAME = 160
"""Height of these estimates, in pixels."""
LATEST = 5
"""Number of levels whose pace says how long the next ones take."""


@dataclass(frozen=True)
class Result:
    """The samples finished so far (S, H, W, C) at full size, and what the panels say about them.

    `residual` (h, w, C) is that of the first sample in units of the noise, None where no picture was measured, as of
    JPEG coefficients; `frames` are captions and estimates.
    """

    problem: PreparedRequest
    samples: np.ndarray
    chi2: tuple[float, ...]
    residual: np.ndarray | None
    frames: tuple[tuple[str, np.ndarray], ...]
    settings: dict[str, Any]
    seconds: float
    calls: int
    vjps: int
    evidence: Evidence | None = None

    def verdict(self, harmless: Collection[str] = ()) -> Verdict:
        """Whether the stated damage fits the picture.

        Args:
            harmless: Causes of which nothing is to be said; see `judge`.
        """
        return judge(self.chi2, self.evidence, 0, self.settings["operator"], self.settings["algorithm"], harmless)

    @property
    def mean(self) -> np.ndarray:
        """The best guess in squared error."""
        return self.samples.mean(0)

    @property
    def misfit(self) -> float:
        """Mean data misfit of the samples, 1 is right."""
        return sum(self.chi2) / len(self.chi2)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
        share: How far it is, 0 to 1.
        words: The same for readers, with the time that is left.
        preview: An estimate (h, w, C) at the working size.
        result: What there is whenever a sample is finished.
    """

    share: float
    words: str
    preview: np.ndarray | None = None
    result: Result | None = None


def run(problem: PreparedRequest) -> Iterator[Progress]:
    """Draw the samples. Sample s depends on (seed, s) alone, however many are drawn at once.

    Args:
        problem: What `prepare_request` made.

    Returns:
        An iterator over a `Progress` at most every INTERVAL seconds and whenever a sample is finished. Closing it ends
        the run.
    """
    request, given = problem.request, problem.measured
    clock, shown, result, frames = _Clock(request.samples), 0.0, None, []
    for first in range(0, request.samples, problem.at_once):
        size = min(problem.at_once, request.samples - first)
        part = Run(problem.solver, Request(given.y, given.op, size, request.seed, given.sigma_y, problem.cond, first))
        clock.begin([part.algorithm.gradient and s <= part.prior.sigma_jacobian for s in part.sigmas[:-1]])
        kept = {round(i) for i in np.linspace(1, part.algorithm.steps, FRAMES)} if first == 0 else set()
        for state in watched(part.states(), problem.tiled, INTERVAL):
            if isinstance(state, int):
                yield Progress(*clock.within(first, size, part.algorithm.steps, state, problem.tiles))
                continue
            clock.passed(state.step)
            if state.step in kept:
                frames.append((f"noise {state.sigma:.2g}", _thumbnail(_estimate(problem, part, state.z0))))
            if time.perf_counter() - shown >= INTERVAL and state.step < state.steps:
                share, words = clock.report(first, size, state.step, state.steps)
                yield Progress(share, words, _estimate(problem, part, state.z0))
                shown = time.perf_counter()
        result = _finished(problem, part, state.z, result, tuple(frames), clock.elapsed())
        share, words = clock.finish(first + size)
        yield Progress(share, words, result=result)


class _Clock:
    """How far a run is and how long it may still take, by the levels and the samples that it has seen.

    Low levels, of which the Jacobian is used, take several times as long as the others: no time is given before one of
    each kind that is still to come has been seen.
    """

    def __init__(self, samples: int) -> None:
        self.samples, self.finished, self.started = samples, 0, time.perf_counter()
        self.part = self.level = self.started
        self.expensive: list[bool] = []
        self.step = 0
        self.paces: dict[bool, list[float]] = {False: [], True: []}

    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def begin(self, expensive: list[bool]) -> None:
        """A part of the samples begins, with these levels, True for an expensive one."""
        self.expensive, self.level, self.step = expensive, time.perf_counter(), 0

    def passed(self, step: int) -> None:
        """So many of the levels are done."""
        now, self.step = time.perf_counter(), step
        self.paces[self.expensive[step - 1]].append(now - self.level)
        self.level = now

    def _time(self, levels: list[bool]) -> float | None:
        """Seconds for `levels`, None where one is of a kind that was not seen yet."""
        if any(not self.paces[kind] for kind in levels):
            return None
        latest = {kind: paces[-LATEST:] for kind, paces in self.paces.items()}
        return sum(sum(latest[kind]) / len(latest[kind]) for kind in levels)

    def report(self, first: int, size: int, step: int, steps: int) -> tuple[float, str]:
        share = (first + size * step / steps) / self.samples
        which = f"Sample {first + 1}" if size == 1 else f"Samples {first + 1} to {first + size}"
        words = f"{which} of {self.samples}, level {step} of {steps}"
        if self.finished:
            each = (self.part - self.started) / self.finished
            left = max(0.0, each * (self.samples - self.finished) - (time.perf_counter() - self.part))
            return share, f"{words}; about {duration(left)} left"
        rest, whole = self._time(self.expensive[step:]), self._time(self.expensive)
        if step == 1 or rest is None or whole is None:
            return share, words
        return share, f"{words}; about {duration(rest + whole * (self.samples - size) / size)} left"

    def within(self, first: int, size: int, steps: int, done: int, tiles: int) -> tuple[float, str]:
        """Where the run stands inside of a level, of which `done` tiles are through."""
        share = (first + size * self.step / steps) / self.samples
        which = f"Sample {first + 1}" if size == 1 else f"Samples {first + 1} to {first + size}"
        passed = f"{done} tiles of {tiles} in a pass" if done > tiles * size else f"tile {done} of {tiles * size}"
        return share, f"{which} of {self.samples}, level {self.step + 1} of {steps}: {passed}"

    def finish(self, finished: int) -> tuple[float, str]:
        self.finished, self.part = finished, time.perf_counter()
        if finished < self.samples:
            return finished / self.samples, f"{finished} of {self.samples} samples finished"
        return 1.0, f"Finished: {self.samples} sample{'s' * (self.samples > 1)} in {duration(self.elapsed())}"


def _estimate(problem: PreparedRequest, part: Run, z: Tensor) -> np.ndarray:
    """The first of the states `z` as a picture (h, w, C) of the working size."""
    with torch.no_grad():
        x = problem.damage.to_output(part.prior.decode(z[:1])[:, None], problem.piece.picture)[0, 0].float().cpu()
    if problem.piece.mask is not None and problem.request.keep:
        x = torch.where(problem.piece.mask > 0, problem.piece.picture.y[0], x)
    return x.permute(1, 2, 0).numpy()


def _handed_out(problem: PreparedRequest, samples: Tensor) -> np.ndarray:
    """Samples (1, S, C, h, w) as handed out (S, H, W, C): framed, at full size, measured pixels copied back."""
    x, piece = problem.damage.to_output(samples, problem.piece.picture).float().cpu(), problem.piece
    if piece.picture.y.shape != piece.whole.y.shape:
        x = piece.paste(x)
    elif piece.mask is not None and problem.request.keep:
        x = torch.where(piece.mask > 0, piece.picture.y, x)
    return x[0].permute(0, 2, 3, 1).numpy()


def _finished(
    problem: PreparedRequest,
    part: Run,
    z: Tensor,
    before: Result | None,
    frames: tuple[tuple[str, np.ndarray], ...],
    seconds: float,
) -> Result:
    """What is known after one more part of the samples."""
    restored = part.restoration(z, seconds)
    samples = _handed_out(problem, restored.samples)
    given = problem.measured
    misfits = restored.chi2 if given.chi2 is None else given.chi2(restored.samples)
    chi2 = tuple(problem.picture.whole_chi2(misfits[0].cpu()).tolist())
    own = restored.evidence.of_copies(problem.picture.copies)
    shown = evidence.joined_evidence([own] if before is None else [before.evidence, own])
    if before is not None:
        return replace(
            before,
            samples=np.concatenate([before.samples, samples]),
            chi2=before.chi2 + chi2,
            seconds=seconds,
            calls=max(before.calls, restored.network_calls),
            vjps=max(before.vjps, restored.vjps),
            evidence=shown,
        )
    residual = None
    if given.y.shape == problem.piece.picture.y.shape:
        with torch.no_grad():
            explained = problem.op.A(restored.samples[:, 0]).cpu()
        residual = ((given.y - explained)[0] / problem.damage.sigma).permute(1, 2, 0).numpy()
    made = {**restored.settings, "n_samples": problem.request.samples}
    calls, vjps = restored.network_calls, restored.vjps
    return Result(problem, samples, chi2, residual, frames, made, seconds, calls, vjps, shown)


def _thumbnail(x: np.ndarray) -> np.ndarray:
    """A copy of FRAME pixels height at most."""
    if x.shape[0] <= FRAME:
        return x
    size = (FRAME, max(1, round(x.shape[1] * FRAME / x.shape[0])))
    small = torch.nn.functional.interpolate(torch.from_numpy(x).permute(2, 0, 1)[None], size=size, mode="area")
    return small[0].permute(1, 2, 0).numpy()
