r"""Domains in which a picture may be sampled: randomised coefficients (compressed sensing) and k-space (MRI).

Both are orthonormal in two dimensions, over the last two axes: with a 0/1 `mask` of coefficients, `A = mask T` has
`A^H A = T^H mask T`, the projection onto what was observed (for several coils, its sum over normalised coil maps).
"""

from __future__ import annotations

import torch
from torch import Tensor


def hartley(z: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform of real `z` (..., H, W): its own inverse."""
    f = torch.fft.fft2(z, norm="ortho")
    return f.real - f.imag


def randomised(z: Tensor, signs: Tensor) -> Tensor:
    """Coefficients `hartley(signs * z)`; `signs`, of +-1, spread every picture evenly over them."""
    return hartley(signs * z)


def derandomised(coefficients: Tensor, signs: Tensor) -> Tensor:
    """The inverse of `randomised`, which is its adjoint."""
    return signs * hartley(coefficients)


def to_kspace(z: Tensor, maps: Tensor) -> Tensor:
    """`F S z`: `z` (B, 2, H, W) real and imaginary part, `maps` (B, coils, H, W) complex; (B, coils, H, W) complex.

    Centred, as in deepinv: the lowest frequency is in the middle.
    """
    image = torch.complex(z[:, 0], z[:, 1])[:, None] * maps
    shifted = torch.fft.ifftshift(image, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def from_kspace(k: Tensor, maps: Tensor) -> Tensor:
    """`S^H F^H k`, the adjoint of `to_kspace`: (B, 2, H, W) real."""
    shifted = torch.fft.ifftshift(k, dim=(-2, -1))
    image = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    image = (maps.conj() * image).sum(1)
    return torch.stack([image.real, image.imag], 1)
