r"""DAPS, decoupled annealing posterior sampling (Zhang et al., 2024, arXiv 2407.01521, algorithm 1).

At each level, independent of the one before: an estimate `zh` by a short probability-flow ODE, a draw around it, new
noise:

    z0 ~ p(y | z0) exp( -|z0 - zh|^2 / 2 q^2 )        z <- z0 + sigma_next n

with `q = width sigma sqrt(v / (sigma^2 + v))`, `v` the variance of the data: the paper's `q = sigma` would let the draw
go as far as the noise itself wherever nothing is measured.

For a linear operator and Gaussian noise this draw is Gaussian and made exactly, in one solve; for counted photons by a
few Langevin steps, each one solve. For any other operator it is made by plain Langevin steps of relative length `rate`,
scaled by the curvature `|J'WJ| + 1 / q^2`, so that one rate serves all levels and operators: `J` is the Jacobian of the
operator, `W` one over the variance of the noise, and the norm is found by power iterations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like
from ambient_solve.process import log_linear


@final
@dataclass(frozen=True, kw_only=True)
class DAPS(Algorithm):
    """Decoupled annealing: `ode_steps` forward passes per level and no backward pass through the network."""

    name: ClassVar[str] = "daps"
    paper: ClassVar[str] = "Zhang et al., 2024, arXiv 2407.01521"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    gaussian: ClassVar[bool] = False

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")
    ode_steps: int = knob(4, 1, 100, "forward passes for the estimate at each level")
    width: float = knob(0.3, 0.01, 10.0, "how far the draw may go from the estimate; 1 is the width of Gaussian data")
    langevin_steps: int = knob(50, 1, 1000, "steps of the draw where the operator is not linear")
    rate: float = knob(0.2, 1e-4, 1.0, "relative length of a Langevin step")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        probe = z if likelihood.linear else streams.normal(z)
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = self._flow(prior, z, sigma)
            v = prior.sigma_data**2
            q = self.width * sigma * (v / (sigma**2 + v)) ** 0.5
            if likelihood.linear:
                z0 = likelihood.draw(z0, q, streams)
            else:
                curvature, probe = likelihood.curvature(z0, probe)
                z0 = self._langevin(likelihood, z0, q, per_sample(curvature, z0), streams)
            z = prior.process.perturb(z0, sigma_next, noise_like(prior, z0, streams)) if sigma_next > 0 else z0
            yield State(i + 1, self.steps, sigma, z, z0)

    def _flow(self, prior: Prior, z: Tensor, sigma: float) -> Tensor:
        """Euler steps of the probability-flow ODE from `sigma` to 0."""
        grid = log_linear(self.ode_steps, min(prior.sigma_min, sigma), sigma)
        for level, lower in zip(grid, grid[1:], strict=False):
            denoised = prior.denoise(z, level)
            z = denoised + (lower / level) * (z - denoised)
        return z

    def _langevin(
        self, likelihood: Likelihood, center: Tensor, q: float, curvature: Tensor, streams: Streams
    ) -> Tensor:
        length = self.rate / (curvature + 1 / q**2)
        z0 = center
        for _ in range(self.langevin_steps):
            drift = likelihood.score(z0) + (center - z0) / q**2
            z0 = z0 + length * drift + (2 * length).sqrt() * streams.normal(z0)
        return z0
