r"""Operators that join frames of a clip: one measurement of k frames.

    y = A sum_t w_t x_t + n,      A' y = (w_1 A'y, ..., w_k A'y)

`A` is any linear operator of single frames. With weights 1/k it is a long exposure, with (1, 0, ..., 0) a camera that
skips frames. Images are groups of frames (B, C, k, H, W); a measurement is one of `A`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from deepinv.physics import Denoising, GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError


@final
class JoinedFrames(LinearPhysics):
    """Measurements of k frames each, see above.

    Args:
        img_size: (C, H, W) of a frame.
        weights: `w`, one for each of the k frames; not all 0.
        op: `A`, a linear operator of frames, whose noise is that of the measurement; None measures every pixel.
        sigma: Standard deviation of the Gaussian noise where no `op` is given, >= 0.

    Raises:
        AmbientSolveError: the weights are no numbers or all 0, or the operator is not linear.
    """

    weights: Tensor

    def __init__(
        self,
        img_size: tuple[int, int, int],
        weights: Sequence[float],
        op: LinearPhysics | None = None,
        sigma: float = 0.02,
    ) -> None:
        given = [float(w) for w in weights]
        if not given or not all(math.isfinite(w) for w in given) or not any(given):
            raise AmbientSolveError(f"weights={weights!r} were given, finite numbers that are not all 0 were expected.")
        op = Denoising(GaussianNoise(sigma)) if op is None else op
        if not isinstance(op, LinearPhysics):
            raise AmbientSolveError(f"Frames are joined before a linear operator, {type(op).__name__} is none.")
        channels, height, width = img_size
        super().__init__(img_size=(channels, len(given), height, width), noise_model=op.noise_model)
        self.op = op
        self.register_buffer("weights", torch.tensor(given))

    @property
    def frames(self) -> int:
        """How many frames a measurement joins."""
        return len(self.weights)

    def A(self, x: Tensor, **_: object) -> Tensor:
        """What is measured of groups of frames, without noise: (B, C, k, H, W) to what `op` gives."""
        return self.op.A(torch.einsum("bckhw,k->bchw", x, self.weights.to(x)))

    def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
        """The transpose of `A`."""
        back = self.op.A_adjoint(y)
        return torch.einsum("bchw,k->bckhw", back, self.weights.to(back))


def temporal_average(
    img_size: tuple[int, int, int], frames: int, sigma: float = 0.02, op: LinearPhysics | None = None
) -> JoinedFrames:
    """A long exposure: the mean of some frames.

    Args:
        img_size: (C, H, W) of a frame.
        frames: How many become one, 2 or more.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1]; that of `op` where one is given.
        op: What happens to the mean; nothing by default.

    Returns:
        The operator on groups (B, C, frames, H, W).

    Raises:
        AmbientSolveError: there are fewer than two frames.
    """
    return JoinedFrames(img_size, [1 / _several(frames)] * frames, op, sigma)


def frame_rate(
    img_size: tuple[int, int, int], frames: int, sigma: float = 0.02, op: LinearPhysics | None = None
) -> JoinedFrames:
    """A camera that is too slow: the first of some frames.

    Args:
        img_size: (C, H, W) of a frame.
        frames: Of how many one is measured, 2 or more.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1]; that of `op` where one is given.
        op: What happens to it; nothing by default.

    Returns:
        The operator on groups (B, C, frames, H, W).

    Raises:
        AmbientSolveError: there are fewer than two frames.
    """
    return JoinedFrames(img_size, [1.0] + [0.0] * (_several(frames) - 1), op, sigma)


def _several(frames: int) -> int:
    if isinstance(frames, bool) or not isinstance(frames, int) or frames < 2:
        raise AmbientSolveError(f"frames={frames!r} was given, a whole number of at least 2 was expected.")
    return frames
