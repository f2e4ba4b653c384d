"""Writing files that last: safetensors, where a full disk is an `OSError` as for any other file, and text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write `tensors` to `path`, a safetensors file."""
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{path} cannot be written: {error}") from None


def reach_disk(path: Path) -> None:
    """Wait until `path`, a file or a folder, is on the disk: else a power cut after a rename leaves an empty file.

    A folder is passed over where the system opens none, as on Windows.
    """
    try:
        opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def replace_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    reach_disk(part)
    part.replace(path)
    reach_disk(path.parent)
