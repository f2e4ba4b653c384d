r"""MMPS, moment matching posterior sampling (Rozet et al., 2024, arXiv 2405.13712, algorithm 2).

With `p(z0 | z) ~ N(D, sigma^2 J)`, `J` the Jacobian of the denoiser `D`, the measurement gives

    E[z0 | z, y] = D + sigma^2 J' A' u,      (sigma_y^2 I + A sigma^2 J' A') u = y - A D

which is exact wherever `z0 | z` is Gaussian. `k` steps of conjugate gradients cost `k` vector-Jacobian products, and since
`sigma^2 J' A' u` is carried along, nothing else: one forward and k backward passes per level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Guided
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.base import Prior


@final
@dataclass(frozen=True, kw_only=True)
class MMPS(Guided):
    """Exact for Gaussian priors when converged; no step size, no weight."""

    name: ClassVar[str] = "mmps"
    paper: ClassVar[str] = "Rozet et al., 2024, arXiv 2405.13712"
    gradient: ClassVar[bool] = True

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")
    iterations: int = knob(3, 1, 1000, "conjugate-gradient steps, each one backward pass; more for dense measurements")

    def guide(self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float) -> Tensor:
        """See `Guided.guide`."""
        z0, vjp = prior.denoise_vjp(z, sigma)
        r = likelihood.residual(z0)
        _, shift = likelihood.solve_carrying(lambda v: sigma**2 * vjp(v), r, self.iterations)
        return z0 + shift
