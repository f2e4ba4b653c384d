"""What an evaluation measures: one trial for each picture, task, method and prior, known by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from deepinv.physics import Physics
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior
from ambient_solve.solver import Solver

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Arm:
    """A way to restore: an `Algorithm`, or a classical `(y, op) -> x` that needs no prior. `settings` tell it apart."""

    label: str
    method: Algorithm | Callable[[Tensor, Physics], Tensor]
    settings: dict[str, Any]


@dataclass(frozen=True)
class BenchmarkTask:
    """What is measured: `build` makes the operator for pictures of a size (C, H, W). `settings` tell it apart."""

    label: str
    build: Callable[[Size], Physics]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """A truth `x` (1 or 3, H, W) in [0, 1]; `shown` if its restorations are kept as pictures."""

    name: str
    x: Tensor
    shown: bool = False


@dataclass(frozen=True)
class Trial:
    """One row to measure. `key` is its content; `measured` that of its measurement, which several jobs share."""

    prior_label: str
    prior: Prior | None
    arm: Arm
    task: BenchmarkTask
    op: Physics
    picture: Truth
    samples: int
    seed: int
    key: str
    measured: str

    def measurement(self) -> Tensor:
        """`y` (1, ...): what the operator measures of the picture, and noise that depends on `measured` alone."""
        with torch.no_grad():
            clean = self.op.A(self.picture.x[None])
        generator = torch.Generator().manual_seed(int(self.measured[:8], 16))
        return clean + self.op.noise_model.sigma * torch.randn(clean.shape, generator=generator)

    def solver(self, y: Tensor) -> Solver:
        """What restores `y`."""
        if isinstance(self.arm.method, Algorithm):
            return Solver(self.prior, self.arm.method)
        return Solver(_Pixels(), _Classical(arm=self.arm, y=y, op=self.op))


def plan_trials(
    priors: Mapping[str, Prior],
    arms: Sequence[Arm],
    tasks: Sequence[BenchmarkTask],
    pictures: Sequence[Truth],
    *,
    samples: int = 8,
    seed: int = 0,
) -> list[Trial]:
    """The jobs of a benchmark: every combination of picture, task, method and prior.

    Args:
        priors: Priors by the name that the tables give them.
        arms: Methods to compare; a classical one has no prior, and one picture in place of samples.
        tasks: What happens to the pictures.
        pictures: Undamaged pictures.
        samples: Posterior samples of each measurement, 1 or more.
        seed: Decides the noise of the measurements and of the samples.

    Returns:
        The jobs; those of one task, method and prior follow each other, picture by picture.
    """
    contents = {label: content_of(prior) for label, prior in priors.items()}
    digests = [_digest(p.x.contiguous().numpy().tobytes(), str(tuple(p.x.shape))) for p in pictures]
    operators: dict[tuple[int, Size], Physics] = {}
    jobs: list[Trial] = []
    for t, task in enumerate(tasks):
        for arm in arms:
            learned = isinstance(arm.method, Algorithm)
            for label, prior in priors.items() if learned else [("", None)]:
                for picture, digest in zip(pictures, digests, strict=True):
                    size = tuple(picture.x.shape)
                    if (t, size) not in operators:
                        operators[t, size] = task.build(size)
                    S, own = (samples, contents[label]) if learned else (1, "")
                    measured = _digest(json.dumps(task.settings), digest, str(seed))
                    key = _digest(own, json.dumps(arm.settings), measured, str(S))
                    given = (label, prior, arm, task, operators[t, size], picture, S, seed, key, measured)
                    jobs.append(Trial(*given))
    return jobs


def unfit(jobs: Sequence[Trial]) -> dict[str, str]:
    """Why an arm cannot do a task, for each job that therefore must be left out, by key. No network is called."""
    reasons: dict[str, str] = {}
    known: dict[tuple[int, int, int, tuple[int, ...]], str] = {}
    for job in jobs:
        case = (id(job.prior), id(job.arm), id(job.task), tuple(job.picture.x.shape))
        if case not in known:
            y = job.measurement()
            try:
                job.solver(y).stream(y, job.op, n_samples=job.samples).close()
                known[case] = ""
            except AmbientSolveError as error:
                known[case] = str(error)
        if known[case]:
            reasons[job.key] = known[case]
    return reasons


def content_of(prior: Prior) -> str:
    """A digest of what a prior computes: its weights and every plain setting of its parts."""
    parts: list[bytes | str] = []
    for name, module in prior.named_modules():
        plain = {k: v for k, v in vars(module).items() if isinstance(v, (int, float, str, tuple))}
        parts.append(f"{name} {type(module).__name__} {sorted(plain.items())}")
    for name, tensor in [*prior.named_parameters(), *prior.named_buffers()]:
        parts += [name, str(tensor.dtype), tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()]
    return _digest(*parts)


def _digest(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # Each part by itself: its length tells where it ends.
        digest.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return digest.hexdigest()[:16]


@final
class _Pixels(Prior):
    """The prior of a method that has none: pictures as they are."""

    shape, sigma_min, sigma_max = (-1, -1, -1), 0.01, 1.0

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """Never called."""
        raise AmbientSolveError("A classical reconstruction has no prior to ask.")


@final
@dataclass(frozen=True, kw_only=True)
class _Classical(Algorithm):
    """A reconstruction by a formula, checked, timed and scored by `Solver` like any other."""

    name: ClassVar[str] = "classical"
    paper: ClassVar[str] = ""

    arm: Arm
    y: Tensor
    op: Physics

    def check(self, likelihood: Any) -> None:
        """See `Algorithm.check`."""
        if not likelihood.linear:
            raise AmbientSolveError(f"{self.arm.label} needs a linear operator.")

    def iterate(
        self, prior: Prior, likelihood: Any, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        x = self.arm.method(self.y, self.op)
        yield State(1, 1, sigmas[0], x, x)
