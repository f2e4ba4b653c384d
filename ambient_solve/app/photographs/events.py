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

from ambient_solve.app import painter, panels, presets, runs
from ambient_solve.app.desk import DESK, Job
from ambient_solve.app.photographs import controls, history, uploaded
from ambient_solve.app.photographs.choices import chosen_prior, picture, request_of
from ambient_solve.app.photographs.history import FILES, PLAIN
from ambient_solve.app.photographs.results import array, files, nothing, small, views
from ambient_solve.app.photographs.session import Session
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.runs import settled
from ambient_solve.app.wiring import libraries
from ambient_solve.errors import AmbientSolveError


def upload(values: Controls) -> Iterator[dict[str, Any]]:
    """A file was put in: take it; or refuse it, and go on with the picture that was there."""
    if values.file is None:
        return
    try:
        updates = uploaded.taken(values)
    except Exception:
        session = values.session
        standing = "the example" if session is None or session.path is None else session.path.name
        words = f"{Path(values.file).name} was not taken. The picture is still {standing}."
        yield {"file": None, "status": panels.progress_bar(0, words)}
        raise
    yield updates


@settled
def restore(values: Controls) -> Iterator[dict[str, Any]]:
    """Restore the picture: updates for every preview, and for every finished sample."""
    libraries()
    from ambient_solve.app.begin import begun
    from ambient_solve.app.photographs.job import PreparedRequest
    from ambient_solve.app.photographs.price import learn, price_of
    from ambient_solve.app.photographs.run import Progress
    from ambient_solve.app.photographs.watch import Watch
    from ambient_solve.app.stopping import Stopped

    session = values.session or Session()
    uploaded.check_again(session)
    seed = values.seed if values.same_seed else random.randrange(2**31)
    request = request_of(replace(values, seed=seed))
    job, before, cut, shown = Job(visitor=values.visitor, minutes=values.rules.minutes), None, None, {}
    session.stopped, session.share, taken_before = False, 0.0, session.taken
    watch = Watch(lambda: session.stopped or session.taken != taken_before)
    yield {"session": session, "status": panels.progress_bar(0, watch.words), **runs.at_work()}
    reports = begun(
        request,
        lambda: picture(replace(values, session=session)),
        lambda lane: watch.on(chosen_prior(values, lane)),
        job,
    )
    served = DESK.serve(job, reports, lambda words: Progress(0.0, words), watch.progress)
    try:
        for report in served:
            if isinstance(report, PreparedRequest):
                if session.stopped:
                    raise Stopped
                before = small(panels.measured(report.before, report.mask))
                piece, session.result = report.piece, None
                cut = panels.measured(array(piece.picture), None if piece.mask is None else piece.mask.numpy() > 0)
                watch.begin(price_of(report))
                status = panels.progress_bar(0, watch.words)
                yield {**nothing((before, before)), "seed": seed, "status": status}
                continue
            if session.taken != taken_before:  # another picture was put in, and is shown
                yield runs.at_rest()
                return
            session.share = watch.said(report.share, report.words)
            updates = {"status": panels.progress_bar(report.share, report.words)}
            if report.preview is not None:
                updates["slider"] = tuple(map(small, panels.slider_pair(cut, panels.to_image(report.preview))))
            if report.result is not None:
                session.result = report.result
                shown = views(session, before)
                shown |= files(session) if report.share >= 1 else {}
                updates |= shown
            if (session.stopped or job.over) and report.share < 1:
                raise Stopped
            yield updates
    except Stopped:
        if session.taken != taken_before:
            yield runs.at_rest()
            return
        words = stopped_words(0 if session.result is None or before is None else len(session.result.samples))
        words = f"{job.over_words} {words}" if job.over else words
        shown |= files(session) if shown else {}
        yield {"status": panels.progress_bar(session.share, words), **shown}
    finally:
        served.close()
    if shown:
        learn(session.result)
        best = small(panels.to_image(session.result.mean))
        shown["history"] = history.keep_run(session, replace(values, seed=seed), before, best)
    # Once more all that is shown: a tab that is closed keeps only the last that it was sent.
    yield {**shown, **runs.at_rest()}


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
    import gradio as gr

    from ambient_solve.app.photographs import choices, results

    session = values.session
    if session is None or not 0 <= index < len(session.history):
        raise AmbientSolveError("This run is no longer remembered: restore the picture again.")
    entry = session.history[index]
    picture = next((entry.folder / "picture").glob("*"), None)
    channels = chosen_prior(values).picture_channels
    session.source = session.original = None
    if picture is None:
        session.path = session.result = None
    else:
        session.take(picture, channels)
    source = panels.to_image(results.array(choices.picture(values)))
    painted = entry.folder / "painted.png"
    drawn = np.asarray(Image.open(painted)) if painted.is_file() else None
    pair = tuple(Image.open(entry.folder / f"{name}.jpg").convert("RGB") for name in ("before", "after"))
    updates = choices.choose_task(entry.controls.task, also=entry.controls.also)
    for name in controls.damage_knobs():
        updates[name] = {**updates[name], "value": entry.controls.damage[name]}
    for name in FILES:
        file = next((entry.folder / name).glob("*"), None)
        updates[name] = {**updates[name], "value": None if file is None else str(file)}
    updates |= {name: getattr(entry.controls, name) for name in PLAIN if name not in ("keep", "also")}
    chosen, knobs = entry.controls, dict(entry.controls.knobs or {})
    task = controls.joined_tasks(chosen.task, chosen.also)
    preset = presets.preset_of(task, chosen.algorithm, knobs, chosen.samples)
    return {**updates, **results.nothing(pair)} | {
        "keep": {**updates["keep"], "value": chosen.keep},
        "session": session,
        "again": gr.update(visible=False),
        "card": gr.update(visible=False) if picture is None else uploaded.card_of(session, source),
        "editor": painter.value(source, drawn),
        "knobs": knobs,
        "loaded": dict(knobs),
        "preset": preset,
        "same_seed": True,
        "words": "An earlier run of this page. Restore draws its samples again, the same for the same seed.",
        "status": panels.progress_bar(0, "Picture and settings are back. Press Restore to draw the samples again."),
    }
