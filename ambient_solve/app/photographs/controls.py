"""Knobs as gradio widgets, and the presets: what the page offers to set, made from the dataclasses of the library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ambient_solve.knobs import Knob, knobs
from ambient_solve.restore.tasks import TASKS

if TYPE_CHECKING:
    from gradio.components import Component


TASK_WORDS = {
    "inpaint": "Parts are missing (scratches, stains, holes)",
    "denoise": "Noise",
    "gaussian-blur": "Out of focus",
    "motion-blur": "Blurred by a movement",
    "super-resolution": "Too small",
    "jpeg": "JPEG blocks",
}
"""Words of the page for each damage."""
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
"""Lower end, upper end and step of the sliders of a damage.

Its knobs reach farther, and a recipe that does stretches the slider.
"""
LABELS = {
    "sigma": "Noise level",
    "width": "Width of the blur",
    "length": "Length of the movement",
    "angle": "Direction",
    "factor": "Enlarge how many times",
    "quality": "JPEG quality",
    "filter": "How it was reduced",
    "alignment": "Where its pixels lie",
    "boundary": "At the edges",
}
"""Label of the control of each knob."""
HINTS = {"sigma": "pixel values go from 0 to 1: 0.01 is hardly seen, 0.1 is much"}
"""What is said beside a control where the help of the knob speaks to users of the command line."""


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
    """What the page shows for a knob of a damage before it is touched.

    Args:
        task: Name of the damage.
        name: Of one of its knobs.

    Returns:
        The value.
    """
    default = next(k.default for k in knobs(TASKS[task]) if k.name == name)
    return SIGMAS.get(task, default) if name == "sigma" else default


def damage_widget(k: Knob, value: Any, visible: bool) -> Component:
    """The control of a knob of a damage.

    Args:
        k: The knob.
        value: What it shows.
        visible: Whether it is shown.

    Returns:
        A component of gradio.
    """
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
