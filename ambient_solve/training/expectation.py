r"""The E-step: a sample of the posterior of every damaged picture under the prior of the moment.

Three ways to draw it:

    Guided       any algorithm of the library and the picture's own operator: DiEM (Rozet et al., 2024, arXiv
                 2405.13712) is MMPS, EM-Diffusion (Bai et al., 2024, arXiv 2407.01014) is DPS
    Conditioned  the reverse process of a network that is shown y: DiffEM (Hosseintabar et al., 2025, arXiv 2510.12691)
    FromLevel    the reverse process from the level below which a picture is not trusted: Ambient Dataloops (arXiv
                 2601.15417); for noisy pictures and a large rho SFBD (Lu et al., 2025, arXiv 2502.05446)

Only samples will do: posterior means lack the variance that the next prior has to have.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from deepinv.physics import Inpainting, LinearPhysics
from torch import Tensor

from ambient_solve.algorithms import Algorithm
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError, own_words_for_misfit
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.noise import Streams, per_sample
from ambient_solve.objectives.conditional import condition
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.priors.base import Prior, noise_like
from ambient_solve.solver import Solver
from ambient_solve.transforms import derandomised, randomised


class Expectation(abc.ABC):
    """One way to draw from the posterior."""

    @abc.abstractmethod
    def draw(self, prior: Prior, samples: Sequence[Sample], seeds: Sequence[int]) -> Tensor:
        """A restoration of each sample.

        Args:
            prior: The present prior.
            samples: Samples of one shape and kind, B of them.
            seeds: One for each; row i depends on the stream of seeds[i] alone.

        Returns:
            z, (B, C, H, W).
        """

    def restores(self, sample: Sample) -> bool:
        """Whether there is something to restore; other samples stay as they are."""
        return incomplete(sample) or sample.sigma_noise > 0

    def sigma_min(self, sample: Sample) -> float:
        """The annotation of the restoration of `sample`: what an operator did not say of it is still there."""
        return sample.sigma_min if sample.sigma_min > sample.sigma_noise else 0.0

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the manifest holds of it."""


def incomplete(sample: Sample) -> bool:
    """Whether entries of it were not observed."""
    return sample.mask is not None and not bool(sample.mask.all())


def measurement(
    samples: Sequence[Sample], prior: Prior, floor: float, cg_iterations: int = 0
) -> tuple[Tensor, LinearPhysics, Tensor]:
    """What stored samples measured, as the solver takes it.

    Args:
        samples: B samples of one shape and kind. Of k-space the least picture `w` with `A^H A w = A^H y` is expected,
            as `ambient-solve mri-train` stores it, or `A^H y`.
        prior: In whose units of images the measurement is.
        floor: Noise that a picture is taken to have at least, in units of z: files are rounded.
        cg_iterations: Steps of conjugate gradients that make `w` of `A^H y`; 0 where `w` is stored.

    Returns:
        `y`, the operator and `sigma_y` (B,).
    """
    scale, device = abs(prior.affine[0]), prior.device
    z = torch.stack([s.z for s in samples]).float().to(device)
    sigma = scale * torch.tensor([max(s.sigma_noise, floor) for s in samples])
    ones = torch.ones(1, *z.shape[2:])
    if samples[0].maps is not None:
        # A w is y without what no picture explains, which has no say in the posterior.
        maps = torch.stack([s.maps for s in samples]).to(device)
        op = MultiCoil(maps, torch.stack([ones if s.mask is None else s.mask.float() for s in samples]).to(device))
        least = conjugate_gradient(op.A_adjoint_A, z, cg_iterations) if cg_iterations else z
        return op.A(prior.decode(least)), op, sigma
    mask = torch.stack([(ones if s.mask is None else s.mask.float()).expand(z.shape[1:]) for s in samples]).to(device)
    if samples[0].signs is None:
        op = Inpainting(img_size=tuple(z.shape[1:]), mask=mask, device=device)
    else:
        signs = torch.stack([s.signs for s in samples]).float().to(device)
        op = LinearPhysics(
            A=lambda x, **_: mask * randomised(x, signs),
            A_adjoint=lambda y, **_: derandomised(mask * y, signs),
            img_size=tuple(z.shape[1:]),
        )
    # A A^H is the mask, so that A of the stored A^H y is y; the offset of decode passes through A as well.
    return op.A(prior.decode(z)), op, sigma


@final
@dataclass(frozen=True)
class FromSolver(Expectation):
    """Posterior samples by `algorithm`; `floor` and `cg_iterations` are those of `measurement`."""

    algorithm: Algorithm
    floor: float = 0.005
    cg_iterations: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """See `Expectation.settings`."""
        return {
            "algorithm": self.algorithm.name,
            **asdict(self.algorithm),
            "floor": self.floor,
            "cg_iterations": self.cg_iterations,
        }

    def draw(self, prior: Prior, samples: Sequence[Sample], seeds: Sequence[int]) -> Tensor:
        """See `Expectation.draw`: one call of the solver for all rows, each with its own mask and noise level."""
        y, op, sigma_y = measurement(samples, prior, self.floor, self.cg_iterations)
        with own_words_for_misfit():  # of early priors; held-out pictures say how good they are
            return prior.encode(Solver(prior, self.algorithm)(y, op, sigma_y=sigma_y, seed=list(seeds)))


