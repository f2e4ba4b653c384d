"""Whether a folder holds what the same request has finished before."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

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
    """The record of an earlier run of the same request, or None."""
    record = read_record(folder)
    return record if record.get("request") == json.loads(json.dumps(request)) else None


def digest(*parts: bytes) -> str:
    """Sixteen hexadecimal digits of `parts`, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
