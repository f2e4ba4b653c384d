"""A run that can be stopped within one pass through the network, or one group of tiles, and that says how far it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from ambient_solve.noise import Level
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.wrapped import WrappedPrior


class Stopped(Exception):
    """The visitor has asked the run to end."""


@final
class StoppablePrior(WrappedPrior):
    """A prior that raises `Stopped` before a pass through the network once it is asked to.

    Inside of a `TiledPrior` that is before each group of tiles, of which a level of a large picture has many.

    Args:
        inner: The prior inside.
        asked: Whether the run is to end.

    Attributes:
        made: Passes through the network so far, forward and backward.
    """

    def __init__(self, inner: Prior, asked: Callable[[], bool]) -> None:
        super().__init__(inner)
        self.asked, self.made = asked, 0

    def _pass(self) -> None:
        if self.asked():
            raise Stopped
        self.made += 1

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        self._pass()
        return self.inner.denoise(z, sigma, cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`."""
        self._pass()
        z0, vjp = self.inner.denoise_vjp(z, sigma, cond, once=once)

        def watched(v: Tensor) -> Tensor:
            self._pass()
            return vjp(v)

        return z0, watched


def stoppable(prior: Prior, asked: Callable[[], bool]) -> Prior:
    """A prior whose runs can be stopped; one that is mask-conditioned, which solvers know by its class, as it is.

    Args:
        prior: Any prior.
        asked: Whether the run is to end.

    Returns:
        The prior.
    """
    return prior if isinstance(prior, AmbientPrior) else StoppablePrior(prior, asked)
