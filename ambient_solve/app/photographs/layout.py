"""The tab that restores a picture: its parts, and which event each of them starts."""

from __future__ import annotations

from functools import partial
from typing import Any

from ambient_solve.app import folders, painter, panels, presets, runs, widgets
from ambient_solve.app.photographs import (
    choices,
    controls,
    costs,
    estimates,
    events,
    example,
    fidelity,
    history,
    many,
    prompts,
    results,
    uploaded,
)
from ambient_solve.app.photographs.api import endpoints
from ambient_solve.app.photographs.output import KINDS
from ambient_solve.app.photographs.request import SIZES
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.rules import Rules
from ambient_solve.app.wiring import KEPT, MODEL, Parts, connect, connect_select, forget, sentences
from ambient_solve.reading.pictures import SUFFIXES

READ = (
    *("session", "file", "editor", "mask", "kernel", "task", "also", "play", "scattered", *controls.damage_knobs()),
    *("prior", "device", "rules", "algorithm", "knobs", "samples", "seed", "same_seed", "size", "keep"),
    *("invented", "kind", *prompts.NAMES),
)
"""Parts whose values an event may read."""
ESTIMATES = tuple(f"estimate_{name}" for name in controls.BUTTONS)
"""Buttons that estimate a control."""
DAMAGE = (
    *(*controls.damage_knobs(), *(f"at_{name}" for name in controls.damage_knobs()), *ESTIMATES),
    *("mask", "mask_file", "kernel", "keep", "painting", "also", "find"),
)
"""Parts that describe the damage."""
SETTINGS = ("task", "samples", "seed", "algorithm", "knobs", "loaded", "preset", "same_seed", *prompts.NAMES)
"""Parts that say how to restore."""
VIEWS = (
    *("session", "slider", "verdict", "words", "gallery", "std", "pixel", "near", "residual", "fit", "steps_strip"),
    *("details", "python", "shell", "download", "archive", "share", "share_words", "invented"),
)
"""Parts that show a result."""
SHOWS = ("card", "again", "again_words", "use_original", "price")
"""Parts that say what the picture is, and what restoring it costs."""
BUTTONS = (*runs.STARTS, "stop")
"""Parts that say whether a run is at work."""
RECALLED = ("editor", "status", "again", "card", "play", "scattered", "prior", "size", *VIEWS, *DAMAGE, *SETTINGS)
"""Parts that events change. No event is given more than it changes: a closed tab forgets what it shows when it hears
that nothing has changed."""


def restore_tab(prior: str, device: str, rules: Rules) -> None:
    """Lay out the tab of photographs: the damage on the left, the picture in the middle, how to restore on the right.

    Args:
        prior: Name of the prior that is chosen at the start.
        device: Where it runs.
        rules: What a visitor may ask for.
    """
    import gradio as gr

    seen, (_, standing) = example.first_view(), presets.PRESETS["Fast"].chosen("inpaint")
    parts: Parts = {
        "session": gr.State(None, time_to_live=KEPT, delete_callback=forget),
        "device": gr.State(device),
        "rules": gr.State(rules),
        "knobs": gr.State(dict(standing)),
        "loaded": gr.State(dict(standing)),
    }
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=5, min_width=300):
            _damage_column(parts, seen)
        with gr.Column(scale=6, min_width=300):
            _picture_column(parts, seen)
        with gr.Column(scale=3, min_width=250):
            _solver_column(parts, prior, rules.any_prior)
    _tabs_below(parts, seen)
    _wire(parts)
    endpoints(prior, device, rules, partial(sentences, program=True), MODEL)


