"""`Scan`: k-space with all that is known of it, read from the files that scanners and data sets use.

    fastMRI HDF5, ISMRMRD (.h5)     BART (.cfl, .hdr)     .npy, .npz        k-space
    NIfTI (.nii, .nii.gz)           DICOM (.dcm, or a folder of them)       magnitudes: k-space is simulated

K-space is centred, the lowest frequency in the middle, and 0 where nothing was sampled. Of DICOM files only the pixels
and their size in mm are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, UnreadableFile
from ambient_solve.mri.apart import read_all, read_apart
from ambient_solve.mri.simulate import simulate
from ambient_solve.operators.coils import birdcage, normalise
from ambient_solve.operators.kspace_masks import acs_of, make_mask
from ambient_solve.reading.raw import COILS, LIMIT

LEAST_ACS = 4
"""Fewer lines of calibration tell nothing of the coils."""
SCALE_BOX = 8
"""Side of the part of the calibration region that sets the scale: the same in training and in use, whatever the ACS."""
AT_ONCE = 1 << 22
"""Entries of k-space that are looked at together."""
SIGMA = 0.02
"""Noise of k-space simulated from a magnitude."""


@dataclass(frozen=True)
class Scan:
    """Two-dimensional slices of one scan. What may be wrong with one slice alone is said when that slice is taken.

    Attributes:
        kspace: complex64 (slices, coils, H, W), 0 where nothing was sampled.
        mask: float32 (slices or 1, H, W), 1 where sampled; found from the zeros of k-space if None is given.
        acs: Width of the fully sampled centre, in lines.
        noise: complex64 (coils, n), what the coils receive without a signal.
        reference: float32 (slices, H, W), a magnitude to compare with.
        simulated: Whether the k-space was made from a magnitude.
        source: The file. voxel: Size of a voxel in mm. notes: What was assumed in reading.
    """

    kspace: Tensor
    mask: Tensor | None = None
    acs: int = 0
    noise: Tensor | None = None
    reference: Tensor | None = None
    simulated: bool = False
    source: str = "k-space"
    voxel: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        _check_kspace(self.kspace, self.source)
        mask = sampled(self.kspace) if self.mask is None else torch.as_tensor(self.mask)
        object.__setattr__(self, "mask", _checked_mask(mask, self.kspace, self.source))
        own = max(acs_of(m) for m in self.mask)
        if own < LEAST_ACS:
            raise UnreadableFile(
                self.source,
                f": the fully sampled centre of the mask is {own} lines wide, at least {LEAST_ACS} are "
                "needed to calibrate the coils; sample more of the centre, or accelerate less. Where the zero "
                "frequency is in a corner, numpy.fft.fftshift over the last two axes centres k-space.",
            )
        object.__setattr__(self, "acs", own if not self.acs else min(self.acs, own))
        if len(self) == 1:
            _check_slice(self)

    def __len__(self) -> int:
        return len(self.kspace)

    def slices(self) -> Iterator[Scan]:
        """Each slice as a scan of its own."""
        for i in range(len(self)):
            yield self.slice(i)

    def slice(self, i: int) -> Scan:
        """Slice `i` as a scan of its own."""
        return replace(
            self,
            kspace=self.kspace[i : i + 1],
            mask=self.mask[i if len(self.mask) > 1 else 0][None],
            reference=None if self.reference is None else self.reference[i : i + 1],
        )

    def undersampled(self, kind: str, acceleration: float, acs: int, seed: int) -> Scan:
        """The scan as if a part of it had been sampled; its own picture becomes the reference where it has none.

        Args:
            kind: Mask, one of the kinds of `make_mask`.
            acceleration: Entries for each one that is kept, > 1.
            acs: Side of the fully sampled centre, in lines.
            seed: Decides the mask.

        Returns:
            The undersampled scan.

        Raises:
            AmbientSolveError: it is undersampled already, or the mask cannot be made.
        """
        if float(self.mask.mean()) < 1:
            raise UnreadableFile(
                self.source,
                f"is undersampled already, R = {1 / float(self.mask.mean()):.1f}: leave the acceleration "
                "out, or give a fully sampled scan.",
            )
        mask = make_mask(kind, tuple(self.kspace.shape[-2:]), acceleration, acs, seed)
        reference = root_sum_of_squares(self.kspace) if self.reference is None else self.reference
        return replace(self, kspace=mask * self.kspace, mask=mask[None], acs=0, reference=reference)


def read_scan(
    path: str | Path,
    *,
    axes: str | None = None,
    mask: str | Path | None = None,
    noise: str | Path | None = None,
    seed: int = 0,
    most: float = LIMIT,
    apart: bool = False,
) -> Scan:
    """Read one scan. `PATH:KEY` names the array of an .npz or .h5 file that holds several.

    Args:
        path: The file, or `FILE:KEY`.
        axes: What the axes are, such as "chw" or "schw" (slices, coils, height, width), where it is not plain.
        mask: A file with the sampling mask (H, W) or (W,), 1 where sampled.
        noise: A file with the noise scan (coils, n).
        seed: Decides phases and noise where k-space is simulated.
        most: Bytes that the scan may take; a file that unpacks to more is refused before it is read.
        apart: Read in a process of its own, which may take no more memory: for files of others.

    Returns:
        The scan.
    """
    reader = read_apart if apart else read_all
    raw = reader(str(path), axes, *(None if file is None else str(file) for file in (mask, noise)), most)
    given, heard = raw.mask, raw.noise
    known = {"source": str(path), "voxel": raw.voxel, "notes": raw.notes}
    if raw.magnitude:
        return simulated(torch.from_numpy(raw.data[:, 0]), seed, known)
    kspace = torch.from_numpy(np.ascontiguousarray(raw.data, dtype=np.complex64))
    return Scan(
        kspace,
        None if given is None else torch.from_numpy(np.asarray(given, dtype=np.float32)),
        noise=None if heard is None else torch.from_numpy(heard),
        reference=None if raw.reference is None else torch.from_numpy(raw.reference),
        **known,
    )


def sampled(kspace: Tensor) -> Tensor:
    """1 where any coil has a value: (1, H, W), or (slices, H, W) where slices of (slices, coils, H, W) differ."""
    # A magnitude of all of it would take as much again, and torch takes twice that on the way.
    at_once = max(AT_ONCE // max(kspace[0, 0].numel(), 1), 1)
    found = torch.cat([part.abs() > 0 for part in kspace.flatten(0, 1).split(at_once)])
    masks = found.unflatten(0, kspace.shape[:2]).any(1).float()
    return masks[:1] if bool((masks == masks[:1]).all()) else masks


def coil_pictures(kspace: Tensor) -> Tensor:
    """The picture of each coil, complex (..., H, W)."""
    shifted = torch.fft.ifftshift(kspace, dim=(-2, -1))
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=(-2, -1))


def root_sum_of_squares(kspace: Tensor) -> Tensor:
    """The magnitude (slices, H, W) that needs no coil maps."""
    return coil_pictures(kspace).abs().square().sum(-3).sqrt()


def calibration_scale(kspace: Tensor) -> float:
    """What to divide k-space (coils, H, W) by, from its central SCALE_BOX x SCALE_BOX entries alone.

    Tissue then lies near 1, where the priors are trained.
    """
    return normalise(kspace, SCALE_BOX)[1]


def simulated(magnitudes: Tensor, seed: int, known: dict) -> Scan:
    """A simulated, fully sampled scan of known magnitudes.

    Args:
        magnitudes: (slices, H, W), in any unit; the brightest pixels of the volume are scaled to about 1.
        seed: Decides the phase and the noise.
        known: Further fields of the scan, "source" among them.

    Returns:
        The scan.

    Raises:
        AmbientSolveError: the picture is empty or not finite.
    """
    top = float(magnitudes.flatten()[:: max(magnitudes.numel() // 1_000_000, 1)].quantile(0.999))
    if not 0 < top < float("inf"):
        raise UnreadableFile(known["source"], ": the picture is empty or has values that are no numbers.")
    magnitudes = (magnitudes / top).clamp(min=0)
    maps = birdcage(COILS, tuple(magnitudes.shape[1:]))
    # Written in place: the k-space of a volume is by far the largest that there is.
    kspace = torch.empty(len(magnitudes), *maps.shape, dtype=torch.complex64)
    for i, m in enumerate(magnitudes):
        kspace[i] = simulate(m, maps, SIGMA, np.random.default_rng((seed, 7, i)))[0]
    how = f"simulated k-space: {COILS} birdcage coils, a smooth random phase and noise of {SIGMA} were added"
    return Scan(
        kspace,
        torch.ones(1, *kspace.shape[-2:]),
        reference=magnitudes,
        simulated=True,
        **{**known, "notes": (*known["notes"], how)},
    )


def _check_kspace(kspace: Tensor, source: str) -> None:
    if kspace.ndim != 4 or not kspace.is_complex():
        raise UnreadableFile(
            source, f": k-space is {kspace.dtype} {tuple(kspace.shape)}; complex (slices, coils, H, W) was expected."
        )
    if min(kspace.shape[-2:]) < 2 * SCALE_BOX or 0 in kspace.shape:
        raise UnreadableFile(
            source, f": slices are {kspace.shape[-2]}x{kspace.shape[-1]}; at least {2 * SCALE_BOX} was expected."
        )


def _checked_mask(mask: Tensor, kspace: Tensor, source: str) -> Tensor:
    """`mask` as float32 (slices or 1, H, W), once it is known to fit `kspace`."""
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


def _check_slice(scan: Scan) -> None:
    """Numbers, a signal where the coils are calibrated, values where the mask says so, the strongest in the middle."""
    height, width = scan.kspace.shape[-2:]
    half, power = min(scan.acs, height, width) // 2, torch.zeros(height, width, device=scan.kspace.device)
    for i, coil in enumerate(scan.kspace[0]):
        if not bool(coil.isfinite().all()):
            raise AmbientSolveError(
                f"{scan.source}: coil {i} has values that are no numbers; repair the file, or leave that coil out."
            )
        power += coil.abs().square()
    centre = power[height // 2 - half : height // 2 + half, width // 2 - half : width // 2 + half]
    if not bool(centre.any()):
        raise AmbientSolveError(
            f"{scan.source}: the calibration region is all zero; nothing tells the coils, so leave this slice out."
        )
    mask, found = scan.mask[0], (power > 0).float()
    outside, empty = int((found * (1 - mask)).sum()), int((mask * (1 - found)).sum())
    # A scanner may leave the edge of an echo empty inside the mask; a tenth is another mask.
    if outside or empty > 0.1 * float(mask.sum()):
        raise AmbientSolveError(
            f"{scan.source}: mask and k-space disagree: {outside} values stand where the mask says that nothing was "
            f"sampled, {empty} are 0 where it says the contrary; give the mask of this scan, or leave it out."
        )
    row, column = divmod(int(power.argmax()), width)
    if abs(row - height // 2) > height // 4 or abs(column - width // 2) > width // 4:
        raise AmbientSolveError(
            f"{scan.source}: the strongest value of k-space is at row {row}, column {column}, not in the middle of "
            f"{height}x{width}; numpy.fft.fftshift over the last two axes centres k-space."
        )
