r"""A-DPS, ambient diffusion posterior sampling (Aali et al., 2025, ICLR, arXiv 2403.08728).

Euler steps of the probability-flow ODE on the grid of Karras et al., each followed by a gradient step:

    z <- z + (sigma_next - sigma) (z - D) / sigma - s (l_ss / |r|) grad_z |r|^2,      r = y - A D

and `grad_z |r|^2 = -2 J' A' r`, `J` the Jacobian of `D`. The norm is that of each sample. `s = 1` is published; the
scale of the DDPM state, `s = sqrt((1 + sigma^2) (1 + sigma_next^2))`, makes it DPS with `zeta = 2 l_ss` and `eta = 0`.

The step has a length of its own, whatever the noise of the measurement: `|r|` ends near `l_ss`, so that `l_ss` is
about `sigma_y` times the root of the number of measured entries, and has to be tuned for each kind of data.

With an `AmbientPrior` `D = h(M z, M)`, the gradient flows through the network and the masking, and what `M` hides ends
at its conditional mean, also where it was measured. The mask is the prior's:

    policy         mask                                               from
    "fixed"        one of the training law for each sample            the paper
    "measurement"  `prior.with_mask(mask)`, such as the operator's    what is measured is what is seen
    "per_call"     a fresh one at each level                          shrinks the samples, see `AmbientPrior`

With any other prior it is the paper's baseline for clean data. The published code returns the state before its last
step, so that its last network call has no effect; here the last step is taken.
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
class ADPS(Algorithm):
    """Any differentiable operator, made for priors learned from incomplete data. A heuristic, as DPS is."""

    name: ClassVar[str] = "adps"
    paper: ClassVar[str] = "Aali et al., 2025, ICLR, arXiv 2403.08728"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    gaussian: ClassVar[bool] = False
    gradient: ClassVar[bool] = True

    steps: int = knob(500, 1, 10_000, "noise levels; the paper uses 500")
    l_ss: float = knob(1.0, 0.0, 1000.0, "half the length of the gradient step; the paper uses 1, tune it to the data")
    scaling: str = knob(
        "published", choices=("published", "vp"), help="the same length at each level, or that of a DDPM state"
    )
    eta: float = knob(0.0, 0.0, 1.0, "fresh noise: 0 is deterministic, as published; 1 is ancestral (DDPM)")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0, vjp = prior.denoise_vjp(z, sigma, once=True)
            descent = 2 * vjp(likelihood.descent(z0))
            scale = math.sqrt((1 + sigma**2) * (1 + sigma_next**2)) if self.scaling == "vp" else 1.0
            z = reverse(prior, z, z0, sigma, sigma_next, ancestral_noise(sigma, sigma_next, self.eta), streams)
            z = z + scale * self.l_ss * descent
            yield State(i + 1, self.steps, sigma, z, z0)
