"""The file formats of `read_scan`: each returns a `Raw`, and says in one sentence what is wrong with a file."""

from __future__ import annotations

import contextlib
import importlib
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ambient_solve.errors import AmbientSolveError

SUFFIXES = (".h5", ".hdf5", ".cfl", ".npy", ".npz", ".nii", ".nii.gz", ".dcm")
KSPACE = ("kspace", "ksp", "k_space", "y", "data")
REFERENCES = ("reference", "reconstruction_rss", "reconstruction_esc", "target", "gt")
MANY = 64
"""An array of three axes has its coils along an axis of at most this and half the other lengths."""
LIMIT = 16e9
"""Bytes; an array that claims more is refused before it is read."""


@dataclass(frozen=True)
class Raw:
    """`data` is (slices, coils, H, W) complex, or (slices, 1, H, W) float32 where it is a `magnitude`."""

    data: np.ndarray
    magnitude: bool = False
    mask: np.ndarray | None = None
    noise: np.ndarray | None = None
    reference: np.ndarray | None = None
    voxel: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()


def read(path: str | Path, axes: str | None = None) -> Raw:
    """Read `path`, or the array KEY of `PATH:KEY`, whatever its format."""
    path, key = locate(path)
    name = path.name.lower()
    if path.is_dir():
        return _dicom(sorted(p for p in path.iterdir() if p.suffix.lower() == ".dcm"), path)
    if name.endswith((".h5", ".hdf5")):
        return _hdf5(path, key, axes)
    if name.endswith((".cfl", ".hdr")):
        return _bart(path.with_suffix(""))
    if name.endswith((".npy", ".npz")):
        return _numpy(path, key, axes)
    if name.endswith((".nii", ".nii.gz")):
        return _nifti(path)
    if name.endswith(".dcm"):
        return _dicom([path], path)
    raise AmbientSolveError(f"{path} is no scan by its name; known are {', '.join(SUFFIXES)} and folders of DICOM.")


def locate(path: str | Path) -> tuple[Path, str | None]:
    """The file and, behind a colon, the name of an array in it."""
    key = None
    if not Path(path).exists() and ":" in str(path):
        path, _, key = str(path).rpartition(":")
    path = Path(path)
    known = path.exists() or path.with_suffix(".cfl").exists()
    if not known:
        raise AmbientSolveError(f"There is no file {path}.")
    return path, key


def read_array(path: str | Path, keys: tuple[str, ...]) -> np.ndarray:
    """The array of an .npy file, or the one of an .npz file that is called one of `keys`."""
    path, key = locate(path)
    with _arrays(path) as arrays:
        return np.asarray(arrays[_key(arrays, key, keys, path)])


def read_noise(path: str | Path, coils: int) -> np.ndarray:
    """A noise scan, complex64 (coils, n), from an array that has the coils along its first or its last axis."""
    noise = read_array(path, ("noise",))
    if noise.shape[0] != coils and noise.shape[-1] == coils:
        noise = np.moveaxis(noise, -1, 0)
    if noise.shape[0] != coils or not np.iscomplexobj(noise) or noise.size < 2 * coils * coils:
        raise AmbientSolveError(
            f"{path}: the noise scan is {noise.dtype} {noise.shape}; complex ({coils}, n), n at least {2 * coils}, was "
            "expected."
        )
    return noise.reshape(coils, -1).astype(np.complex64)


