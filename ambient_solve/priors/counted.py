"""A prior that counts its passes through the network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.wrapped import WrappedPrior


class CountedPrior(WrappedPrior):
    """A prior that counts what an algorithm asks of it, and hands it the condition of this run.

    Args:
        prior: The prior inside.
        cond: The condition of the run, which takes the place of any other.

    Attributes:
        network_calls: Forward passes so far; a guided call makes two.
        vjps: Backward passes so far, as many for each use of a vector-Jacobian product.
    """

    def __init__(self, prior: Prior, cond: Any = None) -> None:
        super().__init__(prior)
        self.cond = cond
        self.network_calls = self.vjps = 0

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`: one network call, two where a condition guides it."""
        self.network_calls += self.inner.passes(self.cond)
        return self.inner.denoise(z, sigma, self.cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`: one network call now, and one VJP for each use of the function returned."""
        self.network_calls += self.inner.passes(self.cond)
        z0, vjp = self.inner.denoise_vjp(z, sigma, self.cond, once=once)

        def counted(v: Tensor) -> Tensor:
            self.vjps += self.inner.passes(self.cond)
            return vjp(v)

        return z0, counted

    def shown(self, z: Tensor, cond: Any = None) -> Tensor:
        """See `Prior.shown`; under the condition of this run."""
        return self.inner.shown(z, self.cond)

    def check_condition(self, cond: Any) -> None:
        """See `Prior.check_condition`; of the condition of this run."""
        self.inner.check_condition(self.cond)
