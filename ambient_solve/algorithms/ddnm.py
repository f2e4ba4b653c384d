r"""DDNM+, denoising diffusion null-space model (Wang et al., 2023, arXiv 2212.00490, section 3.3 and appendix I).

In the singular basis of `A = U diag(s) V'` each mode of the next state `t = sigma_next` is one of three:

    s = 0              z' = D + sqrt(1 - eta^2) t (z - D) / sigma + eta t n           not measured: the DDIM step
    s >= sigma_y / t   z' = y / s + sqrt(t^2 - sigma_y^2 / s^2) n                     the measurement's noise fits under t
    s <  sigma_y / t   z' = D + sqrt(1 - eta^2) (t s / sigma_y) (y / s - D) + eta t n  it does not: a share of the measurement

so that every mode holds noise of deviation t, the measurement's included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior

BLIND = 1e-6
"""Eigenvalues s^2 of AA' below this count as not measured."""


@final
@dataclass(frozen=True, kw_only=True)
class DDNM(Algorithm):
    """One forward pass per level; needs the spectrum of the operator."""

    name: ClassVar[str] = "ddnm"
    paper: ClassVar[str] = "Wang et al., 2023, arXiv 2212.00490"
    spectral: ClassVar[bool] = True

    steps: int = knob(100, 1, 10_000, "noise levels; more is slower and usually better")
    eta: float = knob(0.85, 0.01, 1.0, "share of fresh noise")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        kept = math.sqrt(1 - self.eta**2)
        for i, (sigma, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, sigma)
            if t == 0:
                yield State(i + 1, self.steps, sigma, z0, z0)
                return
            r = likelihood.residual(z0)
            sigma_y = per_sample(likelihood.sigma, r)

            def share(lam: Tensor, t: float = t, sigma_y: Tensor = sigma_y) -> Tensor:
                s = lam.clamp_min(BLIND).sqrt()
                return torch.where(s >= sigma_y / t, 1.0, kept * t * s / sigma_y) / lam.clamp_min(BLIND)

            def fresh(lam: Tensor, t: float = t, sigma_y: Tensor = sigma_y) -> Tensor:
                s = lam.clamp_min(BLIND).sqrt()
                fits = (t**2 - sigma_y**2 / s**2).clamp_min(0).sqrt()
                return torch.where(s >= sigma_y / t, fits, self.eta * t)

            zh = z0 + self._measured(likelihood, share, r)
            old, n = (z - z0) / sigma, streams.normal(z0)
            unmeasured = old - self._measured(likelihood, lambda lam: 1 / lam.clamp_min(BLIND), likelihood.A(old))
            correction = self._measured(
                likelihood, lambda lam, f=fresh: (f(lam) - self.eta * t) / lam.clamp_min(BLIND), likelihood.A(n)
            )
            z = zh + kept * t * unmeasured + self.eta * t * n + correction
            yield State(i + 1, self.steps, sigma, z, zh)

    @staticmethod
    def _measured(likelihood: Likelihood, f, u: Tensor) -> Tensor:
        """`A' f(AA') u` over the measured modes."""
        return likelihood.At(likelihood.spectral(lambda lam: torch.where(lam > BLIND, f(lam), 0), u))
