"""Between deepinv's denoisers and priors, in both directions.

A deepinv denoiser maps an image in [0, 1] and a noise level in the same units to an image. A prior here lives in [-1,
1], where every noise level is twice as large.
"""

from __future__ import annotations

import copy
from typing import Any, final

import torch
from deepinv.models import Denoiser
from torch import Tensor, nn

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.base import Prior


@final
class DenoiserPrior(Prior):
    """Any deepinv denoiser (DRUNet, DnCNN, ...), or any module `denoiser(x, sigma)`, as a prior.

    Args:
        denoiser: Takes images (B, C, H, W) in [0, 1] and levels (B,) in the same units.
        channels: C.
        size: (H, W) in pixels, or None where any size will do.
        sigma_min: Lowest level at which the denoiser is good, in units of [-1, 1] images: twice deepinv's.
        sigma_max: Highest such level. Sampling starts there; below about 10 it cannot start from pure noise, and the
            samples lean on the measurement.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        channels: int = 3,
        size: tuple[int, int] | None = None,
        *,
        sigma_min: float = 0.01,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max:
            raise AmbientSolveError(f"0 < sigma_min < sigma_max was expected, got {sigma_min} and {sigma_max}.")
        # A copy: the denoiser given may still be in training.
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
        level = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).expand(len(z))
        return self.encode(self.denoiser(self.decode(z), level / 2))


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