@final
@dataclass(frozen=True)
class Conditioned(Expectation):
    """The reverse process, in `steps` levels, of a network trained by the objective `Conditional`."""

    steps: int = 18

    @property
    def settings(self) -> dict[str, Any]:
        """See `Expectation.settings`."""
        return {"algorithm": "conditional", "steps": self.steps}

    def draw(self, prior: Prior, samples: Sequence[Sample], seeds: Sequence[int]) -> Tensor:
        """See `Expectation.draw`: from pure noise at the prior's largest level."""
        wrong = [s.name for s in samples if s.signs is not None or (s.mask is not None and len(s.mask) > 1)]
        if wrong:
            raise AmbientSolveError(
                f"{wrong[0]} was not measured in whole pixels, which 'conditional' needs: use mmps."
            )
        y = torch.stack([s.z for s in samples]).float().to(prior.device)
        ones = torch.ones(1, *y.shape[2:])
        mask = torch.stack([ones if s.mask is None else s.mask.float() for s in samples]).to(prior.device)
        streams = Streams(seeds, 1, prior.device)
        start = torch.full((len(y),), prior.sigma_max, device=prior.device)
        return heun(prior, prior.sigma_max * noise_like(prior, y, streams), start, self.steps, condition(y, mask))


@final
@dataclass(frozen=True)
class FromLevel(Expectation):
    """The reverse process, in `steps` levels, from `max(sigma_min, sigma_noise)`; trusted above 1 / `rho` of that."""

    steps: int = 18
    rho: float = 2.0

    @property
    def settings(self) -> dict[str, Any]:
        """See `Expectation.settings`."""
        return {"algorithm": "from level", "steps": self.steps, "rho": self.rho}

    def restores(self, sample: Sample) -> bool:
        """See `Expectation.restores`; what may only be used below some level has none to start from."""
        return incomplete(sample) or 0 < _start(sample) < math.inf

    def sigma_min(self, sample: Sample) -> float:
        """See `Expectation.sigma_min`: a restored picture is never declared clean."""
        return _start(sample) / self.rho

    def draw(self, prior: Prior, samples: Sequence[Sample], seeds: Sequence[int]) -> Tensor:
        """See `Expectation.draw`: noise is added to the `sigma_noise` of a picture, up to the level of its start."""
        if any(incomplete(s) for s in samples):
            raise AmbientSolveError("A dataloop restores noisy and annotated pictures; for masked ones use mode: mmps.")
        z = torch.stack([s.z for s in samples]).float().to(prior.device)
        start, noise = torch.tensor([[_start(s), s.sigma_noise] for s in samples], device=prior.device).T
        extra = per_sample((start**2 - noise**2).sqrt(), z)
        return heun(prior, z + extra * Streams(seeds, 1, prior.device).normal(z), start, self.steps)


def _start(sample: Sample) -> float:
    """The level above which the sample is as good as a clean one."""
    return max(sample.sigma_min, sample.sigma_noise)


@torch.no_grad()
def heun(prior: Prior, z: Tensor, start: Tensor, steps: int, cond: Tensor | None = None, rho: float = 7.0) -> Tensor:
    """The probability-flow ODE from level `start` (B,) to 0 (Karras et al., 2022, arXiv 2206.00364, algorithm 1).

    If `z` is distributed as the prior's `z_sigma`, the result is as its `z0`.

    Args:
        prior: Any prior, asked `2 steps - 1` times.
        z: States (B, *shape) at level `start`.
        start: Levels (B,).
        steps: Noise levels, at least 1.
        cond: Condition of the prior, if it takes one.
        rho: How closely the levels lie at the low end; 7 is EDM's.

    Returns:
        Shape of z, at level 0.
    """
    low, high = start.clamp(max=prior.sigma_min) ** (1 / rho), start ** (1 / rho)
    levels = [(high + i / max(steps - 1, 1) * (low - high)) ** rho for i in range(steps)]
    for i, sigma in enumerate(levels):
        slope = (z - prior.denoise(z, sigma, cond)) / per_sample(sigma, z)
        if i + 1 == steps:
            return z - per_sample(sigma, z) * slope
        length = per_sample(levels[i + 1] - sigma, z)
        ahead = z + length * slope
        corrected = (ahead - prior.denoise(ahead, levels[i + 1], cond)) / per_sample(levels[i + 1], z)
        z = z + length * (slope + corrected) / 2
    return z
