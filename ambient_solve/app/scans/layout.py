"""The tab that reconstructs scans: its parts, and which event each of them starts."""

from __future__ import annotations

from typing import Any

from ambient_solve.app import panels, presets, widgets
from ambient_solve.app.folders import MAX_SAMPLES
from ambient_solve.app.presets import choose_preset
from ambient_solve.app.rules import Rules
from ambient_solve.app.runs import stop
from ambient_solve.app.scans import api, choices, events, example, job, results
from ambient_solve.app.scans import panels as scan_panels
from ambient_solve.app.scans.panels import METHODS, PANELS, Look
from ambient_solve.app.scans.session import EXAMPLE_COMMAND
from ambient_solve.app.scans.values import ScanControls
from ambient_solve.app.wiring import KEPT, MODEL, Parts, connect, connect_select, forget

KINDS = {
    "random": "random lines",
    "uniform": "equally spaced lines",
    "gaussian": "lines, denser in the middle",
    "poisson": "points, evenly scattered",
    "radial": "spokes",
    "spiral": "spirals",
}
"""Sampling masks as the page calls them."""
NOTICE = (
    "**For research, not for diagnosis.** What was not measured is a learned guess, or a rule's. Files stay on this "
    "machine; of DICOM files nothing is read but pixels and their size."
)
"""What stands above every scan."""
EXAMPLE = (
    f"This is a finished example, made with: {METHODS[example.REQUEST.method]}. Reconstruct makes it again with the "
    "method that is chosen here; or put in a scan."
)
"""What the status says of the finished example."""
LOOK = ("index", "window", "level", "zoom", "row", "column", "flip", "coil")
"""Parts that say what is looked at, and how."""
READ = (
    *("session", "files", "array", "axes", "mask", "kind", "acceleration", "acs", "coils", "method", "prior", "device"),
    *("rules", "algorithm", "knobs", "samples", "seed", "same_seed", "every", *LOOK),
)
"""Parts whose values an event may read."""
DRAWN = tuple(f"panel_{name}" for name in PANELS)
"""Parts that show a panel."""
DETAILS = ("shell", "details")
"""Parts that say how a result was made."""
SHOWN = ("session", "words", "coil", *DETAILS, *DRAWN)
"""Parts that show a result."""


def scan_tab(prior: str, device: str, rules: Rules) -> None:
    """Lay out the tab of scans: the scan and the method on the left, the panels on the right.

    Args:
        prior: Name of the prior that is chosen at the start.
        device: Where it runs.
        rules: What a visitor may ask for.
    """
    import gradio as gr

    preset = presets.PRESETS["Balanced"]
    parts: Parts = {
        "session": gr.State(None, time_to_live=KEPT, delete_callback=forget),
        "device": gr.State(device),
        "rules": gr.State(rules),
        "knobs": gr.State(dict(preset.knobs)),
        "loaded": gr.State(dict(preset.knobs)),
    }
    gr.Markdown(NOTICE, elem_id="scan-notice")
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=3, min_width=300):
            _scan_column(parts)
            _method_column(parts, rules.any_prior)
        with gr.Column(scale=8, min_width=300):
            _viewer(parts)
    _wire(parts)
    api.endpoint(device, rules, MODEL)


