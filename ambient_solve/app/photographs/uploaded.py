"""What happens with a picture or a mask that is put in: it is shown, its holes are painted, and it is known again."""

from __future__ import annotations

import base64
import html
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ambient_solve.app import painter, panels
from ambient_solve.app.photographs import choices, costs, output
from ambient_solve.app.photographs.history import link
from ambient_solve.app.photographs.results import array, nothing, small
from ambient_solve.app.photographs.session import Session
from ambient_solve.app.photographs.values import Controls
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.recipe import read_png
from ambient_solve.restore.tasks import Inpaint

THUMBNAIL = 72
"""Longer side of the picture beside its name, in pixels."""
OPAQUE = 252
"""Alpha of 255 from which on a pixel is there."""


def taken(values: Controls) -> dict[str, Any]:
    """Show the picture that was put in, say what was converted, and take over the recipe that it may carry.

    Args:
        values: Of the tab; the file is read.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: it is no picture, or too large.
    """
    import gradio as gr

    session = values.session or Session()
    channels = choices.chosen_prior(values).picture_channels
    source = output.source_of(values.file)
    original = None if source is None else _kept(session, source)
    taken = session.take(values.file, channels)
    session.source, session.original, session.again = source, original, False
    recipe, missing = read_png(session.path), _holes(session.path)
    words = [f"{taken.path.name}, {taken.y.shape[-1]}x{taken.y.shape[-2]} pixels", *taken.notes]
    updates = put_up(session, taken, missing)
    if missing is not None:
        words.append(f"{100 * missing.mean():.2g} % of it is transparent, which was painted as missing")
        updates |= choices.that_work(values, choices.choose_task(Inpaint.name, values.preset))
        updates["task"] = Inpaint.name
    if recipe is not None:
        gr.Info("The settings in this picture were taken over; paint or upload the mask again where there was one.")
        updates |= choices.apply(recipe)
    status = f"{'; '.join(words)}. Say what is wrong with it, then restore it."
    return updates | {"status": panels.progress_bar(0, status), **costs.priced(values, updates)}


def put_up(session: Session, picture: Any, missing: np.ndarray | None = None) -> dict[str, Any]:
    """Updates that show the picture of the session, of which nothing is restored.

    Args:
        session: Whose picture it is.
        picture: The picture.
        missing: What is painted on it, (H, W) True = missing, or None.

    Returns:
        Updates by the name of the part.
    """
    whole = panels.to_image(array(picture))
    view = small(whole)
    return {
        **nothing((view, view)),
        "session": session,
        "file": None,
        "mask": None,
        "card": card_of(session, whole),
        "editor": painter.value(whole, missing),
        "words": "Nothing of this picture is restored yet.",
        **_offer(session),
    }


def card_of(session: Session, image: Image.Image) -> Any:
    """The update that shows thumbnail, name and size of the picture of a session.

    Args:
        session: With a picture.
        image: The picture, at its full size.

    Returns:
        An update of the card.
    """
    import gradio as gr

    held, thumbnail = io.BytesIO(), image.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    thumbnail.save(held, "JPEG", quality=85)
    url = "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()
    size, name = session.path.stat().st_size, html.escape(session.path.name)
    weight = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"
    shown = (
        f'<div class="as-card"><img src="{url}" alt="The picture that was put in"><div><strong>{name}</strong>'
        f"<span>{image.width}x{image.height} pixels, {weight}</span></div></div>"
    )
    return gr.update(value=shown, visible=True)


def draw_mask(values: Controls) -> dict[str, Any]:
    """Paint an uploaded mask on the picture, beside what is painted already; it can then be corrected by hand.

    Args:
        values: Of the tab.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: the mask cannot be read, or has another size than the picture.
    """
    if values.mask is None:
        return {}
    from ambient_solve.restore.pictures import mask_notes, read_mask

    given, path = choices.picture(values), Path(values.mask)
    size = tuple(given.y.shape[-2:])
    missing, notes = read_mask(path, size, given.path.name).numpy() == 0, mask_notes(path, size)
    before = painter.painted(values.editor)
    if before is not None:
        missing |= np.asarray(Image.fromarray(before).resize(missing.shape[::-1], Image.Resampling.NEAREST))
    words = [f"{path.name} is painted on the picture, {100 * missing.mean():.2g} % of it", *notes]
    updates = {"editor": painter.value(panels.to_image(array(given)), missing), "mask": None}
    status = f"{'; '.join(words)}. Correct it with the brush, then restore the picture."
    return {**updates, "status": panels.progress_bar(0, status), **costs.priced(values, updates)}


