"""`open_hdf5`: the one way into an HDF5 file, whose parts must all lie in that file.

HDF5 can name other files of the machine that reads it: as external storage of an array, as the source of a virtual one,
or behind a link. Whoever reads such a file would hand out what lies there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ambient_solve.errors import Part, UnreadableFile
from ambient_solve.reading.raw import Stored, module, readable

MAX_OBJECTS = 10_000
"""Groups, arrays and links of one file."""


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file read-only, once all its parts are known to lie in it.

    The file is opened once: what was checked is what is handed on.

    Args:
        path: The file.

    Yields:
        The open `h5py.File`.

    Raises:
        AmbientSolveError: it cannot be read, or a part of it lies in another file.
    """
    h5py = module("h5py")
    with readable(path), h5py.File(path, "r") as file:
        _check_links(h5py, file, path)
        yield file


def _check_links(h5py: Any, file: Any, path: Path) -> None:
    """Look at every link before anything follows it; what a soft link names is reached, and looked at, by itself."""
    pending, seen, links = [file.id], set(), 0
    while pending:
        group = pending.pop()
        links += group.get_num_objs()
        if links > MAX_OBJECTS:
            raise UnreadableFile(path, f"holds more than {MAX_OBJECTS} groups, arrays and links.")
        for name in list(group):
            called = Part(repr(name.decode(errors="replace")), path)
            kind = group.links.get_info(name).type
            if kind == h5py.h5l.TYPE_SOFT:
                continue
            if kind != h5py.h5l.TYPE_HARD:
                what = "a link to another file" if kind == h5py.h5l.TYPE_EXTERNAL else "a link of an unknown type"
                raise UnreadableFile(called, f"is {what}; store the array itself.")
            found = h5py.h5o.open(group, name)
            info = h5py.h5o.get_info(found)
            if (info.fileno, info.addr) in seen:
                continue
            seen.add((info.fileno, info.addr))
            if isinstance(found, h5py.h5d.DatasetID):
                _check_storage(h5py, found, called)
            elif isinstance(found, h5py.h5g.GroupID):
                pending.append(found)
            elif not isinstance(found, h5py.h5t.TypeID):
                raise UnreadableFile(called, "is neither a group nor an array.")


def _check_storage(h5py: Any, dataset: Any, called: Part) -> None:
    made = dataset.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL:
        raise UnreadableFile(called, "is a virtual array, made of other files; store the array itself.")
    if made.get_external_count():
        raise UnreadableFile(called, "keeps its numbers in another file; store the array itself.")


def stored_arrays(group: Any) -> dict[str, Stored]:
    """The arrays of a group by name, none of them read yet."""
    found = {name: group.get(name) for name in group}
    return {name: stored(item) for name, item in found.items() if getattr(item, "shape", None) is not None}


def stored(dataset: Any) -> Stored:
    """An array of a file that `open_hdf5` has opened."""
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError):  # a type that numpy does not have
        dtype = np.dtype(object)
    piece = 0.0 if dataset.chunks is None else math.prod(dataset.chunks) * dtype.itemsize
    return Stored(dataset.shape, dtype, lambda: np.asarray(dataset[()]), piece)
