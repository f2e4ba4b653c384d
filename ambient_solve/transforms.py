r"""Domains in which a picture may be sampled: randomised coefficients (compressed sensing) and k-space (MRI).

Both are orthonormal in two dimensions, over the last two axes: with a 0/1 `mask` of coefficients, `A = mask T` has
`A^H A = T^H mask T`, the projection onto what was observed (for several coils, its sum over normalised coil maps).
"""

from __future__ import annotations

import torch
from torch import Tensor


def hartley(z: Tensor) -> Tensor:
    """The orthonormal discrete Hartley transform, which is its own inverse.

    Args:
        z: Real, (..., H, W).

    Returns:
        Coefficients, real, the same shape.
    """
    f = torch.fft.fft2(z, norm="ortho")
    return f.real - f.imag


def randomised(z: Tensor, signs: Tensor) -> Tensor:
    """Randomised Hartley coefficients, `hartley(signs * z)`: the signs distribute any picture evenly over them.

    Args:
        z: Real, (..., H, W).
        signs: +-1, of a shape that broadcasts to `z`.

    Returns:
        Coefficients, real, (..., H, W).
    """
    return hartley(signs * z)


def derandomised(coefficients: Tensor, signs: Tensor) -> Tensor:
    """The inverse of `randomised`, which is also its adjoint.

    Args:
        coefficients: Real, (..., H, W).
        signs: The signs that `randomised` was given.

    Returns:
        The picture, real, (..., H, W).
    """
    return signs * hartley(coefficients)


def to_kspace(z: Tensor, maps: Tensor) -> Tensor:
    """Multi-coil k-space of a picture, `F S z`, with the lowest frequency in the middle, as in deepinv.

    Args:
        z: Real and imaginary part, (B, 2, H, W).
        maps: Coil maps, (B, coils, H, W) complex.

    Returns:
        (B, coils, H, W) complex.
    """
    image = torch.complex(z[:, 0], z[:, 1])[:, None] * maps
    shifted = torch.fft.ifftshift(image, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=(-2, -1))


def from_kspace(k: Tensor, maps: Tensor) -> Tensor:
    """The adjoint of `to_kspace`, `S^H F^H k`.

    Args:
        k: K-space, (B, coils, H, W) complex, with the lowest frequency in the middle.
        maps: Coil maps, (B, coils, H, W) complex.

    Returns:
        Real and imaginary part, (B, 2, H, W).
    """
    shifted = torch.fft.ifftshift(k, dim=(-2, -1))
    image = torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))
    image = (maps.conj() * image).sum(1)
    return torch.stack([image.real, image.imag], 1)
