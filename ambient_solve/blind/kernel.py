r"""A blur of which nothing is known: its whole kernel, from the blurred picture alone.

A kernel that maximises the posterior of kernel and picture together is none at all: the blurred picture with a single
point explains itself best. What is maximised here is the posterior of the kernel with the picture integrated out
(Levin, Weiss, Durand and Freeman, "Efficient marginal likelihood optimization in blind deconvolution", CVPR 2011), by
expectation maximisation, from coarse to fine, under noise that falls to its level:

    E:  mean m and variances c of the sharp picture's differences, given the kernel        (edges.py)
    M:  k = argmin_{k >= 0} |m * k - g|^2 + |k|^2 sum c          each tap counts what is not known of the picture

The quadratic form of the second step is also the precision of the kernel: its inverse gives the stated deviations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.blind.edges import Inside, differences, posterior_mean, precision
from ambient_solve.errors import AmbientSolveError

SMALLEST = 3
"""Side of the kernel at the coarsest scale."""
ROUNDS = 10
"""Iterations at each scale."""
SOLVES = 2
"""Times that the picture and its weights are found in each iteration."""
STEPS = 10
"""Conjugate gradient steps of one such solve."""
START = 0.12
"""Noise level of the differences at first, for pixel values from 0 to 1."""
ABOVE = 3.0
"""That with which every finer scale begins, of the true one."""
FALL = 1.1
"""What it is divided by after each iteration."""
TAPS = 0.03
"""Taps below this share of the largest are taken for none at the end."""
DESCENTS = 200
"""Steps of the quadratic program."""
LARGEST = 256
"""Side of the part of a picture that is looked at."""
DETAIL = 0.1
"""Differences count up to this: one hard edge is not much detail."""
ROOM = 3
"""The side of a picture is at least so many times that of the kernel."""
LEAST_NOISE = 0.002
"""Noise level that is assumed at least."""


@final
@dataclass(frozen=True)
class KernelEstimate:
    """A blur kernel and how well it is known.

    Attributes:
        kernel: (size, size), not negative, its sum 1, its center of mass in the middle.
        std: Deviation of each tap, (size, size), given that the picture's edges were found.
    """

    kernel: Tensor
    std: Tensor

    @property
    def words(self) -> str:
        """One line for people."""
        rows, columns = (int((self.kernel.sum(axis) > 0).sum()) for axis in (1, 0))
        share = float(self.std.square().sum().sqrt() / self.kernel.norm())
        return f"a kernel of {columns}x{rows} pixels, uncertain by {100 * share:.0f} % of its size"


def estimate_kernel(y: Tensor, size: int, sigma: float) -> KernelEstimate:
    """The kernel that a picture was blurred with, if it is the same everywhere.

    Args:
        y: The blurred picture, (1, C, H, W), pixel values from 0 to 1. Where it is larger than 256 pixels, the square
            of it with most detail is looked at; colors are averaged.
        size: Side of a square that surely holds the kernel, in pixels, odd.
        sigma: Noise level of y.

    Returns:
        The kernel. A picture and its kernel may move against each other: the center of mass of the kernel is 0.

    Raises:
        AmbientSolveError: y is no single picture, or too small for such a kernel; size or sigma is out of range.
    """
    if y.ndim != 4 or len(y) != 1:
        raise AmbientSolveError(f"y has the shape {tuple(y.shape)}; one picture, (1, C, H, W), was expected.")
    if isinstance(size, bool) or not isinstance(size, int) or size < SMALLEST or size % 2 == 0:
        raise AmbientSolveError(f"size={size!r} was given, an odd whole number of {SMALLEST} or more was expected.")
    if not 0 <= sigma < math.inf:
        raise AmbientSolveError(f"sigma={sigma!r} was given, a noise level of 0 or more was expected.")
    if min(y.shape[-2:]) < ROOM * size:
        raise AmbientSolveError(
            f"The picture has {y.shape[-1]}x{y.shape[-2]} pixels, too few to find a kernel of {size}: give a smaller "
            f"size, at most {min(y.shape[-2:]) // ROOM}."
        )
    gray = _detailed(y[0].mean(0).float().cpu())
    noise = max(sigma / math.sqrt(y.shape[1]), LEAST_NOISE)
    kernel = torch.zeros(SMALLEST, SMALLEST)
    # Two taps: one alone is a fixed point.
    kernel[SMALLEST // 2, SMALLEST // 2 - 1 : SMALLEST // 2 + 1] = 0.5
    scales = math.floor(2 * math.log2(size / SMALLEST))
    std = kernel
    for scale in reversed(range(scales + 1)):
        ratio = 2 ** (-scale / 2)
        side = size if scale == 0 else max(SMALLEST, round(size * ratio) | 1)
        picture = _resized(gray, ratio) if scale else gray
        kernel = _normal(F.interpolate(kernel[None, None], (side, side), mode="bicubic", align_corners=False)[0, 0])
        # Noise is averaged by the reduction, and a difference has it twice.
        eta = math.sqrt(2) * max(noise * ratio, LEAST_NOISE)
        first = START if scale == scales else ABOVE * eta
        kernel, std = _refine(differences(picture), kernel, eta, max(first, eta))
    kernel = torch.where(kernel < TAPS * kernel.max(), 0.0, kernel)
    return KernelEstimate(_centered(kernel / kernel.sum()), std)


def _refine(g: Tensor, kernel: Tensor, eta: float, first: float) -> tuple[Tensor, Tensor]:
    """Expectation maximisation at one scale, the noise level falling from `first` to `eta`; also the deviations."""
    side, reach = len(kernel), len(kernel) // 2
    shape = (g.shape[-2] + 2 * reach, g.shape[-1] + 2 * reach)
    mean = F.pad(g[None], (reach,) * 4, mode="reflect")[0]
    weight = torch.full_like(mean, 1e4)  # 1 / .01^2: edges are few
    # What lies beyond the frame was measured by none.
    seen = F.pad(torch.ones_like(g[0]), (reach,) * 4)
    now, form = first, torch.eye(side**2)
    for _ in range(ROUNDS):
        blur = Inside(kernel, shape)
        for _ in range(SOLVES):
            mean = posterior_mean(g, blur, weight, now, mean, STEPS)
            variance = 1 / (kernel.square().sum() * seen / now**2 + weight)
            weight = precision(mean.square() + variance)
        form, right = _quadratic(mean, variance, g, side)
        kernel = _centered(_normal(_minimise(form, right, kernel)))
        now = max(now / FALL, eta)
    std = (now**2 * torch.linalg.inv(form).diagonal()).clamp_min(0).sqrt()
    return kernel, std.reshape(side, side).flip(0, 1)


def _quadratic(mean: Tensor, variance: Tensor, g: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """`H` and `b` of `k'Hk / 2 - b'k`, for the taps as a correlation has them."""
    form, right = torch.zeros(side**2, side**2), torch.zeros(side**2)
    for v, c, blurred in zip(mean, variance, g, strict=True):
        windows = v.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side**2)
        form += windows.T @ windows + c.unfold(0, side, 1).unfold(1, side, 1).sum((0, 1)).flatten().diag()
        right += windows.T @ blurred.flatten()
    return form, right


def _minimise(form: Tensor, right: Tensor, kernel: Tensor) -> Tensor:
    """The kernel without negative taps that minimises the form: projected gradients with Nesterov's momentum."""
    k = ahead = kernel.flip(0, 1).flatten()
    largest, t = torch.linalg.matrix_norm(form, 2), 1.0
    for _ in range(DESCENTS):
        moved = (ahead - (form @ ahead - right) / largest).clamp_min(0)
        t, before = (1 + math.sqrt(1 + 4 * t**2)) / 2, t
        k, ahead = moved, moved + (before - 1) / t * (moved - k)
    return k.reshape(kernel.shape).flip(0, 1)


