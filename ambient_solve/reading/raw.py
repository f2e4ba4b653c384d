"""What the readers of scans share: the `Raw` they return, arrays that are measured before they are read, and words."""

from __future__ import annotations

import contextlib
import importlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from ambient_solve.errors import AmbientSolveError, Part, UnreadableFile, reason
from ambient_solve.reading.limits import check_bytes

LIMIT = 16e9
"""Bytes; a file that unpacks to more is refused before it is read."""
COILS = 8
"""Of k-space that is simulated from a magnitude."""
SIMULATED = 4 + 8 * COILS
"""Bytes of one pixel of a magnitude, and of the k-space that is simulated of it."""


@dataclass(frozen=True)
class Raw:
    """What a reader found in the file of a scan.

    Attributes:
        data: K-space (slices, coils, H, W) complex, or pictures (slices, 1, H, W) float32 where it is a `magnitude`.
        magnitude: Whether it is.
        mask: What was sampled, where the file says so.
        noise: A scan of noise alone, where the file holds one.
        reference: The file's own reconstruction, where it holds one.
        voxel: Sides of a voxel in mm, where the file says so.
        notes: What the reader should be aware of, in sentences.
    """

    data: np.ndarray
    magnitude: bool = False
    mask: np.ndarray | None = None
    noise: np.ndarray | None = None
    reference: np.ndarray | None = None
    voxel: tuple[float, float, float] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """An array in a file, known by its header; `held` is how many bytes the file has for it, infinite if unknown."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    piece: float = 0.0
    """Bytes of the largest piece in which the file keeps it, where that may be larger than the array."""
    held: float = math.inf

    @property
    def bytes(self) -> float:
        """What the array takes once it is read."""
        return max(math.prod(self.shape) * self.dtype.itemsize, self.piece)


def load(stored: Stored, where: str | Part, most: float, kinds: str = "biufc") -> np.ndarray:
    """Read an array once it is known that it fits.

    Args:
        stored: The array.
        where: What an error calls it.
        most: Bytes that it may take.
        kinds: The kinds of numpy types that are expected; numbers by default.

    Returns:
        The array.

    Raises:
        AmbientSolveError: it is of another type, too large, or longer than the file.
    """
    if stored.dtype.kind not in kinds or stored.dtype.itemsize == 0:
        raise UnreadableFile(where, f"is no array of numbers that can be read ({stored.dtype}).")
    check_bytes(stored.bytes, where, most)
    if stored.bytes > stored.held:
        raise UnreadableFile(
            where, f"promises {stored.shape} numbers, for which the file is too short; it is not all of it."
        )
    return stored.read()


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong in reading `path`, as a sentence."""
    wrong = (OSError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError)
    try:
        yield
    except AmbientSolveError:
        raise
    except MemoryError:
        raise UnreadableFile(path, "takes more memory to read than there is: give a part of it.") from None
    except (*wrong, NotImplementedError, zipfile.BadZipFile, zlib.error, SyntaxError) as error:
        raise UnreadableFile(
            path, f"cannot be read ({reason(error, path)}); it is no such file, or not all of it."
        ) from None


def module(name: str) -> ModuleType:
    """An optional package."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise AmbientSolveError(f"This file needs {name}: pip install 'ambient-solve[mri]'.") from None
