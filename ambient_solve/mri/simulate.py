"""Simulated k-space: magnitude pictures become complex, are seen by coils, transformed, and made noisy.

    y = m (F S (a e^{i phi}) + sigma e)

`a` is the magnitude, `phi` a smooth random phase, `S` smooth coil maps, `F` the orthonormal Fourier transform, `e`
complex white noise, each part of unit deviation. Magnitudes are what scanners archive; their k-space is lost
(facebookresearch/fastMRI#120). All that comes from here says `simulated`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ambient_solve.operators.coils import fixed_phase
from ambient_solve.transforms import from_kspace, to_kspace

DEGREE = 6
"""Of the polynomials that real coil maps are fitted by."""
RADIUS = 1.5
"""Of the ring of a birdcage, in half widths of the picture."""


@dataclass(frozen=True)
class Head:
    """The coils of a real scan, smooth enough to be continued: polynomials with `coefficients` (coils, terms)."""

    coefficients: Tensor

    def maps(self, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """Coil maps of this head, turned, mirrored, scaled and moved at random.

        Args:
            size: (H, W).
            rng: Where the randomness comes from.

        Returns:
            (coils, H, W) complex, with `sum_c |S_c|^2 = 1`.
        """
        v, u = _grid(size)
        turn, scale = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.1)
        right, down = rng.uniform(-0.1, 0.1, 2)
        mirror = rng.choice([-1.0, 1.0])
        across = scale * (math.cos(turn) * u - math.sin(turn) * v) * mirror + right
        along = scale * (math.sin(turn) * u + math.cos(turn) * v) + down
        terms = _terms(along, across).to(self.coefficients)
        return normalised(torch.einsum("ct,thw->chw", self.coefficients, terms))


def fit_coils(kspace: Tensor, acs: int, coils: int) -> Head:
    """Smooth coil maps, fitted to the calibration region of a scan.

    They are the picture of each coil over the root sum of squares, without the phase of the first virtual coil.

    Args:
        kspace: (coils, H, W) complex.
        acs: Side of the calibration region.
        coils: Virtual coils to compress to.

    Returns:
        The fitted maps, from which `Head.maps` draws.
    """
    low = _low(kspace, acs)
    weight = low.abs().square().sum(0)
    vectors = fixed_phase(torch.linalg.eigh(torch.einsum("chw,dhw->cd", low, low.conj()))[1])
    reference = torch.einsum("c,chw->hw", vectors[:, -1].conj(), low)
    maps = low / weight.sqrt().clamp_min(1e-12) * torch.polar(torch.ones_like(weight), -reference.angle())
    maps = torch.einsum("cv,chw->vhw", vectors[:, -coils:].flip(-1).conj(), maps)
    terms = _terms(*_grid(kspace.shape[-2:])).flatten(1).to(maps)
    weighted = terms * weight.flatten() / weight.max()
    gram = weighted @ terms.T + 1e-4 * weighted.diagonal().real.mean() * torch.eye(len(terms)).to(terms)
    return Head(torch.linalg.solve(gram, weighted @ maps.flatten(1).T).T)


def birdcage(coils: int, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Coil maps of a random ring of coils round the picture, whose sensitivity falls off as 1 / distance.

    Args:
        coils: How many, 1 or more.
        size: (H, W).
        rng: Where the angle of the first coil comes from.

    Returns:
        (coils, H, W) complex, with `sum_c |S_c|^2 = 1`.
    """
    v, u = _grid(size)
    first = rng.uniform(0, 2 * math.pi)
    angle = (first + 2 * math.pi * torch.arange(coils) / coils)[:, None, None]
    across, along = u - RADIUS * angle.cos(), v - RADIUS * angle.sin()
    return normalised(torch.polar((across**2 + along**2).rsqrt(), torch.atan2(along, across) - angle))


def smooth_phase(size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """A random smooth phase: a polynomial of degree 3.

    Args:
        size: (H, W).
        rng: Where its coefficients come from.

    Returns:
        (H, W), in radians.
    """
    terms = _terms(*_grid(size), degree=3)
    weights = torch.from_numpy(rng.standard_normal(len(terms))).float()
    return torch.einsum("t,thw->hw", weights, terms)


def simulate(magnitude: Tensor, maps: Tensor, sigma: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Fully sampled k-space of a magnitude picture, with a random phase and noise.

    Args:
        magnitude: (H, W), >= 0.
        maps: Coil maps, (coils, H, W) complex.
        sigma: Standard deviation of the noise in each real and imaginary part.
        rng: Where phase and noise come from.

    Returns:
        K-space (coils, H, W) complex, and the complex picture (H, W) without noise.
    """
    x = torch.polar(magnitude, smooth_phase(tuple(magnitude.shape), rng))
    kspace = to_kspace(torch.view_as_real(x).permute(2, 0, 1)[None], maps[None])[0]
    real, imaginary = torch.from_numpy(rng.standard_normal((2, *kspace.shape), dtype=np.float32))
    return kspace + sigma * torch.complex(real, imaginary), x


def normalised(maps: Tensor) -> Tensor:
    """`maps` (coils, H, W) with `sum |S|^2 = 1` wherever there is any, complex64."""
    return (maps / maps.abs().square().sum(0).sqrt().clamp_min(1e-12)).to(torch.complex64)


def _low(kspace: Tensor, acs: int) -> Tensor:
    """The pictures of the coils in the resolution of the calibration region, (coils, H, W); a window avoids ringing."""
    height, width = kspace.shape[-2:]
    window = torch.zeros(height, width)
    hann = torch.hann_window(acs, periodic=False)
    top, left = height // 2 - acs // 2, width // 2 - acs // 2
    window[top : top + acs, left : left + acs] = hann[:, None] * hann
    pictures = from_kspace((window * kspace)[:, None], torch.ones(1, 1, height, width, dtype=torch.complex64))
    return torch.complex(pictures[:, 0], pictures[:, 1])


def _grid(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns from -1 to 1, (*size) each."""
    return torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")


def _terms(v: Tensor, u: Tensor, degree: int = DEGREE) -> Tensor:
    """Products of Legendre polynomials in `v` and `u` up to a total `degree`, (terms, H, W)."""
    down, across = ([torch.special.legendre_polynomial_p(t, n) for n in range(degree + 1)] for t in (v, u))
    return torch.stack([down[i] * across[j] for i in range(degree + 1) for j in range(degree + 1 - i)])
