"""What every reader of files from others asks: is there room for it, does it stay in its folder, is it JSON at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import features

from ambient_solve.errors import AmbientSolveError, UnreadableFile, reason

FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"),
    *(("AVIF",) if features.check("avif") else ()),
    *(("JPEG2000",) if features.check("jpg_2000") else ()),
)
"""What is decoded at all; Pillow knows more, some of it (EPS) by starting another program. AVIF from Pillow 11.3 on."""
MAX_JSON = 4_000_000
"""Bytes of the largest JSON file, or line of one, that is parsed."""


def check_bytes(needed: float, what: object, most: float) -> None:
    """Raise unless a file will fit once it is read.

    Args:
        needed: Bytes that it takes; inf or nan where they are unknown.
        what: What the error calls it.
        most: Most bytes that it may take.

    Raises:
        AmbientSolveError: it takes more, or nobody knows how many.
    """
    if not needed <= most:
        size = f"{needed / 1e9:.1f} GB" if math.isfinite(needed) else "an unknown size"
        raise UnreadableFile(
            what,
            f"unpacks to {size}; at most {most / 1e9:g} GB are read at a time: give a part of it, such as fewer "
            "slices.",
        )


def parse_json(content: bytes | str, what: object) -> Any:
    """The value of a JSON text.

    Args:
        content: At most `MAX_JSON` characters or bytes of UTF-8.
        what: What the error calls it.

    Returns:
        The value.

    Raises:
        AmbientSolveError: it is too long, nested too deeply, or no JSON.
    """
    if len(content) > MAX_JSON:
        raise UnreadableFile(what, f"has {len(content)} bytes; at most {MAX_JSON} are read.")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UnreadableFile(what, f"is not readable JSON: {reason(error)}.") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file; see `parse_json`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON + 1)
    except OSError as error:
        raise UnreadableFile(path, f"cannot be read: {reason(error)}.") from None
    return parse_json(content, path)


def inside(folder: Path, name: Any, follow_outside: bool = False) -> Path:
    """The file `name` of `folder`, as a table of `folder` calls it.

    Args:
        folder: Where the table lies.
        name: What the table calls the file.
        follow_outside: Whether the file may lie outside: by an absolute name, `..` or a symbolic link.

    Returns:
        The path.

    Raises:
        AmbientSolveError: no name, or one that leads out of the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise AmbientSolveError(f"{name!r} is no name of a file.")
    path = folder / name
    try:
        within = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        within = False
    if not follow_outside and not within:
        raise AmbientSolveError(
            f"{name!r} leads out of the folder of its table: put the file into the folder, or, if you trust the table, "
            "set follow_outside."
        )
    return path
