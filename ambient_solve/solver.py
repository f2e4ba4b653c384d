"""`Solver`: a prior and an algorithm that draw samples of `p(x | y)` for the measurement `y` of a deepinv operator.

restoration = Solver(load_prior("photos")).solve(y, op, n_samples=8)
restoration.mean, restoration.std, restoration.samples, restoration.chi2
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.algorithms import ALGORITHMS, DAPS, MMPS, Algorithm, State
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.knobs import build, knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.measurement import Measurement
from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.restoration import Restoration, join
from ambient_solve.version import __version__


class CountedPrior(Prior):
    """A prior that counts what an algorithm asks of it, and hands it the condition of this run."""

    def __init__(self, prior: Prior, cond: Any = None) -> None:
        super().__init__()
        self.inner, self._cond = prior, cond
        self.shape, self.sigma_min, self.sigma_max = prior.shape, prior.sigma_min, prior.sigma_max
        self.sigma_data, self.sigma_jacobian = prior.sigma_data, prior.sigma_jacobian
        self.network_calls = self.vjps = 0

    @property
    def affine(self) -> tuple[float, float] | None:
        """That of the prior inside."""
        return self.inner.affine

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """One network call."""
        self.network_calls += 1
        return self.inner.denoise(z, sigma, self._cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None) -> tuple[Tensor, Vjp]:
        """One network call now, and one VJP for each use of the function returned."""
        self.network_calls += 1
        z0, vjp = self.inner.denoise_vjp(z, sigma, self._cond)

        def counted(v: Tensor) -> Tensor:
            self.vjps += 1
            return vjp(v)

        return z0, counted

    def decode(self, z: Tensor) -> Tensor:
        """That of the prior inside."""
        return self.inner.decode(z)

    def encode(self, x: Tensor) -> Tensor:
        """That of the prior inside."""
        return self.inner.encode(x)

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """That of the prior inside."""
        return self.inner.noise(shape, streams)

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the prior inside."""
        return self.inner.state_shape(image_shape)


