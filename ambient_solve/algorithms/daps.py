r"""DAPS, decoupled annealing posterior sampling (Zhang et al., 2024, arXiv 2407.01521, algorithm 1).

At each level, independent of the one before: an estimate `zh` by a short probability-flow ODE, a draw around it, new
noise:

    z0 ~ exp( -|y - A z0|^2 / 2 sigma_y^2 - |z0 - zh|^2 / 2 q^2 )        z <- z0 + sigma_next n

with `q = width sigma sqrt(v / (sigma^2 + v))`, `v` the variance of the data: the paper's `q = sigma` would let the draw
go as far as the noise itself wherever nothing is measured.

For a linear operator this draw is Gaussian and made exactly, in one solve. For any other operator it is made by
Langevin steps of relative length `rate`, scaled by the curvature `gain^2 / sigma_y^2 + 1 / q^2`, so that one rate
serves all levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, log_linear, per_sample
from ambient_solve.priors.base import Prior


@final
@dataclass(frozen=True, kw_only=True)
class DAPS(Algorithm):
    """`ode_steps` forward passes per level and no backward pass through the network."""

    name: ClassVar[str] = "daps"
    paper: ClassVar[str] = "Zhang et al., 2024, arXiv 2407.01521"
    linear: ClassVar[bool] = False

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")
    ode_steps: int = knob(4, 1, 100, "forward passes for the estimate at each level")
    width: float = knob(0.3, 0.01, 10.0, "how far the draw may go from the estimate; 1 is the width of Gaussian data")
    langevin_steps: int = knob(50, 1, 1000, "steps of the draw where the operator is not linear")
    rate: float = knob(0.2, 1e-4, 1.0, "relative length of a Langevin step")
    gain: float = knob(1.0, 1e-3, 1e3, "largest gain of a non-linear operator, which bounds its curvature")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = self._flow(prior, z, sigma)
            v = prior.sigma_data**2
            q = self.width * sigma * (v / (sigma**2 + v)) ** 0.5
            z0 = likelihood.draw(z0, q, streams) if likelihood.linear else self._langevin(likelihood, z0, q, streams)
            z = z0 + sigma_next * streams.normal(z0) if sigma_next > 0 else z0
            yield State(i + 1, self.steps, sigma, z, z0)

    def _flow(self, prior: Prior, z: Tensor, sigma: float) -> Tensor:
        """Euler steps of the probability-flow ODE from `sigma` to 0."""
        grid = log_linear(self.ode_steps, min(prior.sigma_min, sigma), sigma)
        for level, lower in zip(grid, grid[1:], strict=False):
            denoised = prior.denoise(z, level)
            z = denoised + (lower / level) * (z - denoised)
        return z

    def _langevin(self, likelihood: Likelihood, centre: Tensor, q: float, streams: Streams) -> Tensor:
        sigma_y = per_sample(likelihood.sigma, centre)
        length = self.rate / (self.gain**2 / sigma_y**2 + 1 / q**2)
        z0 = centre
        for _ in range(self.langevin_steps):
            r, pullback = likelihood.linearize(z0)
            drift = pullback(r) / sigma_y**2 + (centre - z0) / q**2
            z0 = z0 + length * drift + (2 * length).sqrt() * streams.normal(z0)
        return z0