def _scan_column(parts: Parts) -> None:
    import gradio as gr

    gr.Markdown("## 1 · The scan")
    parts["files"] = gr.File(
        label="K-space (.h5, .npz, .npy, or .cfl with its .hdr), NIfTI or DICOM, or a picture to play with",
        file_count="multiple",
        file_types=[*job.SCANS, *job.PICTURES],
        height=130,
        elem_id="scan",
    )
    parts["about"] = gr.Markdown(
        "The example is the phantom of Shepp and Logan; its k-space is simulated.", elem_id="scan-about"
    )
    parts["kind"] = gr.Dropdown(
        [(words, kind) for kind, words in KINDS.items()],
        value=example.REQUEST.kind,
        label="Keep of it",
        elem_id="scan-kind",
    )
    info = "for fully sampled scans: a part is kept, and compared with all of it; 1 keeps all"
    parts["acceleration"] = gr.Slider(
        1,
        12,
        value=example.REQUEST.acceleration,
        step=0.5,
        label="Acceleration R",
        info=info,
        elem_id="scan-acceleration",
    )
    parts["acs"] = gr.Slider(4, 64, value=16, step=1, label="Calibration lines in the middle", elem_id="scan-acs")
    with gr.Accordion("More about the scan", open=False):
        parts["array"] = gr.Textbox("", label="Array", info="its name, where the file holds several", max_lines=1)
        parts["axes"] = gr.Textbox(
            "",
            label="Axes",
            info="where they are not plain: s slices, c coils, h height, w width, such as schw",
            max_lines=1,
        )
        parts["mask"] = gr.File(label="Sampling mask (.npy, .npz), 1 where sampled", height=110)
        parts["coils"] = gr.Slider(
            0, 32, value=0, step=1, label="Virtual coils", info="0 keeps those that hold more than noise"
        )


def _method_column(parts: Parts, open_priors: bool) -> None:
    import gradio as gr

    preset = presets.PRESETS["Balanced"]
    gr.Markdown("## 2 · How to reconstruct it")
    methods = [(words, method) for method, words in METHODS.items()]
    parts["method"] = gr.Dropdown(methods, value=example.REQUEST.method, label="Method", elem_id="scan-method")
    parts["lacking"] = gr.Markdown("", visible=False, elem_id="scan-lacking")
    with gr.Column(visible=False) as parts["learned"]:
        parts["prior"] = gr.Dropdown(
            [],
            label="Prior for scans",
            info="ambient-solve mri-train makes one" + ("; a folder or hub id" if open_priors else ""),
            allow_custom_value=open_priors,
            elem_id="scan-prior",
        )
        parts["preset"] = gr.Radio(
            [(f"{name}: {each.words}", name) for name, each in presets.PRESETS.items()],
            value="Balanced",
            label="Preset",
        )
        parts["samples"] = gr.Slider(
            1, MAX_SAMPLES, value=preset.samples, step=1, label="Samples", info="two or more show how sure it is"
        )
        with gr.Row():
            parts["seed"] = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=90)
            parts["same_seed"] = gr.Checkbox(True, label="Same seed next time", min_width=120)
        with gr.Accordion("More", open=False):
            widgets.algorithm_controls(parts, preset.algorithm)
    parts["every"] = gr.Checkbox(False, label="All slices", interactive=False, elem_id="scan-every")
    with gr.Row():
        parts["run"] = gr.Button("Reconstruct", variant="primary", elem_id="scan-run", scale=3)
        parts["stop"] = gr.Button("Stop", variant="stop", interactive=False, elem_id="scan-stop", scale=1)
    parts["status"] = gr.HTML(
        panels.progress_bar(0, EXAMPLE),
        elem_id="scan-status",
    )
    parts["archive"] = gr.DownloadButton(
        "Download everything (npz, NIfTI, report)", interactive=False, size="sm", elem_id="scan-archive"
    )


def _viewer(parts: Parts) -> None:
    import gradio as gr

    seen = example.seen()
    gr.Markdown("## 3 · What was measured, and what was made of it")
    parts["words"] = gr.Markdown(scan_panels.words(seen, 0), elem_id="scan-words", container=True)
    _look(parts)
    titles, drawn = scan_panels.captions(seen), scan_panels.draw(seen, Look())
    with gr.Row(elem_id="scan-panels"):
        for name in PANELS:
            parts[f"panel_{name}"] = gr.Image(
                drawn[name],
                label=titles[name],
                alt_text=scan_panels.ALT[name],
                visible=drawn[name] is not None,
                format="png",
                buttons=["fullscreen"],
                interactive=False,
                min_width=150,
                elem_id=f"scan-{name}",
            )
    with gr.Accordion("Details", open=False, elem_id="scan-details"):
        parts["shell"] = gr.Code(
            EXAMPLE_COMMAND,
            language="shell",
            label="The same on the command line",
            wrap_lines=True,
            interactive=False,
        )
        parts["details"] = gr.JSON(dict(seen.facts), label="Settings")


