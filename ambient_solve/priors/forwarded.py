"""Priors inside the wrappers of torch: data-parallel and compiled modules, which know no method but `forward`."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior, Vjp, require_complete
from ambient_solve.priors.wrapped import WrappedPrior

INSIDE = ("module", "_orig_mod")
"""Where torch's data-parallel wrappers and `torch.compile` keep the module that they wrap."""


@final
class ForwardedPrior(WrappedPrior):
    """A prior that is called through a wrapper of torch: `torch.nn.DataParallel(prior)`, `torch.compile(prior)`.

    Args:
        wrapper: The wrapper, which calls `inner.forward`.
        inner: The prior inside.
    """

    def __init__(self, wrapper: nn.Module, inner: Prior) -> None:
        super().__init__(inner)
        self._wrapper = (wrapper,)  # in a tuple, so that the weights are listed once

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        level = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(len(z))  # data-parallel wrappers cut rows
        return self._wrapper[0](z, level, cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`."""
        # A compiled backward pass may give its buffers away; this one is taken several times.
        with torch._functorch.config.patch(donated_buffer=False):
            return Prior.denoise_vjp(self, z, sigma, cond, once=once)


def as_prior(given: Any) -> Prior:
    """`given` as a prior, whatever wrapper of torch is around it.

    Args:
        given: A `Prior`, or one inside of `torch.nn.DataParallel`, `DistributedDataParallel` or `torch.compile`.

    Raises:
        AmbientSolveError: there is no prior in it, or it does not say its shape and its levels.
    """
    inner = given
    while isinstance(inner, nn.Module) and not isinstance(inner, Prior):
        inner = next((getattr(inner, name) for name in INSIDE if hasattr(inner, name)), None)
    if not isinstance(inner, Prior):
        raise AmbientSolveError(
            f"prior is a {type(given).__name__}, a Prior was expected: load_prior('photos'), or "
            "DenoiserPrior(denoiser) around a deepinv denoiser."
        )
    require_complete(inner)
    return inner if inner is given else ForwardedPrior(given, inner)
