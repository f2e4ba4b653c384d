r"""`SpectralLaw`: the power spectra of a class of pictures, and the evidence of a blur under it, in closed form.

The power at frequency f is `exp(phi(f)'c)` with few coefficients `c ~ N(mean, covariance)` that differ from picture to
picture: level, slope, bend and direction. A picture is a stationary Gaussian given c, so that its periodogram I is
independent from frequency to frequency, exponential with mean P (Whittle, 1953):

    log p(y | c, k, sigma) = -v sum_f (log P + I / P) + const.,      P = R_k exp(phi'c) + sigma^2

c is integrated out by Laplace's rule at its mode. Photographs are no stationary Gaussians: v < 1 discounts what their
spectra say, so that intervals hold the truth as often as they state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ambient_solve.blind.spectrum import LOWEST, SIDE, frequencies, periodogram, response
from ambient_solve.errors import AmbientSolveError

STEPS = 30
"""Most Newton steps to the mode."""
SETTLED = 1e-2
"""Gain of the logarithm at which they end."""
HOPELESS = 40.0
"""How far a logarithm is below the largest one where nobody waits for it."""
FEWEST = 30
"""Pictures below which no law is fitted."""
FLAT = 0.03
"""Standard deviation of the values of a picture below which it has no spectrum to learn."""
VAGUE = 1e-4
"""Precision of the coefficients before a law is known."""
QUIET = 1e-8
"""Variance of the noise of clean pictures: that of nothing, but above 0."""


@final
@dataclass(frozen=True, eq=False)
class SpectralLaw:
    """The law of the spectra of a class of pictures.

    Attributes:
        mean: Of the coefficients of `spectrum.terms`, (K,) float64.
        covariance: Of these, (K, K) float64.
        discount: v above, above 0; 1 for stationary Gaussians.
        windowed: False where pictures repeat at their edges, so that no window is needed.
    """

    mean: Tensor
    covariance: Tensor
    discount: float = 1.0
    windowed: bool = True

    @classmethod
    def fit(cls, pictures: Iterable[Tensor], discount: float = 1.0) -> SpectralLaw:
        """The law of clean pictures.

        Args:
            pictures: (C, H, W) each, of 64 pixels a side or more; flat ones are left out. Their channels are averaged.
            discount: See the attribute.

        Returns:
            The law.

        Raises:
            AmbientSolveError: there are fewer than 30 that are not flat.
        """
        found, chosen = [], frequencies(SIDE, SIDE, LOWEST)
        for picture in pictures:
            y = picture.double().mean(0)
            if float(y.std()) < FLAT:
                continue
            power = periodogram(y)[chosen.chosen]
            k = chosen.terms.shape[1]
            vague = cls(torch.zeros(k).double(), torch.eye(k).double() / VAGUE)
            found.append(vague._laplace(power, chosen.terms, chosen.weight, torch.ones(1, len(power)), [QUIET])[1][0])
        if len(found) < FEWEST:
            raise AmbientSolveError(
                f"{len(found)} pictures with contrast were given, at least {FEWEST} were expected to fit a law."
            )
        coefficients = torch.stack(found)
        return cls(coefficients.mean(0), torch.cov(coefficients.T), discount)

    def log_evidence(self, y: Tensor, kernels: Iterable[Tensor], sigmas: Iterable[float]) -> Tensor:
        """`log p(y | kernel, sigma)` of each pair, up to a constant.

        Args:
            y: One blurred picture, (C, H, W); the mean of its channels is looked at.
            kernels: (kh, kw) each, M of them.
            sigmas: Noise level of each channel, M of them.

        Returns:
            (M,) float64.
        """
        kernels = list(kernels)
        power = periodogram(y.mean(0), SIDE if self.windowed else None)
        h, w = power.shape
        # A kernel that comes again, with another noise level, has the response that it had.
        once = {id(k): response(k, h, w, windowed=self.windowed) for k in {id(k): k for k in kernels}.values()}
        return self.log_evidence_of(power, [once[id(k)] for k in kernels], [sigma**2 / len(y) for sigma in sigmas])

    def log_evidence_of(self, power: Tensor, responses: Iterable[Tensor], variances: Iterable[float]) -> Tensor:
        """`log_evidence` where the spectrum is at hand.

        Args:
            power: `spectrum.periodogram` of the mean of the channels, (h, w).
            responses: `spectrum.response` of each kernel, (h, w) each, M of them.
            variances: Of the noise of the mean of the channels, M of them.

        Returns:
            (M,) float64.
        """
        chosen, weight, terms = frequencies(*power.shape, LOWEST if self.windowed else 0.0)
        passed = torch.stack([one[chosen] for one in responses])
        noise = [max(variance, QUIET) for variance in variances]
        return self._laplace(power[chosen], terms, weight, passed, noise)[0]

    def _laplace(
        self, power: Tensor, terms: Tensor, weight: Tensor, responses: Tensor, noise: list[float]
    ) -> tuple[Tensor, Tensor]:
        """The log evidence (M,) and the modes (M, K) for M responses and noise variances, by Newton steps in step."""
        precision, weight = torch.linalg.inv(self.covariance), self.discount * weight
        variance = torch.tensor(noise, dtype=torch.float64)[:, None]
        c = self.mean.expand(len(responses), -1).clone()
        squares = (terms[:, :, None] * terms[:, None]).flatten(1)
        damping = torch.ones(len(c), 1, dtype=torch.float64)

        def at(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """The logarithm to be maximised, the share of the signal in P, and I / P."""
            signal = responses * (c @ terms.T).clamp(-60, 60).exp()
            total, d = signal + variance, c - self.mean
            value = -(weight * (total.log() + power / total)).sum(1) - 0.5 * ((d @ precision) * d).sum(1)
            return value, signal / total, power / total

        value, share, ratio = at(c)
        for _ in range(STEPS):
            gradient = (weight * share * (ratio - 1)) @ terms - (c - self.mean) @ precision
            curvature = ((weight * share**2) @ squares).reshape(len(c), *precision.shape) + precision
            moved = c + damping * torch.linalg.solve(curvature, gradient[..., None])[..., 0]
            there = at(moved)
            better = there[0] >= value
            gain = torch.where(better, there[0] - value, torch.inf)
            c = torch.where(better[:, None], moved, c)
            share = torch.where(better[:, None], there[1], share)
            ratio = torch.where(better[:, None], there[2], ratio)
            value = torch.where(better, there[0], value)
            damping = torch.where(better[:, None], (2 * damping).clamp_max(1), damping / 4)
            if bool(((gain < SETTLED) | (value < value.max() - HOPELESS)).all()):
                break
        curvature = ((weight * share**2) @ squares).reshape(len(c), *precision.shape) + precision
        return value - 0.5 * torch.logdet(curvature) + 0.5 * torch.logdet(precision), c
