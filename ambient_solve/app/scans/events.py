"""What happens when a scan is put in or reconstructed: `ScanControls` in, updates by the names of the parts out."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ambient_solve.app import panels
from ambient_solve.app.begin import begun_scan
from ambient_solve.app.desk import DESK, Job
from ambient_solve.app.folders import MAX_SAMPLES, MAX_STEPS, tame
from ambient_solve.app.scans import example
from ambient_solve.app.scans import job as scan_job
from ambient_solve.app.scans import panels as scan_panels
from ambient_solve.app.scans.choices import check_prior, chosen_prior
from ambient_solve.app.scans.job import ScanRequest
from ambient_solve.app.scans.results import nothing_seen, preview, views
from ambient_solve.app.scans.session import ScanSession
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.app.wiring import libraries
from ambient_solve.errors import (
    AmbientSolveError,
    AmbiguousAxes,
    UnnamedArray,
    WrongAxes,
    on_a_page,
    without_folder,
)

SIMULATED = "# The page simulates the k-space of a picture; ambient-solve mri reads scans, not pictures."
"""Shown in place of a command line where the scan was a picture."""
MORE = "under More about the scan"
"""Where the controls of the axes and the array are, as sentences say it."""
HELPED = (AmbiguousAxes, WrongAxes, UnnamedArray)
"""Errors that a field of the page may still help to mend; the library speaks of arguments."""


def put_in(values: ScanControls) -> Iterator[dict[str, Any]]:
    """`upload`; a file that is refused leaves the box, unless a field of the page may still help to read it."""
    try:
        yield upload(values)
    except (AmbientSolveError, OSError) as error:
        words, session = on_page(error), values.session
        standing = "the example" if session is None or session.path is None else session.path.name
        status = panels.progress_bar(0, f"{words} Reconstruct takes {standing}, as before.")
        emptied = {} if isinstance(error, HELPED) else {"files" if values.files else "mask": None}
        yield {"status": status, **emptied}
        raise AmbientSolveError(words) from None


def on_page(error: Exception) -> str:
    """An error in the words of the page, where it speaks of arguments that are fields here."""
    error = without_folder(error)
    if isinstance(error, AmbiguousAxes):
        ways = " or ".join(f"{axes} ({meaning})" if meaning else axes for axes, meaning in error.choices.items())
        how = f": write into Axes, {MORE}, " if any(error.choices.values()) else f"; write it into Axes, {MORE}: "
        return f"{error.problem}{how}{ways}{error.rest}"
    if isinstance(error, WrongAxes):
        return f"'{error.axes}' in Axes, {MORE}, does not name the axes {error.shape} of {error.path}{error.reason}"
    if isinstance(error, UnnamedArray):
        return f"{error.problem}: write the name of one into Array, {MORE}."
    return on_a_page(error)


def upload(values: ScanControls) -> dict[str, Any]:
    """A scan was put in, or is to be read in another way: say what it is, and what can be done with it."""
    import gradio as gr

    session = values.session or ScanSession()
    if not values.files and session.path is None:
        return {}
    libraries()
    path, folder = session.path, session.kept
    try:
        if values.files:
            folder = Path(tempfile.mkdtemp(dir=session.folder))
            path = scan_job.keep_uploads(values.files, folder / "input")
        scan = scan_job.read_upload(path, values.axes, values.mask, array=values.array)
    except (AmbientSolveError, OSError):
        if folder != session.kept:
            shutil.rmtree(session.folder if values.session is None else folder)  # the scan before stays
        raise
    if folder != session.kept and session.kept is not None:
        shutil.rmtree(session.kept)
    session.path, session.kept, session.slices = path, folder, len(scan)
    session.clear()
    whole, many = scan.whole, len(scan) > 1
    return {
        "session": session,
        "files": None,
        "about": scan_job.about(scan),
        "index": gr.update(value=0, maximum=max(len(scan) - 1, 1), visible=many),
        "every": gr.update(value=False, interactive=many),
        "acceleration": gr.update(value=4.0 if whole else 1.0, interactive=whole),
        "kind": gr.update(interactive=whole),
        "acs": gr.update(interactive=whole),
        "row": scan.kspace.shape[-2] // 2,
        "column": scan.kspace.shape[-1] // 2,
        "status": panels.progress_bar(0, f"{scan.source} was read. Press Reconstruct."),
        **nothing_seen(),
    }


def request_of(values: ScanControls, slices: int) -> ScanRequest:
    """The request that the controls describe.

    Args:
        values: Of the tab.
        slices: Number of slices of the scan.

    Returns:
        The request.

    Raises:
        AmbientSolveError: it asks for more samples or levels than the page draws, or a number is out of range.
    """
    knobs, samples, index = dict(values.knobs or {}), int(values.samples), values.slice
    if not 1 <= samples <= MAX_SAMPLES or not 1 <= knobs.get("steps", 1) <= MAX_STEPS:
        raise AmbientSolveError(
            f"The page draws 1 to {MAX_SAMPLES} samples in 1 to {MAX_STEPS} levels: take the command line for more."
        )
    return ScanRequest(
        values.method,
        tuple(range(slices)) if values.every else (min(index, slices - 1),),
        kind=values.kind,
        acceleration=float(values.acceleration),
        acs=int(values.acs),
        algorithm=values.algorithm,
        knobs=knobs,
        samples=samples,
        seed=int(values.seed),
        coils=int(values.coils),
    )


def reconstruct_chosen(values: ScanControls) -> Iterator[dict[str, Any]]:
    """Reconstruct the slice that is chosen, or all: updates for every preview and every finished sample."""
    import gradio as gr

    try:
        yield from _reconstruct(values)
    except (AmbientSolveError, OSError) as error:
        words = on_page(error)
        ended = panels.progress_bar(0, f"Not reconstructed. {words}")
        session, index = values.session, values.slice
        gone = session is not None and session.path is not None and not session.view(index).is_file()
        yield {"status": ended, "stop": gr.update(interactive=False), **(nothing_seen() if gone else {})}
        raise AmbientSolveError(words) from None


def _reconstruct(values: ScanControls) -> Iterator[dict[str, Any]]:
    import gradio as gr

    libraries()
    from ambient_solve.mri.report import save_slice

    session = values.session or ScanSession()
    session.stopped, session.share = False, 0.0
    seed = values.seed if values.same_seed else random.randrange(2**31)
    request = request_of(replace(values, seed=seed), session.slices)
    starting = panels.progress_bar(0, "Starting")
    waiting = {"archive": gr.update(value=None, interactive=False), "stop": gr.update(interactive=True)}
    yield {"session": session, "seed": seed, "status": starting, **waiting}
    path = example.PICTURE if session.path is None else session.path
    if not path.exists():
        raise AmbientSolveError("The scan is no longer kept: put it in again.")
    check_prior(values)
    results, shown = session.folder / "results" / path.stem, {}
    finished: set[int] = set()
    job = Job(visitor=values.visitor, minutes=values.rules.minutes)
    read = lambda: scan_job.read_upload(path, values.axes, values.mask, request.seed, values.array)  # noqa: E731
    reports = begun_scan(lambda _: request, read, lambda lane: chosen_prior(values, lane), job)
    for report in DESK.serve(job, reports, lambda words: scan_job.Progress(0.0, words, request.slices[0])):
        if isinstance(report, tuple):
            scan, session.command = report[0], _command(request, path, values)
            session.clear()
            continue
        session.share = report.share
        updates: dict[str, Any] = {"status": panels.progress_bar(report.share, report.words)}
        if report.preview is not None:
            updates["panel_mean"] = gr.update(value=preview(report.preview, values), label="Estimate so far")
        if report.made is not None:
            finished.add(report.index)
            scan_panels.store(scan_panels.stored_slice(report.made), session.view(report.index))
            save_slice(report.made, session.result(report.index))
            shown = {"index": report.index, **views(session, replace(values, index=report.index))}
            updates |= shown
        if (session.stopped or job.over) and report.share < 1:
            kept = (
                f"{len(finished)} of {len(request.slices)} slices kept, as far as finished"
                if finished
                else "Nothing kept"
            )
            words = job.over_words if job.over else "Stopped."
            updates["status"] = panels.progress_bar(report.share, f"{words} {kept}.")
            yield updates
            break
        yield updates
    ended = {"stop": gr.update(interactive=False), **shown}
    if finished:
        archive = scan_job.zip_slices(tame(path.stem), results, scan)
        ended["archive"] = gr.update(value=str(archive), interactive=True)
    yield ended


def _command(request: ScanRequest, path: Path, values: ScanControls) -> str:
    """The command line that repeats the request, but for a picture, which it does not take."""
    if path.suffix.lower() in scan_job.PICTURES:
        return SIMULATED
    array, mask = values.array.strip(), values.mask
    name = ("FOLDER" if path.is_dir() else path.name) + (f":{array}" if array else "")
    return scan_job.command(request, name, values.prior or "", values.axes.strip(), Path(mask).name if mask else "")
