r"""A picture made smaller by a whole factor, as programs for pictures do it, up to its edges.

Row i of the small picture lies over the rows `factor i ... factor i + factor - 1` of the large one: its middle is
`factor (i + 1/2) - 1/2`. This is the convention of Pillow, OpenCV, MATLAB's `imresize`, scikit-image and torch's
`interpolate(align_corners=False)`. deepinv's `Downsampling` puts it at `factor i`, or half a pixel behind, which is a
shift of `(factor - 2) / 2` or `(factor - 1) / 2` pixels. With the weights of the filter in matrices, one for each axis,

    y = R x S',     R_ij ~ k((j + 1/2) / factor - (i + 1/2)),     sum_j R_ij = 1

so that the kernel is cut off at the edges and normalised again, as Pillow does; `AA' = RR' (x) SS'` has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from deepinv.physics import DecomposablePhysics, GaussianNoise
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, suggestion

ALIGNMENTS = ("centers", "corner")
"""Where pixels of a reduced picture lie: in the middle of those they were made of, or on the first of them, as
deepinv's `Downsampling` has it."""


def _cubic(t: Tensor) -> Tensor:
    """Keys' cubic convolution, a = -1/2."""
    t = t.abs()
    inner = 1.5 * t**3 - 2.5 * t**2 + 1
    outer = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, 0))


def _kaiser_sinc(t: Tensor) -> Tensor:
    """The ideal filter in a Kaiser window of four pixels of the small picture."""
    window = torch.special.i0(3.4 * (1 - (t / 2) ** 2).clamp_min(0).sqrt())
    return torch.sinc(t) * window


KERNELS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "bicubic": (2.0, _cubic),
    "bilinear": (1.0, lambda t: (1 - t.abs()).clamp_min(0)),
    "gaussian": (3.0, lambda t: torch.exp(-0.5 * t**2)),
    "sinc": (2.0, _kaiser_sinc),
    "lanczos": (3.0, lambda t: torch.sinc(t) * torch.sinc(t / 3)),
    "box": (0.5, torch.ones_like),
}
"""Filters before a reduction: half their width, in pixels of the small picture, and their shape."""


def reduction_weights(length: int, factor: int, filter: str) -> Tensor:
    """The matrix that makes an axis smaller.

    Args:
        length: Pixels of the large axis, a multiple of `factor`.
        factor: How many of them become one, 2 or more.
        filter: A name of `KERNELS`.

    Returns:
        (length / factor, length) float64, rows that sum to one.
    """
    reach, kernel = KERNELS[filter]
    large = (torch.arange(length, dtype=torch.float64) + 0.5) / factor
    t = large[None] - (torch.arange(length // factor, dtype=torch.float64) + 0.5)[:, None]
    weights = torch.where(t.abs() <= reach, kernel(t), 0)
    return weights / weights.sum(1, keepdim=True)


def aligned_filter(factor: int, filter: str) -> Tensor:
    """The filter for deepinv's `Downsampling` that puts the small pixels in the middle of those they are made of.

    Args:
        factor: Pixels from one that is kept to the next, 2 or more.
        filter: A name of `KERNELS`.

    Returns:
        (1, 1, n, n), which sums to one. n is odd or even as the factor is; deepinv has the middle of an even filter
        half a pixel behind the pixel that is kept.
    """
    reach, kernel = KERNELS[filter]
    middle = (factor - 1) / 2
    behind = math.floor(middle + reach * factor)  # the last pixel that is weighed, the first is as far from the middle
    offset = torch.arange(1 - behind if factor % 2 == 0 else -behind, behind + 1, dtype=torch.float64)
    # deepinv convolves: what stands before the middle of a filter weighs what lies behind the pixel.
    t = (offset - middle).flip(0) / factor
    line = torch.where(t.abs() <= reach, kernel(t), 0)
    line = line / line.sum()
    return torch.outer(line, line)[None, None].float()


class Reduction(DecomposablePhysics):
    """A picture (B, C, H, W) to one (B, C, H / factor, W / factor), see above.

    Args:
        img_size: (C, H, W) of the large pictures; `factor` divides H and W.
        factor: How many pixels of an axis become one, 2 or more.
        filter: A name of `KERNELS`; Pillow's BICUBIC, BILINEAR, LANCZOS and BOX are the first of these, the others are
            those of deepinv.
        noise_model: By default Gaussian of level 0.02.

    Raises:
        AmbientSolveError: a value is out of its range.
    """

    def __init__(
        self,
        img_size: tuple[int, int, int],
        factor: int,
        filter: str = "bicubic",
        noise_model: torch.nn.Module | None = None,
    ) -> None:
        rows, columns = img_size[-2:]
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 2:
            raise AmbientSolveError(f"factor={factor!r} was given, a whole number of at least 2 was expected.")
        if filter not in KERNELS:
            raise AmbientSolveError(f"filter={filter!r} is not a filter. {suggestion(str(filter), KERNELS)}")
        if rows % factor or columns % factor:
            raise AmbientSolveError(f"A {rows}x{columns} image cannot be reduced by {factor}: it must divide both.")
        super().__init__(img_size=tuple(img_size), noise_model=noise_model or GaussianNoise(0.02))
        self.factor, self.kind = factor, filter
        along = [reduction_weights(n, factor, filter) for n in (rows, columns)]
        singular = []
        for name, matrix in zip(("rows", "columns"), along, strict=True):
            squares, left = torch.linalg.eigh(matrix @ matrix.mT)
            values = squares.clamp_min(0).sqrt()
            singular.append(values)
            right = matrix.mT @ left / values.clamp_min(1e-12)
            self.register_buffer(name, matrix.float())
            self.register_buffer(f"left_{name}", left.float())
            self.register_buffer(f"right_{name}", right.float())
        self.register_buffer("mask", torch.outer(*singular)[None, None].float())

    def A(self, x: Tensor, **_: object) -> Tensor:
        """The small pictures."""
        return self.rows @ x @ self.columns.mT

    def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
        """The transpose of `A`."""
        return self.rows.mT @ y @ self.columns

    def U(self, x: Tensor, **_: object) -> Tensor:
        """From singular values to small pictures."""
        return self.left_rows @ x @ self.left_columns.mT

    def U_adjoint(self, x: Tensor, **_: object) -> Tensor:
        """From small pictures to singular values."""
        return self.left_rows.mT @ x @ self.left_columns

    def V(self, x: Tensor, **_: object) -> Tensor:
        """From singular values to large pictures."""
        return self.right_rows @ x @ self.right_columns.mT

    def V_adjoint(self, x: Tensor, **_: object) -> Tensor:
        """From large pictures to singular values."""
        return self.right_rows.mT @ x @ self.right_columns
