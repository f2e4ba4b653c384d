"""ISMRMRD: Cartesian lines on their grid, the noise lines beside them, the oversampling of the readout taken off.

Read from HDF5 directly: the package `ismrmrd` opens files itself, for writing, and follows what leads out of them.
`deepinv.utils.io.load_ismrmrd_raw` keeps one slice, and drops the noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ambient_solve.errors import UnreadableFile
from ambient_solve.mri.ismrmrd_header import MAX_HEADER, read_header
from ambient_solve.mri.ismrmrd_lines import Lines, chosen_lines
from ambient_solve.reading.hdf5 import stored
from ambient_solve.reading.limits import check_bytes
from ambient_solve.reading.raw import Raw, readable

AT_ONCE = 64
"""Lines that are read together."""


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
        lines = chosen_lines(heads, header)
        if lines is None:
            raise UnreadableFile(path, "holds no line of k-space.")
        if heads["idx"]["kspace_encode_step_2"][lines.used].any():
            raise UnreadableFile(
                path,
                "is a three-dimensional scan and two-dimensional slices are expected: transform it along its "
                "third axis, and store the slices.",
            )
        samples = lines.shape[2]
        cropped = header.readout if 0 < header.readout < samples else 0
        quiet = lines.noise & (heads["active_channels"] == lines.shape[1])
        heard_bytes = 8 * int((heads["active_channels"][quiet].astype(int) * heads["number_of_samples"][quiet]).sum())
        kept = 8 * math.prod(lines.shape)
        check_bytes(kept * (1 + 1 / 8) + kept * cropped / samples + 2 * heard_bytes, path, most)
        grid, times, heard = _gridded(rows, heads, lines, quiet, path)
    notes = lines.notes
    most_times, fewest = (int(f(times[times > 0])) for f in (np.max, np.min))
    if most_times > 1:
        each = f"{most_times} times" if most_times == fewest else f"{fewest} to {most_times} times"
        notes = (*notes, f"lines were acquired {each} and averaged")
    if cropped:
        grid = np.stack([cropped_readout(one, cropped) for one in grid])
        notes = (*notes, f"the readout was cropped from {samples} to {cropped}")
    noise = np.concatenate(heard, 1) * _louder(heads, lines, quiet, times) if heard else None
    return Raw(grid, noise=noise, voxel=header.voxel, notes=notes)


def _gridded(
    rows: Any, heads: np.ndarray, lines: Lines, quiet: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Lines on their grid, averaged, how many there were of each of its samples, and the lines of noise."""
    slices, _, samples, width = lines.shape
    grid, times, heard = np.zeros(lines.shape, np.complex64), np.zeros((slices, samples, width), np.uint16), []
    for i, line in _lines(rows, heads, path):
        if quiet[i]:
            heard.append(line)
        elif lines.used[i]:
            line = line[:, lines.first[i] : lines.last[i]]
            line = line[:, ::-1] if lines.reversed[i] else line
            at, column, span = lines.slice[i], lines.column[i], slice(lines.start[i], lines.start[i] + line.shape[1])
            grid[at, :, span, column] += line
            times[at, span, column] += 1
    grid /= np.maximum(times, 1)[:, None]
    return grid, times, heard


def _louder(heads: np.ndarray, lines: Lines, quiet: np.ndarray, times: np.ndarray) -> np.float32:
    """The noise of the averaged lines over that of the lines of noise: fewer averages, or a wider band, are louder."""
    long, short = (float(np.median(heads["sample_time_us"][which])) for which in (quiet, lines.used))
    band = (long / short) ** 0.5 if long > 0 and short > 0 else 1.0
    return np.float32(band / float(np.median(times[times > 0])) ** 0.5)


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
