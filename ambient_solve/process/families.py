r"""Families of linear corruptions `C_t`, from nothing at strength 0 to much: blur, fading, lower resolution.

The members of a family share their eigenspaces: C_t = U diag(g(t)) U', with gains g in [0, 1] that fall as t grows. So
they commute, are symmetric, and a Gaussian with the same eigenspaces keeps them: what tests and grids are exact on.

    GaussianBlur  U' the Fourier transform      g = exp(-t^2 |k|^2 / 2)
    Fade          U' the pixels                 g = clamp(1 + (r - t) / edge, 0, 1)
    Downsample    U' details of each scale      g = clamp(j + 1 - t, 0, 1) of the details finer than 2^(j + 1) pixels
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level, per_sample


class LinearFamily(abc.ABC):
    """Linear corruptions `C_t` with common eigenspaces, of the last two axes of states (B, C, H, W)."""

    @abc.abstractmethod
    def analyze(self, z: Tensor) -> Tensor:
        """The orthogonal parts of states, one for each eigenspace.

        Args:
            z: States, (B, C, H, W).

        Returns:
            Parts, (B, ...), whose squares sum to that of `z`.
        """

    @abc.abstractmethod
    def synthesize(self, parts: Tensor) -> Tensor:
        """The states of parts: the inverse of `analyze`."""

    @abc.abstractmethod
    def gains(self, z: Tensor, strength: Level) -> Tensor:
        """The spectrum of `C_t`: its eigenvalues.

        Args:
            z: States, (B, C, H, W), of which the shape and the device count.
            strength: A float, () or (B,), 0 or more; its unit is that of the family.

        Returns:
            Gains in [0, 1], which multiply the parts of `z`; 1 at strength 0.
        """

    def power(self, z: Tensor) -> Tensor:
        """What photographs hold of each part, by the law of their spectra, 1 / frequency^2; white for pixels.

        Args:
            z: States, (B, C, H, W), of which the shape and the device count.

        Returns:
            Variances that broadcast to the parts of `z`, in units of the variance of an entry: their `share` is 1.
        """
        return z.new_ones(1, *[1] * (z.ndim - 1))

    def share(self, z: Tensor, eigenvalues: Tensor) -> Tensor:
        """The trace of an operator with these eigenspaces over its dimension: the mean of its eigenvalues.

        Args:
            z: States, (B, C, H, W), of which the shape counts.
            eigenvalues: They broadcast to the parts of `z`.

        Returns:
            (B,).
        """
        return eigenvalues.expand(torch.broadcast_shapes(eigenvalues.shape, z.shape)).flatten(1).mean(1)

    def __call__(self, z: Tensor, strength: Level) -> Tensor:
        """Corrupt states.

        Args:
            z: States, (B, C, H, W).
            strength: A float, () or (B,), 0 or more.

        Returns:
            `C_t z`, the shape of `z`.
        """
        return self.synthesize(self.gains(z, strength) * self.analyze(z))


@final
@dataclass(frozen=True)
class Identity(LinearFamily):
    """No corruption, whatever the strength: that of additive noise."""

    def analyze(self, z: Tensor) -> Tensor:
        """See `LinearFamily.analyze`: the entries themselves, of states of any shape."""
        return z

    def synthesize(self, parts: Tensor) -> Tensor:
        """See `LinearFamily.synthesize`."""
        return parts

    def gains(self, z: Tensor, strength: Level) -> Tensor:
        """See `LinearFamily.gains`."""
        return z.new_ones(len(z), *[1] * (z.ndim - 1))


@final
@dataclass(frozen=True)
class GaussianBlur(LinearFamily):
    """A blur whose strength is its standard deviation in pixels; the edges wrap round."""

    def analyze(self, z: Tensor) -> Tensor:
        """See `LinearFamily.analyze`: the two-dimensional Fourier transform, complex."""
        return torch.fft.fft2(z, norm="ortho")

    def synthesize(self, parts: Tensor) -> Tensor:
        """See `LinearFamily.synthesize`."""
        return torch.fft.ifft2(parts, norm="ortho").real

    def gains(self, z: Tensor, strength: Level) -> Tensor:
        """See `LinearFamily.gains`."""
        rows, columns = (2 * math.pi * torch.fft.fftfreq(n, device=z.device, dtype=z.dtype) for n in z.shape[-2:])
        return (-0.5 * per_sample(strength, z) ** 2 * (rows[:, None] ** 2 + columns**2)).exp()

    def power(self, z: Tensor) -> Tensor:
        """See `LinearFamily.power`; the mean counts as a wave of twice the side."""
        rows, columns = (n * torch.fft.fftfreq(n, device=z.device, dtype=z.dtype) for n in z.shape[-2:])
        power = 1 / (rows[:, None] ** 2 + columns**2).clamp_min(0.25)
        return (power / power.mean())[None, None]


@final
@dataclass(frozen=True)
class Fade(LinearFamily):
    """A dark disc that grows from the center; its strength is its radius in pixels.

    Args:
        edge: Width of its soft edge, in pixels, > 0.
    """

    edge: float = 2.0

    def __post_init__(self) -> None:
        if not self.edge > 0:
            raise AmbientSolveError(f"Fade: edge={self.edge} was given, a width in pixels above 0 was expected.")

    def analyze(self, z: Tensor) -> Tensor:
        """See `LinearFamily.analyze`: the pixels themselves."""
        return z

    def synthesize(self, parts: Tensor) -> Tensor:
        """See `LinearFamily.synthesize`."""
        return parts

    def gains(self, z: Tensor, strength: Level) -> Tensor:
        """See `LinearFamily.gains`."""
        rows, columns = (torch.arange(n, device=z.device, dtype=z.dtype) - (n - 1) / 2 for n in z.shape[-2:])
        radius = torch.hypot(rows[:, None], columns[None])
        return (1 + (radius - per_sample(strength, z)) / self.edge).clamp(0, 1)


@final
@dataclass(frozen=True)
class Downsample(LinearFamily):
    """Means over blocks: strength 1 halves the resolution, 2 quarters it; between them it takes the two in parts.

    At strength t the blocks have 2^t pixels a side. The strongest is that of the last power of 2 that divides both
    sides of the picture; more changes nothing.
    """

    def analyze(self, z: Tensor) -> Tensor:
        """See `LinearFamily.analyze`: details of each scale, the finest first, and the coarsest picture, in axis 1."""
        scales = [z, *(_blocks(z, 2**j) for j in range(1, _halvings(z) + 1))]
        return torch.stack([a - b for a, b in zip(scales, scales[1:], strict=False)] + scales[-1:], 1)

    def synthesize(self, parts: Tensor) -> Tensor:
        """See `LinearFamily.synthesize`."""
        return parts.sum(1)

    def gains(self, z: Tensor, strength: Level) -> Tensor:
        """See `LinearFamily.gains`; that of the coarsest picture is 1."""
        halvings = _halvings(z)
        scale = torch.arange(halvings + 1, device=z.device, dtype=z.dtype)
        scale[-1] = torch.inf
        return (scale.reshape(-1, *[1] * (z.ndim - 1)) + 1 - per_sample(strength, z[:, None])).clamp(0, 1)

    def power(self, z: Tensor) -> Tensor:
        """See `LinearFamily.power`: details twice as large have half the frequency."""
        halvings = _halvings(z)
        power = 4.0 ** torch.arange(halvings + 1, device=z.device, dtype=z.dtype)
        power = power.reshape(1, -1, *[1] * (z.ndim - 1))
        return power / self.share(z[:1], power)

    def share(self, z: Tensor, eigenvalues: Tensor) -> Tensor:
        """See `LinearFamily.share`: a quarter of the dimensions are left after each halving."""
        halvings = _halvings(z)
        sizes = [0.25**j - 0.25 ** (j + 1) for j in range(halvings)] + [0.25**halvings]
        means = eigenvalues.expand(len(z), halvings + 1, *z.shape[1:]).flatten(2).mean(2)
        return means @ z.new_tensor(sizes)


def _halvings(z: Tensor) -> int:
    """How often both sides can be halved."""
    common = math.gcd(*z.shape[-2:])
    return (common & -common).bit_length() - 1


def _blocks(z: Tensor, side: int) -> Tensor:
    """Means over blocks of `side` pixels, each block filled with its mean."""
    return F.avg_pool2d(z, side).repeat_interleave(side, -2).repeat_interleave(side, -1)
