"""The last runs of a browser session: thumbnails to click, each of which brings its picture and its controls back."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ambient_solve.app import painter
from ambient_solve.app.photographs import controls
from ambient_solve.app.photographs.session import HistoryEntry

if TYPE_CHECKING:
    from ambient_solve.app.photographs.session import Session
    from ambient_solve.app.photographs.values import Controls

MOST = 12
"""Number of runs that are remembered."""
SIDE = 160
"""Longer side of their thumbnails, in pixels; all else of them lies in files."""
PLAIN = (
    *("task", "also", "play", "scattered", "prior", "algorithm", "samples", "seed", "size", "keep"),
    *("prompt", "negative", "guidance"),
)
"""Controls that come back as they were."""
FILES = ("mask", "kernel")
"""Controls that hold a file, of which a copy is kept."""


def keep_run(session: Session, values: Controls, before: Image.Image, after: Image.Image) -> list[Any]:
    """Keep a run and forget the oldest beyond MOST.

    Args:
        session: Whose it is.
        values: With what it was run.
        before: The measurement, as it was shown.
        after: The mean of the samples.

    Returns:
        Thumbnails and captions, the newest first.
    """
    session.runs += 1
    folder = session.folder / "history" / str(session.runs)
    folder.mkdir(parents=True)
    held = replace(values, **dict.fromkeys(("session", "file", "many", "editor", *FILES)))
    for name, given in (("picture", session.path), *((name, getattr(values, name)) for name in FILES)):
        if given is not None:
            (folder / name).mkdir()
            link(Path(given), folder / name / Path(given).name)
    painted = painter.painted(values.editor)
    if painted is not None:
        Image.fromarray(painted).save(folder / "painted.png")
    for name, image in (("before", before), ("after", after)):
        image.save(folder / f"{name}.jpg", quality=92)
    thumbnail = after.copy()
    thumbnail.thumbnail((SIDE, SIDE))
    done = controls.task_words(controls.joined_tasks(values.task, values.also))
    words = f"{session.runs}: {done}, seed {values.seed}"
    session.history.insert(0, HistoryEntry(folder, held, thumbnail, words))
    while len(session.history) > MOST:
        shutil.rmtree(session.history.pop().folder, ignore_errors=True)
    return thumbnails(session)


def thumbnails(session: Session) -> list[Any]:
    """Thumbnails and captions."""
    return [(entry.thumbnail, entry.words) for entry in session.history]


def link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has none.

    Args:
        source: The file.
        target: Its other name.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
