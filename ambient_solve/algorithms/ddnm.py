r"""DDNM+, denoising diffusion null-space model (Wang et al., 2023, arXiv 2212.00490, section 3.3 and appendix I).

In the singular basis of `A = U diag(s) V'` each mode of the next state `t = sigma_next` is one of three:

    s = 0             z' = D + sqrt(1 - eta^2) t (z - D) / sigma + eta t n            not measured: the DDIM step
    s >= sigma_y / t  z' = y / s + sqrt(t^2 - sigma_y^2 / s^2) n                      noise of y / s fits under t
    s <  sigma_y / t  z' = D + sqrt(1 - eta^2) (t s / sigma_y) (y / s - D) + eta t n  it does not: a share of y / s

so that every mode holds noise of deviation t, the measurement's included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like

BLIND = 1e-6
"""Eigenvalues s^2 of AA' below this count as not measured."""


@final
@dataclass(frozen=True, kw_only=True)
class DDNM(Algorithm):
    """Null-space model: one forward pass per level; needs the spectrum of the operator."""

    name: ClassVar[str] = "ddnm"
    paper: ClassVar[str] = "Wang et al., 2023, arXiv 2212.00490"
    spectral: ClassVar[bool] = True

    steps: int = knob(100, 1, 10_000, "noise levels; more is slower and usually better")
    eta: float = knob(0.85, 0.01, 1.0, "share of fresh noise")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, sigma)
            if t == 0:
                yield State(i + 1, self.steps, sigma, z0, z0)
                return
            zh = z0 + self._pull(likelihood, likelihood.residual(z0), t)
            old, n = (z - z0) / sigma, noise_like(prior, z0, streams)
            unmeasured = old - self._range(likelihood, likelihood.A(old))
            z = zh + self._kept * t * unmeasured + self.eta * t * n + self._excess(likelihood, likelihood.A(n), t)
            yield State(i + 1, self.steps, sigma, z, zh)

    @property
    def _kept(self) -> float:
        return math.sqrt(1 - self.eta**2)

    def _pull(self, likelihood: Likelihood, r: Tensor, t: float) -> Tensor:
        """The move of `D` towards the measurement, for `r = y - A D`: all the way where the noise fits under `t`."""
        sigma_y = per_sample(likelihood.sigma, r)

        def gain(lam: Tensor) -> Tensor:
            s = lam.clamp_min(BLIND).sqrt()
            return torch.where(s >= sigma_y / t, 1.0, self._kept * t * s / sigma_y) / lam.clamp_min(BLIND)

        return on_measured_modes(likelihood, gain, r)

    def _excess(self, likelihood: Likelihood, r: Tensor, t: float) -> Tensor:
        """What the fresh noise of the measured modes has beyond `eta t n`, for `r = A n`."""
        sigma_y = per_sample(likelihood.sigma, r)

        def gain(lam: Tensor) -> Tensor:
            s = lam.clamp_min(BLIND).sqrt()
            fits = (t**2 - sigma_y**2 / s**2).clamp_min(0).sqrt()
            fresh = torch.where(s >= sigma_y / t, fits, self.eta * t)
            return (fresh - self.eta * t) / lam.clamp_min(BLIND)

        return on_measured_modes(likelihood, gain, r)

    @staticmethod
    def _range(likelihood: Likelihood, r: Tensor) -> Tensor:
        """The part of `v` that the operator measures, `V V' v` over its modes, for `r = A v`."""
        return on_measured_modes(likelihood, lambda lam: 1 / lam.clamp_min(BLIND), r)


def on_measured_modes(likelihood: Likelihood, f: Callable[[Tensor], Tensor], r: Tensor) -> Tensor:
    """`A' f(AA') r` over the measured modes.

    Args:
        likelihood: Of a linear operator with a spectrum.
        f: Of the eigenvalues of `AA'`.
        r: (N, *measurement).

    Returns:
        (N, *z_shape).
    """
    return likelihood.At(likelihood.spectral(lambda lam: torch.where(lam > BLIND, f(lam), 0), r))
