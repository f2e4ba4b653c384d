r"""RED-diff, regularization by denoising diffusion (Mardani et al., 2024, arXiv 2305.04391, algorithm 1).

A Gaussian around `mu` of no width is fitted to the posterior: an optimization, not a sampler. Level by level, with
`z = mu + sigma n` and `e = (z - D) / sigma` the noise that the denoiser sees, one step of Adam goes down

    |y - A mu|^2 / 2 + lambda sigma <stop-gradient[e - n], mu>

The weight of the level, one over the signal-to-noise ratio, is `sigma` here, where the state is not scaled. As in the
paper the measurement is not weighted by its noise: `lambda_` stands for that too. For a Gaussian prior `N(m, C)` and a
fixed level the expected step vanishes at

    mu = m + (A'A + lambda sigma^2 (C + sigma^2 I)^-1)^-1 A' (y - A m)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, noise_like

MEMORY = (0.9, 0.99)
"""The two decay rates of Adam (Kingma and Ba, 2015, arXiv 1412.6980), as the paper sets them."""
SIGMA_DATA = 0.5
"""Deviation of the data for which `lr` is stated, that of the paper's images in [-1, 1]."""


@final
@dataclass(frozen=True, kw_only=True)
class REDdiff(Algorithm):
    """One forward pass per level, any differentiable operator. Seeks a mode: the samples of an image hardly differ."""

    name: ClassVar[str] = "reddiff"
    paper: ClassVar[str] = "Mardani et al., 2024, arXiv 2305.04391"
    linear: ClassVar[bool] = False
    affine: ClassVar[bool] = False

    steps: int = knob(500, 1, 10_000, "steps of the optimization, each at its own level; the paper uses up to 1000")
    lambda_: float = knob(0.25, 0.0, 100.0, "weight of the prior")
    lr: float = knob(0.1, 1e-4, 10.0, "length of a step, for data of deviation 0.5; scaled with them")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        # A start of random sign: where the measurement does not know the sign, no step would leave zero.
        mu = (prior.sigma_data / sigmas[0]) * z
        first, second = torch.zeros_like(mu), torch.zeros_like(mu)
        (b1, b2), lr = MEMORY, self.lr * prior.sigma_data / SIGMA_DATA
        for i, sigma in enumerate(sigmas[:-1], 1):
            n = noise_like(prior, mu, streams)
            z = prior.process.perturb(mu, sigma, n)
            e = (z - prior.denoise(z, sigma)) / sigma
            r, pullback = likelihood.linearize(mu)
            gradient = self.lambda_ * sigma * (e - n) - pullback(r)
            first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
            length = lr * (1 - b2**i) ** 0.5 / (1 - b1**i)
            mu = mu - length * first / (second.sqrt() + 1e-8)
            yield State(i, self.steps, sigma, mu, mu)
