"""The endpoint /mri for programs.

client = gradio_client.Client("http://127.0.0.1:7860")
archive, record = client.predict(files=[handle_file("scan.h5")], method="l1-wavelet", api_name="/mri")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ambient_solve.app import folders
from ambient_solve.app.begin import begun_scan
from ambient_solve.app.desk import DESK, Job
from ambient_solve.app.rules import Rules
from ambient_solve.app.scans import choices, panels
from ambient_solve.app.scans import job as scan_job
from ambient_solve.app.scans.session import ScanSession
from ambient_solve.app.wiring import libraries, sentences
from ambient_solve.errors import AmbientSolveError

MRI = (
    "Reconstruct a scan; for research, not for diagnosis. files: k-space (.h5, .npz, .npy, .cfl and .hdr), NIfTI or "
    "DICOM, or a picture, whose k-space is simulated. method: l1-wavelet, tv, cg-sense, zero-filled, or prior, with "
    "`prior` an embedded prior for scans (empty: the first). options (JSON): array, axes, acs, coils, algorithm, "
    "knobs, samples, seed, slices (a list; left out: all). kind and acceleration: which part of a full scan is kept; "
    "1 keeps all. Returns a zip (report, npz and settings of each slice, NIfTI volumes) and a JSON object with the "
    "misfit, R and, where there is a reference, the errors of each slice; before that, how far it is."
)
"""Description of the endpoint /mri."""
OPTIONS = {
    "array": str,
    "axes": str,
    "acs": int,
    "coils": int,
    "algorithm": str,
    "knobs": dict,
    "samples": int,
    "seed": int,
}
"""Options of the endpoint /mri with the type of each."""


def endpoint(device: str, rules: Rules, model: dict[str, Any]) -> None:
    """Add the endpoint /mri to the page that is being built.

    Args:
        device: Where the prior runs.
        rules: What a visitor may ask for.
        model: Settings of gradio for events that use the prior.
    """
    import gradio as gr

    # Their names are those of the parameters of the endpoint.
    def mri(
        request: Any, files: list[str], method: str, prior: str, options: Any, kind: str, acceleration: float
    ) -> Iterator[tuple[str | None, dict[str, Any]]]:
        given = {"files": files, "method": method, "prior": prior, "options": options}
        given |= {"kind": kind, "acceleration": acceleration, "visitor": request.session_hash}
        yield from reconstructed(given, device, rules)

    mri.__annotations__["request"] = gr.Request  # not as text, which gradio could not resolve

    with gr.Row(visible=False):
        archive, record = gr.File(label="archive"), gr.JSON(label="record")
        inputs = [
            gr.File(label="files", file_count="multiple"),
            gr.Dropdown(["prior", "l1-wavelet", "tv", "cg-sense", "zero-filled"], value="l1-wavelet", label="method"),
            gr.Textbox("", label="prior"),
            gr.JSON({}, label="options"),
            gr.Dropdown(["random", "uniform", "gaussian", "poisson", "radial", "spiral"], value="random", label="kind"),
            gr.Number(1.0, label="acceleration"),
        ]
        start = gr.Button("mri")
    start.click(sentences(mri, program=True), inputs, [archive, record], api_name="mri", api_description=MRI, **model)


def reconstructed(
    given: dict[str, Any], device: str, rules: Rules | None = None
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """What /mri answers, in parts: the progress, and at last the result.

    Args:
        given: Arguments of the endpoint by name.
        device: Where the prior runs.
        rules: What a visitor may ask for; the defaults of `Rules` if None.

    Yields:
        None and the progress; at last the path of the zip and its record.

    Raises:
        AmbientSolveError: the scan or an option does not fit.
    """
    libraries()
    from ambient_solve.mri.problem import NOTICE
    from ambient_solve.mri.report import save_slice

    options, slices = _options(given["options"])
    if not given["files"]:
        raise AmbientSolveError("No scan was given.")
    reading = {name: options.pop(name, "") for name in ("axes", "array")}
    part = {name: given[name] for name in ("method", "kind", "acceleration")}
    request = scan_job.ScanRequest(**part, **options)  # before a file is read
    prior = lambda lane: None  # noqa: E731 - a method without one
    if given["method"] == "prior":
        found = choices.priors()
        if not found or (given["prior"] and given["prior"] not in found):
            raise AmbientSolveError(f"There is no embedded prior {given['prior']!r} for scans. Known: {found}.")
        given["prior"] = given["prior"] or found[0]
        prior = lambda lane: choices.lane_prior(given["prior"], device, lane)  # noqa: E731
    with contextlib.closing(ScanSession()) as session:
        path = scan_job.keep_uploads(given["files"], session.folder / "input")
        how = (reading["axes"], None, request.seed, reading["array"])

        def request_of(scan: Any) -> scan_job.ScanRequest:
            return replace(request, slices=slices or tuple(range(len(scan))))

        folder, slice_records = session.folder / "results" / path.stem, {}
        job = Job(visitor=given.get("visitor"), minutes=(rules or Rules()).minutes)
        reports = begun_scan(request_of, lambda: scan_job.read_upload(path, *how), prior, job)
        for report in DESK.serve(job, reports, lambda words: scan_job.Progress(0.0, words, 0)):
            if isinstance(report, tuple):
                scan, request = report
                continue
            yield None, {"share": round(report.share, 3), "words": report.words}
            if report.finished:
                save_slice(report.made, folder / f"slice-{report.index:03d}")
                facts = panels.stored_slice(report.made).facts
                kept = {"misfit": facts["chi2"], "R": facts["R"], "acs": facts["acs"], **facts["metrics"]}
                kept |= {"doubts": facts["doubts"]} if facts["doubts"] else {}
                slice_records[str(report.index)] = kept
        if not slice_records:
            raise AmbientSolveError(f"{job.over_words} No slice was finished by then.")
        ended = {"ended": job.over_words} if job.over and len(slice_records) < len(request.slices) else {}
        record = {
            "slices": slice_records,
            "simulated_kspace": scan.simulated,
            "notes": list(scan.notes),
            "notice": NOTICE,
        }
        yield str(scan_job.zip_slices(path.stem, folder, scan)), record | ended


def _options(given: Any) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The options that are known, each of its type, and the slices that are asked for."""
    options = dict(given) if isinstance(given, dict) else {"": given} if given else {}
    slices = options.pop("slices", [])
    fits = isinstance(slices, list) and all(type(i) is int for i in slices)
    if not fits or any(type(value) is not OPTIONS.get(name) for name, value in options.items()):
        wanted = {name: kind.__name__ for name, kind in OPTIONS.items()} | {"slices": "list of int"}
        raise AmbientSolveError(f"options={given!r} was given; of these some were expected: {wanted}.")
    samples, steps = options.get("samples", 4), options.get("knobs", {}).get("steps", 1)
    if not 1 <= samples <= folders.MAX_SAMPLES or type(steps) is not int or not 1 <= steps <= folders.MAX_STEPS:
        raise AmbientSolveError(
            f"{samples} samples and {steps} levels were asked for, at most {folders.MAX_SAMPLES} and "
            f"{folders.MAX_STEPS} are drawn here."
        )
    return options, tuple(slices)
