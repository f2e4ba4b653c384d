"""Color profiles (ICC): kept where a picture stays what it is, applied where its numbers are to mean what all do."""

from __future__ import annotations

import io
import itertools
from functools import lru_cache

from PIL import Image, ImageCms

from ambient_solve.reading.pictures import has_alpha

PROFILE = "icc_profile"
"""Key of `Image.info`."""
MAX_PROFILE = 4_000_000
"""Bytes of the largest profile that is used."""
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB"}
"""Mode of Pillow by the color space of a profile."""
ROUNDING = 2
"""Gray levels by which a profile may differ from sRGB and be the same."""


def profile_of(image: Image.Image, space: str) -> bytes:
    """The profile of a picture, where it belongs to numbers of a color space and says more than sRGB.

    Args:
        image: The picture.
        space: "RGB" or "GRAY".

    Returns:
        The profile; empty where there is none that matters.
    """
    content = image.info.get(PROFILE) or b""
    return content if content and _space(content) == space and _to_srgb(content) is not None else b""


def to_srgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """A picture with the numbers that it has in sRGB, and whether its profile changed them.

    Args:
        image: Any mode with 8 bits; one without a profile, or with one that cannot be used, stays as it is.
    """
    content = image.info.get(PROFILE) or b""
    transform = _to_srgb(content) if content else None
    if transform is None:
        return image, False
    alpha = image.convert("RGBA").getchannel("A") if has_alpha(image) else None
    mode = MODES[_space(content)]
    if mode in ("CMYK", "LAB") and image.mode != mode:
        return image, False
    gray = mode == "L" and image.mode in ("L", "LA", "1")
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    converted = converted.convert("L") if gray else converted
    if alpha is not None:
        converted.putalpha(alpha)
    converted.info = {k: v for k, v in image.info.items() if k not in (PROFILE, "transparency")}
    return converted, True


def _space(content: bytes) -> str:
    """The color space that a profile names in its header."""
    return content[16:20].decode("ascii", "replace").strip().upper()


@lru_cache(maxsize=8)
def _to_srgb(content: bytes) -> ImageCms.ImageCmsTransform | None:
    """The transform of a profile to sRGB; None where it cannot be used, or changes nothing."""
    mode = MODES.get(_space(content))
    if mode is None or len(content) > MAX_PROFILE:
        return None
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(content))
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB", 1)
        if mode not in ("RGB", "L"):
            return transform
        steps = [min(32 * i, 255) for i in range(9)]
        colors = bytes(v for color in itertools.product(steps, repeat=3) for v in color)
        before = Image.frombytes("RGB", (27, 27), colors)
        before = before if mode == "RGB" else before.convert("L")
        after = ImageCms.applyTransform(before, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    pairs = zip(before.convert("RGB").tobytes(), after.tobytes(), strict=True)
    return transform if max(abs(a - b) for a, b in pairs) > ROUNDING else None
