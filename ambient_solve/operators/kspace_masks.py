r"""Which part of k-space is sampled: lines of a Cartesian scan, points, spokes and spirals on its grid.

A mask is (H, W), float32, 1 = sampled, the lowest frequency at (H // 2, W // 2). Lines are columns. `R`, the
acceleration, is the number of entries over the number of sampled ones. It is exact: lines come to `floor(W / R)` of W,
everything else to `floor(H W / R)` of H W entries, the calibration region included. That region, in which everything is
sampled, is `acs` lines, or a square of `acs` x `acs`, in the middle. What is random depends on `seed` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, suggestion

GOLDEN = math.pi * (math.sqrt(5) - 1) / 2
"""The golden angle of diameters, 111.25 degrees: any number of them in a row covers all directions evenly."""
Sampler = Callable[[tuple[int, int], int, np.ndarray, np.random.Generator], np.ndarray]
"""(shape, entries to sample, calibration region as bool, random numbers) to the sampled entries as bool."""


def make_mask(kind: str, shape: tuple[int, int], acceleration: float = 4.0, acs: int = 24, seed: int = 0) -> Tensor:
    """A mask of one of the `KINDS`.

    Args:
        kind: "uniform", "random" or "gaussian" lines; "poisson", "radial" or "spiral" in two dimensions.
        shape: (H, W) of k-space.
        acceleration: R, at least 1.
        acs: Side of the calibration region, 0 for none.
        seed: Decides all that is random: for spokes and spirals, the start angle.

    Returns:
        (H, W) float32, 1 = sampled.

    Raises:
        AmbientSolveError: there is no such kind, or the calibration region alone takes more than R leaves.
    """
    if kind not in KINDS:
        raise AmbientSolveError(f"There is no kind of mask {kind!r}. {suggestion(str(kind), KINDS)}")
    height, width = _check(shape, acceleration, acs)
    rng = np.random.default_rng(seed)
    if kind in LINES:
        wanted, region = int(width / acceleration + 1e-9), _middle(width, acs)
        _require(wanted, int(region.sum()), f"{width} lines", acceleration, acs)
        line = LINES[kind]((1, width), wanted, region[None], rng)
        return torch.from_numpy(line.astype(np.float32)).expand(height, width).contiguous()
    wanted = int(height * width / acceleration + 1e-9)
    region = _middle(height, acs)[:, None] & _middle(width, acs)
    _require(wanted, int(region.sum()), f"{height}x{width} entries", acceleration, acs)
    return torch.from_numpy(POINTS[kind]((height, width), wanted, region, rng).astype(np.float32))


def further(mask: Tensor, delta: float = 1.0, acs: int | None = None, seed: int = 0) -> Tensor:
    """`mask` (H, W) sampled less: what a prior is shown in training, while its loss is measured on all of `mask`.

    The acceleration R becomes R + delta, by dropping lines (or points) outside the calibration region at random until
    `floor(n / (R + delta))` of n are left: for delta = 1 and the published 20 + random of 320 lines at R = 2, 4, 6, 8
    these are the published 106, 64, 45, 35 (Aali et al., 2025, arXiv 2403.08728). Delta = 0 drops nothing, and a prior
    trained so learns nothing of what is missing.

    Args:
        mask: What is sampled, (H, W), 1 = sampled.
        delta: What is added to R, >= 0.
        acs: Side of the calibration region; measured by default.
        seed: Decides what is dropped.

    Returns:
        The mask (H, W) of what is left.

    Raises:
        AmbientSolveError: `delta` or the mask is not what it should be.
    """
    if not (isinstance(delta, (int, float)) and 0 <= delta < math.inf):
        raise AmbientSolveError(
            f"delta={delta!r} was given, what is added to the acceleration, at least 0, was expected."
        )
    sampled, lines = _plane(mask), _lines(mask)
    if delta == 0:
        return torch.as_tensor(mask).float().clone()
    acs = acs_of(mask) if acs is None else acs
    rows = sampled.mT if lines == "rows" else sampled
    height, width = rows.shape
    flat = rows[0] if lines else rows.flatten()
    region = _middle(width, acs) if lines else (_middle(height, acs)[:, None] & _middle(width, acs)).ravel()
    loose = np.flatnonzero(flat.numpy() & ~region)
    kept = int(len(flat) / (len(flat) / int(flat.sum()) + delta) + 1e-9)
    if kept < int((flat.numpy() & region).sum()):
        raise AmbientSolveError(
            f"delta={delta:g} would leave {kept} of {int(flat.sum())} sampled lines or points, fewer than the region "
            f"of acs={acs} has: lower delta or acs."
        )
    dropped = np.random.default_rng(seed).permutation(loose)[: int(flat.sum()) - kept]
    left = flat.clone()
    left[torch.from_numpy(dropped)] = False
    left = left.expand(height, width) if lines else left.reshape(height, width)
    return (left.mT if lines == "rows" else left).float().contiguous()


def acceleration(mask: Tensor) -> float:
    """R of a mask (H, W): entries over sampled entries."""
    sampled = _plane(mask)
    return sampled.numel() / int(sampled.sum())


def acs_of(mask: Tensor) -> int:
    """The side of the calibration region that `mask` (H, W) really has: of its lines, else of a square; 0 for none.

    Lines that happen to be sampled on both sides of the planned region count.
    """
    sampled, lines = _plane(mask).numpy(), _lines(mask)
    sampled = sampled.T if lines == "rows" else sampled
    height, width = sampled.shape
    side = 0
    for n in range(1, (width if lines else min(height, width)) + 1):
        down = slice(None) if lines else _middle(height, n)
        if not sampled[down][:, _middle(width, n)].all():
            break
        side = n
    return side


def _uniform(shape: tuple[int, int], wanted: int, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Equal distances outside the calibration region, from a random start."""
    outside, extra = np.flatnonzero(~region), wanted - int(region.sum())
    chosen = region.copy().ravel()
    chosen[outside[((np.arange(extra) + rng.random()) * len(outside) / max(extra, 1)).astype(int)]] = True
    return chosen.reshape(shape)