def use_original(values: Controls) -> dict[str, Any]:
    """Go back to the picture that the one on the page was restored from; the settings stay.

    Args:
        values: The session is read.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: it is not known here.
    """
    session = values.session
    if session is None or session.original is None or not session.original.is_file():
        raise AmbientSolveError("The original is not known here: put it in.")
    taken = session.take(session.original, choices.chosen_prior(values).picture_channels)
    session.source, session.original = None, None
    updates = put_up(session, taken, _holes(session.path))
    status = f"{taken.path.name} is back, with the settings of its restoration. Change them, then restore it."
    return {**updates, "status": panels.progress_bar(0, status), **costs.priced(values, updates)}


def restore_again(values: Controls) -> dict[str, Any]:
    """Allow that a restored picture is restored a second time."""
    session = values.session
    if session is None:
        return {}
    session.again = True
    return _offer(session) | {"status": panels.progress_bar(0, "Restore now works on the restored picture itself.")}


def check_again(session: Session) -> None:
    """Refuse to restore a restored picture that nobody has asked to restore a second time.

    Raises:
        AmbientSolveError: the session shows such a picture.
    """
    if session.source is not None and not session.again:
        other = f"press 'Use {session.source.name}'" if session.original is not None else "put that in"
        raise AmbientSolveError(
            f"{session.path.name} is itself a restoration of {session.source.name}: {other}, or press 'Restore it once "
            "more' first."
        )


def _offer(session: Session) -> dict[str, Any]:
    """Updates that say where a picture is a restoration, and offer its original."""
    import gradio as gr

    source = None if session.again else session.source
    if source is None:
        return {"again": gr.update(visible=False)}
    known = session.original is not None
    words = f"**{session.path.name} is a restoration of {source.name}.** Its settings are set. "
    words += "Take the original to try others." if known else f"Put in {source.name} to try others."
    return {
        "again": gr.update(visible=True),
        "again_words": words,
        "use_original": gr.update(value=f"Use {source.name}", visible=known),
    }


def _kept(session: Session, source: output.RestoredFrom) -> Path | None:
    """The file with the content of `source`, if the session has it still, in a place where it stays."""
    here = [] if session.path is None else [session.path]
    here += [path for entry in session.history for path in (entry.folder / "picture").glob("*")]
    found = next((path for path in here if path.is_file() and output.file_hash(path) == source.sha256), None)
    if found is None:
        return None
    folder = session.folder / "original"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    link(found, folder / found.name)
    return folder / found.name


def _holes(path: Path) -> np.ndarray | None:
    """The transparent pixels (H, W) of a picture; None where there are none, or nothing else."""
    alpha = output.transparency(path)
    missing = None if alpha is None else alpha < OPAQUE
    return missing if missing is not None and missing.any() and not missing.all() else None


def draw_scratches(values: Controls) -> dict[str, Any]:
    """Find the scratches of the picture and paint them on it, in place of what was painted; to be corrected by hand.

    Args:
        values: Of the tab.

    Returns:
        Updates by the name of the part.
    """
    from ambient_solve.restore.scratches import find_scratches

    given = choices.picture(values)
    readiness = float(values.damage["scratches"])
    missing = find_scratches(given.y, readiness).numpy() == 0 if readiness > 0 else None
    if missing is None or not missing.any():
        words = "No scratches were found: paint them, or let a line be taken for one more readily."
        return {"status": panels.progress_bar(0, words)}
    updates = {"editor": painter.value(panels.to_image(array(given)), missing)}
    words = f"Scratches were found on {100 * missing.mean():.2g} % of the picture."
    words += " Correct them with the brush, then restore it."
    return {**updates, "status": panels.progress_bar(0, words), **costs.priced(values, updates)}
