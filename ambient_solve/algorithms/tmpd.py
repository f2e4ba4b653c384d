r"""TMPD, Tweedie moment projected diffusion (Boys et al., 2023, arXiv 2310.06721, section 3.2).

With `p(z0 | z) ~ N(D, sigma^2 J)`, `J` the Jacobian of the denoiser `D`, the covariance of the measurement is replaced
by the diagonal of its row sums, which one product tells and which makes the solve a division:

    E[z0 | z, y] = D + sigma^2 J' A' (y - A D) / c,      c = |A sigma^2 J' A' 1| + sigma_y^2

Exact for Gaussian `z0 | z` where `A J A'` is diagonal, with one measurement for instance. Where it is not and has no
negative entry (blur), the row sums bound it from above and the step is short of the right one. With entries of both
signs a row sum may be negative, which no variance is: it would push the estimate away from the measurement. Its
magnitude still has the size of the covariances. Floored at 0 instead it would leave `sigma_y^2` alone, however large
`A J A'`: a step that overshoots until it overflows, as happens on the mixture protocol.

Above `prior.sigma_jacobian` the covariance is that of data of variance `v`, `J = v / (sigma^2 + v) I`, as in MMPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Guided
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import per_sample
from ambient_solve.priors.base import Prior, Vjp, covariance_of


@final
@dataclass(frozen=True, kw_only=True)
class TMPD(Guided):
    """Tweedie moments: one forward and two backward passes per level; for measurements that hardly share pixels."""

    name: ClassVar[str] = "tmpd"
    paper: ClassVar[str] = "Boys et al., 2023, arXiv 2310.06721"
    gradient: ClassVar[bool] = True

    steps: int = knob(100, 1, 10_000, "noise levels; more is slower and usually better")

    def guide(self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float) -> Tensor:
        """See `Guided.guide`."""
        z0, vjp = self._denoise(prior, z, sigma)
        r = likelihood.residual(z0)
        cov = covariance_of(prior, vjp, sigma)
        rows = likelihood.A(cov(likelihood.At(torch.ones_like(r))))
        u = r / (rows.abs() + per_sample(likelihood.sigma, r) ** 2)
        return z0 + cov(likelihood.At(u))

    @staticmethod
    def _denoise(prior: Prior, z: Tensor, sigma: float) -> tuple[Tensor, Vjp]:
        """The estimate and `v -> J' v`, where the Jacobian may be trusted."""
        if sigma <= prior.sigma_jacobian:
            return prior.denoise_vjp(z, sigma)
        v = prior.sigma_data**2
        return prior.denoise(z, sigma), lambda w: v / (sigma**2 + v) * w
