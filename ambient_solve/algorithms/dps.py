r"""DPS, diffusion posterior sampling (Chung et al., 2023, arXiv 2209.14687, algorithm 1).

The paper steps its DDPM state by `-zeta grad |y - A D|`. Written for `z = x_vp sqrt(1 + sigma^2)` both changes of
variable show:

    z <- K_eta(z, D) + zeta sqrt((1 + sigma^2) (1 + sigma_next^2)) J' A' r / |r|,     r = y - A D

Without that factor `zeta` would have to be some hundred times larger and would not carry over from one problem to the
next. The norm is that of each sample: a norm over the batch would couple the samples.

Where photons are counted, r is weighted by `W`, one over the variance of each entry (the paper's section 3.3, with the
variance that the estimate predicts in place of y), relative to its mean: `J' A' W r / |W^1/2 r|`.
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
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, reverse
from ambient_solve.process import ancestral_noise


@final
@dataclass(frozen=True, kw_only=True)
class DPS(Algorithm):
    """Any differentiable operator. A heuristic: a step of fixed length, whatever the noise of the measurement."""

    name: ClassVar[str] = "dps"
    paper: ClassVar[str] = "Chung et al., 2023, arXiv 2209.14687"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    gaussian: ClassVar[bool] = False
    gradient: ClassVar[bool] = True

    steps: int = knob(1000, 1, 10_000, "noise levels; the paper uses 1000")
    zeta: float = knob(0.3, 0.0, 100.0, "length of the gradient step; the paper uses 0.3 to 1")
    eta: float = knob(1.0, 0.0, 1.0, "fresh noise: 1 is ancestral (DDPM), 0 deterministic (DDIM)")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0, vjp = prior.denoise_vjp(z, sigma, once=True)
            descent = vjp(likelihood.descent(z0))
            length = self.zeta * math.sqrt((1 + sigma**2) * (1 + sigma_next**2))
            fresh = ancestral_noise(sigma, sigma_next, self.eta)
            z = reverse(prior, z, z0, sigma, sigma_next, fresh, streams) + length * descent
            yield State(i + 1, self.steps, sigma, z, z0)