def _damage_column(parts: Parts, seen: dict[str, Any]) -> None:
    import gradio as gr

    gr.Markdown("## 1 · The picture and what is wrong with it")
    parts["file"] = gr.File(
        label="Picture: drop it here, paste it anywhere, or choose a file",
        file_types=list(SUFFIXES),
        height=130,
        elem_id="file",
    )
    parts["card"] = gr.HTML("", visible=False, elem_id="card")
    with gr.Group(visible=False, elem_id="again") as parts["again"]:
        parts["again_words"] = gr.Markdown("", container=True)
        with gr.Row():
            parts["use_original"] = gr.Button("Use the original", size="sm", variant="primary", elem_id="use-original")
            parts["restore_again"] = gr.Button("Restore it once more", size="sm", elem_id="restore-again")
    parts["task"] = gr.Dropdown(
        [(words, task) for task, words in controls.TASK_WORDS.items()],
        value="inpaint",
        label="What is wrong",
        elem_id="task",
    )
    offered = [(words, name) for name, words in controls.ALSO.items() if name != "inpaint"]
    parts["also"] = gr.CheckboxGroup(offered, label="And also", elem_id="also")
    parts["painting"] = gr.Markdown("Paint over what is missing.", elem_id="painting")
    parts["editor"] = gr.HTML(
        painter.value(panels.to_image(seen["picture"]), ~seen["mask"]),
        html_template=painter.TEMPLATE,
        js_on_load=painter.SCRIPT,
        label="Picture to paint on",
        elem_id="editor",
    )
    parts["find"] = gr.Button("Find the scratches", size="sm", visible=False, elem_id="find")
    with gr.Accordion("Upload a mask", open=False) as parts["mask_file"]:
        parts["mask"] = gr.File(label="Mask: a picture of the same size, white where pixels are missing", height=130)
    for name, k in controls.damage_knobs().items():
        shown = name in controls.task_knobs("inpaint")
        value = controls.start_value("inpaint", name) if shown else k.default
        with gr.Group(visible=shown) as parts[f"at_{name}"]:
            parts[name] = controls.damage_widget(k, value, shown)
            if name in controls.BUTTONS:
                words, visible = f"Estimate the {controls.label_words(name)}", controls.has_button("inpaint", name)
                parts[f"estimate_{name}"] = gr.Button(words, size="sm", visible=visible, elem_id=f"estimate-{name}")
    with gr.Accordion("More about the damage", open=False):
        parts["kernel"] = gr.File(label="Picture of the blur, bright where the light went", height=130, visible=False)
        parts["keep"] = gr.Checkbox(True, label="Keep measured pixels exactly", info="copied into what is restored")
        parts["play"] = gr.Checkbox(
            False, label="The picture is fine: damage it for me", info="to try the page; the truth is then known"
        )
        parts["scattered"] = gr.Slider(
            0, 0.95, value=0.0, step=0.05, label="Lose pixels at random", info="share of them", visible=False
        )


def _picture_column(parts: Parts, seen: dict[str, Any]) -> None:
    import gradio as gr

    gr.Markdown("## 2 · Before and after")
    before = panels.measured(seen["picture"], seen["mask"])
    parts["slider"] = gr.ImageSlider(
        panels.slider_pair(before, panels.to_image(seen["samples"].mean(0))),
        label="Before (left) and after (right)",
        elem_id="slider",
        interactive=False,
        max_height=560,
        buttons=["fullscreen"],
    )
    parts["status"] = gr.HTML(
        panels.progress_bar(0, "This is a finished example. Press Restore, or put in a picture of your own."),
        elem_id="status",
    )
    with gr.Row(elem_id="start"):
        parts["run"] = gr.Button("Restore", variant="primary", elem_id="run", scale=3)
        parts["stop"] = gr.Button("Stop", variant="stop", interactive=False, elem_id="stop", scale=1)
    parts["verdict"] = gr.HTML("", elem_id="verdict")
    parts["price"] = gr.Markdown("", elem_id="price")
    parts["invented"] = gr.Slider(
        0,
        100,
        value=0,
        step=5,
        label="How much may be invented, %",
        info="0: only what the data support, the mean of the samples. 100: one plausible picture, one of them",
        elem_id="invented",
    )
    parts["words"] = gr.Markdown(
        panels.share_words(seen["mask"], seen["samples"], True), elem_id="words", container=True
    )
    with gr.Row(elem_id="downloads"):
        parts["kind"] = gr.Dropdown(
            list(KINDS),
            value="PNG",
            show_label=False,
            container=False,
            min_width=90,
            label="Format of the file",
            elem_id="kind",
        )
        parts["download"] = gr.DownloadButton("Download picture", interactive=False, size="sm", elem_id="download")
        parts["archive"] = gr.DownloadButton("Download everything", interactive=False, size="sm", elem_id="archive")


