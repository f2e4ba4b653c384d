r"""The law of the differences between neighboring pixels of photographs, and a sharp picture's given its blur.

    v ~ sum_j p_j N(0, s_j^2)            each difference on its own: most are tiny, some are edges
    g = k * v + eta n                     those of the blurred picture, where the kernel fits

With the mean precision `w = E[s_j^-2]` in place of the mixture, the posterior of all v is Gaussian: one linear system
gives its mean. Of its covariance only the diagonal is taken (Levin, Weiss, Durand and Freeman, CVPR 2011, section 3.2).
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

SHARES = (0.148, 0.341, 0.371, 0.140)
"""Of the four parts of the law: of 38 photographs that were reduced by two or more, pixel values from 0 to 1."""
DEVIATIONS = (0.0035, 0.0152, 0.0594, 0.2012)
"""Theirs."""


def differences(x: Tensor) -> Tensor:
    """Of a picture (H, W), along its rows and along its columns: (2, H - 1, W - 1)."""
    return torch.stack([x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1]])


def precision(square: Tensor) -> Tensor:
    """Mean of `1 / s_j^2` over the parts that a difference of this mean square may come from, in its shape."""
    shares, deviations = (torch.tensor(row, dtype=square.dtype) for row in (SHARES, DEVIATIONS))
    parts = torch.softmax((shares / deviations).log() - square[..., None] / (2 * deviations**2), -1)
    return (parts / deviations**2).sum(-1)


@final
class Inside:
    """Convolution with a kernel where it fits into the picture, and its adjoint, through the Fourier transform.

    Args:
        kernel: (s, s), s odd.
        shape: (H, W) of the sharp picture.
    """

    def __init__(self, kernel: Tensor, shape: tuple[int, int]) -> None:
        self.reach, self.shape = len(kernel) // 2, shape
        placed = F.pad(kernel, (0, shape[1] - len(kernel), 0, shape[0] - len(kernel)))
        self.spectrum = torch.fft.rfft2(torch.roll(placed, (-self.reach, -self.reach), (0, 1)))

    def forward(self, v: Tensor) -> Tensor:
        """(..., H, W) to (..., H - s + 1, W - s + 1)."""
        blurred = torch.fft.irfft2(self.spectrum * torch.fft.rfft2(v), s=self.shape)
        return blurred[..., self.reach : -self.reach, self.reach : -self.reach]

    def adjoint(self, g: Tensor) -> Tensor:
        """(..., H - s + 1, W - s + 1) to (..., H, W)."""
        placed = F.pad(g, (self.reach,) * 4)
        return torch.fft.irfft2(self.spectrum.conj() * torch.fft.rfft2(placed), s=self.shape)


def posterior_mean(g: Tensor, blur: Inside, weight: Tensor, eta: float, start: Tensor, iterations: int) -> Tensor:
    """Mean of the differences of the sharp picture, by conjugate gradients: `(K'K / eta^2 + w) v = K'g / eta^2`.

    Args:
        g: Those of the blurred one, (2, h, w).
        blur: The blur.
        weight: Precision of each before anything was measured, (2, H, W).
        eta: Noise level of g.
        start: A guess, (2, H, W).
        iterations: How many.

    Returns:
        (2, H, W).
    """

    def apply(v: Tensor) -> Tensor:
        return blur.adjoint(blur.forward(v)) / eta**2 + weight * v

    # Jacobi's preconditioner: where a difference is surely tiny, its weight is the whole of the equation.
    diagonal = blur.spectrum.abs().square().mean() / eta**2 + weight
    v = start
    r = blur.adjoint(g) / eta**2 - apply(v)
    z = r / diagonal
    p, energy = z, (r * z).sum((-2, -1), keepdim=True)
    for _ in range(iterations):
        q = apply(p)
        step = energy / (p * q).sum((-2, -1), keepdim=True).clamp_min(1e-20)
        v, r = v + step * p, r - step * q
        z = r / diagonal
        energy, before = (r * z).sum((-2, -1), keepdim=True), energy
        p = z + energy / before.clamp_min(1e-20) * p
    return v
