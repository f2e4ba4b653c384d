"""The last runs of a browser session: thumbnails to click, each of which brings its picture and its controls back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ambient_solve.app import controls, painter, panels
from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from ambient_solve.app.session import Session

MOST, SIDE = 12, 160
"""Runs that are remembered, and the longer side of their thumbnails; all else of them lies in files."""
PLAIN = ("task", "play", "scattered", "prior", "algorithm", "samples", "seed", "size", "keep")
FILES = ("mask", "kernel")


@dataclass(frozen=True)
class Kept:
    """One run: its `folder`, with the picture unless it was the example; the `values` of its controls."""

    folder: Path
    values: Mapping[str, Any]
    thumbnail: Image.Image
    words: str


def remember(session: Session, values: dict[str, Any], before: Image.Image, after: Image.Image) -> list[Any]:
    """Keep this run and forget the oldest beyond MOST; returns what the gallery shows, the newest first."""
    session.runs += 1
    folder = session.folder / "history" / str(session.runs)
    folder.mkdir(parents=True)
    held = {name: values[name] for name in (*PLAIN, *controls.damage_knobs())} | {"knobs": dict(values["knobs"] or {})}
    for name, given in (("picture", session.path), *((name, values[name]) for name in FILES)):
        if given is not None:
            (folder / name).mkdir()
            _link(Path(given), folder / name / Path(given).name)
    painted = painter.painted(values["editor"])
    if painted is not None:
        Image.fromarray(painted).save(folder / "painted.png")
    for name, image in (("before", before), ("after", after)):
        image.save(folder / f"{name}.jpg", quality=92)
    thumbnail = after.copy()
    thumbnail.thumbnail((SIDE, SIDE))
    words = f"{session.runs}: {controls.TASK_WORDS[values['task']].partition(' (')[0].lower()}, seed {values['seed']}"
    session.history.insert(0, Kept(folder, held, thumbnail, words))
    while len(session.history) > MOST:
        shutil.rmtree(session.history.pop().folder, ignore_errors=True)
    return shown(session)


def shown(session: Session) -> list[Any]:
    """Thumbnails and captions."""
    return [(kept.thumbnail, kept.words) for kept in session.history]


def recall(values: dict[str, Any], index: int) -> dict[str, Any]:
    """Bring back the picture and the controls of a remembered run; its samples are drawn again by Restore."""
    from ambient_solve.app import events

    session = values["session"]
    if session is None or not 0 <= index < len(session.history):
        raise AmbientSolveError("This run is no longer remembered: restore the picture again.")
    kept = session.history[index]
    picture = next((kept.folder / "picture").glob("*"), None)
    channels = events.chosen_prior(values).shape[0]
    if picture is None:
        session.path = session.result = None
    else:
        session.take(picture, channels)
    source = events.small(panels.to_image(events.array(events.picture({**values, "session": session}))))
    painted = kept.folder / "painted.png"
    drawn = np.asarray(Image.open(painted)) if painted.is_file() else None
    pair = tuple(Image.open(kept.folder / f"{name}.jpg").convert("RGB") for name in ("before", "after"))
    updates = events.choose_task(kept.values["task"])
    for name in controls.damage_knobs():
        updates[name] = {**updates[name], "value": kept.values[name]}
    for name in FILES:
        file = next((kept.folder / name).glob("*"), None)
        updates[name] = {**updates[name], "value": None if file is None else str(file)}
    updates |= {name: kept.values[name] for name in PLAIN if name != "keep"}
    preset = controls.preset_of(*(kept.values[name] for name in ("task", "algorithm", "knobs", "samples")))
    return {**updates, **events.nothing(pair)} | {
        "keep": {**updates["keep"], "value": kept.values["keep"]},
        "session": session,
        "editor": painter.value(source, drawn),
        "knobs": dict(kept.values["knobs"]),
        "loaded": dict(kept.values["knobs"]),
        "preset": preset,
        "same_seed": True,
        "words": "An earlier run of this page. Restore draws its samples again, the same for the same seed.",
        "status": panels.progress_bar(0, "Picture and settings are back. Press Restore to draw the samples again."),
    }


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
