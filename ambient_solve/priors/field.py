r"""Gaussian-process noise, which has a value at every point of the plane, not at pixels alone.

With frequencies `f_j` drawn from the spectrum of the covariance and normal `a_j`, `c_j` (random Fourier features;
Rahimi and Recht, 2007),

    n(x) = J^(-1/2) sum_j  a_j cos(f_j . x) + c_j sin(f_j . x),      E n(x) n(y) = k(x - y)

so that noise can follow a motion without interpolation (Warped Diffusion; Daras et al., 2024, arXiv 2410.16152). Each
draw has frequencies of its own: the covariance is exactly k for any number J of features. The spectrum of the kernel
`exp(-|r|^2 / (2 length^2))` is a Gaussian of deviation `1 / length`. The paper cuts it at two deviations; here the
frequencies are those of the cut spectrum, normalised again, and k is its transform, so that a cut leaves no bias.

A denoiser of `z0 + sigma n`, n of covariance Q, is trained as any other, and the samplers never need the inverse of Q:
`sigma^2 Q grad log p_sigma(z) = D(z) - z`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from scipy.special import erf, wofz
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import check_knobs, knob
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.priors.wrapped import WrappedPrior

PAIRS_AT_ONCE = 1 << 22
"""Pairs of a point and a feature that are computed together, in all rows: bounds the memory."""


@final
@dataclass(frozen=True, kw_only=True)
class Field:
    """The law of a Gaussian process of mean 0 and variance 1, stationary and alike along both axes."""

    length: float = knob(2 / math.pi, 0.05, 1000.0, "length of correlation in pixels; 0.64 resolves the pixel grid")
    features: int = knob(3000, 1, 1_000_000, "random Fourier features of each draw")
    cutoff: float = knob(40.0, 0.1, 40.0, "frequency, in deviations of the spectrum, above which it is cut; 40 is none")

    def __post_init__(self) -> None:
        check_knobs(self)

    def covariance(self, offsets: Tensor) -> Tensor:
        """The covariance of two values.

        Args:
            offsets: Difference of their points in pixels, (..., 2).

        Returns:
            (...) float64, 1 where the offset is 0.
        """
        r = offsets.double().numpy(force=True) / self.length
        edge, y = self.cutoff / math.sqrt(2), r / math.sqrt(2)
        # int_-c^c exp(-f^2 / 2) cos(f r) df over that at r = 0, by the scaled error function, which does not overflow
        beyond = np.exp(-(edge**2) - 2j * edge * y) * wofz(1j * edge - y)
        along = (np.exp(-(y**2)) - beyond.real) / erf(edge)
        return torch.as_tensor(along.prod(-1), device=offsets.device)

    def correlate(self, v: Tensor) -> Tensor:
        """The product of the covariance of the field at the pixels with pictures.

        Args:
            v: (B, C, H, W).

        Returns:
            `Q v`, the shape of `v`: a convolution, of nothing beyond the edges.
        """
        spectrum, (height, width) = self._spectrum(*v.shape[2:]), v.shape[2:]
        size = 2 * height, 2 * width
        whole = torch.fft.irfft2(spectrum.to(v.device) * torch.fft.rfft2(v.double(), s=size), s=size)
        return whole[..., :height, :width].to(v.dtype)

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a frozen law of three numbers
    def _spectrum(self, height: int, width: int) -> Tensor:
        """Of the covariance on a torus of twice the size, on which nothing reaches round."""
        rows, columns = (torch.fft.fftfreq(2 * n, 1 / (2 * n), dtype=torch.float64) for n in (height, width))
        offsets = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        return torch.fft.rfft2(self.covariance(offsets))

    def draw(self, rows: int, channels: int, streams: Streams) -> FieldDraw:
        """Draw processes.

        Args:
            rows: B, one for each stream.
            channels: C, independent processes of the same frequencies in each row.
            streams: One stream per row.

        Returns:
            The processes, which can be evaluated anywhere.
        """
        like = torch.empty(rows, self.features, 2, device=streams.device)
        share = 2 * streams.uniform(like).double() + 2.0**-24 - 1
        deviations = math.sqrt(2) * torch.erfinv(share * math.erf(self.cutoff / math.sqrt(2)))
        amplitudes = streams.normal(torch.empty(rows, channels, self.features, 2, device=streams.device))
        return FieldDraw(deviations / self.length, torch.view_as_complex(amplitudes) / math.sqrt(self.features))


@final
@dataclass(frozen=True)
class FieldDraw:
    """Processes that were drawn.

    Attributes:
        frequencies: In radians per pixel, (B, J, 2) float64.
        amplitudes: `(a + i c) / sqrt(J)`, (B, C, J) complex64.
    """

    frequencies: Tensor
    amplitudes: Tensor

    def at(self, points: Tensor) -> Tensor:
        """The values at any points.

        Args:
            points: (row, column) in pixels, (N, 2), the same for each process.

        Returns:
            (B, C, N) float32.
        """
        found = []
        points = points.to(self.frequencies)  # float64: points may lie far out
        for part in points.split(max(1, PAIRS_AT_ONCE // self.frequencies[..., 0].numel())):
            waves = _waves(self.frequencies @ part.T)
            found.append(torch.stack([(a @ w).real for a, w in zip(self.amplitudes, waves, strict=True)]))
        return torch.cat(found, -1)

    def grid(self, height: int, width: int) -> Tensor:
        """The values at the pixels of a picture: as `at`, but each axis by itself, which costs little.

        Args:
            height: H, rows.
            width: W, columns.

        Returns:
            (B, C, H, W) float32.
        """
        rows, columns = (torch.arange(n).to(self.frequencies) for n in (height, width))
        down, along = (_waves(self.frequencies[..., i, None] * x) for i, x in ((0, rows), (1, columns)))
        parts = zip(self.amplitudes, down, along, strict=True)
        return torch.stack([((a[:, None, :] * d.T) @ w).real for a, d, w in parts])


def _waves(phases: Tensor) -> Tensor:
    """`exp(-i phase)`, complex64: times `a + i c` its real part is `a cos + c sin`."""
    phases = torch.remainder(phases, 2 * math.pi).float()
    return torch.polar(torch.ones_like(phases), -phases)


@final
class FieldPrior(WrappedPrior):
    """A prior whose diffusion noise is a Gaussian process; `inner` must have been trained with that noise.

    The posterior covariance is `sigma^2 J Q` here: methods that need it ask `correlate` for Q. Those that take
    `q^2 I` for it, such as the proximal rules, are as good or bad as under white noise.

    Args:
        inner: The prior of images, whose states are (C, H, W).
        field: The law of its noise.

    Raises:
        AmbientSolveError: the states of the prior have no two axes of space.
    """

    def __init__(self, inner: Prior, field: Field) -> None:
        if len(inner.shape) != 3:
            raise AmbientSolveError(
                f"A field is noise for images (C, H, W), and this {type(inner).__name__} has states of shape "
                f"{tuple(inner.shape)}: leave the field out."
            )
        super().__init__(inner)
        self.field = field

    def correlate(self, v: Tensor) -> Tensor:
        """See `Prior.correlate`."""
        return self.field.correlate(v)

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """See `Prior.noise`: the field at the pixels."""
        rows, channels, height, width = shape
        return self.field.draw(rows, channels, streams).grid(height, width).to(self.device)
