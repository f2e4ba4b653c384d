r"""PiGDM, pseudo-inverse guided diffusion.

Song et al., 2023, ICLR, "Pseudoinverse-Guided Diffusion Models", equation 7.

`p(z0 | z) ~ N(D, q^2 I)` with `q^2 = sigma^2 v / (sigma^2 + v)`, the posterior variance of data of variance `v` (the
paper has `v = 1`), and the Jacobian `J` of the denoiser carries the measurement into the entries that it does not see:

    E[z0 | z, y] = D + sigma^2 J' A' (q^2 A A' + sigma_y^2 I)^-1 (y - A D)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Guided
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.base import Prior, covariance_of


@final
@dataclass(frozen=True, kw_only=True)
class PiGDM(Guided):
    """Pseudo-inverse guidance: one forward and one backward pass per level."""

    name: ClassVar[str] = "pigdm"
    paper: ClassVar[str] = "Song et al., 2023, ICLR"
    gradient: ClassVar[bool] = True

    steps: int = knob(100, 1, 10_000, "noise levels; more is slower and usually better")
    width: float = knob(1.0, 1e-3, 1e3, "standard deviation of the data, in units of the prior's own")

    def guide(self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float) -> Tensor:
        """See `Guided.guide`."""
        v = (self.width * prior.sigma_data) ** 2
        z0, vjp = prior.denoise_vjp(z, sigma, once=True)
        u = likelihood.solve(sigma**2 * v / (sigma**2 + v), likelihood.residual(z0))
        return z0 + covariance_of(prior, vjp, sigma)(likelihood.At(u))
