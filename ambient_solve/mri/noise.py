"""The noise level of k-space where no noise scan tells it: the least of three estimates.

    edges           the outermost sampled entries: too high where k-space holds signal up to its edge
    background      lines of the picture that no object crosses: too high where the object fills the field of view
    calibration     what windows of the calibration region leave over beyond the few directions that signal takes

Signal can only add to an estimate, so that the least one is nearest to the noise. But where a program has damped a part
of k-space, its edge above all, the noise of that part is not that of the rest: one that is far below two others, which
agree, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ambient_solve.operators.coils import calibration_windows, largest_of_noise

OUTER = 0.05
"""The share of the sampled k-space, farthest from the middle, that `edges` takes for noise."""
GAUSSIAN = 1.4826
"""Deviation over median modulus of a Gaussian."""
QUIET = 0.1
"""The share of the lines of a picture that `background` takes: those that are most quiet."""
FEWEST = 100
"""Numbers that an estimate other than `edges` needs."""
KERNEL = 3
"""Side of the windows of `calibration`."""
AGREEING = 1.1
"""Estimates up to this multiple of the least are the same within their chance; the first of them in order is taken."""
APART = 2.0
"""One estimate that is less than the two others by this factor is left out, where they agree up to SAME."""
SAME = 1.25
"""Two independent estimates whose ratio is below this are of the same noise: signal adds to each by another amount."""
ROUNDING = 1e-6
"""Share of the root mean square of k-space below which nothing is noise: what single precision rounds."""


@dataclass(frozen=True)
class NoiseLevel:
    """The standard deviation of each real and imaginary part of k-space, and where it is from.

    Attributes:
        sigma: The level, in the units of k-space; 0 where none was found.
        source: "edges", "background", "calibration", "noise scan", or "stated".
        estimates: What each way of estimating found, in the same units.
    """

    sigma: float
    source: str
    estimates: Mapping[str, float] = field(default_factory=dict)


def noise_level(kspace: Tensor, mask: Tensor, region: tuple[int, int]) -> NoiseLevel:
    """The noise level of k-space, estimated from itself.

    Args:
        kspace: (coils, H, W) complex.
        mask: Sampled entries, (H, W), 1 = sampled.
        region: Rows and columns of the calibration region.

    Returns:
        The least of the consistent estimates that are above what single precision rounds, or the first that agrees
        with it.
    """
    lowest = ROUNDING * float(kspace[:, mask > 0].abs().square().mean().sqrt())
    found = {"edges": edges(kspace, mask), "background": background(kspace, mask)}
    found["calibration"] = calibration_level(kspace, region)
    found = {name: float(s) for name, s in found.items() if s is not None and lowest < s < math.inf}
    if not found:
        return NoiseLevel(0.0, "edges")
    least, *others = sorted(found.values())
    if len(others) == 2 and APART * least < others[0] and others[1] < SAME * others[0]:
        least = others[0]
    source = next(name for name, s in found.items() if least <= s <= AGREEING * least)
    return NoiseLevel(found[source], source, found)


def edges(kspace: Tensor, mask: Tensor) -> float:
    """The level of the outermost sampled entries.

    Args:
        kspace: (coils, H, W) complex.
        mask: Sampled entries, (H, W), 1 = sampled.

    Returns:
        Standard deviation of each part.
    """
    down, across = ((torch.arange(n) - n // 2) / n for n in mask.shape)
    far = torch.hypot(down[:, None], across)
    seen = mask > 0
    edge = far[seen].quantile(1 - OUTER)
    return _level(torch.view_as_real(kspace[:, seen & (far >= edge)]))


def background(kspace: Tensor, mask: Tensor) -> float | None:
    """The level of those lines of the picture in which there is least, along an axis on which k-space is sampled whole.

    A transform along that axis alone parts the object from what lies beside it, at any acceleration along the other
    axis. One half of the numbers chooses the lines, the other half is measured: what is chosen for being small is not
    smaller than noise.

    Args:
        kspace: (coils, H, W) complex.
        mask: Sampled entries, (H, W), 1 = sampled.

    Returns:
        Standard deviation of each part, the lower of those of both axes; None where no axis has enough numbers.
    """
    return min((_level(x) for x in _quiet(kspace, mask) if x.numel() >= FEWEST), default=None)


def calibration_level(kspace: Tensor, region: tuple[int, int]) -> float | None:
    """The level of what is left of all windows of the calibration region once their strongest directions are taken out.

    Signal takes few directions, because coil maps are smooth; noise takes them all alike. The directions are those
    above the largest singular value that noise alone would have (Marchenko and Pastur, 1967), the level and their
    number found in turn.

    Args:
        kspace: (coils, H, W) complex.
        region: Rows and columns of the calibration region.

    Returns:
        Standard deviation of each part; None where the region has too few windows.
    """
    if min(region) <= KERNEL:
        return None
    windows = calibration_windows(kspace, region, KERNEL)
    n, m = windows.shape
    values = torch.linalg.eigvalsh(windows.mH @ windows).flip(0).clamp_min(0)
    rank, most = min(n, m) // 2, min(n, m) - max(min(n, m) // 4, 4)
    for _ in range(20):
        if rank > most:
            return None  # the few directions that are left are the least of the noise, not the mean of it
        sigma = math.sqrt(float(values[rank:].sum()) / (2 * (n - rank) * (m - rank)))
        found = int((values.sqrt() > largest_of_noise(sigma, n, m)).sum())
        if found == rank:
            break
        rank = found
    return sigma if 2 * (n - rank) * (m - rank) >= FEWEST else None


def _quiet(kspace: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """The numbers of the quiet lines of the picture, for each axis that is sampled whole."""
    for k, sampled in ((kspace, mask > 0), (kspace.mT, mask.mT > 0)):
        rows = sampled.any(1)
        whole = sampled.sum(0) == rows.sum()
        if rows.float().mean() < 0.5 or whole.sum() < 4:
            continue
        # A window keeps what is strong from ringing into what is empty.
        window = torch.hann_window(len(rows) + 2, periodic=False)[1:-1] * rows
        weighted = torch.fft.ifftshift(window[:, None] * k[:, :, whole], dim=1)
        hybrid = torch.fft.ifft(weighted, dim=1, norm="ortho") / window.square().mean().sqrt()
        power = hybrid[:, :, ::2].abs().square().mean((0, 2))
        quiet = power.argsort()[: max(round(QUIET * len(rows)), 2)]
        yield torch.view_as_real(hybrid[:, quiet, 1::2])


def _level(numbers: Tensor) -> float:
    return GAUSSIAN * float(numbers.abs().flatten().median())
