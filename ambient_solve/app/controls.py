"""Knobs as gradio widgets, and the presets: what the page offers to set, made from the dataclasses of the library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ambient_solve.knobs import Knob, knobs
from ambient_solve.restore.tasks import TASKS

if TYPE_CHECKING:
    from gradio.components import Component

    from ambient_solve.app.wiring import Parts

TASK_WORDS = {
    "inpaint": "Parts are missing (scratches, stains, holes)",
    "denoise": "Noise",
    "gaussian-blur": "Out of focus",
    "motion-blur": "Blurred by a movement",
    "super-resolution": "Too small",
    "jpeg": "JPEG blocks",
}
SIGMAS = {"inpaint": 0.01, "denoise": 0.1}
"""Noise level that the page starts from, where it is not the default of the damage."""
HANDY = {
    "sigma": (0.001, 0.5, 0.001),
    "width": (0.2, 12.0, 0.1),
    "length": (1.0, 60.0, 0.5),
    "angle": (-180.0, 180.0, 1.0),
    "factor": (2, 8, 1),
    "quality": (0, 100, 1),
}
"""Ends and steps of the sliders of a damage; its knobs reach farther, and a recipe that does stretches the slider."""
LABELS = {
    "sigma": "Noise level",
    "width": "Width of the blur",
    "length": "Length of the movement",
    "angle": "Direction",
    "factor": "Enlarge how many times",
    "quality": "JPEG quality",
    "filter": "How it was reduced",
    "boundary": "At the edges",
}
HINTS = {"sigma": "pixel values go from 0 to 1: 0.01 is hardly seen, 0.1 is much"}
"""What is said beside a control where the help of the knob speaks to users of the command line."""
SPAN = 1000
"""A knob whose ends are farther apart than this, one divided by the other, gets a number box in place of a slider."""


@dataclass(frozen=True)
class Preset:
    """An algorithm with its knobs and a number of samples; `words` tell what to expect.

    `tasks` holds the algorithm and the knobs of the tasks that need others.
    """

    words: str
    algorithm: str
    samples: int
    knobs: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)

    def chosen(self, task: str | None = None) -> tuple[str, dict[str, Any]]:
        """The algorithm and the knobs for `task`."""
        algorithm, settings = self.tasks.get(task, (self.algorithm, self.knobs))
        return algorithm, dict(settings)


FLOWER = {"steps": 50, "trust": "data", "draw": True}
# Thick strokes stay visible under the proximal rule, and go where the Jacobian is used; JPEG is not linear.
FAST = {
    "inpaint": ("mmps", {"steps": 12, "iterations": 2, "spread": False}),
    "jpeg": ("daps", {"steps": 12, "ode_steps": 1, "langevin_steps": 10}),
}
BALANCED = {
    "inpaint": ("mmps", {"steps": 12, "spread": False}),
    "jpeg": ("daps", {"steps": 20, "ode_steps": 1, "langevin_steps": 20}),
}
CREATIVE = {"jpeg": ("daps", {"steps": 20, "ode_steps": 2, "langevin_steps": 20, "width": 1.0})}
PRESETS = {
    "Fast": Preset("a first look", "proximal", 2, {"steps": 12}, FAST),
    "Balanced": Preset("cleaner, claims too small an error", "proximal", 4, {"steps": 25}, BALANCED),
    "Faithful": Preset("honest about its error, slow", "auto", 4),
    "Creative": Preset("varied samples, more invented", "proximal", 4, FLOWER, CREATIVE),
}


def preset_of(task: str, algorithm: str, settings: Mapping[str, Any], samples: int) -> str | None:
    """The preset that asks for just this; None where there is none."""
    asked = (algorithm, dict(settings))
    return next((name for name, p in PRESETS.items() if (p.chosen(task), p.samples) == (asked, samples)), None)


def samples_follow_preset(parts: Parts) -> None:
    """Set the number of samples with the preset; to be called before what else the preset starts, which it waits for.

    Done in the browser: what a busy server answers a second later would undo the number that was typed meanwhile.
    """
    table = json.dumps({name: preset.samples for name, preset in PRESETS.items()})
    script = f"(preset) => ({table})[preset]"
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    parts["preset"].input(None, parts["preset"], parts["samples"], js=script, **quiet)


def damage_knobs() -> dict[str, Knob]:
    """Every knob that some damage has, but for files; where several have it, that of the first."""
    found: dict[str, Knob] = {}
    for cls in TASKS.values():
        for k in knobs(cls):
            if k.name not in ("mask", "kernel"):
                found.setdefault(k.name, k)
    return found


def task_knobs(task: str) -> list[str]:
    """Names of the knobs of a damage that are no files."""
    return [k.name for k in knobs(TASKS[task]) if k.name not in ("mask", "kernel")]


def start_value(task: str, name: str) -> Any:
    """What the page shows for a knob of a damage before it is touched."""
    default = next(k.default for k in knobs(TASKS[task]) if k.name == name)
    return SIGMAS.get(task, default) if name == "sigma" else default


def damage_widget(k: Knob, value: Any, visible: bool) -> Component:
    """The control of a knob of a damage."""
    import gradio as gr

    said = {
        "label": LABELS[k.name],
        "info": HINTS.get(k.name, k.help),
        "visible": visible,
        "elem_id": f"damage-{k.name}",
    }
    if k.choices:
        return gr.Dropdown(list(k.choices), value=value, interactive=True, **said)
    low, high, step = HANDY[k.name]
    return gr.Slider(low, high, value=value, step=step, interactive=True, **said)


def knob_widget(k: Knob, value: Any = None) -> Component:
    """The control of a knob of an algorithm; without `value` it stands at the default."""
    import gradio as gr

    value = k.default if value is None else value
    said = {"label": k.name.rstrip("_").replace("_", " ").capitalize(), "info": k.help}
    if k.choices:
        return gr.Dropdown(list(k.choices), value=value, **said)
    if k.type is bool:
        return gr.Checkbox(value, **said)
    if k.lo is None or k.hi is None or k.lo == k.hi or k.hi > SPAN * max(abs(k.lo), 1e-3):
        return gr.Number(value, precision=0 if k.type is int else None, minimum=k.lo, maximum=k.hi, **said)
    return gr.Slider(k.lo, k.hi, value=value, step=1 if k.type is int else (k.hi - k.lo) / 200, **said)


def knob_value(k: Knob, value: Any) -> Any:
    """A widget's value as the knob wants it: numbers come from the page as floats or as ints, as it happens."""
    return k.type(value) if k.type in (int, float) and value is not None else value


def algorithm_controls(parts: Parts, standing: str) -> None:
    """The choice of an algorithm and, below it, the controls of its knobs, which `parts["knobs"]` collects."""
    import gradio as gr

    parts["algorithm"] = gr.Dropdown(["auto", standing], value=standing, label="Algorithm", elem_classes="algorithm")

    @gr.render(inputs=[parts["algorithm"], parts["loaded"]], show_progress="hidden", concurrency_limit=4)
    def knobs_of(algorithm: str, loaded: dict[str, Any]) -> None:
        from ambient_solve.algorithms import ALGORITHMS

        if algorithm == "auto":
            gr.Markdown("mmps where the damage is linear, daps elsewhere, with their defaults.")
            return
        for k in knobs(ALGORITHMS[algorithm]):
            widget = knob_widget(k, loaded.get(k.name))
            widget.change(
                lambda value, kept, k=k: {**kept, k.name: knob_value(k, value)},
                [widget, parts["knobs"]],
                parts["knobs"],
                queue=False,
                api_visibility="private",
            )
