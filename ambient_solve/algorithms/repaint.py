r"""RePaint (Lugmayr et al., 2022, arXiv 2201.09865, algorithm 1) for masks, noisy ones too.

A mask shows each pixel by itself: `A'A = diag(w)`. Then `yh = A'y / w` is the observed part of `z0` with noise of
variance `tau^2 = sigma_y^2 / w`, and where nothing is observed `tau` is infinite. A state of the next level `t` is

    t >= tau     z = yh + sqrt(t^2 - tau^2) n                                   the measurement, noised up to the level
    t <  tau     z = D + (t^2 / s^2) (z_s - D) + t sqrt(1 - t^2 / s^2) n        the ancestral step K_1 from level s

In the paper, of noise-free masks, these are the observed and the hidden pixels. Below `tau` an observed pixel joins
the hidden ones: at level `tau` the measurement is itself a state, `z_tau = yh`, from which `K_1` goes on.

Each block of `jump` levels is passed `resample` times, so that the hidden part can adapt to the observed one. The jump
back from `t` to `s` adds noise; observed pixels below `tau` must end at `yh` and follow the Brownian bridge:

    z_s = z_t + (s^2 - t^2) / (tau^2 - t^2) (yh - z_t) + sqrt((s^2 - t^2) (tau^2 - s^2) / (tau^2 - t^2)) n
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like

BLIND = 1e-6
"""Entries of `A'A` below this share of the largest count as not observed."""


@final
@dataclass(frozen=True, kw_only=True)
class RePaint(Algorithm):
    """`resample` forward passes per level; masks only."""

    name: ClassVar[str] = "repaint"
    paper: ClassVar[str] = "Lugmayr et al., 2022, arXiv 2201.09865"

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")
    jump: int = knob(1, 1, 10_000, "levels in a block that is passed several times")
    resample: int = knob(10, 1, 1000, "times that each block of levels is passed; 1 never jumps back")

    def check(self, likelihood: Likelihood) -> None:
        """See `Algorithm.check`."""
        super().check(likelihood)
        weights = _weights(likelihood)
        probe = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)).to(weights)
        seen = likelihood.At(likelihood.A(probe))
        if (seen - weights * probe).norm() > 1e-4 * seen.norm():
            raise AmbientSolveError(
                "repaint was given an operator that mixes pixels, a mask was expected. "
                "Use 'mmps' or 'proximal', or leave algorithm='auto'."
            )

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        weights = _weights(likelihood)
        seen = weights > BLIND * per_sample(weights.flatten(1).amax(1), weights)
        # The precision 1 / tau^2, 0 where nothing is observed, and yh: A'y is A' of the residual at 0.
        omega = torch.where(seen, weights / per_sample(likelihood.sigma, z) ** 2, 0)
        y = torch.where(seen, likelihood.At(likelihood.residual(torch.zeros_like(z))) / weights.clamp_min(1e-30), 0)
        for start in range(0, self.steps, self.jump):
            end = min(start + self.jump, self.steps)
            for again in reversed(range(self.resample)):
                for i in range(start, end):
                    z0 = prior.denoise(z, sigmas[i])
                    t = sigmas[i + 1]
                    z = self._down(z, z0, y, omega, sigmas[i], t, noise_like(prior, z, streams)) if t > 0 else z0
                    if not again:
                        yield State(i + 1, self.steps, sigmas[i], z, z0)
                if again:
                    n = noise_like(prior, z, streams)
                    z = self._up(z, y, omega, sigmas[end], sigmas[start], n)

    @staticmethod
    def _down(z: Tensor, z0: Tensor, y: Tensor, omega: Tensor, s: float, t: float, n: Tensor) -> Tensor:
        """From level `s` to `t`, `s > t > 0`, with the unit noise `n`."""
        # A step over tau starts at tau.
        crossing = s**2 * omega >= 1
        z = torch.where(crossing, y, z)
        ratio = t**2 * torch.where(crossing, omega, 1 / s**2)
        step = z0 + ratio * (z - z0) + t * (1 - ratio).clamp_min(0).sqrt() * n
        return torch.where(t**2 * omega >= 1, _noised(y, omega, t, n), step)

    @staticmethod
    def _up(z: Tensor, y: Tensor, omega: Tensor, t: float, s: float, n: Tensor) -> Tensor:
        """From level `t` back to `s > t`, with the unit noise `n`."""
        room = (1 - t**2 * omega).clamp_min(1e-12)
        mean = z + (s**2 - t**2) * omega / room * (y - z)
        bridge = mean + ((s**2 - t**2) * (1 - s**2 * omega).clamp_min(0) / room).sqrt() * n
        return torch.where(s**2 * omega >= 1, _noised(y, omega, s, n), bridge)


def _weights(likelihood: Likelihood) -> Tensor:
    """The diagonal of `A'A`, (N, *z_shape), where it is diagonal."""
    ones = likelihood.sigma.new_ones(likelihood.rows, *likelihood.z_shape)
    return likelihood.At(likelihood.A(ones))


def _noised(y: Tensor, omega: Tensor, level: float, n: Tensor) -> Tensor:
    """The measurement with the noise that it lacks at `level`; only meant where `level >= tau`."""
    return y + (level**2 - 1 / omega.clamp_min(1e-30)).clamp_min(0).sqrt() * n
