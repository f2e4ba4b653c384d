"""The price of a run on the page: said once a picture is there, and whenever a setting changes it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from PIL import Image

from ambient_solve.app import painter
from ambient_solve.app.photographs import choices, example
from ambient_solve.app.photographs.prompts import worded
from ambient_solve.app.photographs.values import Controls
from ambient_solve.errors import AmbientSolveError
from ambient_solve.reading.limits import FORMATS


def priced(values: Controls, changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """Say what the run will cost that the controls describe; nothing where they describe none.

    Args:
        values: Of the tab.
        changed: Updates that the same event makes, which take the place of what the controls say.

    Returns:
        The update of the price.
    """
    from ambient_solve.app.photographs.price import quote

    changed = changed or {}
    known = ("session", "editor", "task", "also", "algorithm", "knobs", "samples")
    plain = {name: _plain(changed[name]) for name in known if name in changed}
    values = replace(values, **plain, mask=None)
    words = ""
    with contextlib.suppress(AmbientSolveError, OSError):
        request = choices.request_of(values)
        prior = choices.chosen_prior(values)
        request = worded(request, prior)[0]
        words = quote(request, prior, _size(values), painter.painted(values.editor)).words
    return {"price": words}


def _plain(update: Any) -> Any:
    return update["value"] if isinstance(update, dict) and "value" in update and "__type__" in update else update


def _size(values: Controls) -> tuple[int, int]:
    """(H, W) of the picture, from its header."""
    from ambient_solve.app.photographs.output import ORIENTATION

    session = values.session
    path = example.PICTURE if session is None or session.path is None else session.path
    with Image.open(path, formats=FORMATS) as image:
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        return image.size if turned else image.size[::-1]
