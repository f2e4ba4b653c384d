r"""PSLD, posterior sampling with latent diffusion (Rout et al., 2023, arXiv 2307.00619, algorithm 2).

    phi(D) = omega |y - A Dec(D)|^2 / 2 + gamma |D - Enc(A'y + (I - A'A) Dec(D))|^2 / 2
    z <- K_eta(z, D) + sqrt((1 + sigma^2) (1 + sigma_next^2)) J' move        (sigma in deviations of the data)

`J` is the Jacobian of the denoiser and `move` a step down phi (`descent`). The second term glues what was measured to
what the decoder makes of the rest. `A'` is the adjoint over the largest eigenvalue of A'A, so that the glued picture is
a step of Landweber's iteration for any operator; the published code takes the identity for blur.

The theory of the paper has the squares. The published code has norms (`squared=False`): a step of fixed length, whose
error does not fall with the number of levels (16 % of a linear latent where the squares find it to 1e-3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.descent import descend, held, pulled_length
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, reverse
from ambient_solve.process import ancestral_noise

ITERATIONS = 20
"""Power iterations for the largest eigenvalue of A'A."""


@final
@dataclass(frozen=True, kw_only=True)
class PSLD(Algorithm):
    """Latent DPS with gluing: a forward and a backward pass per level, through denoiser, decoder and encoder."""

    name: ClassVar[str] = "psld"
    paper: ClassVar[str] = "Rout et al., 2023, arXiv 2307.00619"
    affine: ClassVar[bool] = False
    gradient: ClassVar[bool] = True

    steps: int = knob(1000, 1, 10_000, "noise levels; the paper uses 1000")
    omega: float = knob(1.0, 1e-6, 1e3, "weight of the measurement; beside gamma, or of norms, the published length")
    gamma: float = knob(0.1, 0.0, 1e3, "weight of the gluing; the paper uses 0.1, and 0.01 for boxes")
    squared: bool = knob(True, help="squared norms with a step of the right length; the published code takes norms")
    eta: float = knob(1.0, 0.0, 1.0, "fresh noise: 1 is ancestral (DDPM), 0 deterministic (DDIM), as published")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        picture, data = likelihood.of_picture, prior.sigma_data
        weights = [self.omega, self.gamma] if self.gamma else [self.omega]
        largest = _largest(picture, prior.decode(0 * z)) if self.gamma else None

        def residuals(z0: Tensor) -> Sequence[Tensor]:
            x = prior.decode(z0)
            r = picture.residual(x)
            if largest is None:
                return [r]
            return [r, z0 - prior.encode(x + picture.At(r) / per_sample(largest, x))]

        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0, vjp = prior.denoise_vjp(z, sigma, once=True)
            damping = self.omega * picture.sigma**2 / held(sigma, sigma_next, data, self.eta)
            move = descend(residuals, weights, z0, squared=self.squared, damping=damping, sigma_data=data)
            fresh = ancestral_noise(sigma, sigma_next, self.eta)
            z = reverse(prior, z, z0, sigma, sigma_next, fresh, streams)
            z = z + pulled_length(sigma, sigma_next, data) * vjp(move)
            yield State(i + 1, self.steps, sigma, z, z0)


def _largest(picture: Likelihood, x: Tensor) -> Tensor:
    """The largest eigenvalue of A'A for each row, (N,)."""
    # A fixed start with all frequencies in it: an eigenvalue is no matter of chance.
    numbers = torch.arange(x[0].numel(), dtype=x.dtype, device=x.device)
    v = (0.7 * numbers + 0.3).sin().reshape(x[0].shape).expand_as(x)
    for _ in range(ITERATIONS):
        v = v / per_sample(v.flatten(1).norm(dim=1).clamp_min(1e-30), v)
        v = picture.At(picture.A(v))
    return v.flatten(1).norm(dim=1).clamp_min(1e-30)
