"""The tab that restores many pictures with the settings above: files or a zip in, a zip out."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambient_solve.app import panels, runs
from ambient_solve.app.desk import DESK, LONG, Job
from ambient_solve.app.folders import MAX_PIXELS, tame
from ambient_solve.app.photographs import choices, controls, output
from ambient_solve.app.photographs.prompts import worded
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.session import Session
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.uploads import left_inside, open_upload, unzip_pictures, zip_folder
from ambient_solve.app.wiring import libraries
from ambient_solve.app.work import QUICK, asked, checked
from ambient_solve.errors import AmbientSolveError, on_a_page, shown
from ambient_solve.knobs import AUTO
from ambient_solve.resume import read_record

if TYPE_CHECKING:
    from ambient_solve.restore.files import Outcome
    from ambient_solve.restore.tasks import Task

MOST = 200
"""Largest number of pictures of one run."""
HEADS = ("picture", "misfit (1 is right)", "noise", "state", "warning")
"""Heads of the table of outcomes."""
WIDTHS = ("24%", "12%", "12%", "18%", "34%")
"""Widths of its columns."""


@runs.settled
def restore_many(values: Controls) -> Iterator[dict[str, Any]]:
    """Restore every picture with the settings of the page; what an earlier run of the session has finished is kept."""
    import gradio as gr

    libraries()
    from ambient_solve.restore.files import restore_files
    from ambient_solve.restore.tasks import make_task

    session, request = values.session or Session(), choices.request_of(values)
    if values.play:
        raise AmbientSolveError("Many pictures are restored as they are: untick 'damage it for me'.")
    files = {} if request.kernel is None else {"kernel": request.kernel}
    if "inpaint" in request.task.split("+"):
        files = {"mask": request.mask}
    options = {**request.options, **({"sigma": AUTO} if values.each_noise else {})}
    if values.each_noise and request.task in ("inpaint", "jpeg"):
        raise AmbientSolveError(
            f"The noise of each picture is not estimated where it is {controls.task_words(request.task)}: untick it."
        )
    damage = make_task(request.task, **options, **files)
    pictures, left = _received(values.many or [], session.folder / "many-in")
    prior, out, rows = choices.chosen_prior(values, LONG), session.folder / "many-out", left
    request, cond = worded(request, prior)
    job = Job(_work(request, pictures), values.visitor, values.rules.minutes)
    settings = {"algorithm": request.algorithm, "options": dict(request.knobs), "n_samples": request.samples}
    settings |= {"cond": cond}
    session.stopped, session.share, unread = False, 0.0, len(left)
    started = panels.progress_bar(0, f"{len(pictures)} pictures")
    yield {"session": session, "status": started, "table": rows, **runs.at_work()}
    outcomes = restore_files(pictures, prior, damage, out=out, seed=request.seed, max_pixels=MAX_PIXELS, **settings)
    for outcome in DESK.serve(job, iter(outcomes), lambda words: words):
        if isinstance(outcome, str):
            yield {"status": panels.progress_bar(0, outcome)}
            if session.stopped:
                yield {"status": panels.progress_bar(0, "Stopped."), **runs.at_rest()}
                return
            continue
        failed = "" if outcome.problem is None else on_a_page(outcome.problem)
        state = failed or ("finished before" if outcome.skipped else f"{outcome.seconds:.1f} s")
        misfit = "" if outcome.error else f"{outcome.chi2:.2f}"
        rows.append([shown(outcome.path.name), misfit, _noise(outcome, damage), state, outcome.warning])
        session.share = (len(rows) - unread) / len(pictures)
        ended = "Stopped. " if session.stopped else f"{job.over_words} " if job.over else ""
        words = f"{ended}{len(rows) - unread} of {len(pictures)} pictures"
        yield {"status": panels.progress_bar(session.share, words), "table": rows}
        if session.stopped:
            break
    if all(row[1] == "" for row in rows):
        raise AmbientSolveError("None of the pictures could be restored: the table says why.")
    archive = zip_folder(out, session.folder / "restored.zip")
    yield {"many_out": gr.update(value=str(archive), interactive=True), **runs.at_rest()}


def _noise(outcome: Outcome, damage: Task) -> str:
    """The noise level that a picture was restored with."""
    if damage.sigma != AUTO:
        return f"{damage.sigma:g}"
    if outcome.error or outcome.folder is None:
        return ""
    return f"{read_record(outcome.folder)['estimated']['sigma']['value']:.3g}"


def _work(request: RestoreRequest, pictures: list[Path]) -> float:
    """What they ask for, which is a long job at any rate; none of them may ask for too much."""
    from PIL import Image

    from ambient_solve.reading.limits import FORMATS

    work, each = 2 * QUICK, asked(request)
    for path in pictures:
        pixels = 0  # what is wrong with a file is said in its turn
        with contextlib.suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            with Image.open(path, formats=FORMATS) as image:
                pixels = image.width * image.height * request.options.get("factor", 1) ** 2
        work += checked(each * pixels)
    return work


def _received(uploads: list[str], folder: Path) -> tuple[list[Path], list[list[str]]]:
    """The pictures among the uploads, under tame names, also those of zips; and a row for each that a zip keeps.

    Bad ones are reported in their turn.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found: list[Path] = []
    left: list[list[str]] = []
    for upload in map(Path, uploads):
        if upload.suffix.lower() == ".zip":
            found += unzip_pictures(upload, folder / tame(upload.stem), max_files=MOST)
            left += [[shown(name), "", "", f"left out: {why}", ""] for name, why in left_inside(upload)]
            continue
        path = folder / tame(upload.name)
        if path in found:
            raise AmbientSolveError(f"Two of the pictures are called {upload.name}: put them in one after the other.")
        shutil.copyfile(upload, path)
        found.append(path)
    for path, source in [(path, output.source_of(path)) for path in found]:
        if source is not None:  # nothing is restored twice by accident
            found.remove(path)
            left.append([shown(path.name), "", "", f"left out: it is itself a restoration of {source.name}", ""])
    if left and not found:
        raise AmbientSolveError(f"{left[0][0]}: {left[0][3]}. Put in pictures that are to be restored.")
    if not 0 < len(found) <= MOST:
        raise AmbientSolveError(f"{len(found)} pictures were put in, 1 to {MOST} were expected, as files or in a zip.")
    if len(found) == 1:
        open_upload(found[0], max_pixels=MAX_PIXELS)
    return found, left
