"""The picture that one paints on: what its canvas (painter.js) is given, and what it gives back."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ambient_solve.errors import AmbientSolveError

FOLDER = Path(__file__).parent
"""Folder of the files below."""
TEMPLATE = (FOLDER / "painter.html").read_text()
"""HTML of the painter."""
SCRIPT = "".join((FOLDER / name).read_text() for name in ("masks.js", "view.js", "photographs/painter.js"))
"""JavaScript of the painter."""
ROSE = (216, 27, 96)
"""Colour of what is painted, RGB from 0 to 255; that of painter.js."""
HEAD = "data:image/png;base64,"
"""First characters of the address of a picture that is part of the page."""
LONGEST = 4096
"""Longest side of the picture that is painted on, in pixels; of a larger one it is a copy."""


def value(picture: Image.Image, missing: np.ndarray | None = None) -> dict[str, str]:
    """What the canvas shows: every pixel of the picture, up to LONGEST, so that a thin scratch can be painted.

    Args:
        picture: The picture.
        missing: What is painted on it, (H, W), True = painted; None for nothing.

    Returns:
        "picture" and "mask" as data URLs, the mask empty where nothing is painted; and "kernel", which takes the blur
        away that was drawn on the picture before.
    """
    shown = io.BytesIO()
    small = picture.convert("RGB")
    small.thumbnail((LONGEST, LONGEST))
    small.save(shown, "JPEG", quality=90)
    url = "data:image/jpeg;base64," + base64.b64encode(shown.getvalue()).decode()
    urls = {"picture": url, "mask": "", "kernel": ""}
    if missing is not None:
        urls["mask"] = _url(_layer(missing, small.size))
    return urls


def kernel_value(kernel: np.ndarray, words: str) -> dict[str, str]:
    """What draws a blur on the picture, and leaves all else as it is.

    Args:
        kernel: (h, w), 0 or more.
        words: What is written below it.

    Returns:
        "kernel" as a data URL, and "words".
    """
    bright = np.clip(255 * kernel / max(float(kernel.max()), 1e-12), 0, 255).astype(np.uint8)
    return {"kernel": _url(Image.fromarray(bright)), "words": words}


def _layer(missing: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The painted layer of a canvas of this width and height; no missing pixel is lost where that is smaller."""
    drawn = Image.fromarray(missing.astype(np.uint8) * 255)
    if drawn.size != size:
        drawn = drawn.resize(size, Image.Resampling.BOX).point(lambda v: 255 * (v > 0))
    paint = Image.new("RGBA", size, ROSE)
    paint.putalpha(drawn)
    return paint


def _url(image: Image.Image) -> str:
    held = io.BytesIO()
    image.save(held, "PNG")
    return HEAD + base64.b64encode(held.getvalue()).decode()


def painted(given: dict[str, Any] | None) -> np.ndarray | None:
    """What was painted (H, W), True = painted; None where nothing was."""
    url = given.get("mask") if isinstance(given, dict) else None
    if not url:
        return None
    try:
        if not isinstance(url, str) or not url.startswith(HEAD):
            raise ValueError
        with Image.open(io.BytesIO(base64.b64decode(url[len(HEAD) :], validate=True)), formats=("PNG",)) as layer:
            if max(layer.size) > LONGEST:
                raise ValueError
            alpha = np.asarray(layer.convert("RGBA"))[..., 3] > 127
    except (ValueError, OSError, binascii.Error, SyntaxError):
        raise AmbientSolveError("What was painted cannot be read: clear it and paint again.") from None
    return alpha if alpha.any() else None
