r"""LDPS and GML-DPS, diffusion posterior sampling through a decoder (Rout et al., 2023, arXiv 2307.00619, section 3.1).

    phi(D) = omega |y - A Dec(D)|^2 / 2 + gamma |D - Enc(Dec(D))|^2 / 2
    z <- K_eta(z, D) + sqrt((1 + sigma^2) (1 + sigma_next^2)) J' move        (sigma in deviations of the data)

`J` is the Jacobian of the denoiser and `move` a step down phi (`descent`). `gamma` = 0 is latent DPS; above 0 the
second term keeps the latent on the manifold that the autoencoder maps to itself. Not squared, phi is the published sum
of norms and the move its gradient: a step of fixed length, which never settles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.descent import descend, held, pulled_length
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, reverse
from ambient_solve.process import ancestral_noise


@final
@dataclass(frozen=True, kw_only=True)
class LDPS(Algorithm):
    """Latent DPS: a forward and a backward pass per level, through the denoiser and through the decoder."""

    name: ClassVar[str] = "ldps"
    paper: ClassVar[str] = "Rout et al., 2023, arXiv 2307.00619"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False
    gradient: ClassVar[bool] = True

    steps: int = knob(1000, 1, 10_000, "noise levels; the paper uses 1000")
    omega: float = knob(1.0, 1e-6, 1e3, "weight of the measurement; beside gamma, or of norms, the published length")
    gamma: float = knob(0.0, 0.0, 1e3, "weight of D - Enc(Dec(D)); above 0 it is GML-DPS")
    squared: bool = knob(True, help="squared norms with a step of the right length; the published code takes norms")
    eta: float = knob(1.0, 0.0, 1.0, "fresh noise: 1 is ancestral (DDPM), 0 deterministic (DDIM), as published")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        weights = [self.omega, self.gamma] if self.gamma else [self.omega]
        data = prior.sigma_data

        def residuals(z0: Tensor) -> Sequence[Tensor]:
            r = likelihood.residual(z0)
            return [r, z0 - prior.encode(prior.decode(z0))] if self.gamma else [r]

        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0, vjp = prior.denoise_vjp(z, sigma, once=True)
            damping = self.omega * likelihood.sigma**2 / held(sigma, sigma_next, data, self.eta)
            move = descend(residuals, weights, z0, squared=self.squared, damping=damping, sigma_data=data)
            fresh = ancestral_noise(sigma, sigma_next, self.eta)
            z = reverse(prior, z, z0, sigma, sigma_next, fresh, streams)
            z = z + pulled_length(sigma, sigma_next, data) * vjp(move)
            yield State(i + 1, self.steps, sigma, z, z0)
