"""Files: a full disk is an `OSError` whatever is written, and no result overwrites a file.

torch is imported by whoever has a tensor to write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Write tensors to a file.

    Args:
        tensors: By name.
        path: A safetensors file.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

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
    """Write a file, whole or not at all.

    Args:
        path: The file.
        text: What it holds afterwards.
    """
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    reach_disk(part)
    part.replace(path)
    reach_disk(path.parent)


def save_png(picture: Tensor, path: Path, text: str = "", profile: bytes = b"") -> None:
    """Write a picture as an 8-bit PNG.

    Args:
        picture: (1 or 3, H, W) in [0, 1]; what lies outside is clipped.
        path: The file to write.
        text: Stored in the file under the key "ambient_solve"; empty for none.
        profile: Colour profile (ICC) of its numbers; empty for sRGB. Where it is one of grey values, the picture, whose
            channels are equal, is stored as grey.
    """
    import numpy as np
    import torch
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    array = (picture.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    grey = len(array) == 1 or (profile[16:20] == b"GRAY" and bool((array == array[:1]).all()))
    image = Image.fromarray(np.ascontiguousarray(array[0] if grey else array.transpose(1, 2, 0)))
    info = PngInfo()
    if text:
        info.add_text("ambient_solve", text)
    fits = profile[16:20] == (b"GRAY" if grey else b"RGB ")
    extra: dict[str, Any] = {"icc_profile": profile} if fits else {}
    image.save(path, pnginfo=info, **extra)


def check_folder(out: Path) -> None:
    """Raise where `out` cannot be a folder for results."""
    blocked = next((p for p in (out, *out.parents) if p.exists()), None)
    if blocked is not None and not blocked.is_dir():
        raise AmbientSolveError(f"{blocked} is a file; a folder was expected for the results.")
