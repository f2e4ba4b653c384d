r"""MRI along any trajectory, by non-uniform Fourier transforms (mri-nufft), with a Toeplitz normal operator.

y_c(k) = 1 / sqrt(H W) sum_r e^{-2 pi i k (r - c)} S_c(r) x(r),      c = (H // 2, W // 2)

with k in cycles per pixel: on the points of a Cartesian grid this is `MultiCoil`. `A^H A` needs no such transform,

(F^H F u)(r) = sum_s t(r - s) u(s),      t(d) = 1 / (H W) sum_k e^{2 pi i k d}

is a convolution, done by FFT on a grid of twice the size (Wajer and Pruessmann, 2001; Fessler et al., 2005, IEEE Trans.
Signal Process. 53, 3393).
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.mri import (
    Apply,
    checked_sigma,
    full_maps,
    of_rows,
    rough_inverse,
    spans,
    to_complex,
    to_real,
)

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
"""The angle from one spoke to the next, 111.25 degrees."""


class NonCartesian(LinearPhysics):
    """Images (B, 2, H, W), real and imaginary part; measurements (B, 2, coils, points), as deepinv's have them.

    `B` may be any multiple of the number of maps, image-major. Transforms run on the CPU in float32, to about 1e-6.

    Args:
        maps: Complex coil maps, ([1 or B,] coils, H, W).
        trajectory: (..., 2), the row and column frequency of each point in [-0.5, 0.5], cycles per pixel.
        sigma: Noise in the real and in the imaginary part of each point.
    """

    def __init__(self, maps: Tensor, trajectory: Tensor, sigma: float = 0.0) -> None:
        super().__init__(noise_model=GaussianNoise(checked_sigma(sigma)))
        maps, points = full_maps(maps), torch.as_tensor(trajectory).detach().cpu().double().numpy()
        if points.ndim < 2 or points.shape[-1] != 2 or points.size == 0 or not (abs(points) <= 0.5).all():
            largest = np.abs(points).max(initial=0)
            raise AmbientSolveError(
                f"The trajectory has shape {points.shape}, and values up to {largest:g}; (..., 2) in [-0.5, 0.5] "
                "cycles per pixel was expected: divide wave numbers by the size of the picture."
            )
        points = points.reshape(-1, 2)
        self.img_size = (2, *maps.shape[-2:])
        size = (maps.shape[-2], maps.shape[-1])
        self._nufft, self._scale = _operator(points, size, maps.shape[1], np.float32)
        kernel = torch.from_numpy(_kernel(points, size))
        seen = maps.abs().square().sum(1, keepdim=True) > 0
        share = seen.flatten(1).double().mean(1)[:, None, None]
        for name, value in {
            "coil_maps": maps,
            "_spectrum": torch.fft.fft2(kernel).real,
            "_seen": seen.float(),
            "_circulant": _circulant(maps, kernel) / share,
        }.items():
            self.register_buffer(name, value if value.is_complex() else value.float(), persistent=name == "coil_maps")

    def A(self, x: Tensor, **_: object) -> Tensor:
        """(B, 2, H, W) to (B, 2, coils, points). deepinv hands every keyword to `A`; none has a meaning here."""
        return Apply.apply(x, self._forward, self._backward)

    def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
        """(B, 2, coils, points) to (B, 2, H, W)."""
        return Apply.apply(y, self._backward, self._forward)

    def A_adjoint_A(self, x: Tensor, **_: object) -> Tensor:
        """Without a non-uniform transform."""
        return Apply.apply(x, self._normal, self._normal)

    def precondition(self, r: Tensor, ratio: float | Tensor) -> Tensor:
        """Roughly `(I + ratio A^H A)^-1 r`, by `mri.rough_inverse`.

        Args:
            r: Images (B, 2, H, W).
            ratio: Weight of the data, 0 or more, () or (B, 1, 1, 1).

        Returns:
            (B, 2, H, W).
        """
        return rough_inverse(r, ratio, of_rows(self._circulant, len(r)), of_rows(self._seen, len(r)))

    def _forward(self, x: Tensor) -> Tensor:
        images = of_rows(self.coil_maps, len(x)) * to_complex(x)[:, None]
        rows = [self._nufft.op(row) for row in images.to(torch.complex64).cpu().numpy()]
        y = torch.from_numpy(np.stack(rows).reshape(*images.shape[:2], -1)).to(x.device)
        return to_real(y * self._scale)

    def _backward(self, y: Tensor) -> Tensor:
        rows = [self._nufft.adj_op(row) for row in to_complex(y).to(torch.complex64).cpu().numpy()]
        maps = of_rows(self.coil_maps, len(y))
        images = torch.from_numpy(np.stack(rows).reshape(len(y), *maps.shape[1:])).to(y.device)
        return to_real((images * maps.conj()).sum(1) * self._scale)

    def _normal(self, x: Tensor) -> Tensor:
        x, (coils, height, width) = to_complex(x), self.coil_maps.shape[1:]
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        for row in range(len(x)):
            maps = of_rows(self.coil_maps, len(x), slice(row, row + 1))[0]
            for part in spans(x, 0, coils, 4 * height * width):
                k = torch.fft.fft2(maps[part] * x[row], s=(2 * height, 2 * width)).mul_(self._spectrum)
                images = torch.fft.ifft2(k)[:, :height, :width]
                out[row] += (images * maps[part].conj()).sum(0)
        return to_real(out)


def radial(spokes: int, points: int) -> Tensor:
    """A radial trajectory: spokes through the middle of k-space, each turned by the golden angle from the one before.

    Args:
        spokes: How many, 1 or more.
        points: Samples of each, 1 or more.

    Returns:
        (spokes, points, 2) float64, (row, column) in cycles per pixel, in (-1/2, 1/2).
    """
    along = (torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5
    angle = GOLDEN * torch.arange(spokes, dtype=torch.float64)[:, None]
    return torch.stack([along * angle.sin(), along * angle.cos()], -1)


def spiral(shots: int, points: int, turns: float = 8.0) -> Tensor:
    """A spiral trajectory: interleaved Archimedean spirals from the middle of k-space to its edge, evenly dense.

    Args:
        shots: Interleaves, 1 or more.
        points: Samples of each, 1 or more.
        turns: Turns of each, > 0.

    Returns:
        (shots, points, 2) float64, (row, column) in cycles per pixel, in (-1/2, 1/2).
    """
    t = ((torch.arange(points, dtype=torch.float64) + 0.5) / points).sqrt()
    angle = 2 * math.pi * (turns * t + torch.arange(shots, dtype=torch.float64)[:, None] / shots)
    return torch.stack([0.5 * t * angle.sin(), 0.5 * t * angle.cos()], -1)


def _operator(points: np.ndarray, size: tuple[int, int], coils: int, dtype: type) -> tuple[Any, float]:
    """An operator of mri-nufft, and what makes of its scale the one above."""
    try:
        from mrinufft import get_operator

        build = get_operator("finufft")
    except (ImportError, ValueError):
        raise AmbientSolveError(
            "Trajectories off the grid need mri-nufft with finufft: pip install 'mri-nufft[finufft]'."
        ) from None
    with warnings.catch_warnings():
        # Whatever does not exceed 0.5 is taken for cycles per pixel, and said to be: slow trajectories in radians too.
        warnings.simplefilter("ignore")
        op = build(points.astype(dtype), shape=size, n_coils=coils, squeeze_dims=True)
    return op, float(op.norm_factor) / math.sqrt(math.prod(size))


def _kernel(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`t` at all distances of two pixels, (2 H, 2 W), 0 first; at H and W, which do not occur, it is 0."""
    double = (2 * size[0], 2 * size[1])
    op, scale = _operator(points, double, 1, np.float64)
    kernel = (
        op.adj_op(np.ones(len(points), dtype=np.complex128)).reshape(double) * scale * math.sqrt(4 / math.prod(size))
    )
    kernel[0], kernel[:, 0] = 0, 0
    return np.fft.ifftshift(kernel)


def _circulant(maps: Tensor, kernel: Tensor) -> Tensor:
    """Eigenvalues of the circulant nearest to `A^H A`, (1 or B, H, W): its entries averaged along wrapped diagonals."""
    height, width = maps.shape[-2:]
    padded = torch.fft.fft2(maps.to(torch.complex128), s=kernel.shape)
    overlap = torch.fft.ifft2((padded.conj() * padded).sum(1)).conj()
    weighted = kernel * overlap / (height * width)
    wrapped = weighted.unflatten(-2, (2, height)).sum(-3).unflatten(-1, (2, width)).sum(-2)
    return torch.fft.fft2(wrapped).real.clamp_min(0)
