"""`Solver`: a prior and an algorithm that draw samples of `p(x | y)` for the measurement `y` of a deepinv operator.

restoration = Solver(load_prior("photos")).solve(y, op, n_samples=8)
restoration.mean, restoration.std, restoration.samples, restoration.chi2
Solver(prior, seconds=5), Solver(prior, "daps", calls=100): as many noise levels as that allows
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.algorithms import ALGORITHMS, MMPS, Algorithm, State, auto
from ambient_solve.budget import Budget, Plan, wait
from ambient_solve.errors import AmbientSolveError, UnknownKnob, suggestion
from ambient_solve.knobs import build, knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.likelihood.measurement import Measurement, check_counts
from ambient_solve.moments import check_probabilities
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, start
from ambient_solve.priors.counted import CountedPrior
from ambient_solve.results import Restoration, Summary, join, summarise
from ambient_solve.verdict.evidence import of_run
from ambient_solve.version import __version__


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
    sigma_y: float | Tensor | None = None
    cond: Any = None
    first_sample: int = 0


class Solver:
    """A prior and an algorithm that draw posterior samples; it holds no state between calls.

    Args:
        prior: Any `Prior`, such as `load_prior("photos")`.
        algorithm: An `Algorithm`, the name of one with its knobs as keywords, or "auto": mmps where the operator
            is linear and the prior's decode affine, daps elsewhere; tds for 64 samples and more, drawn at once, of one
            or two measurements, where the prior is exact. `Restoration.settings` says which and why.
        seconds: Wall time, > 0: choose `steps` so that one call of `solve` takes about as long, a trial of a few levels
            included.
        calls: Passes per sample, 1 or more: choose `steps` so that the passes through the network, forward and backward
            together, are at most as many. The same on every machine. `Restoration.settings` holds the plan.
        settings: Knobs of the algorithm by name, such as `steps=50`; `ambient-solve info` lists them.

    Raises:
        AmbientSolveError: unknown algorithm or knob (with a suggestion), or a knob outside its range.
    """

    def __init__(
        self,
        prior: Prior,
        algorithm: Algorithm | str = "auto",
        *,
        seconds: float | None = None,
        calls: int | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(prior, Prior):
            raise AmbientSolveError(
                f"prior is a {type(prior).__name__}, a Prior was expected: load_prior('photos'), or "
                "DenoiserPrior(denoiser) around a deepinv denoiser."
            )
        self.prior, self._settings = prior, settings
        self.algorithm: Algorithm | None = None
        if isinstance(algorithm, Algorithm):
            if settings:
                raise AmbientSolveError(
                    "Knobs belong to the algorithm object when one is given: dataclasses.replace changes them."
                )
            self.algorithm = algorithm
        elif algorithm != auto.AUTO:
            if algorithm not in ALGORITHMS:
                raise AmbientSolveError(
                    f"There is no algorithm {algorithm!r}. {suggestion(str(algorithm), [*ALGORITHMS, auto.AUTO])}"
                )
            self.algorithm = build(ALGORITHMS[algorithm], **settings)
        else:
            auto.check_settings(settings)
        self.budget = None if seconds is None and calls is None else Budget(seconds=seconds, calls=calls)
        known = self.algorithm or MMPS()
        if self.budget is not None and ("steps" in settings or known.steps != type(known).steps):
            steps = settings.get("steps", known.steps)
            raise AmbientSolveError(f"{self.budget} chooses steps, and steps={steps!r} was given; leave one out.")

    def solve(
        self,
        y: Measurement,
        op: Physics,
        *,
        n_samples: int = 1,
        seed: int | Sequence[int] = 0,
        sigma_y: float | Tensor | None = None,
        cond: Any = None,
        at_once: int | None = None,
        first_sample: int = 0,
        progress: bool = False,
    ) -> Restoration:
        """Draw `n_samples` posterior samples for each measurement in `y`.

        Args:
            y: What `op` returns: (B, *measurement), real or complex, or a `TensorList`. It is not changed, nor is `op`.
            op: A deepinv physics; its parameters may be shared or have one entry per measurement (leading axis B).
            n_samples: S, samples of each measurement, 1 or more.
            seed: Whole number of 0 or more. With one, sample s of every image depends on (seed, s) alone, not on the
                batch (but for tds and fps, whose samples interact). A sequence of B gives each image its own noise.
            sigma_y: Level of Gaussian noise in the operator's units, >= 0, a number or one per measurement; by default
                that of `op.noise_model`.
            cond: Passed on to the prior, which says what it takes.
            at_once: Samples of each measurement that are drawn together; fewer need less memory, for the same result
                (but for the particles of "auto", which are drawn at once or not at all). Where the device runs out of
                memory they are halved, down to 1, with a warning and a note in `settings`.
            first_sample: Draw samples `first_sample`, `first_sample + 1`, ... of a larger set without the others.
            progress: Show a progress bar.

        Returns:
            The samples (B, S, C, *spatial) in float32, their misfit, and how they were made.

        Raises:
            AmbientSolveError: before the first network call, where the input does not fit.
            torch.OutOfMemoryError: not even one sample of each measurement fits.
        """
        said: dict[str, str] = {}
        request = Request(y, op, n_samples, seed, sigma_y, cond, first_sample)
        result = join([*self._parts(request, at_once, progress, said)])
        return dataclasses.replace(result, settings=result.settings | said)

    def summarise(
        self,
        y: Measurement,
        op: Physics,
        *,
        n_samples: int,
        at_once: int | None = None,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        seed: int | Sequence[int] = 0,
        sigma_y: float | Tensor | None = None,
        cond: Any = None,
        progress: bool = False,
    ) -> Summary:
        """Draw many samples and keep their statistics alone: mean, std, misfit and quantiles.

        The samples are those of `solve`; memory does not depend on `n_samples`. Mean and std are exact, quantiles
        follow the P-square rule, which is exact for up to 50 samples.

        Args:
            y, op, n_samples, seed, sigma_y, cond, progress: As for `solve`.
            at_once: Samples of each measurement that are drawn together: by default 8, or all if they interact.
            quantiles: Probabilities, each between 0 and 1; none need less memory.

        Returns:
            The statistics, and the first sample.

        Raises:
            AmbientSolveError: before the first network call, where the input does not fit.
        """
        probabilities = check_probabilities(quantiles)
        if at_once is None and not (self.algorithm is not None and self.algorithm.interacting):
            at_once = 8
        said: dict[str, str] = {}
        request = Request(y, op, n_samples, seed, sigma_y, cond)
        summary = summarise(self._parts(request, at_once, progress, said), probabilities)
        return dataclasses.replace(summary, settings=summary.settings | said)

    def _parts(
        self, request: Request, at_once: int | None, progress: bool, said: dict[str, str]
    ) -> Iterator[Restoration]:
        """The samples, `at_once` at a time; what `settings` should say of the memory goes to `said`."""
        n_samples, first_sample = request.n_samples, request.first_sample
        check_counts(at_once=1 if at_once is None else at_once)
        check_counts(0, first_sample=first_sample)
        together = self.algorithm is not None and self.algorithm.interacting
        if together and first_sample:
            raise AmbientSolveError(f"{self.algorithm.name} draws all samples together; leave first_sample out.")
        if at_once is None or not isinstance(n_samples, int) or at_once >= n_samples:
            at_once = n_samples
        elif together:
            raise AmbientSolveError(f"{self.algorithm.name} draws all samples of an image together; leave at_once out.")
        drawn, plan = 0, None
        while True:
            size = min(at_once, n_samples - drawn) if drawn else at_once
            parts = 1 if size == n_samples else math.ceil(n_samples / at_once)
            asked = dataclasses.replace(request, n_samples=size, first_sample=first_sample + drawn)
            run, part = None, None
            try:
                run = Run(self, asked, parts=parts, plan=plan)
                part = self._solve(run, progress)
            except RuntimeError as error:
                alone = together or (run is not None and run.algorithm.interacting)
                if not out_of_memory(error) or alone or size == 1:
                    raise
            if part is None:  # outside of the handler, which holds on to the memory of the run
                run, at_once = None, math.ceil(size / 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                said["memory"] = (
                    f"{size} samples at once did not fit into the memory; {at_once} at once were tried next"
                )
                warnings.warn(f"{said['memory']}. at_once={at_once} asks for that from the start.", stacklevel=3)
                continue
            plan, drawn = run.plan, drawn + size
            yield part
            if drawn >= n_samples:
                return

    def _solve(self, run: Run, progress: bool) -> Restoration:
        states: Iterator[State] = run.states()
        if progress:
            from tqdm import tqdm

            states = tqdm(states, total=run.algorithm.steps, desc=run.algorithm.name, unit="level")
        started = time.perf_counter()
        for state in states:
            last = state
        wait(last.z)
        return run.restoration(last.z, time.perf_counter() - started)

    def stream(
        self,
        y: Measurement,
        op: Physics,
        *,
        n_samples: int = 1,
        seed: int | Sequence[int] = 0,
        sigma_y: float | Tensor | None = None,
        cond: Any = None,
    ) -> Iterator[State]:
        """The run of `solve` in steps; closing the iterator cancels it.

        Args:
            y: See `solve`.
            op: See `solve`.
            n_samples: See `solve`.
            seed: See `solve`.
            sigma_y: See `solve`.
            cond: See `solve`.

        Yields:
            The state after each noise level; `prior.decode(state.z0)` is a preview.
        """
        return Run(self, Request(y, op, n_samples, seed, sigma_y, cond)).states()

    def __call__(self, y: Measurement, op: Physics) -> Tensor:
        """One sample per measurement, (B, C, *spatial): a deepinv reconstructor in all but name."""
        return self.solve(y, op).samples[:, 0]


class Run:
    """A request at work: everything is checked when it is made.

    Args:
        parts: Requests of this size that one call makes; they share its budget.
        plan: What the first of them has planned.
    """

    def __init__(self, solver: Solver, request: Request, *, parts: int = 1, plan: Plan | None = None) -> None:
        started = time.perf_counter()
        n_samples, first_sample = request.n_samples, request.first_sample
        self.prior = CountedPrior(solver.prior, request.cond)
        self.likelihood = Likelihood(request.y, request.op, self.prior, sigma_y=request.sigma_y, n_samples=n_samples)
        self.algorithm, self.why = solver.algorithm, "chosen by the caller"
        if self.algorithm is None:
            particles = parts == 1 and first_sample == 0 and solver.budget is None
            self.algorithm, self.why = auto.choose(solver.prior, self.likelihood, solver._settings, particles=particles)
        self.algorithm.check_prior(solver.prior)
        self.algorithm.check(self.likelihood)
        self.images, self.n_samples = self.likelihood.rows // n_samples, n_samples
        self.seed, self.operator = request.seed, type(request.op).__name__
        seeds, device = _seeds(request.seed, self.images), solver.prior.device
        self.streams = Streams(seeds, n_samples, device, first_sample)
        self.plan = plan
        if solver.budget is not None and plan is None:
            trial = Streams(seeds, n_samples, device)  # its own: the run draws what it draws without a budget
            with torch.no_grad():
                self.plan = solver.budget.plan(self.algorithm, self.prior, self.likelihood, trial, parts, started)
        if self.plan is not None:
            self.algorithm = self.plan.algorithm
        self.sigmas = self.algorithm.levels(self.prior)  # here, so that levels the prior lacks are refused at once

    @torch.no_grad()
    def states(self) -> Iterator[State]:
        """Start from pure noise, or rather from its largest level."""
        z = start(self.prior, (self.likelihood.rows, *self.likelihood.z_shape), self.sigmas[0], self.streams)
        yield from self.algorithm.iterate(self.prior, self.likelihood, z, self.sigmas, self.streams)

    @property
    def arithmetic(self) -> str:
        """What the network computes in, where it chose that by itself."""
        return next((m.arithmetic for m in self.prior.modules() if getattr(m, "arithmetic", "")), "")

    @torch.no_grad()
    def restoration(self, z: Tensor, seconds: float) -> Restoration:
        """The samples, their misfit and a record of how they were made."""
        samples = self.prior.decode(z)
        shape = (self.images, self.n_samples)
        settings = {
            "algorithm": self.algorithm.name,
            "why": self.why,
            "paper": self.algorithm.paper,
            **{k.name: getattr(self.algorithm, k.name) for k in knobs(type(self.algorithm))},
            **({} if self.plan is None else {"plan": self.plan.words}),
            "sigma_y": self.likelihood.sigma_y.tolist(),
            "prior": type(self.prior.inner).__name__,
            **({"arithmetic": self.arithmetic} if self.arithmetic else {}),
            "operator": self.operator,
            "n_samples": self.n_samples,
            "seed": self.seed if isinstance(self.seed, int) else list(self.seed),
            "device": str(samples.device),
            "versions": {"ambient_solve": __version__, "torch": torch.__version__},
        }
        return Restoration(
            samples=samples.reshape(*shape, *samples.shape[1:]),
            chi2=self.likelihood.chi2(z).reshape(shape),
            network_calls=self.prior.network_calls,
            vjps=self.prior.vjps,
            seconds=seconds,
            settings=settings,
            evidence=of_run(self.likelihood, z, samples, self.prior.affine),
        )


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has run out of memory; the allocator of the CPU raises no error of its own kind for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _seeds(seed: Any, images: int) -> list[int]:
    seeds = [seed] * images if isinstance(seed, int) else list(seed) if isinstance(seed, Sequence) else []
    if len(seeds) != images or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        raise AmbientSolveError(f"seed={seed!r}: one non-negative integer, or a sequence of {images}, was expected.")
    return seeds


def make_solver(prior: Prior, algorithm: str = "auto", options: Mapping[str, Any] | None = None) -> Solver:
    """A `Solver` whose knobs come as a mapping, such as those of a command line.

    Args:
        prior: Any `Prior`.
        algorithm: The name of one, or "auto".
        options: Its knobs by name.

    Raises:
        AmbientSolveError: as `Solver`; a knob of another algorithm is refused with the name of that algorithm.
    """
    try:
        return Solver(prior, algorithm, **(options or {}))
    except UnknownKnob as error:
        owners = [a for a, cls in ALGORITHMS.items() if error.name in (k.name for k in knobs(cls))]
        if not owners:
            raise
        raise AmbientSolveError(
            f"{algorithm!r} has no knob {error.name!r}; "
            f"it belongs to {', '.join(owners)}: choose algorithm {owners[0]!r}."
        ) from None


__all__ = ["CountedPrior", "Restoration", "Solver", "State", "Summary"]
