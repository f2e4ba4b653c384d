r"""Pixels that were measured, and means over blocks in the holes between them.

    y = (M x, B x),      M keeps the measured pixels, B averages blocks of f x f pixels of which none was measured

No pixel is in both, so that `AA' = diag(M, 1 / f^2)`: a hole whose coarse content is known, up to an error of its own,
is as cheap as one of which nothing is.
"""

from __future__ import annotations

import torch.nn.functional as F
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError


class PixelsAndMeans(LinearPhysics):
    """Pictures (B, C, H, W) to measured pixels and block means, (B, C H W + C (H // f) (W // f)).

    Args:
        mask: Measured pixels, (H, W), 1 = measured.
        factor: f, 2 or more; rows and columns beyond whole blocks are in none.
        channels: C of the pictures.
        sigma: Noise of the pixels; levels of the means are given to the solver, see `levels`.

    Attributes:
        hidden: Blocks of which no pixel was measured, (H // f, W // f), 1 = none.

    Raises:
        AmbientSolveError: `factor` is out of its range, or larger than the picture.
    """

    def __init__(self, mask: Tensor, factor: int = 4, channels: int = 3, sigma: float = 0.02) -> None:
        if mask.ndim != 2 or factor < 2 or factor > min(mask.shape):
            raise AmbientSolveError(
                f"mask of shape {tuple(mask.shape)} and factor={factor} were given; (H, W), and a factor from 2 to the "
                "shorter side, were expected."
            )
        super().__init__(img_size=(channels, *mask.shape), noise_model=GaussianNoise(sigma))
        self.img_size, self.factor = (channels, *mask.shape), factor
        self.register_buffer("mask", mask.float(), persistent=False)
        hidden = (F.max_pool2d(mask.float()[None, None], factor)[0, 0] == 0).float()
        self.register_buffer("hidden", hidden, persistent=False)

    def measured(self, y: Tensor, coarse: Tensor) -> Tensor:
        """Pixels and block means as this operator measures them.

        Args:
            y: Pixels, (B, C, H, W).
            coarse: Block means, (B, C, H // f, W // f).

        Returns:
            (B, M).
        """
        return _flat(y * self.mask.to(y), coarse * self.hidden.to(coarse))

    def levels(self, sigma: float, coarse: Tensor) -> Tensor:
        """The noise of each entry, infinite for those that are not measured.

        Args:
            sigma: Of the pixels.
            coarse: Of the block means, (1, C, H // f, W // f).

        Returns:
            (1, M).
        """
        infinite = float("inf")
        pixels = (self.mask * 0 + sigma).masked_fill(self.mask == 0, infinite).expand(1, *self.img_size)
        return _flat(pixels, coarse.masked_fill(self.hidden == 0, infinite))

    def A(self, x: Tensor, **_: object) -> Tensor:
        """Pixels, then means."""
        return _flat(x * self.mask.to(x), F.avg_pool2d(x, self.factor) * self.hidden.to(x))

    def A_adjoint(self, u: Tensor, **_: object) -> Tensor:
        """The transpose of `A`."""
        channels, height, width = self.img_size
        count, f = channels * height * width, self.factor
        x = u[:, :count].reshape(-1, *self.img_size) * self.mask.to(u)
        means = u[:, count:].reshape(-1, channels, *self.hidden.shape) * self.hidden.to(u) / f**2
        wide = means.repeat_interleave(f, 2).repeat_interleave(f, 3)
        return x + F.pad(wide, (0, width - wide.shape[-1], 0, height - wide.shape[-2]))


def _flat(pixels: Tensor, means: Tensor) -> Tensor:
    import torch

    return torch.cat([pixels.flatten(1), means.flatten(1)], 1)
