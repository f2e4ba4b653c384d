r"""TDS, twisted diffusion sampler (Wu et al., 2023, arXiv 2306.17775, algorithm 1), with the moment-matching twist.

The S samples of an image are particles. With `C` a model of `Cov[z0 | z]` the twist and the twisted estimate are

    p(y | z) ~ N(y; A D, sigma_y^2 I + A C A'),      zh = D + C A' (sigma_y^2 I + A C A')^-1 (y - A D)

a particle moves by `z' ~ q = K_1(z, zh)` and is weighted by `p(z' | z) p(y | z') / (p(y | z) q(z' | z))`, where
`p(. | z) = K_1(z, D)`. Systematic resampling follows where the effective sample size falls below half. The weights
correct what is approximate in the twist, so that the particles are right in the limit of many, whatever the prior.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.resampling import resample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, noise_like
from ambient_solve.process import ancestral_noise

LARGEST_JACOBIAN = 64


@final
@dataclass(frozen=True, kw_only=True)
class TDS(Algorithm):
    """Twisted particles, exact in the limit: a forward and up to `m` backward passes per level for `m` entries of y."""

    name: ClassVar[str] = "tds"
    paper: ClassVar[str] = "Wu et al., 2023, arXiv 2306.17775"
    samples: ClassVar[int] = 1
    gradient: ClassVar[bool] = True
    interacting: ClassVar[bool] = True

    steps: int = knob(400, 1, 10_000, "noise levels; more is slower and usually better")
    twist: str = knob(
        "jacobian",
        choices=("jacobian", "isotropic"),
        help=f"covariance of the twist: sigma^2 J (at most {LARGEST_JACOBIAN} measurements), or q^2 I as in PiGDM",
    )

    def check(self, likelihood: Likelihood) -> None:
        """See `Algorithm.check`."""
        super().check(likelihood)
        if likelihood.n_samples < 2:
            raise AmbientSolveError("tds corrects its samples by their number; give n_samples=64 or more.")
        m = likelihood.measurements
        if self.twist == "jacobian" and m > LARGEST_JACOBIAN:
            raise AmbientSolveError(
                f"tds with twist='jacobian' takes at most {LARGEST_JACOBIAN} measurements, this operator makes {m}. "
                "Use twist='isotropic', or 'mmps'."
            )

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        log_w, last = z.new_zeros(len(z)), z.new_zeros(len(z))
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0, zh, log_twist = self._twist(prior, likelihood, z, sigma)
            log_w = log_w + log_twist - last
            keep, log_w = resample(log_w, streams.uniform_per_image(), always=sigma_next == 0)
            z, z0, zh, last = z[keep], z0[keep], zh[keep], log_twist[keep]
            fresh = ancestral_noise(sigma, sigma_next, 1.0)
            kept = math.sqrt(max(0.0, sigma_next**2 - fresh**2)) / sigma
            mean, unguided = zh + kept * (z - zh), z0 + kept * (z - z0)
            z = mean
            if fresh > 0:
                z = mean + fresh * noise_like(prior, mean, streams)
                log_w = log_w + (_square(z - mean) - _square(z - unguided)) / (2 * fresh**2)
            yield State(i + 1, self.steps, sigma, z, zh)

    def _twist(self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """`D`, `zh` and `log p(y | z)` up to a constant, (N,)."""
        z0, vjp = prior.denoise_vjp(z, sigma)
        r = likelihood.residual(z0)
        if self.twist == "isotropic":
            v = prior.sigma_data**2
            u = likelihood.solve(sigma**2 * v / (sigma**2 + v), r)
            return z0, z0 + sigma**2 * vjp(likelihood.At(u)), -0.5 * (r * u).flatten(1).sum(1)
        basis = torch.eye(r[0].numel(), device=r.device, dtype=r.dtype).reshape(-1, *r.shape[1:])
        rows = [sigma**2 * vjp(likelihood.At(e.expand_as(r))) for e in basis]
        cov = torch.stack([likelihood.A(row).flatten(1) for row in rows], 1)
        cov = (cov + cov.mT) / 2 + torch.diag_embed(likelihood.sigma[:, None] ** 2 * torch.ones_like(r.flatten(1)))
        values, vectors = torch.linalg.eigh(cov)
        # A network's Jacobian may give eigenvalues below the measurement noise, which no covariance has.
        values = torch.maximum(values, likelihood.sigma[:, None] ** 2)
        modes = (vectors.mT @ r.flatten(1, -1)[..., None])[..., 0]
        u = (vectors @ (modes / values)[..., None])[..., 0]
        shift = sum(u[:, j].reshape(-1, *[1] * (z.ndim - 1)) * row for j, row in enumerate(rows))
        return z0, z0 + shift, -0.5 * (modes**2 / values + values.log()).sum(1)


def _square(z: Tensor) -> Tensor:
    return z.square().flatten(1).sum(1)