def arranged(data: np.ndarray, axes: str | None, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """`data` as (slices, coils, H, W), and what was assumed. Two reals beside each other are one complex number."""
    if not np.iscomplexobj(data):
        if data.shape[-1:] != (2,) or data.ndim < 4:
            raise AmbientSolveError(
                f"{where} is {data.dtype} {data.shape}: k-space is complex, or has a last axis of 2 for real and "
                "imaginary part."
            )
        data = data[..., 0] + 1j * data[..., 1]
    notes: tuple[str, ...] = ()
    if axes is None:
        axes = {2: "hw", 4: "schw"}.get(data.ndim)
        short = [i for i, n in enumerate(data.shape) if n <= MANY and sum(m >= 2 * n for m in data.shape) == 2]
        if data.ndim == 3 and len(short) == 1:
            axes = "hw"[: short[0]] + "c" + "hw"[short[0] :]
            notes = (f"the axes {data.shape} of the array were read as {', '.join(axes)}",)
        if axes is None:
            raise AmbientSolveError(
                f"{where} has the axes {data.shape}, and which are slices, coils, height and width is not plain; say "
                'so, as axes="chw" or axes="shw". A three-dimensional scan is transformed along its third axis first.'
            )
    if len(axes) != data.ndim or set("hw") - set(axes) or set(axes) - set("schw") or len(set(axes)) < len(axes):
        raise AmbientSolveError(f'axes={axes!r} does not name the axes {data.shape} of {where}; give such as "chw".')
    data = np.transpose(data, [axes.index(a) for a in "schw" if a in axes])
    for at, axis in enumerate("sc"):
        if axis not in axes:
            data = np.expand_dims(data, at)
    return data, notes


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[dict[str, Any]]:
    """The arrays of an .npy, .npz or HDF5 file by name, read when they are asked for."""
    with _readable(path):
        if path.suffix.lower() in (".h5", ".hdf5"):
            with _module("h5py").File(path, "r") as found:
                yield found
            return
        found = np.load(path, allow_pickle=False)
        yield {"kspace": found} if isinstance(found, np.ndarray) else found


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What goes wrong in reading `path`, as a sentence."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, AmbientSolveError):
            raise
        reason = " ".join(str(error).split())[:160].rstrip(".")
        raise AmbientSolveError(f"{path} cannot be read ({reason}); it is no such file, or not all of it.") from None


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise AmbientSolveError(f"This file needs {name}: pip install 'ambient-solve[mri]'.") from None


def _key(arrays: Any, key: str | None, known: tuple[str, ...], path: Path) -> str:
    names = list(arrays.keys())
    found = next((n for n in ([key] if key else known) if n in names), None)
    if found is None and not key and len(names) == 1:
        found = names[0]
    if found is None:
        raise AmbientSolveError(
            f"{path} has no {key or known[0]!r}; it holds {', '.join(names) or 'nothing'}: name one as {path}:KEY."
        )
    return found


def _known(arrays: Any, names: tuple[str, ...]) -> np.ndarray | None:
    found = next((n for n in names if n in arrays.keys()), None)
    return None if found is None else np.asarray(arrays[found])


def _raw(arrays: Any, key: str | None, axes: str | None, path: Path) -> Raw:
    """k-space and what stands beside it, for arrays by name."""
    name = _key(arrays, key, KSPACE, path)
    if not hasattr(arrays[name], "dtype") or arrays[name].size * 16 > LIMIT:
        raise AmbientSolveError(f"{name} of {path} is no array that can be read.")
    data, notes = arranged(np.asarray(arrays[name]), axes, f"{name} of {path}")
    slices, height, width = len(data), *data.shape[-2:]
    reference = None if key else _known(arrays, REFERENCES)
    if reference is not None:
        reference = np.abs(reference).astype(np.float32)
        reference = reference[None] if reference.ndim == 2 else reference
        if reference.shape != (slices, height, width):
            # fastMRI keeps references of the middle of the field of view alone.
            notes = (*notes, f"the reference {reference.shape} is of another size than k-space and was left out")
            reference = None
    return Raw(data, False, None if key else _known(arrays, ("mask",)), None, reference, None, notes)


def _numpy(path: Path, key: str | None, axes: str | None) -> Raw:
    with _arrays(path) as arrays:
        return _raw(arrays, key, axes, path)


def _hdf5(path: Path, key: str | None, axes: str | None) -> Raw:
    """fastMRI, where `kspace` is enough, or ISMRMRD."""
    with _arrays(path) as arrays:
        lines = not key and "dataset" in arrays and "data" in arrays["dataset"]
    if lines:
        return _ismrmrd(path)
    with _arrays(path) as arrays:
        name = _key({k: v for k, v in arrays.items() if hasattr(v, "shape")}, key, KSPACE, path)
        if arrays[name].ndim == 3 and axes is None:
            raise AmbientSolveError(
                f'{name} of {path} has the axes {arrays[name].shape}: say axes="shw" (slices of a single coil, as in '
                'fastMRI) or axes="chw" (coils of a single slice).'
            )
        raw = _raw(arrays, key, axes, path)
        header = arrays["ismrmrd_header"][()] if "ismrmrd_header" in arrays else b""
    return Raw(**{**raw.__dict__, "voxel": _voxel(header.decode() if isinstance(header, bytes) else str(header))})


def _voxel(header: str) -> tuple[float, float, float] | None:
    """Size of a voxel in mm from an ISMRMRD header; rows are the readout, its x."""
    encoded = re.search(r"<encodedSpace>(.*?)</encodedSpace>", header, re.DOTALL)
    if not encoded:
        return None
    space = [re.search(rf"<{tag}>(.*?)</{tag}>", encoded[1], re.DOTALL) for tag in ("matrixSize", "fieldOfView_mm")]
    numbers = [[re.search(rf"<{axis}>\s*([\d.]+)", s[1]) for axis in "xyz"] for s in space if s]
    if len(numbers) < 2 or not all(map(all, numbers)):
        return None
    matrix, field = ([float(m[1]) for m in row] for row in numbers)
    return tuple(f / max(n, 1) for f, n in zip(field, matrix, strict=True))


def _ismrmrd(path: Path) -> Raw:
    """Cartesian lines on their grid, the noise lines beside them, the oversampling of the readout taken off.

    Read line by line: `deepinv.utils.io.load_ismrmrd_raw` keeps one slice, and drops the noise.
    """
    ismrmrd = _module("ismrmrd")
    with _readable(path), ismrmrd.Dataset(str(path), create_if_needed=False) as dataset:
        header = dataset.read_xml_header().decode()
        lines = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
    heard = [a.data for a in lines if a.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    lines = [a for a in lines if not a.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)]
    if not lines:
        raise AmbientSolveError(f"{path} holds no line of k-space.")
    if any(a.idx.kspace_encode_step_2 for a in lines):
        raise AmbientSolveError(
            f"{path} is a three-dimensional scan and two-dimensional slices are expected: transform it along its third "
            "axis, and store the slices."
        )
    encoding = ismrmrd.xsd.CreateFromDocument(header).encoding[0]
    samples, coils = lines[0].data.shape[1], lines[0].data.shape[0]
    width = max(encoding.encodedSpace.matrixSize.y, 1 + max(a.idx.kspace_encode_step_1 for a in lines))
    limits = encoding.encodingLimits.kspace_encoding_step_1
    shift = width // 2 - limits.center if limits is not None and limits.center else 0
    grid = np.zeros((1 + max(a.idx.slice for a in lines), coils, samples, width), np.complex64)
    for a in lines:
        first = a.idx.repetition == a.idx.average == a.idx.contrast == a.idx.set == a.idx.phase == 0
        column = a.idx.kspace_encode_step_1 + shift
        if first and a.data.shape == (coils, samples) and 0 <= column < width:
            grid[a.idx.slice, :, :, column] = a.data
    notes = () if all(a.idx.repetition == 0 for a in lines) else ("the first repetition alone was read",)
    wanted = encoding.reconSpace.matrixSize.x
    if 0 < wanted < samples:
        grid, notes = cropped_readout(grid, wanted), (*notes, f"the readout was cropped from {samples} to {wanted}")
    noise = np.concatenate(heard, 1).astype(np.complex64) if heard else None
    return Raw(grid, noise=noise, voxel=_voxel(header), notes=notes)


def cropped_readout(kspace: np.ndarray, rows: int) -> np.ndarray:
    """The middle `rows` of the field of view along the readout, which is sampled in full."""
    axis, top = -2, (kspace.shape[-2] - rows) // 2
    pictures = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axis), axis=axis, norm="ortho"), axis)
    pictures = pictures[..., top : top + rows, :]
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(pictures, axis), axis=axis, norm="ortho"), axis)
    return kspace.astype(np.complex64)


