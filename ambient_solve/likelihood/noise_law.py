"""The two laws of noise that a likelihood knows: Gaussian noise, and that of counted photons.

`A z` below is what would be measured without noise, in z units (see `likelihood`), and `r = y_z - A z`. Both laws give

    variance      of the noise of each entry                     (N, *measurement), or what broadcasts to it
    weights       1 / variance, 0 where nothing is measured      d log p(y | z) / d (A z) = weights * r
    chi2          mean of weights * r^2                          (N,)
    chi2_std      its deviation where r is the noise             (N,)

Photons are counted: `y = gain Poisson(p / gain) + sigma e`, of mean `p` and variance `gain p + sigma^2`. Its law is
taken as that of `y + sigma^2 / gain = gain Poisson((p + sigma^2 / gain) / gain)` ("shifted Poisson", Snyder et al.,
1993), which has the right mean and variance, is exact where sigma or gain is 0, and whose score is a weighted residual,

    d log p(y | p) / d p = (y - p) / (gain p + sigma^2)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.noise import Level, Streams, per_sample

FAINT = 0.5
"""Photons: counted noise has at least their variance, for a weight must stay finite."""
SWEEPS = 16
"""Langevin steps of a `draw` under counted noise."""
RELAXATION = 0.3
"""Share of the way to the proximal point that each of these steps goes, 0 to 1."""


@final
@dataclass(frozen=True, eq=False)
class GaussianLaw:
    """Gaussian noise of one level, or of one level per row.

    Attributes:
        sigma: Standard deviation in z units, (N,).
        count: Entries that are observed, (N,).
    """

    gaussian: ClassVar[bool] = True
    sigma: Tensor
    count: Tensor

    def variance(self, r: Tensor) -> Tensor:
        """Variance of each entry in z units, (N, 1, ..., 1)."""
        return per_sample(self.sigma, r) ** 2

    def weights(self, r: Tensor) -> Tensor:
        """`1 / variance(r)`, (N, 1, ..., 1)."""
        return 1 / self.variance(r)

    def step_weights(self, r: Tensor) -> Tensor:
        """The weights that bound the curvature of `-log p`: those of `weights`."""
        return self.weights(r)

    def chi2(self, r: Tensor) -> Tensor:
        """Mean squared residual in units of the noise, (N,)."""
        return r.square().flatten(1).sum(1) / (self.sigma**2 * self.count.clamp_min(1))

    def chi2_std(self) -> Tensor:
        """Standard deviation of the misfit of the true image, (N,)."""
        return (2 / self.count.clamp_min(1)).sqrt()

    def direction(self, r: Tensor) -> Tensor:
        """`r / |r|` for each row, (N, *measurement)."""
        return r / per_sample(r.flatten(1).norm(dim=1).clamp_min(1e-12), r)


@final
@dataclass(frozen=True, eq=False)
class CountingLaw:
    """Poisson or Poisson-Gaussian noise: the variance grows with the signal.

    Attributes:
        sigma: Standard deviation of the Gaussian part in z units, (N,); 0 without one.
        gain: Signal of one photon in the operator's units, (N,).
        scale: The factor `a` of `decode(z) = a z + b`, operator's units per z unit.
        signal: The measurement in the operator's units, (N, *measurement).
        seen: Its entries that see anything, bool, (N, *measurement).
    """

    gaussian: ClassVar[bool] = False
    sigma: Tensor
    gain: Tensor
    scale: float
    signal: Tensor
    seen: Tensor

    def variance(self, r: Tensor) -> Tensor:
        """Variance of each entry in z units where the noiseless measurement is `y_z - r`, (N, *measurement)."""
        noise = per_sample(self.sigma, r) ** 2
        return noise + per_sample(self.gain, r) * (self.signal - self.scale * r).clamp_min(0) / self.scale**2

    def weights(self, r: Tensor) -> Tensor:
        """`1 / variance(r)`, of a variance of at least `FAINT` photons; 0 in entries that the operator never sees."""
        faintest = FAINT * (per_sample(self.gain, r) / self.scale) ** 2
        return torch.where(self.seen, 1 / self.variance(r).maximum(faintest), 0)

    def step_weights(self, r: Tensor) -> Tensor:
        """Weights to measure a Langevin step by, between those of the noiseless `y_z - r` and those of y itself.

        One photon is added to both: the curvature of the law of no photon is 0, that of its neighbour is not.
        """
        photon = (per_sample(self.gain, r) / self.scale) ** 2
        both = (self.variance(r) + photon) * (self.variance(torch.zeros_like(r)) + photon)
        return torch.where(self.seen, both.rsqrt(), 0)

    def chi2(self, r: Tensor) -> Tensor:
        """Mean squared residual in units of the noise, (N,)."""
        weights = self.weights(r)
        expected = (weights * self.variance(r)).flatten(1).sum(1)  # the number of entries, less the faintest of them
        return (weights * r.square()).flatten(1).sum(1) / expected.clamp_min(1)

    def chi2_std(self) -> Tensor:
        """Standard deviation of the misfit of the true image, (N,): few photons have heavy tails."""
        photons = (self.signal / per_sample(self.gain, self.signal)).clamp_min(FAINT)
        fourth = torch.where(self.seen, 2 + 1 / photons, 0).flatten(1).sum(1)
        return fourth.sqrt() / self.seen.flatten(1).sum(1).clamp_min(1)

    def direction(self, r: Tensor) -> Tensor:
        """`W r / |W^1/2 r|` for each row, `W` the weights relative to their mean, (N, *measurement)."""
        weights = self.weights(r)
        mean = weights.flatten(1).sum(1) / (weights > 0).flatten(1).sum(1)
        weights = weights / per_sample(mean, weights)
        norm = (weights.sqrt() * r).flatten(1).norm(dim=1).clamp_min(1e-12)
        return weights * r / per_sample(norm, r)

    def draw(
        self,
        v: Tensor,
        q: Level,
        streams: Streams,
        *,
        residual: Callable[[Tensor], Tensor],
        A: Callable[[Tensor], Tensor],
        At: Callable[[Tensor], Tensor],
        iterations: int,
    ) -> Tensor:
        """Langevin steps in the metric `H = A'WA + I / q^2`, `W` the weights around `v`: exact if `W` were constant.

        z <- z + H^-1 (c grad log p(z) + sqrt(c (2 - c)) e),    e ~ N(0, H),    c = RELAXATION

        For a constant `W` that is an autoregression which keeps `N(mean, H^-1)` at every c.

        Args:
            v: Centre of the Gaussian factor and first state, (N, *z_shape).
            q: Its standard deviation, () or (N,).
            streams: Noise of the steps.
            residual: `z -> y_z - A z`.
            A, At: The linear operator and its adjoint.
            iterations: Steps of conjugate gradients in each Langevin step.

        Returns:
            The last state, (N, *z_shape).
        """
        q, z = per_sample(q, v), v

        def metric(p: Tensor, scale: Tensor) -> Tensor:
            return p + q**2 * At(scale * A(p))

        for sweep in range(SWEEPS):
            r = residual(z)
            if sweep <= SWEEPS // 2:
                scale = self.step_weights(r)
            drift = q**2 * At(self.weights(r) * r) - (z - v)
            noise = q**2 * At(scale.sqrt() * streams.normal(r)) + q * streams.normal(v)
            step = RELAXATION * drift + (RELAXATION * (2 - RELAXATION)) ** 0.5 * noise
            z = z + conjugate_gradient(partial(metric, scale=scale), step, iterations)
        return z
