r"""Proximal sampling: one rule whose settings are DiffPIR, DDS and Flower. No gradient through the network.

zh = argmin |y - A z0|^2 / 2 sigma_y^2 + |z0 - D|^2 / 2 q^2        (or a sample of that Gaussian)
z <- zh + sqrt(sigma_next^2 - b^2) (z - zh) / sigma + b n

setting   q^2                          b                     from
diffpir   sigma^2 / lambda             sqrt(zeta) sigma_next Zhu et al., 2023, arXiv 2305.08995, equations 12 to 14
dds       gain sigma_y^2, constant     K_eta, eta = .85      Chung et al., 2024, arXiv 2303.05754, algorithm 1
flower    sigma^2 v / (sigma^2 + v)    sigma_next, a sample  Pourya et al., 2026, "Flower"
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
from ambient_solve.linalg.conjugate_gradient import WarmStart
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, reverse
from ambient_solve.process import ancestral_noise


@final
@dataclass(frozen=True, kw_only=True)
class Proximal(Algorithm):
    """One forward pass per level, nothing else of the network: the fast choice."""

    name: ClassVar[str] = "proximal"
    paper: ClassVar[str] = "Zhu et al., 2023, arXiv 2305.08995"

    steps: int = knob(50, 1, 10_000, "noise levels; more is slower and usually better")
    trust: str = knob(
        "sigma", choices=("sigma", "data", "constant"), help="how far the estimate may move: q of the formula"
    )
    lambda_: float = knob(1.0, 1e-3, 1e3, "q^2 = sigma^2 / lambda where trust is 'sigma'")
    gain: float = knob(5.0, 1e-3, 1e6, "q^2 = gain * sigma_y^2 where trust is 'constant'")
    draw: bool = knob(False, help="take a sample of the proximal Gaussian in place of its mean")
    kernel: str = knob("loose", choices=("loose", "ancestral"), help="fresh noise: sqrt(zeta) sigma, or K_eta")
    zeta: float = knob(1.0, 0.0, 1.0, "share of fresh noise in the loose kernel")
    eta: float = knob(1.0, 0.0, 1.0, "fresh noise of the ancestral kernel")

    @classmethod
    def diffpir(cls, steps: int = 100, lambda_: float = 1.0, zeta: float = 0.3) -> Proximal:
        """DiffPIR with its paper's rule (Zhu et al., 2023, arXiv 2305.08995).

        Args:
            steps: Noise levels.
            lambda_: Weight of the prior against the data.
            zeta: Share of fresh noise, 0 to 1.

        Returns:
            The algorithm with these settings.
        """
        return cls(steps=steps, trust="sigma", lambda_=lambda_, kernel="loose", zeta=zeta)

    @classmethod
    def dds(cls, steps: int = 50, gain: float = 5.0, eta: float = 0.85) -> Proximal:
        """DDS: a constant weight of the data (Chung et al., 2024, arXiv 2303.05754).

        Args:
            steps: Noise levels.
            gain: Weight of the data.
            eta: Share of fresh noise, 0 to 1.

        Returns:
            The algorithm with these settings.
        """
        return cls(steps=steps, trust="constant", gain=gain, kernel="ancestral", eta=eta)

    @classmethod
    def flower(cls, steps: int = 100) -> Proximal:
        """Flower: a draw around the estimate, then fresh noise."""
        return cls(steps=steps, trust="data", draw=True, kernel="loose", zeta=1.0)

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        warm = WarmStart()
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            q = self._trust(sigma, prior, likelihood)
            z0 = prior.denoise(z, sigma)
            z0 = likelihood.draw(z0, q, streams) if self.draw else likelihood.prox(z0, q, warm)
            loose = self.kernel == "loose"
            fresh = math.sqrt(self.zeta) * sigma_next if loose else ancestral_noise(sigma, sigma_next, self.eta)
            z = reverse(prior, z, z0, sigma, sigma_next, fresh, streams)
            yield State(i + 1, self.steps, sigma, z, z0)

    def _trust(self, sigma: float, prior: Prior, likelihood: Likelihood) -> Tensor:
        """`q` of each row, (N,)."""
        if self.trust == "constant":
            return math.sqrt(self.gain) * likelihood.sigma
        v = prior.sigma_data**2
        q2 = sigma**2 / self.lambda_ if self.trust == "sigma" else sigma**2 * v / (sigma**2 + v)
        return torch.full_like(likelihood.sigma, math.sqrt(q2))
