"""The player that shows a clip before and after, in step: what it is given by Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
"""Folder of the files below."""
TEMPLATE = (FOLDER / "player.html").read_text()
"""HTML of the player."""
SCRIPT = (FOLDER / "player.js").read_text()
"""JavaScript of the player."""


def player_value(before: Path, after: Path, rate: float) -> dict[str, Any]:
    """What the player shows.

    Args:
        before: A video that browsers play.
        after: The same, with as many frames.
        rate: Frames a second.

    Returns:
        Files, of which gradio makes addresses, and the rate.
    """
    from gradio import FileData

    files = {name: FileData(path=str(path)).model_dump() for name, path in (("before", before), ("after", after))}
    return {**files, "rate": rate}
