"""Folders of browser sessions, tame file names, and what one run may ask for."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from ambient_solve.app.folder import home

MAX_PIXELS = 12_000_000
"""Largest picture that the page takes, in pixels; several samples of it are kept in memory."""


def new_folder() -> Path:
    """A folder for one session."""
    return Path(tempfile.mkdtemp(dir=home().path))


def tame(name: str) -> str:
    """A file name without a folder, of letters, digits, dots and dashes."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".-")[-80:] or "picture"


MAX_SAMPLES = 16
"""Largest number of samples of one run on the page."""
MAX_STEPS = 1000
"""Largest number of noise levels of one run on the page."""