def _solver_column(parts: Parts, prior: str, open_priors: bool) -> None:
    import gradio as gr

    fast = presets.PRESETS["Fast"]
    gr.Markdown("## 3 · How to restore it")
    parts["preset"] = gr.Radio(
        [(f"{name}: {preset.words}", name) for name, preset in presets.PRESETS.items()],
        value="Fast",
        label="Preset",
        elem_id="preset",
    )
    parts["prior"] = gr.Dropdown(
        [prior],
        value=prior,
        label="Model",
        info="what it knows of pictures" + ("; or a folder or hub id" if open_priors else ""),
        allow_custom_value=open_priors,
        elem_id="prior",
    )
    prompts.prompt_controls(parts)
    parts["samples"] = gr.Slider(
        1, folders.MAX_SAMPLES, value=fast.samples, step=1, label="Samples", info="two or more show how sure it is"
    )
    with gr.Row():
        parts["seed"] = gr.Number(0, precision=0, minimum=0, label="Seed", min_width=90, elem_id="seed")
        parts["same_seed"] = gr.Checkbox(True, label="Same seed next time", min_width=120)
    with gr.Accordion("More", open=False, elem_id="more"):
        sizes = [(words, size) for size, words in SIZES.items()]
        parts["size"] = gr.Dropdown(sizes, value="auto", label="Working size", info="large pictures only")
        widgets.algorithm_controls(parts, fast.chosen("inpaint")[0])


def _tabs_below(parts: Parts, seen: dict[str, Any]) -> None:
    import gradio as gr

    def picture(name: str, value: Any, label: str, alt: str, height: int | None = None) -> None:
        shown = {"format": "png", "buttons": ["fullscreen"], "interactive": False, "height": height}
        parts[name] = gr.Image(value, label=label, alt_text=alt, elem_id=name, **shown)

    with gr.Tabs(elem_id="below"):
        with gr.Tab("Samples"):
            gr.Markdown("Pictures that explain the measurement equally well. Choose one to put it behind the slider.")
            shown = [(panels.to_image(seen["samples"].mean(0)), "mean")]
            shown += [(panels.to_image(x), f"sample {s + 1}") for s, x in enumerate(seen["samples"])]
            parts["gallery"] = gr.Gallery(
                shown,
                label="Mean and samples",
                columns=5,
                height=330,
                object_fit="contain",
                allow_preview=False,
                elem_id="gallery",
            )
        with gr.Tab("Uncertainty"):
            with gr.Row():
                with gr.Column(scale=3, min_width=300):
                    std = panels.std_map(seen["samples"]).image
                    alt = "Map of the standard deviation of the samples at each pixel, with a colour bar below"
                    picture("std", std, "Standard deviation of the samples; click a pixel", alt)
                with gr.Column(scale=3, min_width=300):
                    parts["pixel"] = gr.Markdown("Click a pixel of the map.", elem_id="pixel")
                    picture("near", None, "Round this pixel, sample by sample", "The pixel in each sample", height=200)
                    with gr.Row():
                        parts["column"] = gr.Number(0, precision=0, minimum=0, label="Column", min_width=80)
                        parts["row"] = gr.Number(0, precision=0, minimum=0, label="Row", min_width=80)
                        parts["read"] = gr.Button("Read this pixel", size="sm", elem_id="read")
        with gr.Tab("Invented"):
            share = fidelity.invented_share(seen["samples"])
            parts["share_words"] = gr.Markdown(fidelity.invented_words(share, 0.0), elem_id="share-words")
            alt = "Map of the share of the detail that was invented, with a color bar below"
            made = fidelity.share_picture(seen["samples"].mean(0), share).image
            picture("share", made, "How much of the detail a sample invents", alt)
        with gr.Tab("Data fit"):
            parts["fit"] = gr.Markdown(panels.fit_words(seen["misfit"]), elem_id="fit")
            residual = panels.residual_map(seen["residual"], seen["mask"]).image
            alt = "Map of measured minus explained, in units of the noise, with a colour bar below"
            picture("residual", residual, "Left unexplained, in units of the noise", alt)
            gr.Markdown("Even speckle is noise, as it should be. Outlines that can be recognised are not explained.")
        with gr.Tab("Steps"):
            alt = "Estimates of the picture from much noise to none"
            picture(
                "steps_strip",
                panels.steps_strip(example.frames(seen)),
                "The first sample: what the picture was taken to be at each noise level",
                alt,
            )
        with gr.Tab("Details"):
            parts["python"] = gr.Code(seen["python"], language="python", label="The same in Python", interactive=False)
            parts["shell"] = gr.Code(
                seen["shell"], language="shell", label="The same on the command line", interactive=False
            )
            parts["details"] = gr.JSON(seen["details"], label="Settings", elem_id="details")
        with gr.Tab("Earlier runs"):
            gr.Markdown(
                f"The last {history.MOST} runs of this page, gone when it is closed. Choose one: its picture and its "
                "settings come back."
            )
            parts["history"] = gr.Gallery(
                [],
                label="Earlier runs, the newest first",
                columns=6,
                height=230,
                object_fit="contain",
                allow_preview=False,
                buttons=[],
                elem_id="history",
            )
        with gr.Tab("Many pictures"):
            gr.Markdown("The same damage and the same settings for many pictures. What is finished is not done again.")
            parts["many"] = gr.File(
                label="Pictures, or a zip of them", file_count="multiple", height=150, elem_id="many"
            )
            parts["each_noise"] = gr.Checkbox(
                False, label="Estimate the noise of each picture", info="in place of the one noise level above"
            )
            parts["run_many"] = gr.Button("Restore all", variant="primary", elem_id="run-many")
            parts["table"] = gr.Dataframe(
                headers=list(many.HEADS),
                label="Outcome of each picture",
                interactive=False,
                wrap=True,
                column_widths=list(many.WIDTHS),
                elem_id="table",
            )
            parts["many_out"] = gr.DownloadButton("Download all", interactive=False, size="sm", elem_id="many-out")


