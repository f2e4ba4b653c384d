"""What happens when something on the tab is used: `Controls` in, updates by the names of the parts out.

The parts are those of `layout`; nothing here draws or solves.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ambient_solve.app import painter, panels, presets
from ambient_solve.app.desk import DESK, Job
from ambient_solve.app.photographs import controls, history
from ambient_solve.app.photographs.choices import apply, chosen_prior, picture, request_of
from ambient_solve.app.photographs.history import FILES, PLAIN
from ambient_solve.app.photographs.results import array, nothing, small, views
from ambient_solve.app.photographs.session import Session
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.runs import settled
from ambient_solve.app.wiring import libraries
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.recipe import read_png


def upload(values: Controls) -> Iterator[dict[str, Any]]:
    """A file was put in: take it; or refuse it, and go on with the picture that was there."""
    if values.file is None:
        return
    try:
        updates = taken(values)
    except Exception:
        session = values.session
        standing = "the example" if session is None or session.path is None else session.path.name
        words = f"{Path(values.file).name} was not taken. The picture is still {standing}."
        yield {"file": None, "status": panels.progress_bar(0, words)}
        raise
    yield updates


def taken(values: Controls) -> dict[str, Any]:
    """Show the picture that was put in, say what was converted, and take over the recipe that it may carry."""
    import gradio as gr

    session = values.session or Session()
    prior = chosen_prior(values)
    taken = session.take(values.file, prior.shape[0])
    shown = small(panels.to_image(array(taken)))
    updates = {**nothing((shown, shown)), "session": session, "file": None, "mask": None}
    updates |= {"editor": painter.value(shown), "words": "Nothing of this picture is restored yet."}
    height, width = taken.y.shape[-2:]
    words = [f"{taken.path.name}, {width}x{height} pixels", *taken.notes]
    updates["status"] = panels.progress_bar(0, f"{'; '.join(words)}. Say what is wrong with it, then restore it.")
    recipe = read_png(session.path)
    if recipe is not None:
        gr.Info("The settings in this picture were taken over; paint or upload the mask again where there was one.")
        updates |= apply(recipe)
    return updates


def estimate(values: Controls) -> dict[str, Any]:
    """Estimate the noise level of the picture, or, for JPEG, its quality.

    Args:
        values: Of the tab.

    Returns:
        The update of one of these controls.

    Raises:
        AmbientSolveError: the picture shows no trace of JPEG compression.
    """
    import gradio as gr

    given = picture(values)
    from ambient_solve.restore.estimate import jpeg_quality, noise_level

    if values.task == "jpeg":
        quality = jpeg_quality(given.path)
        if quality is None:
            raise AmbientSolveError("The picture shows no trace of JPEG compression: set the quality by hand.")
        gr.Info(f"JPEG quality {quality}.")
        return {"quality": quality}
    sigma = float(noise_level(given.y)[0])
    low, high, step = controls.HANDY["sigma"]
    near = min(max(round(sigma / step) * step, low), high)
    said = f"below {low:g}, set to {low:g}" if sigma < low else f"{sigma:.3f}"
    gr.Info(f"Noise level {said} (pixel values go from 0 to 1).")
    if values.session is not None:
        values.session.estimated = near
    return {"sigma": near}


@settled
def restore(values: Controls) -> Iterator[dict[str, Any]]:
    """Restore the picture: updates for every preview, and for every finished sample."""
    import gradio as gr

    libraries()
    from ambient_solve.app.begin import begun
    from ambient_solve.app.photographs.job import PreparedRequest
    from ambient_solve.app.photographs.run import Progress

    session = values.session or Session()
    seed = values.seed if values.same_seed else random.randrange(2**31)
    request = request_of(replace(values, seed=seed))
    job, before = Job(visitor=values.visitor, minutes=values.rules.minutes), None
    session.stopped, session.share, taken_before = False, 0.0, session.taken
    stoppable, shown = {"session": session, "stop": gr.update(interactive=True)}, {}
    reports = begun(request, lambda: picture(replace(values, session=session)), lambda x: chosen_prior(values, x), job)
    for report in DESK.serve(job, reports, lambda words: Progress(0.0, words)):
        if isinstance(report, PreparedRequest):
            before = small(panels.measured(report.before, report.mask))
            piece, session.result = report.piece, None
            cut = panels.measured(array(piece.picture), None if piece.mask is None else piece.mask.numpy() > 0)
            yield {**nothing((before, before)), "seed": seed, "status": panels.progress_bar(0, "Starting"), **stoppable}
            continue
        if session.taken != taken_before:  # another picture was put in, and is shown
            yield {"stop": gr.update(interactive=False)}
            return
        session.share = report.share
        updates = {"status": panels.progress_bar(report.share, report.words), **({} if before else stoppable)}
        if report.preview is not None:
            updates["slider"] = tuple(map(small, panels.slider_pair(cut, panels.to_image(report.preview))))
        if report.result is not None:
            session.result = report.result
            shown = views(session, before)
            updates |= shown
        if (session.stopped or job.over) and report.share < 1:
            words = stopped_words(0 if session.result is None else len(session.result.samples))
            updates["status"] = panels.progress_bar(report.share, f"{job.over_words} {words}" if job.over else words)
            yield updates
            break
        yield updates
    if shown:
        best = small(panels.to_image(session.result.mean))
        shown["history"] = history.keep_run(session, replace(values, seed=seed), before, best)
    # Once more all that is shown: a tab that is closed keeps only the last that it was sent.
    yield {**shown, "stop": gr.update(interactive=False)}


def stopped_words(finished: int) -> str:
    """What is left of a run that was stopped."""
    if not finished:
        return "Stopped before the first sample was finished: what is shown is unfinished."
    return f"Stopped. {finished} finished sample{'s' * (finished > 1)} kept."


def recall(values: Controls, index: int) -> dict[str, Any]:
    """Bring back the picture and the controls of a remembered run; its samples are drawn again by Restore.

    Args:
        values: Session, prior, device and rules are read.
        index: Of the run, 0 for the newest.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: the run is no longer remembered.
    """
    from ambient_solve.app.photographs import choices, results

    session = values.session
    if session is None or not 0 <= index < len(session.history):
        raise AmbientSolveError("This run is no longer remembered: restore the picture again.")
    entry = session.history[index]
    picture = next((entry.folder / "picture").glob("*"), None)
    channels = chosen_prior(values).shape[0]
    if picture is None:
        session.path = session.result = None
    else:
        session.take(picture, channels)
    source = results.small(panels.to_image(results.array(choices.picture(values))))
    painted = entry.folder / "painted.png"
    drawn = np.asarray(Image.open(painted)) if painted.is_file() else None
    pair = tuple(Image.open(entry.folder / f"{name}.jpg").convert("RGB") for name in ("before", "after"))
    updates = choices.choose_task(entry.controls.task)
    for name in controls.damage_knobs():
        updates[name] = {**updates[name], "value": entry.controls.damage[name]}
    for name in FILES:
        file = next((entry.folder / name).glob("*"), None)
        updates[name] = {**updates[name], "value": None if file is None else str(file)}
    updates |= {name: getattr(entry.controls, name) for name in PLAIN if name != "keep"}
    chosen, knobs = entry.controls, dict(entry.controls.knobs or {})
    preset = presets.preset_of(chosen.task, chosen.algorithm, knobs, chosen.samples)
    return {**updates, **results.nothing(pair)} | {
        "keep": {**updates["keep"], "value": chosen.keep},
        "session": session,
        "editor": painter.value(source, drawn),
        "knobs": knobs,
        "loaded": dict(knobs),
        "preset": preset,
        "same_seed": True,
        "words": "An earlier run of this page. Restore draws its samples again, the same for the same seed.",
        "status": panels.progress_bar(0, "Picture and settings are back. Press Restore to draw the samples again."),
    }
