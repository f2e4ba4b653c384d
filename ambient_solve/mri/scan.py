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

from ambient_solve.errors import UnreadableFile
from ambient_solve.mri.apart import read_all, read_apart
from ambient_solve.mri.sampling import check_centred, check_slice, is_whole, measured_entries, sampled, scan_mask
from ambient_solve.mri.simulate import simulate
from ambient_solve.operators.coils import birdcage, normalise
from ambient_solve.operators.kspace_masks import acs_of, make_mask
from ambient_solve.reading.raw import COILS, LIMIT

LEAST_ACS = 4
"""Fewer lines of calibration tell nothing of the coils."""
SCALE_BOX = 8
"""Side of the part of the calibration region that sets the scale: the same in training and in use, whatever the ACS."""
SIGMA = 0.02
"""Noise of k-space simulated from a magnitude."""


@dataclass(frozen=True)
class Scan:
    """Two-dimensional slices of one scan. What may be wrong with one slice alone is said when that slice is taken.

    Attributes:
        kspace: complex64 (slices, coils, H, W), 0 where nothing was sampled.
        mask: float32 (slices or 1, H, W), 1 where sampled; found from the zeros of k-space if None is given. What is 0
            in all coils was not measured, and is taken out of a given mask.
        acs: Width of the fully sampled centre, in lines.
        noise: complex64 (coils, n), what the coils receive without a signal.
        reference: float32 (slices, H, W), a magnitude to compare with; or of less rows and columns, the middle ones, as
            in fastMRI.
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
        mask, notes = measured_entries(scan_mask(mask, self.kspace, self.source), self.kspace)
        object.__setattr__(self, "mask", mask)
        object.__setattr__(self, "notes", (*self.notes, *notes))
        _check_reference(self)
        own = max((acs_of(m) for m in self.mask if bool(m.any())), default=0)
        if own < LEAST_ACS:
            check_centred(self.kspace, self.source)
            raise UnreadableFile(
                self.source,
                f": the fully sampled centre of the mask is {own} lines wide, at least {LEAST_ACS} are "
                "needed to calibrate the coils; sample more of the centre, or accelerate less.",
            )
        object.__setattr__(self, "acs", own if not self.acs else min(self.acs, own))
        if len(self) == 1:
            check_slice(self.kspace[0], self.mask[0], self.acs, self.source)

    @property
    def whole(self) -> bool:
        """Whether it is fully sampled, up to an empty edge."""
        return is_whole(self.mask)

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

        An edge that holds nothing counts as entries, as in fastMRI: of what was measured, fewer than 1 in R are kept.

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
        if not self.whole:
            raise UnreadableFile(
                self.source,
                f"is undersampled already, R = {1 / float(self.mask.mean()):.1f}: leave the acceleration "
                "out, or give a fully sampled scan.",
            )
        mask = make_mask(kind, tuple(self.kspace.shape[-2:]), acceleration, acs, seed)
        reference = root_sum_of_squares(self.kspace) if self.reference is None else self.reference
        return replace(self, kspace=mask * self.kspace, mask=mask * self.mask, acs=0, reference=reference)


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


def _check_reference(scan: Scan) -> None:
    """Raise where the reference is not of these slices."""
    given = None if scan.reference is None else tuple(scan.reference.shape)
    slices, _, height, width = scan.kspace.shape
    if given and (len(given) != 3 or given[0] != slices or given[1] > height or given[2] > width):
        raise UnreadableFile(
            scan.source,
            f": the reference has shape {given}; {(slices, height, width)}, or the middle of it, was expected.",
        )
