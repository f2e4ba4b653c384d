"""`Solver`: a prior and an algorithm that draw samples of `p(x | y)` for the measurement `y` of a deepinv operator.

restoration = Solver(load_prior("photos")).solve(y, op, n_samples=8)
restoration.mean, restoration.std, restoration.samples, restoration.chi2
Solver(prior, seconds=5), Solver(prior, "daps", calls=100): as many noise levels as that allows
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from deepinv.models import Reconstructor
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.algorithms import ALGORITHMS, MMPS, Algorithm, State, auto
from ambient_solve.blind import Family, known
from ambient_solve.budget import Budget, Plan, wait
from ambient_solve.errors import AmbientSolveError, Diverged, UnknownKnob, suggestion
from ambient_solve.knobs import build, knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.likelihood.measurement import check_counts
from ambient_solve.likelihood.noise_levels import Given
from ambient_solve.likelihood.packed import Measurement
from ambient_solve.misfit import RANGE, check_misfit
from ambient_solve.moments import check_probabilities
from ambient_solve.noise import Streams
from ambient_solve.presets import preset_named
from ambient_solve.priors.base import Prior, start
from ambient_solve.priors.counted import CountedPrior
from ambient_solve.priors.forwarded import as_prior
from ambient_solve.progress import progress_bar
from ambient_solve.request import Request, condition_of_rows, seeds_of
from ambient_solve.results import Restoration, Summary, join, summarize
from ambient_solve.verdict.evidence import of_run
from ambient_solve.version import __version__


class Solver(Reconstructor):
    """A prior and an algorithm that draw posterior samples; it holds no state between calls.

    It is a deepinv `Reconstructor`, a torch module that holds the prior: `.to(device)` moves it, `solver(y, physics)`
    is one picture for each measurement, and `deepinv.test(solver, ...)` runs.

    Args:
        prior: Any `Prior`, such as `load_prior("photos")`.
        algorithm: An `Algorithm`, the name of one with its knobs as keywords, or "auto": mmps where the operator
            is linear, daps elsewhere, latino for priors of latents; tds for 64 samples and more, drawn at once, of one
            or two measurements, where the prior is exact. `Restoration.settings` says which and why.
        seconds: Wall time, > 0: choose `steps` so that one call of `solve` takes about as long, a trial of a few levels
            included.
        calls: Passes per sample, 1 or more: choose `steps` so that the passes through the network, forward and backward
            together, are at most as many. The same on every machine. `Restoration.settings` holds the plan.
        n_samples: Samples of each measurement, 1 or more, that `solve` draws by default (4 where None), and of which a
            call `solver(y, physics)` returns the mean (one sample where None).
        preset: "fast", "balanced", "faithful" or "creative" in place of an algorithm: it chooses one, its knobs and the
            number of samples by what was measured, see `ambient_solve.presets`; `settings` replace its knobs.
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
        n_samples: int | None = None,
        preset: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if preset is not None:
            n_samples = _samples_of(preset, algorithm) if n_samples is None else n_samples
        self.preset = preset
        if n_samples is not None:
            check_counts(n_samples=n_samples)
        self.prior, self._settings, self.n_samples = as_prior(prior), settings, n_samples
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
        elif preset is None:
            auto.check_settings(settings)
        self.budget = None if seconds is None and calls is None else Budget(seconds=seconds, calls=calls)
        known = self.algorithm or MMPS()
        if self.budget is not None and ("steps" in settings or known.steps != type(known).steps):
            steps = settings.get("steps", known.steps)
            raise AmbientSolveError(f"{self.budget} chooses steps, and steps={steps!r} was given; leave one out.")

    def __repr__(self) -> str:
        chosen = "auto" if self.preset is None else f"preset {self.preset}"
        algorithm = chosen if self.algorithm is None else repr(self.algorithm)
        given = "".join(f", {name}={value!r}" for name, value in self._settings.items()) if algorithm == chosen else ""
        budget = "" if self.budget is None else f", {self.budget}"
        return f"Solver: {algorithm}{given}{budget}\nprior: {repr(self.prior)}"

    def with_prior(self, prior: Prior) -> Solver:
        """The same algorithm, budget and defaults with another prior; this solver keeps its own."""
        made = copy.copy(self)
        made._modules = dict(self._modules)  # a copy of a module shares its table of submodules
        made.prior = prior
        return made

    def solve(
        self,
        y: Measurement,
        op: Physics | Family,
        *,
        n_samples: int | None = None,
        seed: int | Sequence[int] = 0,
        sigma_y: Given | None = None,
        cond: Any = None,
        at_once: int | None = None,
        first_sample: int = 0,
        progress: bool | None = None,
    ) -> Restoration:
        """Draw `n_samples` posterior samples for each measurement in `y`.

        Args:
            y: What `op` returns: (B, *measurement), real or complex, or a `TensorList`. It is not changed, nor is `op`.
            op: A deepinv physics; its parameters may be shared or have one entry per measurement (leading axis B). Or a
                `Family`, whose unknown parameters are estimated first; `settings["estimated"]` holds them.
            n_samples: S, samples of each measurement, 1 or more; by default those of the solver, or 4, which show a
                standard deviation and cost four times one. One of aos; tds and fps must be asked for many.
            seed: Whole number of 0 or more. With one, sample s of every image depends on (seed, s) alone, not on the
                batch (but for tds and fps, whose samples interact). A sequence of B gives each image its own noise.
            sigma_y: Level of Gaussian noise in the operator's units, > 0: a number, one per measurement, or a map that
                broadcasts to `y`; of stacked operators a list with one of these for each. By default that of
                `op.noise_model`.
            cond: Passed on to the prior, which says what it takes, such as a class or a prompt: one for all
                measurements, or one for each, the leading axis B.
            at_once: Samples of each measurement that are drawn together; fewer need less memory, for the same result
                (but for the particles of "auto", which are drawn at once or not at all). Where the device runs out of
                memory they are halved, down to 1, with a warning and a note in `settings`.
            first_sample: Draw samples `first_sample`, `first_sample + 1`, ... of a larger set without the others.
            progress: Show a progress bar; None shows one in a terminal and in a notebook.

        Returns:
            The samples (B, S, C, *spatial) in float32, their misfit, and how they were made.

        Raises:
            AmbientSolveError: before the first network call, where the input does not fit.
            torch.OutOfMemoryError: not even one sample of each measurement fits.

        Warns:
            MisfitWarning: the mean misfit of a measurement is outside [.5, 2], by more than chance explains.
        """
        op, said = known(y, op, sigma_y)
        if n_samples is None:
            n_samples = self.n_samples or (self.algorithm or MMPS).samples
        request = Request(y, op, n_samples, seed, sigma_y, cond, first_sample)
        with torch.inference_mode(False):  # in which nothing can be differentiated
            result = join([*self._parts(request, at_once, progress, said)])
        check_misfit(result.chi2.mean(1), said)
        return dataclasses.replace(result, settings=result.settings | said)

    def summarize(
        self,
        y: Measurement,
        op: Physics | Family,
        *,
        n_samples: int,
        at_once: int | None = None,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        seed: int | Sequence[int] = 0,
        sigma_y: Given | None = None,
        cond: Any = None,
        progress: bool | None = None,
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
        op, said = known(y, op, sigma_y)
        request = Request(y, op, n_samples, seed, sigma_y, cond)
        with torch.inference_mode(False):
            summary = summarize(self._parts(request, at_once, progress, said), probabilities)
        check_misfit(summary.chi2, said)
        return dataclasses.replace(summary, settings=summary.settings | said)

    def _parts(
        self, request: Request, at_once: int | None, progress: bool | None, said: dict[str, Any]
    ) -> Iterator[Restoration]:
        """The samples, `at_once` at a time; `said` receives what `settings` should say of memory, and `RANGE`."""
        n_samples, first_sample = request.n_samples, request.first_sample
        check_counts(at_once=1 if at_once is None else at_once)
        check_counts(0, first_sample=first_sample)
        joint = self.algorithm if self.algorithm is not None and self.algorithm.interacting else None
        if joint and first_sample:
            raise AmbientSolveError(f"{joint.name} draws all samples together; leave first_sample out.")
        if at_once is None or not isinstance(n_samples, int) or at_once >= n_samples:
            at_once = n_samples
        elif joint:
            raise AmbientSolveError(f"{joint.name} draws all samples of an image together; leave at_once out.")
        drawn, plan = 0, None
        while True:
            size = min(at_once, n_samples - drawn) if drawn else at_once
            parts = 1 if size == n_samples else math.ceil(n_samples / at_once)
            asked = dataclasses.replace(request, n_samples=size, first_sample=first_sample + drawn)
            run: Run | None = None
            part: Restoration | None = None
            try:
                run = Run(self, asked, parts=parts, plan=plan)
                part = self._solve(run, progress)
            except RuntimeError as error:
                alone = joint is not None or (run is not None and run.algorithm.interacting)
                if not out_of_memory(error) or alone or size == 1:
                    raise
            if run is None or part is None:  # outside of the handler, which holds on to the memory of the run
                run, at_once = None, math.ceil(size / 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                said["memory"] = (
                    f"{size} samples at once did not fit into the memory; {at_once} at once were tried next"
                )
                warnings.warn(f"{said['memory']}. at_once={at_once} asks for that from the start.", stacklevel=3)
                continue
            plan, drawn, said[RANGE] = run.plan, drawn + size, run.chi2_range
            yield part
            if drawn >= n_samples:
                return

    def _solve(self, run: Run, progress: bool | None) -> Restoration:
        steps, name = run.algorithm.steps, run.algorithm.name
        started = time.perf_counter()
        for state in progress_bar(run.states(), name, show=progress, total=steps, unit="level"):
            last = state
        wait(last.z)
        return run.restoration(last.z, time.perf_counter() - started)

    def stream(
        self,
        y: Measurement,
        op: Physics | Family,
        *,
        n_samples: int = 1,
        seed: int | Sequence[int] = 0,
        sigma_y: Given | None = None,
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
        with torch.inference_mode(False):
            return Run(self, Request(y, known(y, op, sigma_y)[0], n_samples, seed, sigma_y, cond)).states()

    def forward(self, y: Measurement, physics: Physics, **options: Any) -> Tensor:
        """One picture for each measurement, as a deepinv `Reconstructor` gives it; no gradient leads through it.

        Args:
            y: See `solve`.
            physics: The operator, `op` of `solve`.
            options: Further arguments of `solve`, such as `seed`.

        Returns:
            (B, C, *spatial): the mean of the solver's `n_samples`; one sample where it has none.
        """
        return self.solve(y, physics, **{"n_samples": self.n_samples or 1, "progress": False} | options).mean


class Run:
    """A request at work: everything is checked when it is made.

    Args:
        parts: Requests of this size that one call makes; they share its budget.
        plan: What the first of them has planned.
    """

    def __init__(self, solver: Solver, request: Request, *, parts: int = 1, plan: Plan | None = None) -> None:
        started = time.perf_counter()
        n_samples, first_sample = request.n_samples, request.first_sample
        solver.prior.check_condition(request.cond)
        self.prior = CountedPrior(solver.prior, request.cond)
        self.likelihood = Likelihood(request.y, request.op, self.prior, sigma_y=request.sigma_y, n_samples=n_samples)
        self.prior.cond = condition_of_rows(request.cond, self.likelihood.rows // n_samples, n_samples)
        chosen, self.why = solver.algorithm, "chosen by the caller"
        if chosen is None and solver.preset is not None:
            chosen, self.why = auto.choose_of_preset(solver.preset, solver.prior, self.likelihood, solver._settings)
        if chosen is None:
            particles = parts == 1 and first_sample == 0 and solver.budget is None
            chosen, self.why = auto.choose(solver.prior, self.likelihood, solver._settings, particles=particles)
        self.algorithm: Algorithm = chosen
        self.algorithm.check_prior(solver.prior)
        if self.algorithm.gradient and any(p.is_inference() for p in solver.prior.parameters()):
            raise AmbientSolveError(
                f"{type(solver.prior).__name__} was made inside torch.inference_mode(), so that {self.algorithm.name} "
                "cannot differentiate it. Make it outside, or take 'proximal', which uses no gradient."
            )
        self.algorithm.check(self.likelihood)
        self.images, self.n_samples = self.likelihood.rows // n_samples, n_samples
        self.seed, self.operator = request.seed, type(request.op).__name__
        seeds, device = seeds_of(request.seed, self.images), solver.prior.device
        self.streams = solver.prior.streams_of_run(Streams(seeds, n_samples, device, first_sample))
        self.plan = plan
        if solver.budget is not None and plan is None:
            trial = Streams(seeds, n_samples, device)  # its own: the run draws what it draws without a budget
            with torch.no_grad():
                self.plan = solver.budget.plan(self.algorithm, self.prior, self.likelihood, trial, parts, started)
        if self.plan is not None:
            self.algorithm = self.plan.algorithm
        self.sigmas = self.algorithm.levels(self.prior)  # here, so that levels the prior lacks are refused at once

    @torch.inference_mode(False)
    @torch.no_grad()
    def states(self) -> Iterator[State]:
        """Start from pure noise, or rather from its largest level.

        Raises:
            AmbientSolveError: a state is NaN or infinite; on an accelerator only the last one is looked at.
        """
        z = start(self.prior, (self.likelihood.rows, *self.likelihood.z_shape), self.sigmas[0], self.streams)
        for state in self.algorithm.iterate(self.prior, self.likelihood, z, self.sigmas, self.streams):
            if (z.device.type == "cpu" or state.step == state.steps) and not bool(state.z.isfinite().all()):
                raise Diverged(
                    f"At the noise level {state.sigma:.3g} the samples became NaN or infinite: "
                    f"{type(self.prior.inner).__name__} gave such numbers, or {self.algorithm.name} diverged. Check "
                    "the prior's weights; lower its sigma_jacobian, or take 'proximal', which uses no Jacobian.",
                    state.sigma,
                )
            yield state

    @property
    def chi2_range(self) -> tuple[Tensor, Tensor]:
        """The least and the largest misfit of each measurement that need no other reason than noise, (B,) each."""
        low, high = self.likelihood.chi2_range()
        return low[:: self.n_samples], high[:: self.n_samples]

    @property
    def arithmetic(self) -> str:
        """What the network computes in, where it chose that by itself."""
        return next((str(m.arithmetic) for m in self.prior.modules() if getattr(m, "arithmetic", "")), "")

    @torch.no_grad()
    def restoration(self, z: Tensor, seconds: float) -> Restoration:
        """The samples, their misfit and a record of how they were made.

        Args:
            z: Final states (B * S, *z_shape).
            seconds: Wall time of the run.

        Returns:
            The restoration.
        """
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


def _samples_of(preset: str, algorithm: Algorithm | str) -> int:
    """How many samples a preset draws; it and an algorithm are not given together."""
    samples = preset_named(preset).samples
    if algorithm != auto.AUTO:
        name = algorithm if isinstance(algorithm, str) else algorithm.name
        raise AmbientSolveError(f"preset={preset!r} chooses the algorithm, and {name!r} was given; leave one out.")
    return samples


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has run out of memory; the allocator of the CPU raises no error of its own kind for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def make_solver(prior: Prior, algorithm: str = "auto", options: Mapping[str, Any] | None = None) -> Solver:
    """A `Solver` whose knobs come as a mapping, such as those of a command line.

    Args:
        prior: Any `Prior`.
        algorithm: The name of one, or "auto".
        options: Its knobs by name.

    Returns:
        The solver.

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