def _bart(stem: Path) -> Raw:
    """BART: the sizes in a text file, the numbers beside it; axes 0 to 2 are space, 3 the coils, 13 the slices."""
    header, numbers = stem.with_suffix(".hdr"), stem.with_suffix(".cfl")
    for part in (header, numbers):
        if not part.is_file():
            raise AmbientSolveError(f"There is no {part}: BART keeps an array in two files, .hdr and .cfl.")
    with _readable(header):
        lines = [row for row in header.read_text().splitlines() if row and not row.startswith("#")]
        shape = [int(n) for n in lines[0].split()] if lines else []
    if not shape or min(shape) < 1 or 8 * np.prod(shape, dtype=float) > LIMIT:
        raise AmbientSolveError(f"{header} names no sizes that can be read: {shape}.")
    shape += [1] * (16 - len(shape))
    if numbers.stat().st_size != 8 * np.prod(shape):
        raise AmbientSolveError(
            f"{numbers} has {numbers.stat().st_size} bytes, {header.name} promises {8 * int(np.prod(shape))}: one of "
            "the two is not complete."
        )
    if shape[2] > 1 or any(n > 1 for i, n in enumerate(shape) if i not in (0, 1, 2, 3, 13)):
        raise AmbientSolveError(
            f"{numbers} has the axes {[n for n in shape if n > 1]}; two-dimensional slices of several coils are "
            "expected: transform a three-dimensional scan along its third axis (bart fft -u -i 4) and take slices."
        )
    data = np.fromfile(numbers, np.complex64).reshape(shape, order="F")
    return Raw(data.reshape(shape[0], shape[1], shape[3], shape[13], order="F").transpose(3, 2, 0, 1))


