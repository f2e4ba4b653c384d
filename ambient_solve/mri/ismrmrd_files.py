"""ISMRMRD: Cartesian lines on their grid, the noise lines beside them, the oversampling of the readout taken off.

Read from HDF5 directly: the package `ismrmrd` opens files itself, for writing, and follows what leads out of them.
`deepinv.utils.io.load_ismrmrd_raw` keeps one slice, and drops the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason
from ambient_solve.reading.hdf5 import stored
from ambient_solve.reading.limits import check_bytes
from ambient_solve.reading.raw import Raw, readable

NOISE_LINE = 1 << 18
"""Flag of a line that was acquired without a signal: ACQ_IS_NOISE_MEASUREMENT, the 19th."""
FIRST_OF_EACH = ("repetition", "average", "contrast", "set", "phase")
"""Counters of a line of which only the value 0 is read."""
MAX_HEADER = 1_000_000
"""Characters of the largest XML header."""
AT_ONCE = 64
"""Lines that are read together."""


@dataclass(frozen=True)
class Header:
    """What is used of the XML header: sizes of the two spaces, the middle line, the size of a voxel in mm."""

    lines: int
    readout: int
    centre: int
    voxel: tuple[float, float, float] | None


def is_ismrmrd(file: Any) -> bool:
    """Whether an open HDF5 file holds lines as ISMRMRD stores them."""
    return "dataset" in file and "data" in file["dataset"]


def read_ismrmrd(file: Any, path: Path, most: float) -> Raw:
    """The scan of an ISMRMRD file.

    Args:
        file: The file as `open_hdf5` yields it.
        path: Its path, which errors name.
        most: Bytes that the scan may take.

    Returns:
        The scan as it is stored.

    Raises:
        AmbientSolveError: it holds no k-space, is too large, or is broken.
    """
    with readable(path):
        dataset = file["dataset"]
        header = read_header(_text(dataset, path), path)
        rows = dataset["data"]
        heads = _heads(rows, path, most)
        idx, noise = heads["idx"], heads["flags"] & NOISE_LINE != 0
        lines = np.flatnonzero(~noise)
        if not len(lines):
            raise UnreadableFile(path, "holds no line of k-space.")
        if idx["kspace_encode_step_2"][lines].any():
            raise UnreadableFile(
                path,
                "is a three-dimensional scan and two-dimensional slices are expected: transform it along its "
                "third axis, and store the slices.",
            )
        coils, samples = (int(heads[name][lines[0]]) for name in ("active_channels", "number_of_samples"))
        step, at = (idx[name].astype(int) for name in ("kspace_encode_step_1", "slice"))
        width = max(header.lines, 1 + int(step[lines].max()))
        shape = (1 + int(at[lines].max()), coils, samples, width)
        cropped = header.readout if 0 < header.readout < samples else 0
        heard_bytes = 8 * int((heads["active_channels"][noise].astype(int) * heads["number_of_samples"][noise]).sum())
        kept = 8 * math.prod(shape)
        check_bytes(kept + kept * cropped / max(samples, 1) + 2 * heard_bytes, path, most)
        column = step + (width // 2 - header.centre if header.centre else 0)
        first = np.logical_and.reduce([idx[name] == 0 for name in FIRST_OF_EACH])
        grid, heard = np.zeros(shape, np.complex64), []
        for i, line in _lines(rows, heads, path):
            if noise[i]:
                heard.append(line)
            elif first[i] and line.shape == (coils, samples) and 0 <= column[i] < width:
                grid[at[i], :, :, column[i]] = line
    repeated = bool(idx["repetition"][lines].any())
    notes = ("the first repetition alone was read",) if repeated else ()
    if cropped:
        grid = np.stack([cropped_readout(one, cropped) for one in grid])
        notes = (*notes, f"the readout was cropped from {samples} to {cropped}")
    return Raw(grid, noise=np.concatenate(heard, 1) if heard else None, voxel=header.voxel, notes=notes)


def cropped_readout(kspace: np.ndarray, rows: int) -> np.ndarray:
    """K-space without the oversampling of the readout, which is sampled in full.

    Args:
        kspace: (..., readout, W) complex.
        rows: Rows of the field of view to keep, those in the middle; at most `readout`.

    Returns:
        (..., rows, W) complex64.
    """
    axis, top = -2, (kspace.shape[-2] - rows) // 2
    pictures = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kspace, axis), axis=axis, norm="ortho"), axis)
    pictures = pictures[..., top : top + rows, :]
    kspace = np.fft.fftshift(np.fft.fft(np.fft.ifftshift(pictures, axis), axis=axis, norm="ortho"), axis)
    return kspace.astype(np.complex64)


def _text(dataset: Any, path: Path) -> str:
    xml = stored(dataset["xml"])
    if math.prod(xml.shape) != 1:
        raise UnreadableFile(path, f"has {math.prod(xml.shape)} XML headers; one was expected.")
    if xml.bytes > MAX_HEADER:
        raise UnreadableFile(path, f"has an XML header of {xml.bytes:g} bytes; at most {MAX_HEADER} are read.")
    found = dataset["xml"][(0,) * len(xml.shape)]
    return found.decode() if isinstance(found, bytes) else str(found)


def _heads(rows: Any, path: Path, most: float) -> np.ndarray:
    """The headers of all lines: small, and all that is needed to know how large the scan is."""
    names = rows.dtype.names or ()
    if not {"head", "data"} <= set(names) or rows.ndim != 1:
        raise UnreadableFile(path, "holds no lines as ISMRMRD stores them.")
    whole = stored(rows)
    # One line refers to its numbers, which lie elsewhere in the file.
    check_bytes(whole.bytes, path, most)
    return rows.fields("head")[()]


def _lines(rows: Any, heads: np.ndarray, path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Number and k-space (coils, samples) of every line."""
    for start in range(0, len(heads), AT_ONCE):
        for i, numbers in enumerate(rows.fields("data")[start : start + AT_ONCE], start):
            coils, samples = int(heads["active_channels"][i]), int(heads["number_of_samples"][i])
            if numbers.dtype != np.float32 or numbers.size != 2 * coils * samples:
                raise UnreadableFile(
                    path, f": line {i} has {numbers.size} numbers; {coils} coils of {samples} samples were promised."
                )
            yield i, np.ascontiguousarray(numbers).view(np.complex64).reshape(coils, samples)