def _random(shape: tuple[int, int], wanted: int, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every line outside the calibration region is as likely as any other: the masks of A-DPS."""
    return _fill(region, np.ones(region.size), wanted, rng)


def _gaussian(shape: tuple[int, int], wanted: int, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines near the middle are likelier, with a deviation of a sixth of the width."""
    offset = np.arange(shape[1]) - shape[1] // 2
    return _fill(region, np.exp(-0.5 * (6 * offset / shape[1]) ** 2), wanted, rng)


def _poisson(shape: tuple[int, int], wanted: int, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Poisson disc: no two points nearer than a distance that grows fourfold from the middle to the corner.

    Darts in a random order; the unit of the distance is the largest by which enough of them stay. The few too many are
    taken away at random.
    """
    extra, radius = wanted - int(region.sum()), 1 + 3 * _radius(shape)
    order = rng.permutation(np.flatnonzero(~region))
    chosen = region.copy().ravel()
    # Any three darts fill about four squares of their distance: a first guess of the unit, some of which is too many.
    lowest = math.sqrt(0.75 * (radius[~region] ** -2.0).sum() / max(extra, 1))
    while len(best := _darts(order, lowest * radius)) < extra:
        lowest /= 1.25
    highest = 1.25 * lowest
    for _ in range(4):
        middle = (lowest + highest) / 2
        kept = _darts(order, middle * radius)
        if len(kept) >= extra:
            lowest, best = middle, kept
        else:
            highest = middle
    chosen[rng.permutation(best)[:extra]] = True
    return chosen.reshape(shape)


def _darts(order: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """The entries of `order` that lie within the `radius` (H, W) of none before them."""
    height, width = radius.shape
    free, reach = np.ones(radius.shape, dtype=bool), int(np.ceil(radius.max()))
    squared = np.arange(-reach, reach + 1) ** 2
    distance, kept = squared[:, None] + squared, []
    for entry in order.tolist():
        i, j = divmod(entry, width)
        if not free[i, j]:
            continue
        kept.append(entry)
        r = float(radius[i, j])
        if r <= 1:  # nothing is nearer
            continue
        top, bottom, left, right = (max(i - int(r), 0), i + int(r) + 1, max(j - int(r), 0), j + int(r) + 1)
        patch = free[top:bottom, left:right]
        i0, j0 = top - i + reach, left - j + reach
        patch &= distance[i0 : i0 + patch.shape[0], j0 : j0 + patch.shape[1]] >= r * r
    return np.array(kept, dtype=int)


def _radial(shape: tuple[int, int], wanted: int, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Spokes through the middle, each a golden angle on; the last one ends where R is reached."""
    along = np.linspace(-1, 1, 4 * max(shape)) * math.sqrt(2)
    along, turn = along[np.argsort(abs(along), kind="stable")], rng.random() * math.pi
    spokes = max(4 * wanted // max(shape), 1)
    return _trace(
        shape, (along * np.exp(1j * (turn + GOLDEN * np.arange(spokes)))[:, None]).ravel(), wanted, region, rng
    )


def _spiral(shape: tuple[int, int], wanted: int, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An Archimedean spiral from the middle to the corners, as tight as R allows; its end is cut where R is reached."""
    start, fewest, most, found = rng.random() * 2 * math.pi, 0.0, float(max(shape)), None
    for _ in range(12):
        turns = (fewest + most) / 2
        t = np.sqrt(np.linspace(0, 1, int(4 * max(shape) * (turns + 1))))
        path = math.sqrt(2) * t * np.exp(1j * (start + 2 * math.pi * turns * t))
        seen = _entries(shape, path)
        if len(np.union1d(seen, np.flatnonzero(region))) >= wanted:
            most, found = turns, path
        else:
            fewest = turns
    return _trace(shape, path if found is None else found, wanted, region, rng)


def _trace(
    shape: tuple[int, int], path: np.ndarray, wanted: int, region: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The first `wanted` entries that a path meets, the calibration region before them; the rest, if any, at random."""
    entries = _entries(shape, path)
    _, first = np.unique(entries, return_index=True)
    met = entries[np.sort(first)]
    chosen = region.copy().ravel()
    chosen[met[~chosen[met]][: wanted - int(chosen.sum())]] = True
    return _fill(chosen.reshape(shape), np.ones(region.size), wanted, rng)


def _entries(shape: tuple[int, int], path: np.ndarray) -> np.ndarray:
    """The entries nearest to points of a path, 1 the distance from the middle to the nearer edge; those outside not."""
    height, width = shape
    i = np.rint(path.imag * (height / 2) + height // 2).astype(int)
    j = np.rint(path.real * (width / 2) + width // 2).astype(int)
    inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
    return (i * width + j)[inside]


def _fill(chosen: np.ndarray, likely: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """`chosen` and as many others as `wanted` asks for, without replacement and in proportion to `likely`."""
    full, outside = chosen.copy().ravel(), np.flatnonzero(~chosen)
    # The largest of u^(1 / p) are such a sample (Efraimidis and Spirakis, 2006); its logarithm does not underflow.
    keys = np.log(rng.random(len(outside))) / likely[outside]
    full[outside[np.argsort(-keys)[: wanted - int(full.sum())]]] = True
    return full.reshape(chosen.shape)


def _radius(shape: tuple[int, int]) -> np.ndarray:
    """Distance from the middle, 1 in the farthest corner."""
    down, across = ((np.arange(n) - n // 2) / (n / 2) for n in shape)
    return np.hypot(down[:, None], across) / math.sqrt(2)


def _middle(n: int, side: int) -> np.ndarray:
    """`side` of `n` entries, those round n // 2, as bool."""
    start = n // 2 - side // 2
    at = np.arange(n)
    return (at >= start) & (at < start + side)


def _plane(mask: Tensor) -> Tensor:
    """A mask as bool (H, W), checked."""
    given = torch.as_tensor(mask)
    plane = given.reshape(given.shape[-2:]) if given.ndim >= 2 and given[..., 0, 0].numel() == 1 else given
    if plane.ndim != 2 or plane.is_complex() or not bool(plane.any()):
        raise AmbientSolveError(
            f"The mask has shape {tuple(given.shape)} and {int((given != 0).sum())} sampled entries; one mask (H, W) "
            "that samples something was expected."
        )
    return (plane != 0).cpu()


def _lines(mask: Tensor) -> str:
    """ "columns", "rows", or "" where neither is sampled as a whole."""
    plane = _plane(mask)
    return "columns" if bool((plane == plane[:1]).all()) else "rows" if bool((plane == plane[:, :1]).all()) else ""


def _check(shape: tuple[int, int], acceleration: float, acs: int) -> tuple[int, int]:
    sides = tuple(shape) if isinstance(shape, (tuple, list, torch.Size)) else ()
    if len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise AmbientSolveError(f"shape={shape!r} was given, (H, W) of k-space was expected, for instance (320, 320).")
    if isinstance(acceleration, bool) or not isinstance(acceleration, (int, float)) or not 1 <= acceleration < math.inf:
        raise AmbientSolveError(f"acceleration={acceleration!r} was given, a number of at least 1 was expected.")
    if isinstance(acs, bool) or not isinstance(acs, int) or not 0 <= acs <= sides[1]:
        raise AmbientSolveError(f"acs={acs!r} was given, a whole number from 0 to the width {sides[1]} was expected.")
    return sides


def _require(wanted: int, region: int, of: str, acceleration: float, acs: int) -> None:
    if wanted < max(region, 1):
        raise AmbientSolveError(
            f"At an acceleration of {acceleration:g}, {wanted} of {of} are sampled, fewer than the {region} of the "
            f"calibration region of acs={acs}: lower the acceleration or acs, which coil maps need."
        )


LINES: dict[str, Sampler] = {"uniform": _uniform, "random": _random, "gaussian": _gaussian}
"""Samplers of whole lines by kind."""
POINTS: dict[str, Sampler] = {"poisson": _poisson, "radial": _radial, "spiral": _spiral}
"""Samplers in two dimensions by kind."""
KINDS: dict[str, Sampler] = {**LINES, **POINTS}
"""Kinds of masks by name; lines first."""
