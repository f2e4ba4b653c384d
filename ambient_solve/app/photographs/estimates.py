"""What a photographer need not know: the noise, the width, the length and the direction of a blur, the JPEG quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ambient_solve.app import painter, panels
from ambient_solve.app.photographs import controls
from ambient_solve.app.photographs.choices import picture
from ambient_solve.app.photographs.values import Controls
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import AUTO
from ambient_solve.restore.tasks import Task, make_task

if TYPE_CHECKING:
    from ambient_solve.restore.pictures import Picture

MOST = 512
"""Side of the middle of a picture that a blur is estimated from, in pixels."""
TOGETHER = {"width": ("width", "sigma"), "length": ("length", "angle", "sigma"), "angle": ("length", "angle", "sigma")}
"""What is estimated where one of them is asked for: none is known without the others."""
UNITS = {"width": " pixels", "length": " pixels", "angle": " degrees"}
"""What is written behind a value."""


def estimating(name: str) -> Callable[[Controls], Iterator[dict[str, Any]]]:
    """The event of the button beside a control, which says that it is at work."""

    def event(values: Controls) -> Iterator[dict[str, Any]]:
        slow = name in TOGETHER or values.task in ("gaussian-blur", "motion-blur")
        yield {"status": panels.progress_bar(0, f"Estimating{', which may take half a minute' if slow else ''} ...")}
        try:
            yield estimate(values, name)
        except (AmbientSolveError, OSError) as error:
            yield {"status": panels.progress_bar(0, f"Not estimated. {error}")}
            raise

    return event


def estimate(values: Controls, name: str = "sigma") -> dict[str, Any]:
    """Estimate what one control says, from the picture, and move it there.

    Args:
        values: Of the tab.
        name: Of the control: "sigma", "quality", "width", "length" or "angle".

    Returns:
        Updates of this control, and of those that are estimated with it; and the blur drawn on the picture.

    Raises:
        AmbientSolveError: the picture shows nothing of it.
    """
    given = picture(values)
    if name == "quality":
        return _quality(given)
    if name not in TOGETHER and values.task not in ("gaussian-blur", "motion-blur"):
        return _noise(values, given)
    known = {knob: values.damage[knob] for knob in controls.task_knobs(values.task)}
    names = TOGETHER.get(name, ("sigma",))
    files = {"kernel": values.kernel} if values.kernel and name == "sigma" else {}
    task = make_task(values.task, **{**known, **dict.fromkeys(names, AUTO)}, **files)
    from ambient_solve.restore.unknown import with_estimates

    task, _, record = with_estimates(task, _middle(given))
    found = record["estimated"]
    words = ", ".join(_words(knob, found[knob]["value"], found[knob].get("interval")) for knob in names)
    updates = {knob: _moved(knob, found[knob]["value"]) for knob in names}
    if values.session is not None:
        values.session.estimated = found["sigma"]["value"]
    said = f"Estimated: {words}. In brackets what it may be as well, nine times in ten."
    drawn = painter.kernel_value(task.describe().numpy(), _kernel_words(task)) if not files else None
    return {**updates, **({} if drawn is None else {"editor": drawn}), "status": panels.progress_bar(0, said)}


def draw_blur(values: Controls) -> dict[str, Any]:
    """Draw the blur that the controls describe on the picture; nothing where the damage is no blur.

    Args:
        values: Of the tab.

    Returns:
        The update of the picture.
    """
    if values.task not in ("gaussian-blur", "motion-blur"):
        return {"editor": {"kernel": ""}}
    known = {knob: values.damage[knob] for knob in controls.task_knobs(values.task)}
    if values.kernel:
        from ambient_solve.restore.pictures import read_kernel

        path = Path(values.kernel)
        return {"editor": painter.kernel_value(read_kernel(path).numpy(), f"The blur of {path.name}")}
    task = make_task(values.task, **known)
    return {"editor": painter.kernel_value(task.describe().numpy(), _kernel_words(task))}


def _noise(values: Controls, given: Picture) -> dict[str, Any]:
    from ambient_solve.restore.noise import picture_noise

    found = picture_noise(given)
    sigma = float(f"{max(found.level or 0.0, found.hidden):.3g}")
    if values.session is not None:
        values.session.estimated = sigma
    words = f"Noise level {found.words}"
    if found.level is None:
        words += f"; it was set to {sigma:g}"
    return {"sigma": _moved("sigma", sigma), "status": panels.progress_bar(0, f"{words}. Pixel values go from 0 to 1.")}


def _quality(given: Picture) -> dict[str, Any]:
    from ambient_solve.restore.estimate import jpeg_quality

    quality = jpeg_quality(given.path)
    if quality is None:
        raise AmbientSolveError("The picture shows no trace of JPEG compression: set the quality by hand.")
    return {"quality": quality, "status": panels.progress_bar(0, f"It was stored with JPEG quality {quality}.")}


def _middle(given: Picture) -> Picture:
    """The middle of a large picture: the blur is the same all over it, and more pixels say little more."""
    height, width = given.y.shape[-2:]
    top, left = max(0, height - MOST) // 2, max(0, width - MOST) // 2
    return replace(given, y=given.y[..., top : top + MOST, left : left + MOST])


def _moved(name: str, value: float) -> Any:
    """The update of a slider, which is stretched where the value lies outside."""
    import gradio as gr

    low, high, _ = controls.HANDY[name]
    return gr.update(value=value, minimum=min(low, value), maximum=max(high, value))


def _words(name: str, value: float, interval: Any) -> str:
    unit = UNITS.get(name, "")
    within = f" ({interval[0]:.3g} to {interval[1]:.3g})" if interval else ""
    return f"{controls.label_words(name)} {value:.3g}{unit}{within}"


def _kernel_words(task: Task) -> str:
    """What is written below the drawing of a blur."""
    shape = [knob for knob in ("width", "length", "angle") if hasattr(task, knob)]
    size = "x".join(str(n) for n in np.array(task.describe().shape)[::-1])
    return f"The blur, {size} pixels: " + ", ".join(_words(knob, getattr(task, knob), None) for knob in shape)
