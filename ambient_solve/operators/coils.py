r"""Receive coils: their maps from calibration lines, fewer of them, white noise, a scale; simulated ones.

All takes k-space with the lowest frequency at (H // 2, W // 2) and reads nothing outside the calibration region, which
is sampled at any acceleration: what a reconstruction uses must not depend on data that a real scan would lack.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

ROUNDED = 1e-3
"""Singular values below this share of the largest one add nothing to maps, and bend them: no scan is so exact."""
SLAB = 2**21
"""Complex numbers of the matrices of all pixels that `espirit` holds at a time."""


def espirit(
    kspace: Tensor,
    acs: int | tuple[int, int],
    *,
    kernel: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    noise: float = 0.0,
) -> Tensor:
    r"""Coil maps (coils, H, W) by ESPIRiT (Uecker et al., 2014, Magn. Reson. Med. 71, 990), complex64.

    Windows of `kernel` x `kernel` k-space entries of the calibration region span a space, `P` the projection on it.
    Applied to whole pictures, `P` is at each pixel a matrix of coils by coils, to whose eigenvalue 1 belongs the map:

        G(r) S(r) = S(r),     G(r)_{c c'} = 1 / kernel^2 sum_{d, d'} P_{(c, d) (c', d')} e^{2 pi i (d - d') r / N}

    Args:
        kspace: (coils, H, W) complex; only the `acs` x `acs` entries in its middle are read.
        acs: Side of the calibration region, or its rows and columns, at most those of the picture.
        kernel: Side of a window.
        threshold: Singular values below this share of the largest one are noise, where `noise` is 0.
        crop: Eigenvalue below which a pixel sees no object: there the maps are 0. Elsewhere `sum_c |S_c|^2 = 1`, and
            the first coil is real.
        noise: Deviation of the noise in each real and imaginary part: singular values that it reaches by itself are
            noise. 0 where it is unknown.

    Returns:
        The maps (coils, H, W), complex64.
    """
    kspace = check_kspace(kspace, 3)
    rows = calibration_windows(kspace, acs, kernel)
    coils, height, width = kspace.shape
    # The right singular vectors from the Gram matrix, which is small: in double precision it loses none that count.
    values, vectors = torch.linalg.eigh(rows.mH @ rows)
    # What is rounded off is no signal, however low the noise is said to be.
    least = max(largest_of_noise(noise, *rows.shape) ** 2, ROUNDED**2 * float(values[-1])) if noise else 0.0
    vectors = vectors[:, values > (least or threshold**2 * values[-1])]
    projection = (vectors @ vectors.mH).conj().reshape(coils, kernel, kernel, coils, kernel, kernel)
    lags = _lags(projection) / kernel**2  # (coils, coils, 2 kernel - 1, 2 kernel - 1)
    across = torch.einsum("cdij,jw->cdiw", lags.to(torch.complex64), _waves(width, kernel).to(lags.device))
    down, maps = _waves(height, kernel).to(lags.device), torch.zeros_like(kspace)
    step = max(1, SLAB // (coils**2 * width))
    for top in range(0, height, step):
        matrices = torch.einsum("cdiw,ih->hwcd", across, down[:, top : top + step])
        values, vectors = torch.linalg.eigh(matrices)
        found = fixed_phase(vectors[..., -1:])[..., 0] * (values[..., -1:] > crop)
        maps[:, top : top + step] = found.permute(2, 0, 1)
    if not bool(maps.any()):
        raise AmbientSolveError(
            f"ESPIRiT found no pixel whose eigenvalue exceeds crop={crop:g}: the calibration region of acs={acs} is "
            "mostly noise, or is not in the middle of k-space."
        )
    return maps


def calibration_windows(kspace: Tensor, acs: int | tuple[int, int], kernel: int) -> Tensor:
    """All windows of the calibration region, each as a row of numbers.

    Args:
        kspace: (coils, H, W) complex.
        acs: Side of the calibration region, or its rows and columns.
        kernel: Side of a window.

    Returns:
        (windows, coils kernel^2) complex128.

    Raises:
        AmbientSolveError: the region is empty, or too small for such a window.
    """
    calibration = centre(kspace, acs)
    if min(calibration.shape[1:]) < kernel + 1:
        raise AmbientSolveError(
            f"A calibration region of {calibration.shape[1]}x{calibration.shape[2]} is too small for ESPIRiT windows "
            f"of {kernel}x{kernel}; at least {kernel + 1} lines were expected: acquire more, or lower kernel."
        )
    windows = calibration.unfold(1, kernel, 1).unfold(2, kernel, 1)  # (coils, a, b, kernel, kernel)
    return windows.permute(1, 2, 0, 3, 4).reshape(-1, len(kspace) * kernel**2).to(torch.complex128)


def largest_of_noise(sigma: float, n: int, m: int) -> float:
    """The largest singular value of noise alone, up to chance (Marchenko and Pastur, 1967, Math. USSR Sb. 1, 457).

    Args:
        sigma: Deviation of each real and imaginary part.
        n: Rows of the matrix, some ten or more.
        m: Its columns, some ten or more.

    Returns:
        The singular value.
    """
    return sigma * math.sqrt(2) * (math.sqrt(n) + math.sqrt(m))


def birdcage(coils: int, shape: tuple[int, int], distance: float = 1.8) -> Tensor:
    """Simulated coil maps: loops on a circle round the picture.

    The field of a loop falls off with the distance from it and turns its phase with the direction to it.

    Args:
        coils: Loops, 1 or more.
        shape: (H, W) of the picture.
        distance: Radius of the circle, in half sides of the picture, > 1.

    Returns:
        (coils, H, W) complex64 with `sum_c |S_c|^2 = 1`.

    Raises:
        AmbientSolveError: a value is out of its range.
    """
    if isinstance(coils, bool) or not isinstance(coils, int) or coils < 1 or not distance > 1:
        raise AmbientSolveError(
            f"coils={coils!r}, distance={distance!r} was given; a whole number of at least 1 and a distance above 1, "
            "outside the picture, were expected."
        )
    down, across = (torch.arange(n, dtype=torch.float64) * 2 / n - 1 for n in shape)
    angle = 2 * math.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    i, j = down[:, None] - distance * angle.sin(), across - distance * angle.cos()
    maps = torch.polar(1 / torch.hypot(i, j), torch.atan2(i, j) - angle)
    return (maps / maps.abs().square().sum(0).sqrt()).to(torch.complex64)


def coils_above_noise(kspace: Tensor, acs: int | tuple[int, int], sigma: float) -> int:
    """How many virtual coils hold signal: those with more energy in the calibration region than noise alone would have.

    Args:
        kspace: (coils, H, W) complex.
        acs: Side of the calibration region, or its rows and columns.
        sigma: Deviation of the noise in each real and imaginary part.

    Returns:
        Number of virtual coils, 1 or more, which `compress` is to keep.

    Raises:
        AmbientSolveError: there is no calibration region.
    """
    data = centre(kspace, acs).flatten(1).to(torch.complex128)
    values = torch.linalg.eigvalsh(data @ data.mH).clamp_min(0)
    least = max(largest_of_noise(sigma, *data.shape) ** 2, ROUNDED**2 * float(values[-1]))
    return max(int((values > least).sum()), 1)


def compress(kspace: Tensor, coils: int, acs: int | tuple[int, int] | None = None) -> Tensor:
    """The virtual coils that hold most of the signal (Buehrer et al., 2007, MRM 57, 1131).

    Their weights are the leading singular vectors of the calibration region, one set for all slices. They are
    orthonormal: white noise stays as it is.

    Args:
        kspace: (..., coils, H, W) complex.
        coils: Virtual coils, 1 or more; the k-space is returned as it is where it has no more.
        acs: Side of the calibration region, or its rows and columns; all entries by default.

    Returns:
        K-space of the virtual coils, (..., coils, H, W) complex.

    Raises:
        AmbientSolveError: the k-space is not complex or not finite, or a value is out of its range.
    """
    kspace = check_kspace(kspace)
    have = kspace.shape[-3]
    if isinstance(coils, bool) or not isinstance(coils, int) or not 1 <= coils:
        raise AmbientSolveError(f"coils={coils!r} was given, a whole number of at least 1 was expected.")
    if coils >= have:
        return kspace
    data = (kspace if acs is None else centre(kspace, acs)).movedim(-3, 0).flatten(1).to(torch.complex128)
    vectors = fixed_phase(torch.linalg.eigh(data @ data.mH)[1]).flip(1)[:, :coils]
    return torch.einsum("...chw,cd->...dhw", kspace, vectors.conj().to(kspace.dtype))


def fixed_phase(vectors: Tensor) -> Tensor:
    """Complex eigenvectors (..., n, m) in columns whose first entry is real and positive, as libraries differ in it."""
    first = vectors[..., :1, :]
    return vectors * torch.where(first.abs() > 0, first.conj() / first.abs().clamp_min(1e-20), 1)


def prewhiten(kspace: Tensor, noise: Tensor) -> Tensor:
    """Divide the covariance of the noise between the coils out of k-space (Pruessmann et al., 2001, MRM 46, 638).

    Args:
        kspace: (..., coils, H, W) complex.
        noise: Noise recorded without a signal, (coils, ...) complex, more than `coils` numbers for each coil.

    Returns:
        (..., coils, H, W) complex, whose noise is white, of standard deviation 1 in each real and imaginary part.

    Raises:
        AmbientSolveError: the k-space or the noise has another shape or type, is not finite, or is too short.
    """
    kspace, noise = check_kspace(kspace), torch.as_tensor(noise)
    coils = kspace.shape[-3]
    flat = noise.flatten(1) if noise.ndim > 1 else noise[None]
    if not noise.is_complex() or len(flat) != coils or flat.shape[1] <= coils or not bool(torch.isfinite(flat).all()):
        raise AmbientSolveError(
            f"The noise scan is {noise.dtype} {tuple(noise.shape)}; finite complex numbers (coils, ...), more than "
            f"{coils} for each of {coils} coils, were expected."
        )
    flat = flat.to(torch.complex128)
    covariance = flat @ flat.mH / (2 * flat.shape[1])
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed):
        raise AmbientSolveError(
            f"The noise scan has a coil that records nothing, or copies another (the {int(failed)}th); leave this coil "
            "out of the noise and of the data."
        )
    inverse = torch.linalg.solve_triangular(factor, torch.eye(coils).to(factor), upper=False)
    return torch.einsum("dc,...chw->...dhw", inverse.to(kspace.dtype), kspace)


def normalise(kspace: Tensor, acs: int) -> tuple[Tensor, float]:
    """Scale k-space so that the picture of its calibration region reaches about 1.

    Args:
        kspace: (..., coils, H, W) complex.
        acs: Side of the calibration region, 1 or more.

    Returns:
        `kspace / scale`, and `scale`: the 99th percentile of the root sum of squares over the coils of that picture.

    Raises:
        AmbientSolveError: the k-space does not fit, or there is no calibration region.
    """
    kspace = check_kspace(kspace)
    low = torch.zeros_like(kspace)
    rows, columns = (_span(n, acs) for n in kspace.shape[-2:])
    low[..., rows, columns] = centre(kspace, acs)
    images = torch.fft.ifft2(torch.fft.ifftshift(low, dim=(-2, -1)), norm="ortho")
    magnitude = images.abs().square().sum(-3).sqrt().flatten()
    scale = float(magnitude.kthvalue(max(1, math.ceil(0.99 * magnitude.numel()))).values)
    return kspace / scale, scale


def centre(kspace: Tensor, acs: int | tuple[int, int]) -> Tensor:
    """The calibration region in the middle of k-space.

    Args:
        kspace: (..., H, W).
        acs: Its side, or its rows and columns, 1 or more; an axis with fewer entries is taken whole.

    Returns:
        (..., at most acs, at most acs).

    Raises:
        AmbientSolveError: `acs` is out of range, or the region is empty.
    """
    sides = acs if isinstance(acs, tuple) else (acs, acs)
    if len(sides) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in sides):
        raise AmbientSolveError(
            f"acs={acs!r} was given; the width of the calibration region, at least 1, was expected. Without one "
            "neither coil maps nor the scale can be found."
        )
    rows, columns = (_span(n, side) for n, side in zip(kspace.shape[-2:], sides, strict=True))
    region = kspace[..., rows, columns]
    if not bool(region.any()):
        raise AmbientSolveError(
            f"The calibration region, the {region.shape[-2]}x{region.shape[-1]} entries in the middle of k-space, is "
            "zero everywhere: the lowest frequency is expected at (H // 2, W // 2), or it was not sampled."
        )
    return region


def check_kspace(kspace: Tensor, axes: int | None = None) -> Tensor:
    """K-space as complex64, once it is known to be usable.

    Args:
        kspace: (..., coils, H, W) complex.
        axes: How many axes it must have; any number by default.

    Returns:
        The same as complex64.

    Raises:
        AmbientSolveError: it is not complex, has other axes, is empty, or is not finite.
    """
    given = torch.as_tensor(kspace)
    if given.ndim < 3 or (axes and given.ndim != axes) or not given.is_complex() or given.numel() == 0:
        raise AmbientSolveError(
            f"The k-space is {given.dtype} {tuple(given.shape)}; complex (coils, H, W) was expected, kspace[i] "
            "of a stack of slices."
        )
    broken = (~torch.isfinite(given)).movedim(-3, 0).flatten(1).any(1)
    if bool(broken.any()):
        raise AmbientSolveError(
            f"Coil {int(broken.nonzero()[0])} of {len(broken)} has NaN or infinite entries in its k-space; leave this "
            "coil out of the data."
        )
    return given.to(torch.complex64)


def _span(n: int, side: int) -> slice:
    start = max(n // 2 - side // 2, 0)
    return slice(start, min(start + side, n)) if side < n else slice(0, n)


def _lags(projection: Tensor) -> Tensor:
    """Sums of `projection` (c, k, k, c', k, k) over pairs of entries at each distance, (c, c', 2k-1, 2k-1)."""
    coils, k = projection.shape[:2]
    out = projection.new_zeros(coils, coils, 2 * k - 1, 2 * k - 1)
    for i in range(k):
        for j in range(k):
            # Entry (i, j) against all (i', j'): the distance runs down as i' runs up.
            out[:, :, i : i + k, j : j + k] += projection[:, i, j].flip(-2, -1)
    return out


def _waves(n: int, kernel: int) -> Tensor:
    """`e^{2 pi i d r / n}` for the distances d in a window and pixels r round n // 2, (2 kernel - 1, n)."""
    d = torch.arange(1 - kernel, kernel, dtype=torch.float64)
    r = torch.arange(n, dtype=torch.float64) - n // 2
    return torch.polar(torch.ones(2 * kernel - 1, n, dtype=torch.float64), 2 * math.pi / n * d[:, None] * r).to(
        torch.complex64
    )
