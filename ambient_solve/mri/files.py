"""The file formats of `read_scan`: each returns a `Raw`, and says in one sentence what is wrong with a file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ambient_solve.errors import AmbiguousAxes, Part, UnnamedArray, UnreadableFile, WrongAxes, shown
from ambient_solve.mri.axes import axes_of
from ambient_solve.mri.ismrmrd_files import cropped_readout, is_ismrmrd, read_ismrmrd
from ambient_solve.mri.ismrmrd_header import MAX_HEADER, voxel_of
from ambient_solve.mri.magnitudes import read_dicom, read_nifti
from ambient_solve.reading.hdf5 import open_hdf5, stored_arrays
from ambient_solve.reading.limits import check_bytes
from ambient_solve.reading.numpy_files import open_numpy
from ambient_solve.reading.raw import LIMIT, Raw, Stored, load, readable

SUFFIXES = (".h5", ".hdf5", ".cfl", ".npy", ".npz", ".nii", ".nii.gz", ".dcm")
"""Names of scans end so."""
KSPACE = ("kspace", "ksp", "k_space", "y", "data")
"""Names that k-space has in files, the first one found is taken."""
REFERENCES = ("reference", "reconstruction_rss", "reconstruction_esc", "target", "gt")
"""Names that a reference picture has in files."""
HEADER = "ismrmrd_header"
"""Name of the ISMRMRD header in fastMRI files."""
UNITS = 5.0
"""A reference that is stronger or weaker than k-space by this factor is in other units."""
MAX_TEXT = 10_000
"""Bytes of the text file that tells the sizes of a BART array."""


def read(path: str | Path, axes: str | None = None, most: float = LIMIT) -> Raw:
    """Read a scan of any format that the package knows.

    Args:
        path: A file, a folder of DICOM files, or `FILE:ARRAY` for one array of a file.
        axes: What the axes of an array are, such as "chw" or "schw"; found from its shape by default.
        most: Bytes that the array may take.

    Returns:
        The scan as it is stored.

    Raises:
        AmbientSolveError: the file cannot be read, is too large, or holds no scan.
    """
    path, key = locate(path)
    name = path.name.lower()
    if path.is_dir():
        return read_dicom(sorted(p for p in path.iterdir() if p.suffix.lower() == ".dcm"), path, most)
    if name.endswith((".h5", ".hdf5")):
        return _hdf5(path, key, axes, most)
    if name.endswith((".cfl", ".hdr")):
        return _bart(path.with_suffix(""), most)
    if name.endswith((".npy", ".npz")):
        with _arrays(path) as arrays:
            return _raw(arrays, key, axes, path, most)
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, most)
    if name.endswith(".dcm"):
        return read_dicom([path], path, most)
    raise UnreadableFile(path, f"is no scan by its name; known are {', '.join(SUFFIXES)} and folders of DICOM.")


def locate(path: str | Path) -> tuple[Path, str | None]:
    """The file and, behind a colon, the name of an array in it."""
    key = None
    if not Path(path).exists() and ":" in str(path):
        path, _, key = str(path).rpartition(":")
    path = Path(path)
    known = path.exists() or path.with_suffix(".cfl").exists()
    if not known:
        raise UnreadableFile(path, ".", "There is no file ")
    return path, key


def read_array(path: str | Path, keys: tuple[str, ...], most: float = LIMIT) -> np.ndarray:
    """One array of a NumPy or HDF5 file.

    Args:
        path: `.npy`, `.npz` or HDF5, or `FILE:ARRAY`.
        keys: Names that the array may have; an `.npy` file needs none.
        most: Bytes that the array may take.

    Returns:
        The array.

    Raises:
        AmbientSolveError: the file cannot be read, the array is too large, or there is none of these names.
    """
    path, key = locate(path)
    with _arrays(path) as arrays:
        name = _key(arrays, key, keys, path)
        return load(arrays[name], Part(name, path), most)


def read_noise(path: str | Path, coils: int, most: float = LIMIT) -> np.ndarray:
    """A noise scan.

    Args:
        path: `.npy`, `.npz` or HDF5, or `FILE:ARRAY`, with the coils along its first or its last axis.
        coils: Coils of the scan.
        most: Bytes that the array may take.

    Returns:
        (coils, n) complex64.

    Raises:
        AmbientSolveError: it cannot be read, or does not fit the coils.
    """
    noise = read_array(path, ("noise",), most)
    if not noise.ndim:
        raise UnreadableFile(path, f": the noise scan is a single number; complex ({coils}, n) was expected.")
    if noise.shape[0] != coils and noise.shape[-1] == coils:
        noise = np.moveaxis(noise, -1, 0)
    if noise.shape[0] != coils or not np.iscomplexobj(noise) or noise.size < 2 * coils * coils:
        raise UnreadableFile(
            path,
            f": the noise scan is {noise.dtype} {noise.shape}; complex ({coils}, n), n at least {2 * coils}, was "
            "expected.",
        )
    return noise.reshape(coils, -1).astype(np.complex64)


def arranged(data: np.ndarray, axes: str | None, where: str | Part) -> tuple[np.ndarray, tuple[str, ...]]:
    """K-space with its axes in one order.

    Args:
        data: Complex, or real with a last axis of 2 for real and imaginary part.
        axes: What its axes are, such as "chw" or "schw"; found from its shape by default.
        where: What an error names: the file, or an array in it.

    Returns:
        (slices, coils, H, W) complex, and sentences on what was assumed.

    Raises:
        AmbientSolveError: it is not complex, or the axes do not fit.
    """
    if not np.iscomplexobj(data):
        if data.shape[-1:] != (2,) or data.ndim < 4:
            raise UnreadableFile(
                where,
                f"is {data.dtype} {data.shape}: k-space is complex, or has a last axis of 2 for real and "
                "imaginary part.",
            )
        data = data[..., 0] + 1j * data[..., 1]
    notes: tuple[str, ...] = ()
    if axes is None:
        axes, choices = axes_of(data)
        if not axes:
            raise AmbiguousAxes(where, data.shape, choices or {"chw": "", "shw": ""})
        if axes not in ("hw", "schw"):
            notes = (f"the axes {data.shape} of the array were read as {', '.join(axes)}",)
    if len(axes) != data.ndim or set("hw") - set(axes) or set(axes) - set("schw") or len(set(axes)) < len(axes):
        raise WrongAxes(where, axes, data.shape)
    data = np.transpose(data, [axes.index(a) for a in "schw" if a in axes])
    for at, axis in enumerate("sc"):
        if axis not in axes:
            data = np.expand_dims(data, at)
    return data, notes


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[dict[str, Stored]]:
    """The arrays of an .npy, .npz or HDF5 file by name, read when they are asked for."""
    if path.suffix.lower() in (".h5", ".hdf5"):
        with open_hdf5(path) as file:
            yield stored_arrays(file)
        return
    with open_numpy(path, KSPACE[0]) as arrays:
        yield arrays


def _key(arrays: Mapping[str, Stored], key: str | None, known: tuple[str, ...], path: Path) -> str:
    names = list(arrays)
    found = next((n for n in ([key] if key else known) if n in names), None)
    if found is None and not key and len(names) == 1:
        found = names[0]
    if found is None:
        held = ", ".join(shown(n)[:40] for n in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise UnnamedArray(path, key or known[0], held)
    return found


def _known(arrays: Mapping[str, Stored], names: tuple[str, ...], path: Path, most: float) -> np.ndarray | None:
    found = next((n for n in names if n in arrays), None)
    return None if found is None else load(arrays[found], Part(found, path), most)


def _raw(arrays: Mapping[str, Stored], key: str | None, axes: str | None, path: Path, most: float) -> Raw:
    """k-space and what stands beside it, for arrays by name."""
    name = _key(arrays, key, KSPACE, path)
    where, found = Part(name, path), arrays[name]
    # Beside the array itself, where it is of another type: what is kept of it, complex64.
    copies = 0 if found.dtype == np.complex64 else 8 * math.prod(found.shape)
    references = [n for n in REFERENCES if n in arrays][: 0 if key else 1]
    check_bytes(found.bytes + copies + sum(arrays[n].bytes for n in references), where, most)
    data, notes = arranged(load(found, where, most), axes, where)
    slices, height, width = len(data), *data.shape[-2:]
    reference = None if key else _known(arrays, REFERENCES, path, most)
    if reference is not None:
        reference = np.abs(reference).astype(np.float32)
        reference = reference[None] if reference.ndim == 2 else reference
        if (
            reference.ndim != 3
            or len(reference) != slices
            or any(n > full for n, full in zip(reference.shape[1:], (height, width), strict=True))
        ):
            notes = (*notes, f"the reference {reference.shape} is of another size than k-space and was left out")
            reference = None
        elif not 1 / UNITS < (ratio := float(np.linalg.norm(reference) / np.linalg.norm(data))) < UNITS:
            notes = (*notes, f"the reference is {ratio:.2g} times as strong as k-space, in other units: left out")
            reference = None
    mask = None if key else _known(arrays, ("mask",), path, most)
    return Raw(data, False, mask, None, reference, None, notes)


def _hdf5(path: Path, key: str | None, axes: str | None, most: float) -> Raw:
    """fastMRI, where `kspace` is enough, or ISMRMRD."""
    with open_hdf5(path) as file:
        if not key and is_ismrmrd(file):
            return read_ismrmrd(file, path, most)
        arrays = stored_arrays(file)
        header = arrays.pop(HEADER, None)
        name = _key(arrays, key, KSPACE, path)
        if header is not None and len(arrays[name].shape) == 4:
            axes = axes or "schw"  # fastMRI
        if len(arrays[name].shape) == 3 and axes is None:
            meanings = {"shw": "slices of a single coil, as in fastMRI", "chw": "coils of a single slice"}
            raise AmbiguousAxes(Part(name, path), arrays[name].shape, meanings)
        raw = _raw(arrays, key, axes, path, most)
        fits = header is not None and not header.shape and header.bytes <= MAX_HEADER
        text = header.read()[()] if fits else ""
    return Raw(**{**raw.__dict__, "voxel": voxel_of(text.decode() if isinstance(text, bytes) else str(text))})


def _bart(stem: Path, most: float) -> Raw:
    """BART: the sizes in a text file, the numbers beside it; axes 0 to 2 are space, 3 the coils, 13 the slices."""
    header, numbers = stem.with_suffix(".hdr"), stem.with_suffix(".cfl")
    for part in (header, numbers):
        if not part.is_file():
            raise UnreadableFile(part, ": BART keeps an array in two files, .hdr and .cfl.", "There is no ")
    with readable(header), header.open() as file:
        lines = [row for row in file.read(MAX_TEXT).splitlines() if row and not row.startswith("#")]
        shape = [int(n) for n in lines[0].split()] if lines else []
    if not 0 < len(shape) <= 16 or min(shape) < 1:
        raise UnreadableFile(header, f"names no sizes that can be read: {str(shape)[:80]}.")
    check_bytes(8 * math.prod(shape), numbers, most)
    shape += [1] * (16 - len(shape))
    if numbers.stat().st_size != 8 * math.prod(shape):
        raise UnreadableFile(
            numbers,
            f"has {numbers.stat().st_size} bytes, {header.name} promises {8 * math.prod(shape)}: one of "
            "the two is not complete.",
        )
    if shape[2] > 1 or any(n > 1 for i, n in enumerate(shape) if i not in (0, 1, 2, 3, 13)):
        raise UnreadableFile(
            numbers,
            f"has the axes {[n for n in shape if n > 1]}; two-dimensional slices of several coils are "
            "expected: transform a three-dimensional scan along its third axis (bart fft -u -i 4) and take slices.",
        )
    data = np.fromfile(numbers, np.complex64).reshape(shape, order="F")
    return Raw(data.reshape(shape[0], shape[1], shape[3], shape[13], order="F").transpose(3, 2, 0, 1))


__all__ = ["LIMIT", "SUFFIXES", "Raw", "cropped_readout", "locate", "read", "read_array", "read_noise"]
