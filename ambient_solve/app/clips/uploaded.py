"""What happens with a clip or a mask that is put in: its first frame is shown, to be painted on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.app import painter, panels
from ambient_solve.app.clips import choices
from ambient_solve.app.clips.session import ClipSession, linked
from ambient_solve.app.clips.values import ClipControls
from ambient_solve.app.clips.words import facts_words, trouble
from ambient_solve.app.folders import MAX_PIXELS, tame
from ambient_solve.app.wiring import libraries
from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from PIL import Image

SEVERAL = 8
"""Frames in which scratches that stand still are looked for."""


def put_in(values: ClipControls) -> Iterator[dict[str, Any]]:
    """Take a clip or a mask that was put in; or refuse it, and go on with what was there.

    Args:
        values: Of the tab.

    Yields:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: it cannot be read, or does not fit.
    """
    if values.file is None and values.mask is None:
        return
    try:
        yield upload(values) if values.file else draw_mask(values)
    except (AmbientSolveError, OSError) as error:
        session, words = values.session, trouble(error)
        standing = "" if session is None or session.path is None else f" The clip is still {session.path.name}."
        emptied = {"file": None} if values.file else {"mask": None}
        yield {**emptied, "status": panels.progress_bar(0, f"{words}{standing}")}
        raise AmbientSolveError(words) from None


def upload(values: ClipControls) -> dict[str, Any]:
    """Take a clip, show its first frame, and choose its beginning.

    Args:
        values: The file is read.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: it is no clip, or its frames are too large.
    """
    import gradio as gr

    libraries()
    from ambient_solve.video.files import video_facts

    path = Path(values.file)
    facts = video_facts(path)
    height, width = facts.size
    if height * width > MAX_PIXELS:
        raise AmbientSolveError(
            f"{path.name} has frames of {width}x{height}; the page takes up to {MAX_PIXELS / 1e6:g} million pixels."
        )
    session = values.session or ClipSession()
    kept = session.take(path, facts)
    last = min(facts.frames, choices.TO_BEGIN) - 1
    image = frame_of(kept, 0)
    updates = {
        "session": session,
        "file": None,
        "mask": None,
        "about": facts_words(kept.name, facts),
        "editor": gr.update(value=painter.value(image), visible=True),
        "first": gr.update(value=0, maximum=max(facts.frames - 1, 1), interactive=facts.frames > 1),
        "last": gr.update(value=last, maximum=max(facts.frames - 1, 1), interactive=facts.frames > 1),
        "status": panels.progress_bar(0, f"{kept.name} was read. Say what is wrong with it, then restore it."),
        **nothing(),
    }
    return updates | choices.part(replace(values, session=session, first=0, last=last))


def nothing() -> dict[str, Any]:
    """Updates that take the result away."""
    import gradio as gr

    empty = gr.update(value=None, interactive=False)
    words = "Nothing of this clip is restored yet."
    shown = {"player": None, "latest": gr.update(value=None, visible=False), "words": words, "shell": ""}
    return {**shown, "download": empty, "mask_out": empty}


def frame_of(path: Path, number: int) -> Image.Image:
    """A frame of a clip.

    Args:
        path: The clip.
        number: From 0.

    Returns:
        The picture.

    Raises:
        AmbientSolveError: there is no such frame.
    """
    from PIL import Image

    from ambient_solve.video.files import read_video

    frame = next(read_video(path, number))
    return Image.fromarray(frame.pixels.permute(1, 2, 0).numpy())


def show_first(values: ClipControls) -> dict[str, Any]:
    """Show the frame with which the part begins, to be painted on; what was painted on another one is taken away.

    Args:
        values: Session, first and last are read.

    Returns:
        Updates by the name of the part.
    """
    if values.session is None or values.session.path is None:
        return {"part": ""}
    clip = choices.clip_of(values)
    standing = painter.painted(values.editor) if not choices.WRONG[values.wrong].follow else None
    image = frame_of(clip.path, int(values.first))
    return {"editor": painter.value(image, standing), **choices.part(values)}


def draw_mask(values: ClipControls) -> dict[str, Any]:
    """Paint an uploaded mask on the picture, or keep a video of masks.

    Args:
        values: Of the tab.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: the mask cannot be read, or has another size than the clip.
    """
    libraries()
    from ambient_solve.restore.pictures import read_mask
    from ambient_solve.video.files import video_facts
    from ambient_solve.video.masks import is_video

    session, path = choices.clip_of(values), Path(values.mask)
    if is_video(path):
        facts, (height, width) = video_facts(path), session.facts.size
        if facts.size != (height, width):
            raise AmbientSolveError(
                f"The mask {path.name} is {facts.size[1]}x{facts.size[0]}, but the clip is {width}x{height}: both must "
                "have the same size."
            )
        kept = session.work / "masks" / tame(path.name)
        shutil.rmtree(kept.parent, ignore_errors=True)
        kept.parent.mkdir()
        session.masks = linked(path, kept)
        words = f"{path.name} says frame by frame what is missing: white is. Nothing needs to be painted."
        return {"session": session, "mask": None, "status": panels.progress_bar(0, words)}
    missing = read_mask(path, session.facts.size, session.path.name).numpy() == 0
    session.masks = None
    words = f"{path.name} is painted on the picture, {100 * missing.mean():.2g} % of it. Correct it with the brush."
    image = frame_of(session.path, int(values.first))
    updates = {"session": session, "mask": None, "editor": painter.value(image, missing)}
    return updates | {"status": panels.progress_bar(0, words)}


def paint(values: ClipControls) -> dict[str, Any]:
    """What is painted takes the place of a video of masks.

    Args:
        values: The session is read.

    Returns:
        Updates by the name of the part, which say nothing where there is no such video.
    """
    import gradio as gr

    session = values.session
    if session is None or session.masks is None:
        return {"status": gr.skip()}
    name, session.masks = session.masks.name, None
    return {"status": panels.progress_bar(0, f"What you paint is taken in place of {name}.")}


def draw_scratches(values: ClipControls) -> dict[str, Any]:
    """Find scratches that stand still, and paint them on the picture, to be corrected by hand.

    Args:
        values: Session, first, last and scratches are read.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: there is no clip, or it cannot be read.
    """
    libraries()
    from ambient_solve.video.scratches import still_scratches

    session = choices.clip_of(values)
    first, last = int(values.first), int(values.last)
    missing = still_scratches(session.path, first, last + 1, float(values.scratches), SEVERAL).numpy() == 0
    if not missing.any():
        words = "No scratches that stand still were found: paint them, or let a line be taken for one more readily."
        return {"status": panels.progress_bar(0, words)}
    words = f"Scratches were found on {100 * missing.mean():.2g} % of the picture. Correct them with the brush."
    updates = {"editor": painter.value(frame_of(session.path, first), missing)}
    return updates | {"status": panels.progress_bar(0, words)}
