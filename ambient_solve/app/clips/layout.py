"""The tab that restores a clip: its parts, and which event each of them starts."""

from __future__ import annotations

from typing import Any

from ambient_solve.app import painter, panels, widgets
from ambient_solve.app.clips import choices, events, player, uploaded
from ambient_solve.app.clips.values import KNOBS, ClipControls
from ambient_solve.app.folders import MAX_SAMPLES
from ambient_solve.app.photographs.controls import damage_knobs, damage_widget, start_value
from ambient_solve.app.rules import Rules
from ambient_solve.app.wiring import KEPT, MODEL, Parts, connect, forget

CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".ogv")
"""Suffixes of clips."""
MASKS = (".png", ".jpg", ".webp", ".bmp", ".tif", ".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v")
"""Suffixes of masks, pictures and videos."""
QUALITY = "Quick look"
"""The quality that the tab starts with."""
NOISES = {
    "integral": "with the motion, by area (best)",
    "nearest": "with the motion, by pixel (faster)",
    "fixed": "not at all",
    "independent": "anew in every frame (flickers)",
}
"""Kinds of noise as the page calls them."""
READ = (
    *("session", "file", "mask", "editor", "wrong", "found", "scratches", *KNOBS, "first", "last", "size"),
    *("prior", "device", "rules", "algorithm", "knobs", "samples", "noise", "guidance", "seed", "same_seed"),
)
"""Parts whose values an event may read."""
SHOWN = ("session", "words", "player", "latest", "download", "mask_out", "shell")
"""Parts that show a result."""


def clip_tab(prior: str, device: str, rules: Rules) -> None:
    """Lay out the tab of clips: the clip on the left, before and after in the middle, how to restore on the right.

    Args:
        prior: Name of the prior that is chosen at the start.
        device: Where it runs.
        rules: What a visitor may ask for.
    """
    import gradio as gr

    parts: Parts = {
        "session": gr.State(None, time_to_live=KEPT, delete_callback=forget),
        "device": gr.State(device),
        "rules": gr.State(rules),
        "knobs": gr.State({"steps": choices.QUALITIES[QUALITY]}),
        "loaded": gr.State({"steps": choices.QUALITIES[QUALITY]}),
    }
    with gr.Row(elem_id="clip-columns"):
        with gr.Column(scale=5, min_width=300):
            _clip_column(parts)
        with gr.Column(scale=6, min_width=300):
            _player_column(parts)
        with gr.Column(scale=3, min_width=250):
            _part_column(parts, prior, rules.any_prior)
    _wire(parts)


def _clip_column(parts: Parts) -> None:
    import gradio as gr

    gr.Markdown("## 1 · The clip and what is wrong with it")
    parts["file"] = gr.File(
        label="Clip: drop it here, or choose a file", file_types=list(CLIPS), height=130, elem_id="clip"
    )
    parts["about"] = gr.Markdown("A few seconds are enough to try the settings.", elem_id="clip-about")
    parts["wrong"] = gr.Dropdown(
        [(each.words, name) for name, each in choices.WRONG.items()],
        value="denoise",
        label="What is wrong",
        elem_id="clip-wrong",
    )
    parts["painting"] = gr.Markdown("", visible=False, elem_id="clip-painting")
    parts["editor"] = gr.HTML(
        None,
        html_template=painter.TEMPLATE,
        js_on_load=painter.SCRIPT,
        label="First frame, to paint on",
        visible=False,
        elem_id="clip-editor",
    )
    parts["scratches"] = gr.Slider(
        0.05,
        1,
        value=0.5,
        step=0.05,
        label="How readily a line is taken for a scratch",
        visible=False,
        elem_id="clip-scratches",
    )
    parts["find"] = gr.Button("Find the scratches", size="sm", visible=False, elem_id="clip-find")
    with gr.Accordion("Upload a mask", open=False, visible=False, elem_id="clip-mask-file") as parts["mask_file"]:
        parts["mask"] = gr.File(
            label="White where something is missing: a picture, or a video with a mask for each frame",
            file_types=list(MASKS),
            height=130,
            elem_id="clip-mask",
        )
    parts["found"] = gr.Checkbox(
        True,
        label="Find the numbers in the first frame",
        info="how strong the noise is, how wide the blur; untick it to set them by hand",
        elem_id="clip-found",
    )
    known, shown = damage_knobs(), choices.shown_knobs("denoise", True)
    for name in KNOBS:
        value = start_value("denoise", name) if name in shown else known[name].default
        parts[name] = damage_widget(known[name], value, name in shown, "clip")


