"""`.npy` and `.npz` files of others: their headers first, and an array once there is room for it."""

from __future__ import annotations

import contextlib
import io
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ambient_solve.errors import UnreadableFile
from ambient_solve.reading.archives import open_zip
from ambient_solve.reading.raw import Stored, readable

MAX_HEADER = 10_000
"""Bytes of the longest header of an array, which is as much as NumPy parses; it would read 4 GB before it says so."""


@contextlib.contextmanager
def open_numpy(path: Path, alone: str = "data") -> Iterator[dict[str, Stored]]:
    """Open an `.npy` or `.npz` file without unpickling anything.

    Args:
        path: The file.
        alone: Name for the one array of an `.npy` file.

    Yields:
        Its arrays by name, none of them read yet.

    Raises:
        AmbientSolveError: it is no such file.
    """
    with readable(path):
        if zipfile.is_zipfile(path):
            with open_zip(path, path) as archive:
                names = (m for m in archive.infolist() if m.filename.endswith(".npy"))
                yield {m.filename.removesuffix(".npy"): _member(archive, m) for m in names}
            return
        with path.open("rb") as file:
            if file.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
                raise UnreadableFile(path, "cannot be read; it is no such file, or not all of it.")
            file.seek(0)
            shape, dtype = _header(file, path)
            held = path.stat().st_size - file.tell()

            def read() -> np.ndarray:
                file.seek(0)
                return np.lib.format.read_array(file, allow_pickle=False)

            yield {alone: Stored(shape, dtype, read, held=held)}


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    with archive.open(member) as file:
        shape, dtype = _header(file, member.filename)

    def read() -> np.ndarray:
        with archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return Stored(shape, dtype, read, held=member.file_size)


def _header(file: BinaryIO | Any, name: object) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array that follows; of a header that is too long, nothing is read."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise UnreadableFile(name, f"has a header of version {version}; 1.0 or 2.0, as of numbers, was expected.")
    length = file.read(2 if version == (1, 0) else 4)
    size = int.from_bytes(length, "little")
    if size > MAX_HEADER:
        raise UnreadableFile(name, f"claims a header of {size} bytes; at most {MAX_HEADER} are read.")
    try:
        shape, _, dtype = readers[version](io.BytesIO(length + file.read(size)))
    except (SyntaxError, tokenize.TokenError) as error:  # of a text that is no header; the rest is a ValueError
        kind = type(error).__name__
        raise UnreadableFile(name, f"cannot be read; its header is no text of NumPy ({kind}).") from None
    if any(type(n) is not int or n < 0 for n in shape):
        raise UnreadableFile(name, f"has the axes {shape}.")
    return shape, dtype
