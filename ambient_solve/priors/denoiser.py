"""Between deepinv's denoisers and priors, in both directions.

A deepinv denoiser maps an image in [0, 1] and a noise level in the same units to an image. A prior here lives in [-1,
1], where every noise level is twice as large.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, final

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior
from ambient_solve.priors.finite import require_finite


@final
class DenoiserPrior(Prior):
    """Any deepinv denoiser (DRUNet, DnCNN, ...), or any module or function `denoiser(x, sigma)`, as a prior.

    Args:
        denoiser: Takes images (B, C, H, W) in [0, 1] and levels (B,) in the same units, both in the floating-point type
            of its weights. A module is copied.
        channels: C.
        size: (H, W) in pixels, or None where any size will do.
        sigma_min: Lowest level at which the denoiser is good, in units of [-1, 1] images: twice deepinv's.
        sigma_max: Highest such level. Sampling starts there; below about 10 it cannot start from pure noise, and the
            samples lean on the measurement.

    Raises:
        AmbientSolveError: the levels are none, `denoiser` cannot be called, or its weights are NaN or infinite.
    """

    def __init__(
        self,
        denoiser: Callable[[Tensor, Tensor], Tensor],
        channels: int = 3,
        size: tuple[int, int] | None = None,
        *,
        sigma_min: float = 0.01,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise AmbientSolveError(f"0 < sigma_min < sigma_max was expected, got {sigma_min} and {sigma_max}.")
        if not callable(denoiser):
            raise AmbientSolveError(
                f"denoiser is a {type(denoiser).__name__}; a module or a function denoiser(x, sigma) was expected."
            )
        self.denoiser = denoiser
        if isinstance(denoiser, nn.Module):
            require_finite(denoiser, type(denoiser).__name__)
            with torch.inference_mode(False):  # a copy: the denoiser given may still be in training
                self.denoiser = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.shape = (channels, *(size or (-1, -1)))
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.sigma_jacobian = 10 * self.sigma_data

    @property
    def affine(self) -> tuple[float, float]:
        """`decode(z) = (z + 1) / 2`."""
        return 0.5, 0.5

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        level, dtype = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(len(z)), self._dtype(z)
        x = self.denoiser(self.decode(z).to(dtype), (level / 2).to(dtype))
        if not isinstance(x, Tensor) or x.shape != z.shape:
            what = f"a tensor {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise AmbientSolveError(
                f"denoiser(x, sigma) gave {what} for x of shape {tuple(z.shape)}; a tensor of that shape was expected."
            )
        return self.encode(x.float())

    def _dtype(self, z: Tensor) -> torch.dtype:
        """The type of the denoiser's weights; that of `z` where it has none."""
        weights = self.denoiser.parameters() if isinstance(self.denoiser, nn.Module) else ()
        return next((w.dtype for w in weights if w.is_floating_point()), z.dtype)


@final
class _PriorDenoiser(Denoiser):
    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: Level, **_: Any) -> Tensor:
        a = (self.prior.affine or (1.0, 0.0))[0]
        level = sigma.flatten() if isinstance(sigma, Tensor) and sigma.numel() > 1 else float(sigma)
        return self.prior.decode(self.prior.denoise(self.prior.encode(x), level / abs(a)))


def as_deepinv(prior: Prior) -> Denoiser:
    """A prior as a deepinv denoiser, which serves in deepinv's own reconstructors.

    Args:
        prior: Any prior whose `decode` is affine.

    Returns:
        A denoiser, called as `denoiser(x, sigma)` with x (B, C, H, W) and sigma, a number or one per image, in image
        units.
    """
    if prior.affine is None:
        raise AmbientSolveError(
            "as_deepinv needs a prior whose decode is affine: a noise level must mean the same in both spaces."
        )
    return _PriorDenoiser(prior)