def _player_column(parts: Parts) -> None:
    import gradio as gr

    gr.Markdown("## 2 · Before and after")
    parts["player"] = gr.HTML(
        None,
        html_template=player.TEMPLATE,
        js_on_load=player.SCRIPT,
        label="The clip before and after",
        elem_id="clip-player",
    )
    parts["latest"] = gr.Image(
        None,
        label="The frame that was finished last",
        alt_text="The restored frame that was finished last",
        visible=False,
        format="png",
        buttons=[],
        interactive=False,
        height=300,
        elem_id="clip-latest",
    )
    parts["status"] = gr.HTML(panels.progress_bar(0, "Put in a clip."), elem_id="clip-status")
    with gr.Row(elem_id="clip-start"):
        parts["run"] = gr.Button("Restore", variant="primary", elem_id="clip-run", scale=3)
        parts["stop"] = gr.Button("Stop", variant="stop", interactive=False, elem_id="clip-stop", scale=1)
    parts["words"] = gr.Markdown(
        "Each frame is restored with what the frames before it have shown, so that the clip does not flicker. What was "
        "never seen is invented, once, and kept.",
        elem_id="clip-words",
        container=True,
    )
    with gr.Row():
        parts["download"] = gr.DownloadButton(
            "Download the clip", interactive=False, size="sm", elem_id="clip-download"
        )
        parts["mask_out"] = gr.DownloadButton(
            "Download the mask", interactive=False, size="sm", elem_id="clip-mask-out"
        )
    with gr.Accordion("The same on the command line", open=False):
        parts["shell"] = gr.Code(
            "", language="shell", label="The same on the command line", wrap_lines=True, interactive=False
        )


def _part_column(parts: Parts, prior: str, open_priors: bool) -> None:
    import gradio as gr

    gr.Markdown("## 3 · Which part, and how")
    parts["first"] = gr.Slider(0, 1, value=0, step=1, label="First frame", interactive=False, elem_id="clip-first")
    parts["last"] = gr.Slider(0, 1, value=0, step=1, label="Last frame", interactive=False, elem_id="clip-last")
    sizes = [(f"{size} pixels" if size else "as it is", size) for size in choices.SIZES]
    parts["size"] = gr.Dropdown(
        sizes,
        value=256,
        label="Working size",
        info="of the longer side; time grows as its square",
        elem_id="clip-size",
    )
    parts["part"] = gr.Markdown("", elem_id="clip-part")
    parts["preset"] = gr.Radio(
        [(f"{name}: {levels} levels a frame", name) for name, levels in choices.QUALITIES.items()],
        value=QUALITY,
        label="How well",
        elem_id="clip-quality",
    )
    parts["prior"] = gr.Dropdown(
        [prior],
        value=prior,
        label="Model",
        info="what it knows of pictures" + ("; or a folder or hub id" if open_priors else ""),
        allow_custom_value=open_priors,
        elem_id="clip-prior",
    )
    with gr.Accordion("More", open=False, elem_id="clip-more"):
        parts["samples"] = gr.Slider(
            1,
            MAX_SAMPLES,
            value=1,
            step=1,
            label="Samples",
            info="one keeps the texture; the mean of several is softer",
        )
        parts["guidance"] = gr.Slider(
            0, 1, value=0.9, step=0.05, label="Hold on to the frame before", info="0 flickers, 1 smears where it errs"
        )
        moves = [(words, name) for name, words in NOISES.items()]
        parts["noise"] = gr.Dropdown(moves, value="integral", label="How the invented texture moves")
        with gr.Row():
            parts["seed"] = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=90)
            parts["same_seed"] = gr.Checkbox(True, label="Same seed next time", min_width=120)
        widgets.algorithm_controls(parts, choices.ALGORITHM)


def _wire(parts: Parts) -> None:
    """Connect the events. Those that only change what is shown do not wait for the model."""
    import gradio as gr

    def on(trigger: Any, event: Any, changes: Any, extra: Any = (), **settings: Any) -> None:
        connect(parts, trigger, event, ClipControls.read, [*READ, *extra], changes, **settings)

    on(gr.context.Context.root_block.load, choices.offers, ["algorithm", "prior"])
    taken = ["file", "mask", "about", "editor", "first", "last", "part", "status", *SHOWN]
    for name in ("file", "mask"):
        on(parts[name].upload, uploaded.put_in, taken)
    hidden = [*KNOBS, "painting", "mask_file", "find", "scratches", "found"]
    on(parts["wrong"].input, choices.choose_wrong, hidden, queue=False)
    on(parts["found"].input, choices.choose_found, list(KNOBS), queue=False)
    on(parts["find"].click, uploaded.draw_scratches, ["editor", "status"])
    on(parts["editor"].input, uploaded.paint, ["status"], queue=False)
    on(parts["first"].change, uploaded.show_first, ["editor", "part"], trigger_mode="always_last")
    for name in ("last", "size"):
        on(parts[name].change, choices.part, ["part"], queue=False, trigger_mode="always_last")
    solver = ["algorithm", "knobs", "loaded"]
    on(parts["preset"].input, choices.choose_quality, solver, extra=["preset"], queue=False)
    fresh = {"knobs": {}, "loaded": {}, "preset": None}
    on(parts["algorithm"].input, lambda v: fresh, list(fresh), queue=False)
    waiting = {"show_progress": "minimal", "show_progress_on": [parts["status"]], **MODEL}
    on(parts["run"].click, events.restore_clip, ["seed", "status", "run", "stop", "last", *SHOWN], **waiting)
    on(parts["stop"].click, events.stop_clip, ["stop", "status"], queue=False)