def read_header(text: str, path: Path) -> Header:
    """What the XML header of an ISMRMRD file says.

    Args:
        text: The XML.
        path: The file, which errors name.

    Returns:
        The sizes of the encoded and the reconstructed space, the centre line and the voxel.

    Raises:
        AmbientSolveError: it is not XML, or does not give these sizes.
    """
    try:
        encoding = _child(_parsed(text), "encoding")
        encoded, wanted = (_child(_child(encoding, s), "matrixSize") for s in ("encodedSpace", "reconSpace"))
        limits = _child(_child(encoding, "encodingLimits"), "kspace_encoding_step_1")
        centre = _child(limits, "center")
        lines, readout = (int(_child(m, axis).text) for m, axis in ((encoded, "y"), (wanted, "x")))
        header = Header(lines, readout, 0 if centre is None else int(centre.text), _voxel(encoding))
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, AmbientSolveError):
            raise
        raise UnreadableFile(
            path,
            f"has an XML header that cannot be read ({reason(error)}); the sizes of encodedSpace and reconSpace "
            "were expected, as whole numbers.",
        ) from None
    if min(header.lines, header.readout) < 1:
        raise UnreadableFile(path, f"has an XML header with sizes of {header.lines} and {header.readout}.")
    return header


def voxel_of(header: str) -> tuple[float, float, float] | None:
    """Size of a voxel in mm from an ISMRMRD header, None where it does not tell; rows are the readout, its x."""
    try:
        return _voxel(_child(_parsed(header), "encoding"))
    except (ElementTree.ParseError, ValueError, TypeError, AttributeError):  # an AmbientSolveError is a ValueError
        return None


def _parsed(text: str) -> ElementTree.Element:
    if len(text) > MAX_HEADER or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise AmbientSolveError("The XML header is too long, or defines entities of its own, which are never read.")
    return ElementTree.fromstring(text)


def _child(element: ElementTree.Element | None, name: str) -> ElementTree.Element | None:
    """The first child of that name, whatever its namespace."""
    children = () if element is None else element
    return next((c for c in children if c.tag.rpartition("}")[2] == name), None)


def _voxel(encoding: ElementTree.Element | None) -> tuple[float, float, float] | None:
    space = _child(encoding, "encodedSpace")
    matrix, field = (_child(space, name) for name in ("matrixSize", "fieldOfView_mm"))
    if matrix is None or field is None:
        return None
    sizes = [[float(_child(s, axis).text) for axis in "xyz"] for s in (field, matrix)]
    voxel = tuple(f / max(n, 1) for f, n in zip(*sizes, strict=True))
    return voxel if all(0 < v < math.inf for v in voxel) else None