def _look(parts: Parts) -> None:
    """The controls of what is looked at; they change no file."""
    import gradio as gr

    seen = example.seen()
    with gr.Row():
        # Shown where there are several: a slider from 0 to 0 is none.
        parts["index"] = gr.Slider(
            0, 1, value=0, step=1, label="Slice", visible=False, min_width=150, elem_id="scan-index"
        )
        parts["window"] = gr.Slider(2, 200, value=100, step=1, label="Window, % of white", min_width=150)
        parts["level"] = gr.Slider(0, 150, value=50, step=1, label="Level, % of white", min_width=150)
    with gr.Row():
        parts["zoom"] = gr.Slider(1, 8, value=1, step=0.5, label="Zoom, in all pictures", min_width=150)
        parts["coil"] = gr.Slider(0, len(seen.coils), value=0, step=1, label="Coil (0: all)", min_width=150)
    parts["flip"] = gr.Checkbox(False, label="Upside down")
    parts["pixel"] = gr.Markdown("Click a picture to read a pixel and to zoom round it.", elem_id="scan-pixel")
    with gr.Row():
        parts["row"] = gr.Number(seen.size[0] // 2, precision=0, minimum=0, label="Row", min_width=80)
        parts["column"] = gr.Number(seen.size[1] // 2, precision=0, minimum=0, label="Column", min_width=80)
        parts["read"] = gr.Button("Read this pixel", size="sm", min_width=120, elem_id="scan-read")


def _wire(parts: Parts) -> None:
    """Connect the events. Those that only change what is shown do not wait for the model."""
    import gradio as gr

    def on(trigger: Any, event: Any, changes: Any, extra: Any = (), **settings: Any) -> None:
        connect(parts, trigger, event, ScanControls.read, [*READ, *extra], changes, **settings)

    method = ["learned", "lacking"]
    on(gr.context.Context.root_block.load, choices.offers, ["algorithm", "prior", "method", *method])
    on(parts["method"].input, choices.choose_method, method, queue=False)
    preset = ["algorithm", "knobs", "loaded"]
    presets.samples_follow_preset(parts)
    on(parts["preset"].input, lambda v: choose_preset(v.preset), preset, ["preset"], queue=False)
    fresh = {"knobs": {}, "loaded": {}, "preset": None}
    on(parts["algorithm"].input, lambda v: fresh, list(fresh), queue=False)
    found = ["session", "files", "about", "index", "every", "acceleration", "kind", "acs", "row", "column", "words"]
    found += ["mask", "status", "archive", *DETAILS, *DRAWN]
    for event in (parts["files"].upload, parts["array"].submit, parts["axes"].submit, parts["mask"].upload):
        on(event, events.put_in, found)
    waiting = {"show_progress": "minimal", "show_progress_on": [parts["status"]], **MODEL}
    changes = ["seed", "status", "stop", "archive", "index", *SHOWN]
    on(parts["run"].click, events.reconstruct_chosen, changes, **waiting)
    on(parts["stop"].click, stop, ["stop", "status"], queue=False)
    for name in LOOK:
        if name not in ("row", "column"):
            on(parts[name].input, results.look, SHOWN, queue=False, trigger_mode="always_last")
    pixel_parts = ["pixel", "row", "column"]
    on(parts["read"].click, results.read_pixel, pixel_parts, queue=False)
    for name in PANELS:

        def click(values: ScanControls, point: tuple[float, float], name: str = name) -> dict[str, Any]:
            return results.click(values, point, name)

        connect_select(parts, parts[f"panel_{name}"].select, click, ScanControls.read, ["session", *LOOK], pixel_parts)
