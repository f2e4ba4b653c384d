r"""MGPS, variational sampling with midpoint guidance (Moufad et al., ICLR 2025, arXiv 2410.09945, algorithm 1).

From level `s` to `t` by way of a midpoint `l < t`: at a lower level the denoiser says more about the measurement, and
the approximation `p(y | z_l) ~ N(y; A D(z_l), sigma_y^2 I)` is better. The midpoint is to be drawn from

    N(y; A D(z_l; l), sigma_y^2 I) N(z_l; m, b^2 I),      m = D + (l / s)^2 (z_s - D),  b = l sqrt(1 - l^2 / s^2)

`K_1` from `s` to `l`. It is drawn from the nearest Gaussian of independent entries, `z_l = m + b (u + e^rho n)`:

    minimize over u, rho   E_n |y - A D(z_l; l)|^2 / 2 sigma_y^2 + |u|^2 / 2 + sum(e^2rho / 2 - rho)

`iterations` Adam steps from `u = rho = 0`, each with one fresh `n`; `u` and `rho` have no units, nor has their rate.
The next state is then drawn between the two, where `z_s = z_l + noise` passes the level `t` (a Brownian bridge):

    z_t = z_l + (t^2 - l^2) / (s^2 - l^2) (z_s - z_l) + sqrt((t^2 - l^2) (s^2 - t^2) / (s^2 - l^2)) n
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.sitcom import Adam
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like
from ambient_solve.process import ancestral_noise


@final
@dataclass(frozen=True, kw_only=True)
class MGPS(Algorithm):
    """Any differentiable operator: `iterations` forward and backward passes per level, and one forward pass more."""

    name: ClassVar[str] = "mgps"
    paper: ClassVar[str] = "Moufad et al., 2025, arXiv 2410.09945"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    gradient: ClassVar[bool] = True

    steps: int = knob(100, 1, 10_000, "noise levels; more is slower and usually better")
    iterations: int = knob(5, 1, 1000, "Adam steps at each level")
    rate: float = knob(0.3, 1e-6, 10.0, "length of an Adam step")
    midpoint: float = knob(0.9, 0.0, 1.0, "where the midpoint lies on the grid: 0 is the last level, 1 the next")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        last = len(sigmas) - 2
        for i, (s, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, s)
            if t == 0:
                z = z0
            else:
                level = sigmas[round(last - self.midpoint * (last - (i + 1)))]
                middle = self._midpoint(prior, likelihood, z, z0, s, level, streams)
                share = (t**2 - level**2) / (s**2 - level**2)
                z = middle + share * (z - middle)
                z = z + math.sqrt(share * (s**2 - t**2)) * noise_like(prior, z, streams)
            yield State(i + 1, self.steps, s, z, z0)

    def _midpoint(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, z0: Tensor, s: float, level: float, streams: Streams
    ) -> Tensor:
        """`z_l`, shape of `z`."""
        m, b = z0 + (level / s) ** 2 * (z - z0), ancestral_noise(s, level, 1.0)
        u, rho, adam = torch.zeros_like(z), torch.zeros_like(z), Adam()
        precision = 1 / per_sample(likelihood.sigma, z) ** 2
        for _ in range(self.iterations):
            n = noise_like(prior, z, streams)
            z0, vjp = prior.denoise_vjp(m + b * (u + rho.exp() * n), level, once=True)
            r, pullback = likelihood.linearize(z0)
            slope = -b * precision * vjp(pullback(r))
            gradient = torch.stack([u + slope, (2 * rho).exp() - 1 + slope * rho.exp() * n], 1)
            u, rho = (torch.stack([u, rho], 1) - self.rate * adam.direction(gradient)).unbind(1)
        return m + b * (u + rho.exp() * noise_like(prior, z, streams))
