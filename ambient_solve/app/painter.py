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
SCRIPT = "".join((FOLDER / name).read_text() for name in ("masks.js", "photographs/painter.js"))
"""JavaScript of the painter."""
ROSE = (216, 27, 96)
"""Colour of what is painted, RGB from 0 to 255; that of painter.js."""
HEAD = "data:image/png;base64,"
"""First characters of the address of a picture that is part of the page."""
LONGEST = 2048
"""Longest side of a painted layer that is taken, in pixels."""


def value(picture: Image.Image, missing: np.ndarray | None = None) -> dict[str, str]:
    """What the canvas shows.

    Args:
        picture: The picture.
        missing: What is painted on it, (H, W), True = painted; None for nothing.

    Returns:
        "picture" and "mask" as data URLs; the mask is empty where nothing is painted.
    """
    shown = io.BytesIO()
    picture.convert("RGB").save(shown, "JPEG", quality=90)
    urls = {"picture": "data:image/jpeg;base64," + base64.b64encode(shown.getvalue()).decode(), "mask": ""}
    if missing is not None:
        layer, paint = io.BytesIO(), Image.new("RGBA", picture.size, ROSE)
        paint.putalpha(Image.fromarray(missing.astype(np.uint8) * 255))
        paint.save(layer, "PNG")
        urls["mask"] = HEAD + base64.b64encode(layer.getvalue()).decode()
    return urls


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
