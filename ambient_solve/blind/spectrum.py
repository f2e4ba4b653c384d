"""Power spectra of pictures, and what a blur and a window do to them.

In windows `w` of n x n pixels, the mean power of a picture with the spectrum S, blurred by k, with white noise, is

    E |F(w y)|^2 / sum w^2  =  R S + sigma^2,      R = F( (k * k)(w * w) / (w * w)(0) )         (*: autocorrelation)

where S hardly changes over the width of a window's own spectrum.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 64
"""Side of a window, in pixels."""
LOWEST = 2.5
"""Cycles per window below which the window's own spectrum covers that of the picture."""
REFERENCE = 0.15
"""Frequency, in cycles per pixel, at which the terms that grow with it are 0."""
LEAST = 1e-12
"""What a response is at least: frequencies that a blur takes away altogether."""


class Frequencies(NamedTuple):
    """Those of a window that count, one of each pair of conjugates.

    Attributes:
        chosen: (h, w) bool. weight: (n,) 1, or 1/2 where a frequency is its own conjugate. terms: (n, K), see `terms`.
    """

    chosen: Tensor
    weight: Tensor
    terms: Tensor


def frequencies(h: int, w: int, lowest: float) -> Frequencies:
    """The frequencies of an (h, w) window.

    Args:
        h: Rows.
        w: Columns.
        lowest: Cycles per window from which on they count; the mean never does.

    Returns:
        Those that count, one of each conjugate pair.
    """
    rows, columns = torch.arange(h), torch.arange(w)
    index = rows[:, None] * w + columns
    conjugate = (-rows % h)[:, None] * w + -columns % w
    across, down = torch.fft.fftfreq(w, dtype=torch.float64), torch.fft.fftfreq(h, dtype=torch.float64)[:, None]
    radius = (across**2 + down**2).sqrt()
    chosen = (index <= conjugate) & (index > 0) & (radius * min(h, w) >= lowest)
    weight = torch.where(index == conjugate, 0.5, 1.0)[chosen].double()
    return Frequencies(chosen, weight, terms(radius[chosen], torch.atan2(down, across)[chosen]))


def terms(radius: Tensor, direction: Tensor) -> Tensor:
    """What the logarithm of a spectrum is a sum of: a level, a slope, its bend, and how they depend on the direction.

    Args:
        radius: Frequency in cycles per pixel, (n,).
        direction: In radians, (n,).

    Returns:
        (n, 10) float64.
    """
    slope = (radius / REFERENCE).log()
    c2, s2 = (2 * direction).cos(), (2 * direction).sin()
    even = [(m * direction).cos() for m in (4, 6, 8)]
    flat = torch.ones_like(slope)
    return torch.stack([flat, slope, slope**2, c2, s2, even[0], slope * c2, slope * s2, *even[1:]], -1)


def periodogram(y: Tensor, side: int | None = SIDE) -> Tensor:
    """The mean power of a picture.

    Args:
        y: (H, W).
        side: Of Hann windows that overlap by half; None takes the whole picture, which then repeats at its edges.

    Returns:
        (side, side), or smaller where the picture is, float64.
    """
    y = y.double()
    if side is None:
        return torch.fft.fft2(y - y.mean()).abs() ** 2 / y.numel()
    h, w = (min(side, n) for n in y.shape)
    window = hann(h, w)
    total, count = torch.zeros(h, w, dtype=torch.float64), 0
    for top in _starts(y.shape[0], h):
        for left in _starts(y.shape[1], w):
            part = y[top : top + h, left : left + w]
            part = part - (part * window).sum() / window.sum()
            total += torch.fft.fft2(part * window).abs() ** 2
            count += 1
    return total / (count * (window**2).sum())


def response(kernel: Tensor, h: int, w: int, *, windowed: bool = True) -> Tensor:
    """What a blur leaves of each frequency: R above.

    Args:
        kernel: (kh, kw).
        h: Rows of the window.
        w: Columns of the window.
        windowed: False for a whole picture that repeats at its edges.

    Returns:
        (h, w) float64, above 0.
    """
    kernel = kernel.double()
    if not windowed:
        whole = torch.zeros(h, w, dtype=torch.float64)
        rows, columns = torch.arange(kernel.shape[0]) % h, torch.arange(kernel.shape[1]) % w
        whole.index_put_((rows[:, None], columns[None]), kernel, accumulate=True)
        return (torch.fft.fft2(whole).abs() ** 2).clamp_min(LEAST)
    # Autocorrelations of twice the size do not wrap; every second frequency is one of the window.
    size = (2 * max(h, kernel.shape[0]), 2 * max(w, kernel.shape[1]))
    correlation = torch.fft.ifft2(torch.fft.fft2(kernel, s=size).abs() ** 2).real
    window = torch.fft.ifft2(torch.fft.fft2(hann(h, w), s=size).abs() ** 2).real
    product = correlation * window / window[0, 0]
    product = _folded(_folded(product, h).mT, w).mT
    return torch.fft.fft2(product).real.clamp_min(LEAST)


def hann(h: int, w: int) -> Tensor:
    """A Hann window without its zeros.

    Args:
        h: Rows.
        w: Columns.

    Returns:
        (h, w) float64.
    """
    along = [torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1] for n in (h, w)]
    return torch.outer(*along)


def _folded(x: Tensor, n: int) -> Tensor:
    """Rows of `x` (m, ...), lags that wrap at m, added up where they are the same modulo `n`."""
    lag = torch.arange(len(x))
    lag = torch.where(lag > len(x) // 2, lag - len(x), lag) % n
    return x.new_zeros(n, *x.shape[1:]).index_add_(0, lag, x)


def _starts(length: int, side: int) -> list[int]:
    """Where windows of `side` begin on an axis, evenly, half a side or less apart."""
    count = 1 + math.ceil(2 * (length - side) / side)
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]
