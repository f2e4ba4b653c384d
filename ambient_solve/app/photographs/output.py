"""Restored pictures as files: PNG, JPEG, WebP or TIFF, with the EXIF, the color profile and the alpha of their source.

Each says in its EXIF what it was made of, so that a restored picture that is put in again is known.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ambient_solve.app.folders import MAX_PIXELS, tame
from ambient_solve.reading.limits import FORMATS
from ambient_solve.reading.pictures import has_alpha, open_image
from ambient_solve.restore.recipe import KEY

KINDS = {"PNG": ".png", "JPEG": ".jpg", "WebP": ".webp", "TIFF": ".tif"}
"""Formats of the downloaded picture, with their suffixes."""
SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WebP": {"quality": 95},
    "TIFF": {"compression": "raw"},  # what compresses does not write the EXIF
}
"""How Pillow writes each of them."""
ORIENTATION, SOFTWARE, EXIF_IFD = 0x0112, 0x0131, 0x8769
"""Tags of EXIF: how the picture lies, the program, and the part about the photograph."""
PIXELS = (0xA002, 0xA003)
"""Tags of that part: width and height of the picture."""
WRITTEN_BY = "ambient_solve "
"""What the tag of the program begins with."""
MOST = 1000
"""Characters of the longest record of a source that is read."""


@dataclass(frozen=True)
class RestoredFrom:
    """What a restored picture was made of.

    Attributes:
        name: Of the file.
        sha256: Of its content.
    """

    name: str
    sha256: str


def file_hash(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_of(path: str | Path) -> RestoredFrom | None:
    """What a picture was restored from, as it says itself; None where it says nothing."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:  # a PNG is decoded to find its EXIF
                return None
            text = image.getexif().get(SOFTWARE)
        if not isinstance(text, str) or not text.startswith(WRITTEN_BY) or len(text) > MOST:
            return None
        record = json.loads(text[len(WRITTEN_BY) :].rstrip("\0"))
        found = RestoredFrom(tame(record["name"]), record["sha256"])
        return found if isinstance(found.sha256, str) and len(found.sha256) == 64 else None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, RecursionError, Image.DecompressionBombError):
        return None


def transparency(path: Path) -> np.ndarray | None:
    """The alpha of a picture, upright, (H, W) uint8; None where every pixel is opaque."""
    with Image.open(path, formats=FORMATS) as image:
        if not has_alpha(image):
            return None
    alpha = np.asarray(open_image(path, MAX_PIXELS).convert("RGBA").getchannel("A"))
    return alpha if (alpha < 255).any() else None


def write(
    x: np.ndarray, path: Path, kind: str, source: Path, *, recipe: str = "", profile: bytes = b"", filled: Any = None
) -> Path:
    """Write a restored picture.

    Args:
        x: (H, W, 1 or 3), 0 to 1; what lies outside is clipped.
        path: The file, without the suffix, which is that of its kind.
        kind: One of KINDS.
        source: The picture that was restored; its EXIF, its resolution and its alpha are kept.
        recipe: Written into a PNG; empty for none.
        profile: Color profile (ICC) of the numbers; empty for sRGB.
        filled: Pixels that were missing, (H, W) True = missing, which are opaque now; None where there are none.

    Returns:
        The path of the file.
    """
    array = (np.clip(x, 0, 1) * 255).round().astype(np.uint8)
    gray = array.shape[-1] == 1 or (profile[16:20] == b"GRAY" and bool((array == array[..., :1]).all()))
    image = Image.fromarray(array[..., 0] if gray else array)
    alpha = transparency(source) if kind != "JPEG" and source.is_file() else None
    if alpha is not None:
        layer = Image.fromarray(alpha)
        if layer.size != image.size:
            layer = layer.resize(image.size, Image.Resampling.BICUBIC)
        if filled is not None:
            layer = Image.fromarray(np.where(filled, np.uint8(255), np.asarray(layer)))
        image.putalpha(layer)
    settings = dict(SETTINGS[kind])
    if profile[16:20] == (b"GRAY" if gray else b"RGB "):
        settings["icc_profile"] = profile
    exif, resolution = _exif(source, image.size)
    settings["exif"] = exif if kind == "TIFF" else exif.tobytes()
    if resolution is not None and kind != "WebP":
        settings["dpi"] = resolution
    if kind == "PNG" and recipe:
        settings["pnginfo"] = PngInfo()
        settings["pnginfo"].add_text(KEY, recipe)
    path = path.with_name(path.name + KINDS[kind])
    image.save(path, "TIFF" if kind == "TIFF" else kind, **settings)
    return path


def _exif(source: Path, size: tuple[int, int]) -> tuple[Image.Exif, tuple[float, float] | None]:
    """The EXIF of a source for a restored picture of this size, which stands upright; and its dots per inch."""
    exif, resolution = Image.Exif(), None
    if source.is_file():
        with Image.open(source, formats=FORMATS) as image:
            found, resolution = image.getexif(), image.info.get("dpi")
            if image.format != "TIFF":  # whose tags say how its pixels are stored
                exif.load(found.tobytes())
            else:
                for part in (EXIF_IFD, 0x8825):
                    if inner := found.get_ifd(part):
                        exif.get_ifd(part).update(inner)
                for tag in (0x010E, 0x010F, 0x0110, 0x0132, 0x013B, 0x8298):
                    if tag in found:
                        exif[tag] = found[tag]
        exif.pop(ORIENTATION, None)
        inner = exif.get_ifd(EXIF_IFD)
        for tag, pixels in zip(PIXELS, size, strict=True):
            if tag in inner:
                inner[tag] = pixels
        record = asdict(RestoredFrom(tame(source.name), file_hash(source)))
        exif[SOFTWARE] = WRITTEN_BY + json.dumps(record)
    return exif, resolution
