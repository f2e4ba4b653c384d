"""What happens when a clip is restored: `ClipControls` in, updates by the names of the parts out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.app import panels
from ambient_solve.app.begin import begun_clip
from ambient_solve.app.clips.choices import clip_of, command, lane_prior, request_of
from ambient_solve.app.clips.player import player_value
from ambient_solve.app.clips.session import ClipSession
from ambient_solve.app.clips.values import ClipControls
from ambient_solve.app.clips.words import counted, outcome_words, trouble
from ambient_solve.app.desk import DESK, Job
from ambient_solve.app.wiring import libraries
from ambient_solve.errors import AmbientSolveError, ShortVideo

if TYPE_CHECKING:
    from ambient_solve.video.restoring import ClipRequest


def restore_clip(values: ClipControls) -> Iterator[dict[str, Any]]:
    """Restore the part of the clip that is chosen: updates after every frame, and every second in between.

    Args:
        values: Of the tab.

    Yields:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: a file or a setting does not fit.
    """
    try:
        yield from _restore(values)
    except (AmbientSolveError, OSError) as error:
        words = trouble(error, int(values.first))
        last = {"last": error.frames - 1} if isinstance(error, ShortVideo) and error.frames > values.first else {}
        yield {"status": panels.progress_bar(0, f"Not restored. {words}"), **_at_rest(), **last}
        raise AmbientSolveError(words) from None
    except Exception:
        words = "Not restored. The terminal of the page tells what went wrong."
        yield {"status": panels.progress_bar(0, words), **_at_rest()}
        raise


def _restore(values: ClipControls) -> Iterator[dict[str, Any]]:
    import gradio as gr

    libraries()
    from ambient_solve.app.clips.job import ClipRun, Progress
    from ambient_solve.app.stopping import Stopped

    session = clip_of(values)
    seed = values.seed if values.same_seed else random.randrange(2**31)
    request = request_of(replace(values, seed=seed))
    values.rules.check_prior(values.prior)
    session.stopped, session.share, taken = False, 0.0, session.taken
    path, out = session.path, _name(session)
    run = ClipRun(request, path, out, lambda: session.stopped or session.taken != taken)
    job = Job(visitor=values.visitor, minutes=values.rules.minutes)
    waiting = {"status": panels.progress_bar(0, "Starting"), "seed": seed, **_at_work()}
    yield {"session": session, "download": gr.update(value=None, interactive=False), **waiting}
    reports = begun_clip(run, session.facts.size, lambda lane: lane_prior(values, lane), job)
    served = DESK.serve(job, reports, lambda words: Progress(0.0, words), run.progress)
    shown: dict[str, Any] = {}
    try:
        for report in served:
            session.share = report.share
            updates: dict[str, Any] = {"status": panels.progress_bar(report.share, report.words)}
            if report.picture is not None:
                updates["latest"] = gr.update(value=report.picture, visible=True)
            if report.outcome is not None:
                words = outcome_words(report.outcome, request, session.facts.rate)
                shown = {"words": words, **_shown(session, request, out, report.outcome.frames)}
                shown["shell"] = command(request, path.name, values.prior)
                updates |= shown
            elif session.stopped or job.over or session.taken != taken:
                raise Stopped
            yield updates
    except (Stopped, AmbientSolveError, OSError) as error:
        served.close()
        if session.taken == taken:  # with another clip, the files of this one are gone, and so is what it would say
            if not isinstance(error, Stopped):
                raise
            shown = _stopped(session, request, out, job.over_words if job.over else "Stopped.")
            yield shown
    finally:
        served.close()
    # Once more all that is shown: a tab that is closed keeps only the last that it was sent.
    yield {**shown, **_at_rest()}


def _stopped(session: ClipSession, request: ClipRequest, out: Path, why: str) -> dict[str, Any]:
    """What is left of a run that was stopped: the frames that are finished, and how to go on."""
    from ambient_solve.video.store import write_unfinished

    part = out.with_name(f"unfinished-{out.name}")
    frames, total = write_unfinished(out, session.path, part), (request.last or 0) - request.first
    if not frames:
        return {"status": panels.progress_bar(session.share, f"{why} No frame was finished by then.")}
    words = f"{why} {frames} of {total} frames are finished and kept; Restore goes on from there."
    said = f"**The first {counted(frames)}** of the part are restored. Restore goes on with the rest."
    return {
        "status": panels.progress_bar(session.share, words),
        "words": said,
        **_shown(session, request, part, frames),
    }


def _shown(session: ClipSession, request: ClipRequest, after: Path, frames: int) -> dict[str, Any]:
    """Updates that play a restored clip beside what it was made of, and hand it out."""
    import gradio as gr

    from ambient_solve.video.clip import Clip, playable, write_measured

    clip = Clip(session.path, request.damage, request.first, request.first + frames, request.side)
    before = write_measured(clip, session.work / "before.mp4")
    mask = session.work / "mask.png"
    painted = getattr(request.damage, "mask", None) == str(mask)
    return {
        "player": player_value(before, playable(after, session.work / "after.mp4"), session.facts.rate),
        "latest": gr.update(value=None, visible=False),
        "download": gr.update(value=str(after), interactive=True),
        "mask_out": gr.update(value=str(mask) if painted else None, interactive=painted),
    }


def stop_clip(values: ClipControls) -> dict[str, Any]:
    """Ask the run to end; it does so after its pass through the network.

    Args:
        values: The session is read.

    Returns:
        Updates by the name of the part.
    """
    import gradio as gr

    session = values.session
    if session is None:
        return {"stop": gr.update(interactive=False)}
    session.stopped = True
    words = "Stopping: what is being computed is finished first."
    return {"stop": gr.update(interactive=False), "status": panels.progress_bar(session.share, words)}


def _name(session: ClipSession) -> Path:
    """Where the restored clip goes, in the first container that takes its sound."""
    from ambient_solve.video.files import WRITTEN, takes_sound

    suffix = next((each for each in WRITTEN if takes_sound(session.path, each)), WRITTEN[0])
    return session.work / f"{session.path.stem}-restored{suffix}"


def _at_work() -> dict[str, Any]:
    import gradio as gr

    return {"run": gr.update(interactive=False), "stop": gr.update(interactive=True)}


def _at_rest() -> dict[str, Any]:
    import gradio as gr

    return {"run": gr.update(interactive=True), "stop": gr.update(interactive=False)}
