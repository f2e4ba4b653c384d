"""A prior that counts its passes through the network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp


class CountedPrior(Prior):
    """A prior that counts what an algorithm asks of it, and hands it the condition of this run."""

    def __init__(self, prior: Prior, cond: Any = None) -> None:
        super().__init__()
        self.inner, self.cond = prior, cond
        self.shape, self.sigma_min, self.sigma_max = prior.shape, prior.sigma_min, prior.sigma_max
        self.sigma_data, self.sigma_jacobian = prior.sigma_data, prior.sigma_jacobian
        self.network_calls = self.vjps = 0

    @property
    def affine(self) -> tuple[float, float] | None:
        """That of the prior inside."""
        return self.inner.affine

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """One network call."""
        self.network_calls += 1
        return self.inner.denoise(z, sigma, self.cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """One network call now, and one VJP for each use of the function returned."""
        self.network_calls += 1
        z0, vjp = self.inner.denoise_vjp(z, sigma, self.cond, once=once)

        def counted(v: Tensor) -> Tensor:
            self.vjps += 1
            return vjp(v)

        return z0, counted

    def shown(self, z: Tensor, cond: Any = None) -> Tensor:
        """That of the prior inside, under the condition of this run."""
        return self.inner.shown(z, self.cond)

    def decode(self, z: Tensor) -> Tensor:
        """That of the prior inside."""
        return self.inner.decode(z)

    def encode(self, x: Tensor) -> Tensor:
        """That of the prior inside."""
        return self.inner.encode(x)

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """That of the prior inside."""
        return self.inner.noise(shape, streams)

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """That of the prior inside."""
        return self.inner.state_shape(image_shape)
