"""Whether a folder holds what the same request has finished before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ambient_solve.errors import AmbientSolveError

SETTINGS = "settings.json"
"""File that is written last: what it says is finished."""


def read_record(folder: Path) -> dict[str, Any]:
    """What an earlier run has written of itself, last of all; empty where the folder is unfinished."""
    try:
        record = json.loads((folder / SETTINGS).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def finished(folder: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an earlier run of the same request, if it has finished.

    Args:
        folder: Of the results.
        request: All that decides them, as JSON holds it.

    Returns:
        The record, or None.
    """
    record = read_record(folder)
    return record if record.get("request") == json.loads(json.dumps(request)) else None


def remember(path: Path, settings: Mapping[str, Any], begun: bool) -> None:
    """Write down with which settings a data set is being made, so that no other settings go on with it.

    Args:
        path: The file; its folder is that of the data set.
        settings: What decides the data, as JSON holds it.
        begun: Whether a part of the data is there already.

    Raises:
        AmbientSolveError: that part was made with other settings.
    """
    text = json.dumps(settings, indent=1) + "\n"
    if begun and not (path.is_file() and path.read_text() == text):
        raise AmbientSolveError(
            f"{path.parent} holds an unfinished data set with other settings ({path.name}): choose another folder, or "
            "delete it."
        )
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def digest(*parts: bytes) -> str:
    """Sixteen hexadecimal digits of `parts`, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
