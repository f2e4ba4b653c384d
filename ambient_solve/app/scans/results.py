"""What the tab shows of the slice that is looked at: panels, words and the values of a pixel."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from ambient_solve.app.scans import example
from ambient_solve.app.scans import panels as scan_panels
from ambient_solve.app.scans.panels import Look, ShownSlice
from ambient_solve.app.scans.session import ScanSession
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.errors import AmbientSolveError


def nothing_seen() -> dict[str, Any]:
    """What stands where a reconstruction will be."""
    import gradio as gr

    panel = {f"panel_{name}": gr.update(value=None, visible=name == "mean") for name in scan_panels.PANELS}
    archive = gr.update(value=None, interactive=False)
    return {"words": "Not reconstructed yet.", "archive": archive, "shell": "", "details": {}, **panel}


def views(session: ScanSession, values: ScanControls) -> dict[str, Any]:
    """All that the page shows of the slice that is looked at.

    Args:
        session: Scan and results.
        values: Of the tab.

    Returns:
        Updates of the page by name.
    """
    import gradio as gr

    index = values.slice
    seen = _seen(session, index)
    look = values.look
    titles, drawn = scan_panels.captions(seen), scan_panels.draw(seen, look)
    updates = {
        f"panel_{name}": gr.update(value=image, label=titles[name], visible=image is not None)
        for name, image in drawn.items()
    }
    coils = gr.update(maximum=max(len(seen.coils), 1), value=min(look.coil, len(seen.coils)))
    settings = session.result(index) / "settings.json"
    details = json.loads(settings.read_text()) if settings.is_file() else dict(seen.facts)
    updates |= {"shell": session.command, "details": details}
    return {"session": session, "words": scan_panels.words(seen, index), "coil": coils, **updates}


def look(values: ScanControls) -> dict[str, Any]:
    """The window, the zoom or the slice was changed."""
    session = values.session or ScanSession()
    index = values.slice
    if session.path is not None and not session.view(index).is_file():
        return {"words": f"Slice {index} is not reconstructed yet."}
    return views(session, values)


def click(values: ScanControls, point: tuple[float, float], name: str) -> dict[str, Any]:
    """Read the pixel under a point of a panel, and make it the middle of the zoom.

    Args:
        values: Session and what is looked at are read.
        point: x and y in the drawn panel, in pixels.
        name: Of the panel.

    Returns:
        Updates by the name of the part; none beside the picture.

    Raises:
        AmbientSolveError: the slice is not reconstructed yet.
    """
    session, index = values.session, values.slice
    seen = _seen(session, index)
    place = scan_panels.place(name, *point, seen, values.look)
    return {} if place is None else read_pixel(replace(values, row=place[0], column=place[1]))


def read_pixel(values: ScanControls) -> dict[str, Any]:
    """The values at one pixel.

    Args:
        values: Session, slice, row and column are read.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: the slice is not reconstructed yet, or the pixel is outside of it.
    """
    seen = _seen(values.session, values.slice)
    row, column = int(values.row or 0), int(values.column or 0)
    if not (0 <= row < seen.size[0] and 0 <= column < seen.size[1]):
        height, width = seen.size
        raise AmbientSolveError(f"Row {row}, column {column} is outside the slice of {height}x{width} pixels.")
    return {"pixel": scan_panels.magnitude_words(seen, row, column), "row": row, "column": column}


def preview(x: Any, values: ScanControls) -> Any:
    """An estimate under the window of the page, its own brightest part for white.

    Args:
        x: A magnitude (H, W).
        values: Window and level are read.

    Returns:
        A picture.
    """
    top = max(float(np.quantile(x, 0.998)), 1e-30)
    return scan_panels.magnitude(x / top, Look(float(values.window) / 100, float(values.level) / 100))


def _seen(session: ScanSession | None, index: int) -> ShownSlice:
    if session is not None and session.view(index).is_file():
        return scan_panels.read_stored(session.view(index))
    if session is None or session.path is None:
        return example.seen()
    raise AmbientSolveError("This slice is not reconstructed yet: press Reconstruct first.")
