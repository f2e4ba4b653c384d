"""Opening zip files of others: their directory is measured before it is read, their entries before they are listed."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ambient_solve.errors import UnreadableFile

MAX_ENTRIES = 10_000
"""Most entries of a zip file."""
MAX_DIRECTORY = 4_000_000
"""Bytes of the list of entries at the end of the file; Python keeps some fifteen times as many of it."""


class _Measured:
    """A file whose reads are refused beyond `most` bytes, as long as there is a `most`."""

    def __init__(self, file: BinaryIO, name: str | Path) -> None:
        self.file, self.name, self.most = file, name, MAX_DIRECTORY

    def read(self, size: int = -1) -> bytes:
        if not self.most:
            return self.file.read(size)
        content = self.file.read(min(size, self.most + 1) if size >= 0 else self.most + 1)
        if len(content) > self.most:
            raise UnreadableFile(
                self.name, f"has a list of more than {MAX_ENTRIES} entries: pack fewer files into one archive."
            )
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        return True


@contextlib.contextmanager
def open_zip(path: Path, name: str | Path, max_entries: int = MAX_ENTRIES) -> Iterator[zipfile.ZipFile]:
    """Open a zip file, once it is known to hold few enough entries.

    Args:
        path: The file.
        name: What an error calls it.
        max_entries: Most entries that it may hold.

    Yields:
        The open archive.

    Raises:
        AmbientSolveError: it holds more.
        zipfile.BadZipFile: it is not a zip file.
    """
    with path.open("rb") as file:
        measured = _Measured(file, name)
        with zipfile.ZipFile(measured) as archive:
            measured.most = 0
            if len(archive.infolist()) > max_entries:
                raise UnreadableFile(name, f"holds {len(archive.infolist())} entries; at most {max_entries} are read.")
            yield archive
