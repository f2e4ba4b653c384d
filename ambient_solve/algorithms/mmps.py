r"""MMPS, moment matching posterior sampling (Rozet et al., 2024, arXiv 2405.13712, algorithm 2).

With `p(z0 | z) ~ N(D, sigma^2 J)`, `J` the Jacobian of the denoiser `D`, the measurement gives

    E[z0 | z, y] = D + sigma^2 J' A' u,      (sigma_y^2 I + A sigma^2 J' A') u = y - A D

which is exact wherever `z0 | z` is Gaussian. Under noise of covariance `sigma^2 Q` the posterior has `sigma^2 J Q`, and
Q stands beside J in all that follows. A Krylov space of `k` vectors costs `k` vector-Jacobian products, and since
`sigma^2 J' A' u` is carried along, nothing else: one forward and k backward passes per level. The paper solves
by conjugate gradients; the Jacobian of a network is not quite symmetric, and `linalg.galerkin` allows for it.

The published step then takes the reverse kernel `K_eta` as if `z0` were known to be that mean. It is only known up to
its posterior covariance, and the exact step holds a share of it: a draw `e`, times the coefficient of `z0` in `K_eta`.

    z <- K_eta(z, E[z0 | z, y]) + (1 - sqrt(sigma_next^2 - b^2) / sigma) e,    e ~ N(0, (A'A / sigma_y^2 + I / q^2)^-1)

with `q^2 = w' sigma^2 J w / w'w` for one probe `w`, which estimates a mean of the posterior variances and costs one
more backward pass; `w` is white noise less what the measurement decides, since `q` matters where it decides nothing.
Without it (`covariance_noise=False`, the published rule) samples differ too little: under a Gaussian prior 25 levels
give .65 of the exact variance, with it 1.0.

Where the noise is small beside what is yet uncertain of `A z0`, `k` steps leave much of the system unsolved, and the
samples would miss the measurement. What they leave, `l = y - A D - (sigma_y^2 I + A sigma^2 J' A') u`, is solved under
`q^2 I` in place of `sigma^2 J'`, which needs no network, and added:

    q^2 A' (sigma_y^2 I + q^2 A A')^-1 l

This is done where `|l|` is more than `UNSOLVED` times the norm of the noise, sample by sample, and always at the last
level. Converged solves leave nothing, and are as they were.

Time travel (`time_travel`, as in arXiv 2201.09865) takes a step back and takes it again: `z + sqrt(sigma^2 -
sigma_next^2) n` leads from `p(z | y)` at `sigma_next` to that at `sigma`, whatever y is. Where `z0 | z` is not
Gaussian, while modes are being chosen, the chain of such steps forgets part of the error of each. Half the levels,
taken twice, cost the same and come nearer to the posterior of a mixture; with a network the pictures get better and
their standard deviation too small.

Where there is nothing but noise, `y = z0 + sigma_y n`, no Jacobian is needed: `z` and `y` are one state at a lower
level, and `E[z0 | z, y]` is the denoiser there, exactly. One level (`steps=1`) gives the posterior mean, `D(y)`.

A network learns `D`, not `J`: at high noise an error of `J` too small to be seen in the training loss is multiplied by
`sigma^2`. Above `prior.sigma_jacobian` (infinite for exact priors) the covariance is therefore taken as `q^2 I`, with
the `q^2 = sigma^2 v / (sigma^2 + v)` of data of variance `v`; such a level costs one forward pass. Below it the same is
done for samples that the Jacobian would move away from the measurement, or much further than that `q` allows: that of
an untrained network is no covariance at all, and would throw them out of all bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, covariance_of, noise_like, reverse
from ambient_solve.process import ancestral_noise

UNSOLVED = 3.0
"""What a Krylov space may leave of a system, in norms of the noise, before it is solved without the Jacobian."""

FAR = 3.0
"""How much longer a shift by the Jacobian of a network may be than under white data before it is not believed."""

TIME_TRAVEL_SETTINGS = {"steps": 13, "time_travel": 1}
"""Knobs of `MMPS`: half the levels, each step taken twice, as expensive as the default; nearer for exact Jacobians."""


@final
@dataclass(frozen=True, kw_only=True)
class MMPS(Algorithm):
    """Moment matching posterior sampling: exact for Gaussian priors when converged; no step size, no weight."""

    name: ClassVar[str] = "mmps"
    paper: ClassVar[str] = "Rozet et al., 2024, arXiv 2405.13712"
    gradient: ClassVar[bool] = True

    steps: int = knob(25, 1, 10_000, "noise levels; more is slower and usually better")
    iterations: int = knob(3, 1, 1000, "Krylov vectors, each one backward pass; more for dense measurements")
    time_travel: int = knob(0, 0, 100, "how often each step is taken back by fresh noise and repeated")
    eta: float = knob(1.0, 0.0, 1.0, "fresh noise: 1 is ancestral (DDPM), 0 deterministic (DDIM)")
    tolerance: float = knob(
        0.0, 0.0, 10.0, "take no more vectors for a sample at this residual, in units of the noise; 0 never does"
    )
    covariance_noise: bool = knob(
        True, help="add a draw of the posterior covariance to each step, for one more backward pass; false is the paper"
    )

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            for left in reversed(range(1 + (self.time_travel if sigma_next > 0 else 0))):
                z0, fluctuation = self._guide(prior, likelihood, z, sigma, streams, last=sigma_next == 0)
                fresh = ancestral_noise(sigma, sigma_next, self.eta)
                z = reverse(prior, z, z0, sigma, sigma_next, fresh, streams)
                if fluctuation is not None:
                    z = z + (1 - math.sqrt(max(0.0, sigma_next**2 - fresh**2)) / sigma) * fluctuation
                if left:
                    z = z + math.sqrt(sigma**2 - sigma_next**2) * noise_like(prior, z, streams)
            yield State(i + 1, self.steps, sigma, z, z0)

    def _guide(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigma: float, streams: Streams, *, last: bool
    ) -> tuple[Tensor, Tensor | None]:
        """`E[z0 | z, y]` and, for `covariance_noise`, a draw of `z0` less that; both shaped as `z`."""
        if likelihood.identity and prior.white:
            return self._denoised(prior, *likelihood.combined(z, sigma), streams)
        v = prior.sigma_data**2
        q2 = torch.full_like(likelihood.sigma, sigma**2 * v / (sigma**2 + v))
        if sigma > prior.sigma_jacobian:
            z0 = likelihood.prox(prior.denoise(z, sigma), q2.sqrt())
            return z0, likelihood.fluctuation(z, q2.sqrt(), streams) if self.covariance_noise else None
        z0, vjp = prior.denoise_vjp(z, sigma)
        cov = covariance_of(prior, vjp, sigma)
        r = likelihood.residual(z0)
        u, shift = likelihood.solve_carrying(cov, r, self.iterations, self.tolerance)
        left = r - per_sample(likelihood.sigma**2, r) * u - likelihood.A(shift)
        rest = _rest(likelihood, left, q2, last)
        if self.covariance_noise:
            w = likelihood.undecided(streams.normal(z), q2.sqrt())
            # A variance lies between 0 and that of the noise; a network's, or that of one probe, may not.
            q2 = ((w * cov(w)).flatten(1).sum(1) / w.square().flatten(1).sum(1)).clamp(0, sigma**2)
        z0 = z0 + shift + rest
        return z0, likelihood.fluctuation(z, q2.sqrt(), streams) if self.covariance_noise else None

    def _denoised(self, prior: Prior, w: Tensor, level: Tensor, streams: Streams) -> tuple[Tensor, Tensor | None]:
        """`E[z0 | w]` and, for `covariance_noise`, a draw with the mean of its variances, of states at `level` (N,)."""
        if not self.covariance_noise:
            return prior.denoise(w, level), None
        z0, vjp = prior.denoise_vjp(w, level, once=True)
        probe, v = streams.normal(w), prior.sigma_data**2
        q2 = level**2 * ((probe * vjp(probe)).flatten(1).sum(1) / probe.square().flatten(1).sum(1)).clamp(0, 1)
        q2 = torch.where(level > prior.sigma_jacobian, level**2 * v / (level**2 + v), q2)
        return z0, per_sample(q2.sqrt(), w) * streams.normal(w)


def _rest(likelihood: Likelihood, left: Tensor, q2: Tensor, last: bool) -> Tensor:
    """The share of `E[z0 | z, y]` that the Krylov space left out with `left` (N, *measurement); `q2` is (N,)."""
    if not last:
        much = left.square().flatten(1).sum(1) > UNSOLVED**2 * likelihood.sigma**2 * likelihood.count
        left = torch.where(per_sample(much, left), left, 0)
    shift = likelihood.At(likelihood.solve(q2, left))
    return per_sample(q2, shift) * shift