class Solver:
    """Draws posterior samples; holds no state between calls.

    Args:
        prior: Any `Prior`, such as `load_prior("photos")`.
        algorithm: An `Algorithm`, the name of one with its knobs as keywords, or "auto": mmps where the operator
            is linear and the prior's decode affine, daps elsewhere; `Restoration.settings` says which and why.

    Raises:
        AmbientSolveError: unknown algorithm or knob (with a suggestion), or a knob outside its range.
    """

    def __init__(self, prior: Prior, algorithm: Algorithm | str = "auto", **settings: Any) -> None:
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
        elif algorithm != "auto":
            if algorithm not in ALGORITHMS:
                raise AmbientSolveError(
                    f"There is no algorithm {algorithm!r}. {suggestion(str(algorithm), [*ALGORITHMS, 'auto'])}"
                )
            self.algorithm = build(ALGORITHMS[algorithm], **settings)
        else:
            names = {cls: [k.name for k in knobs(cls)] for cls in (MMPS, DAPS)}
            for name in settings:
                if not any(name in own for own in names.values()):
                    raise AmbientSolveError(f"'auto' has no knob {name!r}. {suggestion(name, sum(names.values(), []))}")
            for cls, own in names.items():
                build(cls, **{name: value for name, value in settings.items() if name in own})

    def _automatic(self, linear: bool) -> tuple[Algorithm, str]:
        """The algorithm that "auto" stands for, with the reason in words."""
        if linear:
            why = "linear operator: moment matching needs no weight and follows the prior's Jacobian"
            return build(MMPS, **self._settings), why
        why = "non-linear operator: decoupled annealing, Langevin draws of the measurement"
        return build(DAPS, **self._settings), why

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
        progress: bool = False,
    ) -> Restoration:
        """Draw `n_samples` posterior samples for each measurement in `y`.

        Args:
            y: What `op` returns, batch of B first. Neither `y` nor `op` is changed.
            seed: With one integer, sample s of every image depends on (seed, s) alone, not on the batch (but for tds,
                whose samples interact). A sequence of B integers gives each image its own noise.
            sigma_y: Measurement noise in the operator's units, when `op.noise_model` does not hold it.
            cond: Passed on to the prior.
            at_once: Samples of each measurement that are drawn together; fewer need less memory, for the same result.
            progress: Show a progress bar.

        Returns:
            The samples (B, S, C, *spatial) in float32 and what is known of them.

        Raises:
            AmbientSolveError: before the first network call, where the input does not fit.
        """
        if at_once is None or at_once >= n_samples:
            return self._solve(_Run(self, y, op, n_samples, seed, sigma_y, cond), progress)
        if isinstance(at_once, bool) or not isinstance(at_once, int) or at_once < 1:
            raise AmbientSolveError(f"at_once={at_once!r} was given, a whole number of at least 1 was expected.")
        if self.algorithm is not None and self.algorithm.interacting:
            raise AmbientSolveError(f"{self.algorithm.name} draws all samples of an image together; leave at_once out.")
        firsts = range(0, n_samples, at_once)
        runs = [_Run(self, y, op, min(at_once, n_samples - f), seed, sigma_y, cond, f) for f in firsts]
        return join([self._solve(run, progress) for run in runs])

    def _solve(self, run: _Run, progress: bool) -> Restoration:
        states: Iterator[State] = run.states()
        if progress:
            from tqdm import tqdm

            states = tqdm(states, total=run.algorithm.steps, desc=run.algorithm.name, unit="level")
        started = time.perf_counter()
        for state in states:
            last = state
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
        """The run of `solve`, one `State` per level; closing the iterator cancels.

        `prior.decode(state.z0)` is a preview.
        """
        return _Run(self, y, op, n_samples, seed, sigma_y, cond).states()

    def __call__(self, y: Measurement, op: Physics) -> Tensor:
        """One sample per measurement, (B, C, *spatial): a deepinv reconstructor in all but name."""
        return self.solve(y, op).samples[:, 0]


class _Run:
    """One call of `solve` or `stream`: everything is checked when it is made."""

    def __init__(
        self,
        solver: Solver,
        y: Any,
        op: Any,
        n_samples: int,
        seed: Any,
        sigma_y: Any,
        cond: Any,
        first_sample: int = 0,
    ) -> None:
        self.prior = CountedPrior(solver.prior, cond)
        self.likelihood = Likelihood(y, op, self.prior, sigma_y=sigma_y, n_samples=n_samples)
        self.algorithm, self.why = solver.algorithm, "chosen by the caller"
        if self.algorithm is None:
            self.algorithm, self.why = solver._automatic(self.likelihood.linear)
        self.algorithm.check(self.likelihood)
        self.images, self.n_samples = self.likelihood.rows // n_samples, n_samples
        self.seed, self.operator = seed, type(op).__name__
        self.streams = Streams(_seeds(seed, self.images), n_samples, solver.prior.device, first_sample)

    @torch.no_grad()
    def states(self) -> Iterator[State]:
        """Start from pure noise, or rather from its largest level."""
        sigmas = self.algorithm.levels(self.prior)
        z = sigmas[0] * self.prior.noise((self.likelihood.rows, *self.likelihood.z_shape), self.streams)
        yield from self.algorithm.iterate(self.prior, self.likelihood, z, sigmas, self.streams)

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
            "sigma_y": self.likelihood.sigma_y.tolist(),
            "prior": type(self.prior.inner).__name__,
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
        )


def _seeds(seed: Any, images: int) -> list[int]:
    seeds = [seed] * images if isinstance(seed, int) else list(seed) if isinstance(seed, Sequence) else []
    if len(seeds) != images or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in seeds):
        raise AmbientSolveError(f"seed={seed!r}: one non-negative integer, or a sequence of {images}, was expected.")
    return seeds


__all__ = ["CountedPrior", "Restoration", "Solver", "State"]