def _wire(parts: Parts) -> None:
    """Connect the events. Those that only change what is shown do not wait for the model."""
    import gradio as gr

    def on(trigger: Any, event: Any, changes: Any, extra: Any = (), **settings: Any) -> None:
        connect(parts, trigger, event, Controls.read, [*READ, *extra], changes, **settings)

    solver, lit = ["algorithm", "knobs", "loaded"], ["preset"]
    on(gr.context.Context.root_block.load, choices.offers, ["prior", "at_prompt", *solver])
    on(parts["prior"].change, choices.take_prior, ["at_prompt", *solver])
    seen = ["file", "editor", "status", *VIEWS, *DAMAGE, *SETTINGS, *SHOWS]
    on(parts["file"].upload, events.upload, seen)
    on(parts["mask"].upload, uploaded.draw_mask, ["editor", "mask", "status", "price"])
    on(parts["find"].click, uploaded.draw_scratches, ["editor", "status", "price"])
    on(parts["use_original"].click, uploaded.use_original, ["file", "mask", "editor", "status", *VIEWS, *SHOWS])
    on(parts["restore_again"].click, uploaded.restore_again, ["status", *SHOWS], queue=False)
    for name in ("task", "also"):
        on(parts[name].input, choices.take_task, [*DAMAGE, *solver], lit, queue=False)
    on(parts["task"].input, estimates.draw_blur, ["editor"], queue=False)
    for name in ("width", "length", "angle"):
        on(parts[name].release, estimates.draw_blur, ["editor"], queue=False)
    on(parts["kernel"].upload, estimates.draw_blur, ["editor"], queue=False)
    presets.samples_follow_preset(parts)
    on(parts["preset"].input, choices.take_preset, solver, lit, queue=False)
    fresh = {"knobs": {}, "loaded": {}, "preset": None}
    on(parts["algorithm"].input, lambda v: fresh, list(fresh), queue=False)
    for name in ("knobs", "samples", "size", "algorithm", "task", "also", "guidance"):
        on(parts[name].change, costs.priced, ["price"], queue=False)
    on(parts["editor"].input, costs.priced, ["price"], queue=False)
    on(parts["play"].input, lambda v: {"scattered": gr.update(visible=v.play)}, ["scattered"], queue=False)
    for name in controls.BUTTONS:
        moved = [*estimates.TOGETHER.get(name, (name,)), "editor", "status"]
        on(parts[f"estimate_{name}"].click, estimates.estimating(name), moved)
    waiting = {"show_progress": "minimal", "show_progress_on": [parts["status"]], **MODEL}
    on(parts["run"].click, events.restore, ["seed", "status", "history", *BUTTONS, *VIEWS], **waiting)
    done = ["session", "status", "table", "many_out", *BUTTONS]
    on(parts["run_many"].click, many.restore_many, done, ["many", "each_noise"], **waiting)
    on(parts["invented"].release, results.choose_fidelity, ["slider", "share", "share_words", "download"])
    on(parts["kind"].input, results.choose_kind, ["download"])
    on(parts["stop"].click, runs.stop, ["stop", "status"], queue=False)
    place = ["row", "column"]
    pixel_parts = ["pixel", "near", *place]
    on(parts["read"].click, lambda v: results.read_pixel(v, v.row, v.column), pixel_parts, place, queue=False)

    def on_select(part: str, event: Any, reads: Any, changes: Any) -> None:
        connect_select(parts, parts[part].select, event, Controls.read, reads, changes)

    on_select("gallery", results.choose_sample, ["session"], ["slider", "invented", "share", "share_words", "download"])
    on_select("history", events.recall, ["session", "prior", "device", "rules"], RECALLED)
    on_select("std", results.click_map, ["session"], pixel_parts)
