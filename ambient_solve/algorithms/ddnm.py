r"""DDNM+, denoising diffusion null-space model (Wang et al., 2023, arXiv 2212.00490, section 3.3).

With `A A' = Q diag(s^2) Q'` the measured modes of the estimate are replaced, as far as the noise of the measurement allows, and
the noise added next is smaller in these modes by what the measurement's noise has brought in:

    zh = D + A' Q diag(l / s^2) Q' (y - A D),      l = min(1, b s / sigma_y),  b = eta sigma_next
    z <- zh + sqrt(1 - eta^2) sigma_next (z - D) / sigma + noise,   of variance b^2 - (l sigma_y / s)^2 in mode i, b^2 elsewhere
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
"""Eigenvalues of AA' below this count as not measured."""


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
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            # The last step has no noise left to hide the measurement's in: it takes the level just left.
            b = self.eta * (sigma_next or sigma)
            z0 = prior.denoise(z, sigma)
            r = likelihood.residual(z0)
            zh = z0 + likelihood.At(likelihood.spectral(self._replace(likelihood, r, b), r))
            old = math.sqrt(1 - self.eta**2) * sigma_next / sigma * (z - z0)
            z = zh + old
            if sigma_next > 0:
                n = streams.normal(z)
                shrink = likelihood.spectral(self._shrink(likelihood, r, b), likelihood.A(n))
                z = z + b * (n + likelihood.At(shrink))
            yield State(i + 1, self.steps, sigma, z, zh)

    def _replace(self, likelihood: Likelihood, like: Tensor, b: float):
        """`t -> l / t`, and 0 where nothing is measured."""
        sigma_y = per_sample(likelihood.sigma, like)

        def f(t: Tensor) -> Tensor:
            seen = t.clamp_min(BLIND)
            return torch.where(t > BLIND, (b * seen.sqrt() / sigma_y).clamp_max(1) / seen, 0)

        return f

    def _shrink(self, likelihood: Likelihood, like: Tensor, b: float):
        """`t -> (gamma / b - 1) / t`: added to the identity it scales mode i of white noise from 1 to `gamma / b`."""
        sigma_y = per_sample(likelihood.sigma, like)

        def f(t: Tensor) -> Tensor:
            seen = t.clamp_min(BLIND)
            spent = (b * seen.sqrt() / sigma_y).clamp_max(1) * sigma_y / (seen.sqrt() * b)
            return torch.where(t > BLIND, ((1 - spent**2).clamp_min(0).sqrt() - 1) / seen, 0)

        return f
