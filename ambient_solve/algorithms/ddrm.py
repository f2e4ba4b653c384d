r"""DDRM, denoising diffusion restoration models (Kawar et al., 2022, arXiv 2201.11793, equations 4 to 8).

In the singular basis of `A = U diag(s) V'`, with `w = y / s` the measured coordinates, each mode of the next state
`t = sigma_next` is one of three:

    s = 0             z' = D + sqrt(1 - eta^2) t (z - D) / sigma + eta t n              not measured: the DDIM step
    s <  sigma_y / t  z' = D + sqrt(1 - eta^2) t (w - D) s / sigma_y + eta t n          noisier than t: w - D as noise
    s >= sigma_y / t  z' = (1 - eta_b) D + eta_b w + sqrt(t^2 - eta_b^2 sigma_y^2 / s^2) n        less noisy: w itself

so that a mode holds noise of deviation t, the measurement's share included. The chain starts at the third line with
`eta_b = 1`, `D` the mean of the noise. No singular vectors are needed: modes are scaled by functions of `AA'`, their
noise is made from `A n`. With `eta_b = 1` the rule is that of DDNM+ (appendix I there), started from the measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.ddnm import on_measured_modes
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like


@final
@dataclass(frozen=True, kw_only=True)
class DDRM(Algorithm):
    """Restoration models: one forward pass per level and few levels; needs the spectrum of the operator."""

    name: ClassVar[str] = "ddrm"
    paper: ClassVar[str] = "Kawar et al., 2022, arXiv 2201.11793"
    spectral: ClassVar[bool] = True

    steps: int = knob(20, 1, 10_000, "noise levels; the paper uses 20")
    eta: float = knob(0.85, 0.0, 1.0, "share of fresh noise where the measurement is noisier than the level, or absent")
    eta_b: float = knob(1.0, 0.0, 1.0, "share of the measurement where it is less noisy than the level")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        zero, n = torch.zeros_like(z), z / sigmas[0]
        z = self._step(likelihood, zero, zero, n, sigmas[0], eta=1.0, eta_b=1.0)
        for i, (sigma, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, sigma)
            old = (z - z0) / sigma
            if t > 0:
                n = noise_like(prior, z0, streams)
                z = self._step(likelihood, z0, old, n, t, self.eta, self.eta_b)
            else:
                z = z0
            yield State(i + 1, self.steps, sigma, z, z0)

    @staticmethod
    def _step(likelihood: Likelihood, z0: Tensor, old: Tensor, n: Tensor, t: float, eta: float, eta_b: float) -> Tensor:
        """The three lines of the formula at level `t`, `old` being `(z - D) / sigma`: all shapes that of `z0`."""
        r, kept = likelihood.residual(z0), math.sqrt(1 - eta**2)
        sigma_y = per_sample(likelihood.sigma, r)

        def pull(lam: Tensor) -> Tensor:
            s = lam.sqrt()
            return torch.where(s >= sigma_y / t, eta_b, kept * t * s / sigma_y) / lam

        def excess(lam: Tensor) -> Tensor:
            """What the noise of the third line has beyond that of the others."""
            left = (t**2 - eta_b**2 * sigma_y**2 / lam).clamp_min(0).sqrt()
            return torch.where(lam.sqrt() >= sigma_y / t, left - eta * t, 0.0) / lam

        unmeasured = old - on_measured_modes(likelihood, lambda lam: 1 / lam, likelihood.A(old))
        moved = on_measured_modes(likelihood, pull, r) + on_measured_modes(likelihood, excess, likelihood.A(n))
        return z0 + moved + kept * t * unmeasured + eta * t * n
