"""What happens when something on the tab for scans is used: values by name in, updates by name out."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ambient_solve.app import panels
from ambient_solve.app.begin import begun_scan
from ambient_solve.app.desk import DESK, LONG, Job
from ambient_solve.app.folders import MAX_SAMPLES, MAX_STEPS, new_folder, tame
from ambient_solve.app.scans import example
from ambient_solve.app.scans import job as scan_job
from ambient_solve.app.scans import panels as scan_panels
from ambient_solve.app.scans.job import ScanRequest
from ambient_solve.app.scans.panels import Look, Slice
from ambient_solve.app.wiring import libraries
from ambient_solve.distributed import choose_device
from ambient_solve.errors import (
    AmbientSolveError,
    AmbiguousAxes,
    UnnamedArray,
    WrongAxes,
    on_a_page,
    without_folder,
)

OWN_PRIOR = "brain-mri"
"""The embedded prior that the tab starts with, where it is there."""
NEEDS_SIGPY = ("l1-wavelet", "tv")
SIMULATED = "# The page simulates the k-space of a picture; ambient-solve mri reads scans, not pictures."
EXAMPLE_COMMAND = "# python -m ambient_solve.app.scans.example, in a clone, makes the example again."
MORE = "under More about the scan"
HELPED = (AmbiguousAxes, WrongAxes, UnnamedArray)
"""Errors that a field of the page may still help to mend; the library speaks of arguments."""


@dataclass
class ScanSession:
    """The scan of one browser session; its files and what is shown of each slice lie in a folder that goes with it.

    The scan lies in `kept`; `command` repeats what was made of it, `share` tells how far the run is.
    """

    folder: Path = field(default_factory=new_folder)
    path: Path | None = None
    slices: int = 1
    stopped: bool = False
    share: float = 0.0
    kept: Path | None = None
    command: str = EXAMPLE_COMMAND

    def view(self, index: int) -> Path:
        """The file with what is shown of a slice; there once it is reconstructed."""
        return self.folder / "views" / f"{index}.npz"

    def result(self, index: int) -> Path:
        """The folder with the files of a slice."""
        path = example.PICTURE if self.path is None else self.path
        return self.folder / "results" / path.stem / f"slice-{index:03d}"

    def clear(self) -> None:
        """Forget what was reconstructed."""
        for name in ("views", "results"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@lru_cache(maxsize=2)
def prior_of(name: str, device: str, lane: str = "quick") -> Any:
    """A prior of complex pictures, kept for the next run; each lane works with its own."""
    libraries()
    from ambient_solve.mri.reconstruction import load_mri_prior

    return load_mri_prior(name, choose_device(device))


def priors() -> list[str]:
    """The embedded priors that make two channels, real and imaginary part; the tab's own first."""
    libraries()
    from ambient_solve.priors.load import embedded_priors, prior_folder

    found = [n for n in embedded_priors() if json.loads((prior_folder(n) / "config.json").read_text())["channels"] == 2]
    return sorted(found, key=lambda name: name != OWN_PRIOR)


def _further(names: tuple[str, ...]) -> list[str]:
    """Those of `names` that may be priors for scans: hub ids, and folders of a network of two channels."""
    libraries()
    from ambient_solve.priors.load import embedded_priors

    def fits(name: str) -> bool:
        config = Path(name) / "config.json"
        return not Path(name).exists() or (config.is_file() and json.loads(config.read_text()).get("channels") == 2)

    return [name for name in names if name not in embedded_priors() and fits(name)]


def offers(values: dict[str, Any]) -> dict[str, Any]:
    """What there is to choose, once the page stands: it takes torch, which takes seconds."""
    import gradio as gr

    embedded = priors()
    found = [*embedded, *_further(values["rules"].priors)]
    from ambient_solve.algorithms import ALGORITHMS

    updates: dict[str, Any] = {"algorithm": gr.update(choices=["auto", *ALGORITHMS])}
    updates["prior"] = gr.update(choices=found, value=embedded[0] if embedded else None)
    if embedded:
        updates |= {"method": "prior", **choose_method({"method": "prior"})}
    return updates


def choose_method(values: dict[str, Any]) -> dict[str, Any]:
    """Show the controls of a learned prior, or hide them; and say what a method lacks."""
    import gradio as gr

    learned = values["method"] == "prior"
    lacks = values["method"] in NEEDS_SIGPY and importlib.util.find_spec("sigpy") is None
    words = "This method needs sigpy, which is not installed: `pip install 'ambient-solve[mri]'`." if lacks else ""
    return {"learned": gr.update(visible=learned), "lacking": gr.update(value=words, visible=lacks)}


