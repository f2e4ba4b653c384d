r"""SITCOM, step-wise triple-consistent sampling (Alkhouri et al., 2024, arXiv 2410.04479, algorithm 1).

At each level the input of the network is moved until its output explains the measurement, and not far:

    v* = argmin_v |y - A D(v)|^2 + lambda |v - z|^2 / (1 + sigma^2 / sigma_data^2),      z <- D(v*) + sigma_next n

by `iterations` Adam steps from `v = z`. The divisor turns `|v - z|^2` into the paper's, whose states have one variance
at all levels. The length of the Adam steps is relative to the deviation of a state, `sqrt(sigma^2 + sigma_data^2)`, so
that nothing depends on the units of the data.

A sample stops at the level's first `v` with a residual no larger than the noise, `|y - A D(v)|^2 <= m sigma_y^2`: to go
on would fit the noise. The others go on, and no step waits to know which: a stopped sample takes steps of length 0.
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
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like


@final
@dataclass(frozen=True, kw_only=True)
class SITCOM(Algorithm):
    """Any differentiable operator: `iterations` forward and backward passes per level, and one forward pass more."""

    name: ClassVar[str] = "sitcom"
    paper: ClassVar[str] = "Alkhouri et al., 2024, arXiv 2410.04479"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    gradient: ClassVar[bool] = True

    steps: int = knob(20, 1, 10_000, "noise levels; more is slower and usually better")
    iterations: int = knob(20, 1, 1000, "Adam steps at each level")
    rate: float = knob(0.03, 1e-6, 1.0, "length of an Adam step, in deviations of the state")
    lambda_: float = knob(0.1, 0.0, 1e6, "weight of staying near the state")
    stop: bool = knob(True, help="stop a sample where its residual is no larger than the noise")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(self._consistent(prior, likelihood, z, sigma), sigma)
            z = prior.process.perturb(z0, sigma_next, noise_like(prior, z0, streams)) if sigma_next > 0 else z0
            yield State(i + 1, self.steps, sigma, z, z0)

    def _consistent(self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float) -> Tensor:
        """`v*`, shape of `z`."""
        adam, v = Adam(), z
        weight = self.lambda_ / (1 + (sigma / prior.sigma_data) ** 2)
        length = self.rate * math.sqrt(sigma**2 + prior.sigma_data**2)
        for _ in range(self.iterations):
            z0, vjp = prior.denoise_vjp(v, sigma, once=True)
            r, pullback = likelihood.linearize(z0)
            # In units of the data, so that Adam's epsilon means the same everywhere.
            step = length * adam.direction((weight * (v - z) - vjp(pullback(r))) / prior.sigma_data)
            if self.stop:
                misfit = r.square().flatten(1).sum(1) > likelihood.count * likelihood.sigma**2
                step = per_sample(misfit, step) * step
            v = v - step
        return v


class Adam:
    """Directions of Adam (Kingma and Ba, 2015, arXiv 1412.6980), entries of about 1, for gradients without units."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self._beta1, self._beta2, self._epsilon, self._step = beta1, beta2, epsilon, 0
        self._first: Tensor | float = 0.0
        self._second: Tensor | float = 0.0

    def direction(self, gradient: Tensor) -> Tensor:
        """What to subtract, times the rate."""
        self._step += 1
        self._first = self._beta1 * self._first + (1 - self._beta1) * gradient
        self._second = self._beta2 * self._second + (1 - self._beta2) * gradient**2
        first = self._first / (1 - self._beta1**self._step)
        second = self._second / (1 - self._beta2**self._step)
        return first / (second.sqrt() + self._epsilon)
