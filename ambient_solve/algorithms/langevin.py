r"""Annealed Langevin dynamics: a few steps at each level `s`, which end at a law that is known.

precondition=False (ALD; Jalal et al., 2021, arXiv 2108.01368), whose likelihood widens with the level:

    z <- z + a [(D - z) / s^2 + A'(y - A z) / (sigma_y^2 + s^2)] + sqrt(2 a) n
    a  = step s^2 / (1 + g^2 s^2 / (sigma_y^2 + s^2)),      g^2 the largest eigenvalue of A'A

precondition=True (arXiv 2512.05791), with the exact likelihood at every level and `H = A'A / sigma_y^2 + I / s^2`:

    z <- z + step H^-1 [(D - z) / s^2 + A'(y - A z) / sigma_y^2] + sqrt(2 step) H^-1/2 n
       = (1 - step) z + step prox(D) + sqrt(2 step) e,      e ~ N(0, H^-1)

because `H z = A'A z / sigma_y^2 + z / s^2`. The paper's step, `e s^2 / s_L^2`, is here relative to the curvature, so
that it depends neither on the units of the data nor on the gain of the operator.

Under a Gaussian prior a direction whose target has precision `p` (at most `h`, that of the step) ends with variance
`1 / (p (1 - step p / 2 h))`: the price of steps of finite length, at most `1 / (1 - step / 2)`. The last of all steps
takes the mean and adds no noise, which takes the noise of the last level away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.conjugate_gradient import WarmStart
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like

POWER_ITERATIONS = 12


@final
@dataclass(frozen=True, kw_only=True)
class Langevin(Algorithm):
    """Annealed Langevin dynamics: `repeats` forward passes per level and no backward pass through the network."""

    name: ClassVar[str] = "langevin"
    paper: ClassVar[str] = "Jalal et al., 2021, arXiv 2108.01368"

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")
    repeats: int = knob(4, 1, 10_000, "Langevin steps at each level")
    step: float = knob(1.0, 1e-4, 1.5, "length of a Langevin step, relative to the curvature")
    precondition: bool = knob(True, help="scale each direction by its own curvature; false is the method of 2021")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        warm = WarmStart()
        gain2 = z.new_zeros(len(z)) if self.precondition else _largest_eigenvalue(likelihood, z)
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            for j in range(self.repeats):
                z0 = prior.denoise(z, sigma)
                if self.precondition:
                    z0 = likelihood.prox(z0, sigma, warm)
                if sigma_next == 0 and j + 1 == self.repeats:
                    z = z0
                elif self.precondition:
                    noise = likelihood.fluctuation(z, sigma, streams)
                    z = z + self.step * (z0 - z) + math.sqrt(2 * self.step) * noise
                else:
                    weight = sigma**2 / (per_sample(likelihood.sigma, z) ** 2 + sigma**2)
                    length = self.step / (1 + per_sample(gain2, z) * weight)
                    drift = z0 - z + weight * likelihood.At(likelihood.residual(z))
                    z = z + length * drift + (2 * length).sqrt() * sigma * noise_like(prior, z, streams)
            yield State(i + 1, self.steps, sigma, z, z0)


def _largest_eigenvalue(likelihood: Likelihood, like: Tensor) -> Tensor:
    """That of `A'A` for each row, (N,), by the power method started at the states themselves."""
    v = like
    for _ in range(POWER_ITERATIONS):
        v = v / per_sample(v.flatten(1).norm(dim=1).clamp_min(1e-30), v)
        v = likelihood.At(likelihood.A(v))
    return v.flatten(1).norm(dim=1)