def put_in(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`upload`; a file that is refused leaves the box, unless a field of the page may still help to read it."""
    try:
        yield upload(values)
    except (AmbientSolveError, OSError) as error:
        words, session = on_page(error), values["session"]
        standing = "the example" if session is None or session.path is None else session.path.name
        status = panels.progress_bar(0, f"{words} Reconstruct takes {standing}, as before.")
        emptied = {} if isinstance(error, HELPED) else {"files" if values["files"] else "mask": None}
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


def upload(values: dict[str, Any]) -> dict[str, Any]:
    """A scan was put in, or is to be read in another way: say what it is, and what can be done with it."""
    import gradio as gr

    session = values["session"] or ScanSession()
    if not values["files"] and session.path is None:
        return {}
    libraries()
    path, folder = session.path, session.kept
    try:
        if values["files"]:
            folder = Path(tempfile.mkdtemp(dir=session.folder))
            path = scan_job.receive(values["files"], folder / "input")
        scan = scan_job.read(path, values["axes"], values["mask"], array=values["array"])
    except (AmbientSolveError, OSError):
        if folder != session.kept:
            shutil.rmtree(session.folder if values["session"] is None else folder)  # the scan before stays
        raise
    if folder != session.kept and session.kept is not None:
        shutil.rmtree(session.kept)
    session.path, session.kept, session.slices = path, folder, len(scan)
    session.clear()
    whole, many = float(scan.mask.mean()) == 1, len(scan) > 1
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


def nothing_seen() -> dict[str, Any]:
    """What stands where a reconstruction will be."""
    import gradio as gr

    panel = {f"panel_{name}": gr.update(value=None, visible=name == "mean") for name in scan_panels.PANELS}
    archive = gr.update(value=None, interactive=False)
    return {"words": "Not reconstructed yet.", "archive": archive, "shell": "", "details": {}, **panel}


def request_of(values: dict[str, Any], slices: int) -> ScanRequest:
    """The request that the controls describe."""
    knobs, samples, index = dict(values["knobs"] or {}), int(values["samples"]), int(values["index"] or 0)
    if not 1 <= samples <= MAX_SAMPLES or not 1 <= knobs.get("steps", 1) <= MAX_STEPS:
        raise AmbientSolveError(
            f"The page draws 1 to {MAX_SAMPLES} samples in 1 to {MAX_STEPS} levels: take the command line for more."
        )
    return ScanRequest(
        values["method"],
        tuple(range(slices)) if values["every"] else (min(index, slices - 1),),
        kind=values["kind"],
        acceleration=float(values["acceleration"]),
        acs=int(values["acs"]),
        algorithm=values["algorithm"],
        knobs=knobs,
        samples=samples,
        seed=int(values["seed"]),
        coils=int(values["coils"]),
    )


def reconstruct(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Reconstruct the slice that is chosen, or all: updates for every preview and every finished sample."""
    import gradio as gr

    try:
        yield from _reconstruct(values)
    except (AmbientSolveError, OSError) as error:
        words = on_page(error)
        ended = panels.progress_bar(0, f"Not reconstructed. {words}")
        session, index = values["session"], int(values["index"] or 0)
        gone = session is not None and session.path is not None and not session.view(index).is_file()
        yield {"status": ended, "stop": gr.update(interactive=False), **(nothing_seen() if gone else {})}
        raise AmbientSolveError(words) from None


def _reconstruct(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import gradio as gr

    libraries()
    from ambient_solve.mri.report import save_slice

    session = values["session"] or ScanSession()
    session.stopped, session.share = False, 0.0
    seed = values["seed"] if values["same_seed"] else random.randrange(2**31)
    request = request_of({**values, "seed": seed}, session.slices)
    starting = panels.progress_bar(0, "Starting")
    waiting = {"archive": gr.update(value=None, interactive=False), "stop": gr.update(interactive=True)}
    yield {"session": session, "seed": seed, "status": starting, **waiting}
    path = example.PICTURE if session.path is None else session.path
    if not path.exists():
        raise AmbientSolveError("The scan is no longer kept: put it in again.")
    _check_prior(values)
    results, shown = session.folder / "results" / path.stem, {}
    finished: set[int] = set()
    job = Job(visitor=values.get("visitor"), minutes=values["rules"].minutes)
    read = lambda: scan_job.read(path, values["axes"], values["mask"], request.seed, values["array"])  # noqa: E731
    reports = begun_scan(lambda _: request, read, lambda lane: _chosen_prior(values, lane), job)
    for report in DESK.serve(job, reports, lambda words: scan_job.Progress(0.0, words, request.slices[0])):
        if isinstance(report, tuple):
            scan, session.command = report[0], _command(request, path, values)
            session.clear()
            continue
        session.share = report.share
        updates: dict[str, Any] = {"status": panels.progress_bar(report.share, report.words)}
        if report.preview is not None:
            updates["panel_mean"] = gr.update(value=_preview(report.preview, values), label="Estimate so far")
        if report.made is not None:
            finished.add(report.index)
            scan_panels.store(scan_panels.shown(report.made), session.view(report.index))
            save_slice(report.made, session.result(report.index))
            shown = {"index": report.index, **views(session, {**values, "index": report.index})}
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
        archive = scan_job.pack(tame(path.stem), results, scan)
        ended["archive"] = gr.update(value=str(archive), interactive=True)
    yield ended


def views(session: ScanSession, values: dict[str, Any]) -> dict[str, Any]:
    """All that the page shows of the slice that is looked at."""
    import gradio as gr

    index = int(values["index"] or 0)
    seen = _seen(session, index)
    look = look_of(values)
    titles, drawn = scan_panels.captions(seen), scan_panels.draw(seen, look)
    updates = {
        f"panel_{name}": gr.update(value=image, label=titles[name], visible=image is not None)
        for name, image in drawn.items()
    }
    coils = gr.update(maximum=max(len(seen.coils), 1), value=min(look.coil, len(seen.coils)))
    settings = session.result(index) / "settings.json"
    told = json.loads(settings.read_text()) if settings.is_file() else dict(seen.facts)
    updates |= {"shell": session.command, "details": told}
    return {"session": session, "words": scan_panels.words(seen, index), "coil": coils, **updates}


def look(values: dict[str, Any]) -> dict[str, Any]:
    """The window, the zoom or the slice was changed."""
    session = values["session"] or ScanSession()
    index = int(values["index"] or 0)
    if session.path is not None and not session.view(index).is_file():
        return {"words": f"Slice {index} is not reconstructed yet."}
    return views(session, values)


def click(values: dict[str, Any], point: tuple[float, float], name: str) -> dict[str, Any]:
    """A point of a panel was clicked: read the pixel, and make it the middle of the zoom."""
    session, index = values["session"], int(values["index"] or 0)
    seen = _seen(session, index)
    place = scan_panels.place(name, *point, seen, look_of(values))
    return {} if place is None else read_pixel({**values, "row": place[0], "column": place[1]})


def read_pixel(values: dict[str, Any]) -> dict[str, Any]:
    """The values at one pixel."""
    seen = _seen(values["session"], int(values["index"] or 0))
    row, column = int(values["row"] or 0), int(values["column"] or 0)
    if not (0 <= row < seen.size[0] and 0 <= column < seen.size[1]):
        height, width = seen.size
        raise AmbientSolveError(f"Row {row}, column {column} is outside the slice of {height}x{width} pixels.")
    return {"pixel": scan_panels.pixel_words(seen, row, column), "row": row, "column": column}


def look_of(values: dict[str, Any]) -> Look:
    """How the controls say that a slice is to be looked at."""
    return Look(
        window=float(values["window"]) / 100,
        level=float(values["level"]) / 100,
        zoom=float(values["zoom"]),
        row=int(values["row"] or 0),
        column=int(values["column"] or 0),
        flip=bool(values["flip"]),
        coil=int(values["coil"] or 0),
    )


def _command(request: ScanRequest, path: Path, values: dict[str, Any]) -> str:
    """The command line that repeats the request, but for a picture, which it does not take."""
    if path.suffix.lower() in scan_job.PICTURES:
        return SIMULATED
    array, mask = values["array"].strip(), values["mask"]
    name = ("FOLDER" if path.is_dir() else path.name) + (f":{array}" if array else "")
    return scan_job.command(
        request, name, values["prior"] or "", values["axes"].strip(), Path(mask).name if mask else ""
    )


def _check_prior(values: dict[str, Any]) -> None:
    """Say before the job waits for its turn that it lacks a prior, or that this one is not offered."""
    if values["method"] == "prior" and not values["prior"]:
        raise AmbientSolveError(
            "No prior for scans is chosen: give the folder of one that ambient-solve mri-train made, or take the "
            "method l1-wavelet."
        )
    if values["method"] == "prior":
        values["rules"].check_prior(values["prior"])


def _chosen_prior(values: dict[str, Any], lane: str = "quick") -> Any:
    _check_prior(values)
    return lane_prior(values["prior"], values["device"], lane) if values["method"] == "prior" else None


def lane_prior(name: str, device: str, lane: str) -> Any:
    """The prior that a lane works with."""
    return prior_of(name, device, *([lane] if lane == LONG else []))


def _preview(x: Any, values: dict[str, Any]) -> Any:
    """The estimate under the window of the page, its own brightest part for white."""
    import numpy as np

    top = max(float(np.quantile(x, 0.998)), 1e-30)
    return scan_panels.magnitude(x / top, Look(float(values["window"]) / 100, float(values["level"]) / 100))


def _seen(session: ScanSession | None, index: int) -> Slice:
    if session is not None and session.view(index).is_file():
        return scan_panels.load(session.view(index))
    if session is None or session.path is None:
        return example.seen()
    raise AmbientSolveError("This slice is not reconstructed yet: press Reconstruct first.")