def _nifti(path: Path) -> Raw:
    nibabel = _module("nibabel")
    try:
        image = nibabel.load(path)
        shape = image.shape
        data = np.abs(np.asarray(image.dataobj)) if len(shape) in (2, 3) else None
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise AmbientSolveError(f"{path} cannot be read ({' '.join(str(error).split())[:160]}).") from None
    if data is None:
        raise AmbientSolveError(f"{path} has the axes {shape}; one volume, (H, W) or (H, W, slices), was expected.")
    data = data.astype(np.float32).reshape(*shape, *(1,) * (3 - len(shape)))
    zooms = tuple(float(n) for n in image.header.get_zooms())
    # Rows of the file are x: turned, so that the slices lie as viewers show them.
    slices = np.ascontiguousarray(np.rot90(data).transpose(2, 0, 1))
    voxel = (zooms[1], zooms[0], zooms[2] if len(zooms) > 2 else 1.0)
    return Raw(slices[:, None], magnitude=True, voxel=voxel)


def _dicom(paths: list[Path], where: Path) -> Raw:
    """Pixels and their size; no other tag is read but the place of a slice in its series."""
    pydicom = _module("pydicom")
    if not paths:
        raise AmbientSolveError(f"The folder {where} holds no DICOM file (.dcm).")
    tags = ["PixelSpacing", "SliceThickness", "InstanceNumber"]
    found = []
    for path in paths:
        try:
            data = pydicom.dcmread(path)
            pixels = np.asarray(data.pixel_array, np.float32)
        except (pydicom.errors.InvalidDicomError, OSError, EOFError, ValueError, AttributeError, KeyError) as error:
            raise AmbientSolveError(f"{path} cannot be read ({' '.join(str(error).split())[:120]}).") from None
        if pixels.ndim == 3 and data.get("SamplesPerPixel", 1) == 1:
            pixels = list(pixels)
        elif pixels.ndim == 2:
            pixels = [pixels]
        else:
            raise AmbientSolveError(f"{path} has pixels {pixels.shape}; grey slices were expected.")
        found += [(int(data.get(tags[2]) or 0), i, p) for i, p in enumerate(pixels)]
        spacing = [float(n) for n in data.get(tags[0]) or (1, 1)]
        voxel = (*spacing, float(data.get(tags[1]) or 1))
    if len({p.shape for _, _, p in found}) > 1:
        raise AmbientSolveError(f"The slices of {where} have different sizes; give one series at a time.")
    slices = np.stack([p for _, _, p in sorted(found, key=lambda row: row[:2])])
    return Raw(slices[:, None], magnitude=True, voxel=voxel)
