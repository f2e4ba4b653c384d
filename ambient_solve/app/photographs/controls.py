"""Knobs as gradio widgets, and the presets: what the page offers to set, made from the dataclasses of the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ambient_solve.knobs import Knob, knobs
from ambient_solve.restore.several import SIGN, WHOLE, task_class
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
    "old-photograph": "An old photograph (scratches, grain, JPEG)",
    "camera-shake": "The camera shook",
    "enlarged": "Enlarged by a program",
}
"""Words of the page for each damage."""
ALSO = {
    "inpaint": "missing parts",
    "denoise": "noise",
    "gaussian-blur": "out of focus",
    "super-resolution": "too small",
    "jpeg": "JPEG blocks",
}
"""Words for a damage that comes on top of another."""
FOUND = ("mask", "kernel")
"""Knobs that are files."""
LEFT = {
    "old-photograph": ("sigma", "quality", "width"),
    "camera-shake": ("sigma", "size", "boundary"),
    "enlarged": ("sigma", "factor", "interpolation"),
}
"""Knobs that the page leaves as they are, so that the picture decides."""
SIGMAS = {"inpaint": 0.01, "denoise": 0.1}
"""Noise level that the page starts from, where it is not the default of the damage."""
HANDY = {
    "sigma": (0.001, 0.5, 0.001),
    "width": (0.2, 12.0, 0.1),
    "length": (1.0, 60.0, 0.5),
    "angle": (-180.0, 180.0, 1.0),
    "factor": (2, 8, 1),
    "quality": (0, 100, 1),
    "scratches": (0.0, 1.0, 0.05),
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
    "scratches": "How readily a line is taken for a scratch",
}
"""Label of the control of each knob."""
HINTS = {
    "sigma": "pixel values go from 0 to 1: 0.01 is hardly seen, 0.1 is much",
    "width": "in pixels: 1 is soft, 3 is out of focus",
    "length": "in pixels",
    "angle": "in degrees: 0 is along a row, 90 along a column",
    "boundary": "what lay outside the frame was blurred into it, as in a photograph",
    "alignment": "of programs for pictures the centers, of deepinv the corner",
    "scratches": "0 finds none; what you paint is taken in place of what is found",
}
"""What is said beside a control where the help of the knob speaks to users of the command line."""
CHOICES = {
    "boundary": {"valid": "The picture went on outside", "circular": "The picture repeats (made by a program)"},
    "alignment": {"centers": "Centers", "corner": "Corner"},
}
"""Words for what a control offers to choose from."""

BUTTONS = ("sigma", "width", "length", "angle", "quality")
"""Controls with a button beside them that estimates them."""


def label_words(name: str) -> str:
    """The label of a knob as it stands inside of a sentence."""
    label = LABELS[name]
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def damage_knobs() -> dict[str, Knob]:
    """Every knob that some damage has, but for files; where several have it, that of the first."""
    found: dict[str, Knob] = {}
    for name, cls in {**TASKS, **WHOLE}.items():
        for k in knobs(cls):
            if k.name not in (*FOUND, *LEFT.get(name, ())):
                found.setdefault(k.name, k)
    return found


def task_knobs(task: str) -> list[str]:
    """Names of the knobs of a damage, or of several, that the page shows."""
    return [k.name for k in knobs(task_class(task)) if k.name not in (*FOUND, *LEFT.get(task, ()))]


def joined_tasks(task: str, also: Sequence[str]) -> str:
    """The name of a damage with those that come on top of it.

    Args:
        task: Name of the damage.
        also: Names of the others; of a damage that stands alone there are none.

    Returns:
        One name, in the order of `TASKS`.
    """
    return task if task in WHOLE else task_class(SIGN.join(dict.fromkeys((task, *also)))).name


def separated(task: str) -> tuple[str, list[str]]:
    """What `joined_tasks` joined: the first damage, and the others."""
    first, *others = task.split(SIGN)
    return first, others


def task_words(task: str) -> str:
    """A damage, or several, in a few words."""
    first, others = separated(task)
    return " + ".join([TASK_WORDS[first].partition(" (")[0].lower(), *(ALSO.get(one, one) for one in others)])


def has_button(task: str, name: str) -> bool:
    """Whether a control of a task can be estimated; the sigma of a JPEG is no noise level.

    Args:
        task: Name of the damage.
        name: Of one of its knobs.

    Returns:
        True where it can.
    """
    shown = name in BUTTONS and name in task_knobs(task) and (task, name) != ("jpeg", "sigma")
    return shown and (name in ("sigma", "quality") or SIGN not in task)  # a blur is estimated where it is all there is


def start_value(task: str, name: str) -> Any:
    """What the page shows for a knob of a damage before it is touched.

    Args:
        task: Name of the damage.
        name: Of one of its knobs.

    Returns:
        The value.
    """
    if name == "sigma":
        noisy = "denoise" if "denoise" in task.split(SIGN) else task
        if noisy in SIGMAS:
            return SIGMAS[noisy]
    return next(k.default for k in knobs(task_class(task)) if k.name == name)


def damage_widget(k: Knob, value: Any, visible: bool, tab: str = "damage") -> Component:
    """The control of a knob of a damage.

    Args:
        k: The knob.
        value: What it shows.
        visible: Whether it is shown.
        tab: What its id begins with.

    Returns:
        A component of gradio.
    """
    import gradio as gr

    said = {
        "label": LABELS[k.name],
        "info": HINTS.get(k.name, k.help),
        "visible": visible,
        "elem_id": f"{tab}-{k.name}",
    }
    if k.choices:
        offered = [(CHOICES.get(k.name, {}).get(each, each), each) for each in k.choices]
        return gr.Dropdown(offered, value=value, interactive=True, **said)
    low, high, step = HANDY[k.name]
    return gr.Slider(low, high, value=value, step=step, interactive=True, **said)
