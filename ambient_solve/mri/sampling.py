"""Which entries of k-space were measured: the mask of a scan, held against its numbers, and what is wrong with a slice.

An entry that is 0 in every coil was not measured, whatever a mask says: files for challenges and reconstructions that
fill k-space up to a convenient size count such entries as sampled. Statistics over them are wrong by any factor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ambient_solve.errors import UnreadableFile

FEW = 1e-3
"""Share of the sampled entries that may be 0 by chance, where numbers are rounded; they stay."""
MANY = 0.1
"""Share of the sampled entries, the empty edge left out, that may be 0: more of them, and it is another mask."""
CENTRED = "k-space = numpy.fft.fftshift(k-space, axes=(-2, -1)) centers it"
"""What to do about k-space whose zero frequency is in a corner."""


def sampled(kspace: Tensor) -> Tensor:
    """1 where any coil has a value: (1, H, W), or (slices, H, W) where slices of (slices, coils, H, W) differ."""
    masks = (kspace != 0).any(1).float()  # a magnitude of all of it would take half as much again
    return masks[:1] if bool((masks == masks[:1]).all()) else masks


def scan_mask(mask: Tensor, kspace: Tensor, source: str) -> Tensor:
    """`mask` as float32 (slices or 1, H, W), once it is known to fit `kspace`.

    Args:
        mask: (W,), (H, W), or one such for each slice; 1 where sampled, 0 elsewhere.
        kspace: (slices, coils, H, W).
        source: What errors name.

    Returns:
        The mask.

    Raises:
        AmbientSolveError: it has another shape, or other values.
    """
    slices, _, height, width = kspace.shape
    given = tuple(mask.shape)
    mask = mask.float().reshape(-1)[None, None] if mask.numel() == width else mask.float()
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or len(mask) not in (1, slices) or mask.shape[1] not in (1, height) or mask.shape[2] != width:
        raise UnreadableFile(
            source,
            f": the mask has shape {given} and does not fit slices of {height} rows and {width} columns; "
            f"({width},), ({height}, {width}) or one such for each of {slices} slices was expected.",
        )
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise UnreadableFile(source, ": the mask has values besides 0 (not sampled) and 1 (sampled).")
    return mask.expand(-1, height, -1).contiguous()


def measured_entries(mask: Tensor, kspace: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """`mask` without the entries that are 0 in all coils, and sentences on what was left out.

    Args:
        mask: (slices or 1, H, W), 1 = sampled.
        kspace: (slices, coils, H, W).

    Returns:
        The mask of what was measured. It keeps empty entries where they are few, as rounding leaves them, and where
        they are so many that the mask is of another scan, which `check_slice` says.
    """
    found = (kspace != 0).any(1)
    found = found.any(0, keepdim=True) if len(mask) == 1 else found
    notes, kept = (), mask * _inner(found)
    lines = [int((mask.any(axis) & ~kept.any(axis)).any(0).sum()) for axis in (1, 2)]
    for n, what in zip(lines, ("column", "row"), strict=True):
        if n:
            notes += (f"{n} {what}{'s' * (n > 1)} at the edge of k-space that the mask counts hold nothing: left out",)
    empty, total = float((kept * ~found).sum()), float(kept.sum())
    if FEW * total < empty <= MANY * total:
        notes += (f"{empty / total:.1%} of the entries that the mask counts hold nothing: left out",)
        kept = kept * found
    return kept, notes


def is_whole(mask: Tensor) -> bool:
    """Whether a mask (slices or 1, H, W) leaves out nothing but an empty edge."""
    return bool((_inner(mask > 0) == mask).all())


def check_centred(kspace: Tensor, source: str) -> None:
    """Raise where the strongest entries are not in the middle of k-space but in a corner of it.

    Args:
        kspace: (slices, coils, H, W).
        source: What the error names.

    Raises:
        AmbientSolveError: they are.
    """
    # One slice after another: together they would take as much memory again.
    power = sum(one.abs().square().sum(0) for one in kspace).nan_to_num(0, 0, 0)
    height, width = power.shape
    row, column = divmod(int(power.argmax()), width)
    if min(row, height - row) <= height // 8 and min(column, width - column) <= width // 8:
        raise UnreadableFile(
            source,
            f": k-space is not centered: its strongest value is at row {row}, column {column}, a corner, and the "
            f"zero frequency is expected at row {height // 2}, column {width // 2}; {CENTRED}, and "
            "numpy.fft.fftshift does so with its mask.",
        )


def check_slice(kspace: Tensor, mask: Tensor, acs: int, source: str) -> None:
    """Numbers, a signal where the coils are calibrated, values where the mask says so, the strongest in the middle.

    Args:
        kspace: (coils, H, W).
        mask: (H, W), 1 = sampled.
        acs: Width of the fully sampled centre.
        source: What errors name.

    Raises:
        AmbientSolveError: one of them is missing.
    """
    height, width = kspace.shape[-2:]
    half, power = min(acs, height, width) // 2, torch.zeros(height, width, device=kspace.device)
    for i, coil in enumerate(kspace):  # one after another: together they would take as much memory again
        if not bool(coil.isfinite().all()):
            raise UnreadableFile(
                source, f": coil {i} has values that are no numbers; repair the file, or leave that coil out."
            )
        power += coil.abs().square()
    centre = power[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]
    if not bool(centre.any()):
        raise UnreadableFile(
            source, ": the calibration region is all zero; nothing tells the coils, so leave this slice out."
        )
    found = (kspace != 0).any(0).float()
    outside, empty = int((found * (1 - mask)).sum()), int((mask * (1 - found)).sum())
    if outside or empty > MANY * float(mask.sum()):
        shifted = torch.fft.ifftshift(mask)
        moved = (
            "numpy.fft.fftshift centers this mask" if bool((shifted >= found).all()) else "give the mask of this scan"
        )
        raise UnreadableFile(
            source,
            f": mask and k-space disagree: {outside} values stand where the mask says that nothing was "
            f"sampled, {empty} are 0 where it says the contrary; {moved}, or leave it out.",
        )
    row, column = divmod(int(power.argmax()), width)
    if abs(row - height // 2) > height // 4 or abs(column - width // 2) > width // 4:
        raise UnreadableFile(
            source,
            f": the strongest value of k-space is at row {row}, column {column}, not in the middle of "
            f"{height}x{width}: where the zero frequency is in a corner, {CENTRED}.",
        )


def _inner(found: Tensor) -> Tensor:
    """1 in the least rectangle that holds all of `found` (slices, H, W), for each slice."""
    out = torch.zeros(found.shape)
    for one, inside in zip(found, out, strict=True):
        rows, columns = (one.any(axis).nonzero().flatten() for axis in (1, 0))
        if len(rows):
            inside[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1] = 1
    return out
