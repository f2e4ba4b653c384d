"""What is chosen on the page: the prior, the task, its controls, and the request that they describe."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ambient_solve.app import painter, presets, widgets
from ambient_solve.app.desk import DESK, LONG
from ambient_solve.app.folders import MAX_PIXELS, MAX_SAMPLES, MAX_STEPS
from ambient_solve.app.loaded import kept_prior
from ambient_solve.app.photographs import controls, example
from ambient_solve.app.photographs.prompts import NAMES, typed_words
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.presets import choose_preset
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.restore.old import OldPhotograph
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.recipe import Recipe
from ambient_solve.restore.several import WHOLE, task_class
from ambient_solve.restore.tasks import Inpaint


def prior_of(name: str, device: str, lane: str = "quick") -> Any:
    """See `kept_prior`."""
    return kept_prior(_read_prior, name, device, lane)


def _read_prior(name: str, device: str) -> Any:
    from ambient_solve.priors.load import named_prior

    return named_prior(name, device)


def chosen_prior(values: Controls, lane: str = "quick") -> Any:
    """The prior that is chosen.

    Args:
        values: Of the tab.
        lane: Name of the lane that works with it.

    Returns:
        The prior, loaded once for each lane.

    Raises:
        AmbientSolveError: it is not offered here.
    """
    values.rules.check_prior(values.prior)
    return prior_of(values.prior, values.device, *([lane] if lane == LONG else []))


def warm(name: str, device: str) -> None:
    """Do what the first run would wait for; what is wrong with the prior is said to those who then ask for it.

    Args:
        name: Embedded prior, folder, or hub id.
        device: Where it runs.
    """
    from ambient_solve.app.photographs import price

    with contextlib.suppress(AmbientSolveError):
        prior = prior_of(name, device)
        DESK.alone(lambda: example.rehearse(prior))
        DESK.alone(lambda: price.measure_pass(name, prior))


def offers(values: Controls) -> dict[str, Any]:
    """What there is to choose, once the page stands: it takes torch, which takes seconds, and so does the prior."""
    import gradio as gr

    chosen_prior(values)
    from ambient_solve.algorithms import ALGORITHMS

    standing = take_prior(values)
    chosen = {"value": standing["algorithm"]} if "algorithm" in standing else {}
    priors = gr.update(choices=values.rules.offered())
    return standing | {"algorithm": gr.update(choices=["auto", *ALGORITHMS], **chosen), "prior": priors}


def take_prior(values: Controls) -> dict[str, Any]:
    """Show the controls of words where the prior takes them, and take an algorithm that works with it.

    Args:
        values: Of the tab.

    Returns:
        Updates of the controls by name.

    Raises:
        AmbientSolveError: the prior is not offered here, or cannot be read.
    """
    import gradio as gr

    shown = {"at_prompt": gr.update(visible=chosen_prior(values).takes_words)}
    standing = {"algorithm": values.algorithm}
    chosen = that_work(values, standing)
    return shown | (chosen if chosen != standing else {})


def take_preset(values: Controls) -> dict[str, Any]:
    """What the lit preset sets; for a prior of latents, whose decoder few algorithms see through, "auto".

    Args:
        values: Of the tab.

    Returns:
        Updates of the controls by name.
    """
    return that_work(values, presets.choose_preset(values.preset, controls.joined_tasks(values.task, values.also)))


def that_work(values: Controls, chosen: dict[str, Any]) -> dict[str, Any]:
    """What is chosen, with "auto" in place of an algorithm that needs an affine decode where the prior has none.

    Args:
        values: Of the tab; the prior is read.
        chosen: Updates that may name an algorithm.

    Returns:
        The updates.
    """
    from ambient_solve.algorithms import ALGORITHMS

    method = ALGORITHMS.get(chosen.get("algorithm", ""))
    if method is None or not method.affine:
        return chosen
    with contextlib.suppress(AmbientSolveError):  # what is wrong with the prior is said where it is chosen
        if chosen_prior(values).affine is None:
            return chosen | {"algorithm": "auto", "knobs": {}, "loaded": {}}
    return chosen


def apply(recipe: Recipe) -> dict[str, Any]:
    """Set the controls as `recipe` says."""
    import gradio as gr

    first, others = controls.separated(recipe.task)
    updates = {**choose_task(first, also=others), "samples": recipe.samples, "seed": recipe.seed}
    updates |= {"task": first, "also": gr.update(value=others)}
    updates |= {name: getattr(recipe, name) for name in NAMES}
    for name, value in recipe.damage.items():
        if name in controls.HANDY:
            low, high, _ = controls.HANDY[name]
            updates[name] = gr.update(value=value, minimum=min(low, value), maximum=max(high, value), visible=True)
        elif name not in ("mask", "kernel"):
            updates[name] = gr.update(value=value, visible=True)
    kept = dict(recipe.knobs)
    preset = presets.preset_of(recipe.task, recipe.algorithm, kept, recipe.samples)
    return updates | {"algorithm": recipe.algorithm, "knobs": kept, "loaded": kept, "preset": preset, "same_seed": True}


def choose_task(task: str, preset: str | None = None, also: Sequence[str] = ()) -> dict[str, Any]:
    """Show the controls of a damage, and take what the lit preset has for it.

    Args:
        task: Name of the damage.
        preset: The preset that is lit, or None.
        also: Names of what comes on top of it.

    Returns:
        Updates of the controls by name.
    """
    import gradio as gr

    offered = [] if task in WHOLE else [(words, name) for name, words in controls.ALSO.items() if name != task]
    if task == "motion-blur":
        offered = [pair for pair in offered if pair[1] != "gaussian-blur"]
    also = [name for name in also if name in (pair[1] for pair in offered)]
    first, task = task, controls.joined_tasks(task, also)
    own = controls.task_knobs(task)
    updates = {name: gr.update(visible=name in own) for name in controls.damage_knobs()}
    updates["also"] = gr.update(choices=offered, value=also, visible=bool(offered))
    noise = {"value": controls.start_value(task, "sigma")} if "sigma" in own else {}
    updates["sigma"] = gr.update(visible="sigma" in own, **noise)
    missing = Inpaint.name in task.split("+")
    updates |= {name: gr.update(visible=missing) for name in ("mask", "mask_file")}
    updates["painting"] = gr.update(visible=missing or task == OldPhotograph.name)
    updates["find"] = gr.update(visible=task == OldPhotograph.name)
    updates["keep"] = gr.update(visible=task == Inpaint.name)
    updates["kernel"] = gr.update(visible="blur" in first)
    updates |= {f"at_{name}": gr.update(visible=name in own) for name in controls.damage_knobs()}
    updates |= {f"estimate_{name}": gr.update(visible=controls.has_button(task, name)) for name in controls.BUTTONS}
    return updates | choose_preset(preset, task)


def take_task(values: Controls) -> dict[str, Any]:
    """What `choose_task` shows for the damage that is chosen, with what is ticked on top of it."""
    return that_work(values, choose_task(values.task, values.preset, values.also))


def request_of(values: Controls) -> RestoreRequest:
    """The request that the controls describe.

    Args:
        values: Of the tab.

    Returns:
        The request, without the files that were put in for another task.

    Raises:
        AmbientSolveError: it asks for more samples or levels than the page draws.
    """
    task = controls.joined_tasks(values.task, values.also)
    known = {k.name: k for k in knobs(task_class(task))}
    options = {name: widgets.knob_value(known[name], values.damage[name]) for name in controls.task_knobs(task)}
    chosen = dict(values.knobs or {})
    samples = int(values.samples)
    if not 1 <= samples <= MAX_SAMPLES or not 1 <= chosen.get("steps", 1) <= MAX_STEPS:
        raise AmbientSolveError(
            f"The page draws 1 to {MAX_SAMPLES} samples in 1 to {MAX_STEPS} levels: take the command line for more."
        )
    # What was put in for another task is still there, out of sight.
    given = {"mask": values.mask, "kernel": values.kernel}
    files = {name: Path(file) if name in known and file else None for name, file in given.items()}
    return RestoreRequest(
        task,
        options,
        play=values.play,
        painted=painter.painted(values.editor),
        mask=files["mask"],
        kernel=files["kernel"],
        scattered=values.scattered if task == Inpaint.name else 0.0,
        prior=values.prior,
        algorithm=values.algorithm,
        knobs=chosen,
        samples=samples,
        seed=int(values.seed),
        size=values.size,
        keep=values.keep and task == Inpaint.name,
        **typed_words(values),
    )


def picture(values: Controls) -> Picture:
    """The picture of the session at its full depth, or that of the example.

    Args:
        values: Of the tab.

    Returns:
        The picture, with the channels of the prior.

    Raises:
        AmbientSolveError: it is no longer kept.
    """
    from ambient_solve.app.uploads import open_upload

    session, channels = values.session, chosen_prior(values).picture_channels
    path = example.PICTURE if session is None or session.path is None else session.path
    if not path.is_file():
        raise AmbientSolveError("The picture is no longer kept: put it in again.")
    return open_upload(path, max_pixels=MAX_PIXELS, channels=channels)