def _normal(kernel: Tensor) -> Tensor:
    """Without negative taps, of sum 1; one point where nothing is left."""
    kernel = kernel.clamp_min(0)
    if float(kernel.sum()) <= 0:
        kernel = torch.zeros_like(kernel)
        kernel[len(kernel) // 2, len(kernel) // 2] = 1.0
    return kernel / kernel.sum()


def _centered(kernel: Tensor) -> Tensor:
    """Moved by whole pixels, so that its center of mass is in the middle."""
    at, middle = torch.arange(len(kernel), dtype=kernel.dtype), len(kernel) // 2
    shifts = [round(middle - float((kernel.sum(axis) * at).sum())) for axis in (1, 0)]
    return torch.roll(kernel, shifts, (0, 1))


def _detailed(gray: Tensor) -> Tensor:
    """The square of 256 pixels with most detail, of those on a grid of half that."""
    height, width = gray.shape
    if max(height, width) <= LARGEST:
        return gray
    rows, columns = min(LARGEST, height), min(LARGEST, width)
    energy = differences(gray).square().clamp(max=DETAIL**2).sum(0)
    corners = [
        (top, left)
        for top in range(0, height - rows + 1, LARGEST // 2)
        for left in range(0, width - columns + 1, LARGEST // 2)
    ]
    top, left = max(corners, key=lambda at: float(energy[at[0] : at[0] + rows, at[1] : at[1] + columns].sum()))
    return gray[top : top + rows, left : left + columns]


def _resized(gray: Tensor, ratio: float) -> Tensor:
    """Reduced, with anti-aliasing."""
    return F.interpolate(gray[None, None], scale_factor=ratio, mode="bicubic", antialias=True)[0, 0]
