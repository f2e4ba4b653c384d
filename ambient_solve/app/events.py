"""What happens when something on the page is used: dictionaries of values in, dictionaries of updates out.

The names in them are those of the parts of the page (see `page`); nothing here draws or solves.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ambient_solve.app import controls, example, history, painter, panels
from ambient_solve.app.desk import DESK, LONG, Job
from ambient_solve.app.order import Order
from ambient_solve.app.session import MAX_PIXELS, Session, details, how_to_repeat, save
from ambient_solve.app.wiring import libraries
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knobs
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.recipe import Recipe, read_png
from ambient_solve.restore.tasks import TASKS, Inpaint

if TYPE_CHECKING:
    from ambient_solve.app.run import Result

SHOWN = 1024
"""Longer side of the pictures on the page; the files have all pixels."""
MAX_SAMPLES, MAX_STEPS = 16, 1000
"""What one run on the page may ask for."""


@lru_cache(maxsize=4)
def prior_of(name: str, device: str, lane: str = "quick") -> Any:
    """A prior, kept for the next run; each lane works with its own."""
    libraries()
    from ambient_solve.priors.load import load

    return load(name, device)


def chosen_prior(values: dict[str, Any], lane: str = "quick") -> Any:
    """The prior that is chosen, where it is offered here."""
    values["rules"].check_prior(values["prior"])
    return prior_of(values["prior"], values["device"], *([lane] if lane == LONG else []))


def warm(name: str, device: str) -> None:
    """Do what the first run would wait for; what is wrong with the prior is said to those who then ask for it."""
    with contextlib.suppress(AmbientSolveError):
        prior = prior_of(name, device)
        DESK.alone(lambda: example.rehearse(prior))


def offers(values: dict[str, Any]) -> dict[str, Any]:
    """What there is to choose, once the page stands: it takes torch, which takes seconds, and so does the prior."""
    import gradio as gr

    chosen_prior(values)
    from ambient_solve.algorithms import ALGORITHMS

    priors = gr.update(choices=values["rules"].offered())
    return {"algorithm": gr.update(choices=["auto", *ALGORITHMS]), "prior": priors}


def upload(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A file was put in: take it; or refuse it, and go on with the picture that was there."""
    if values["file"] is None:
        return
    try:
        updates = taken(values)
    except Exception:
        session = values["session"]
        standing = "the example" if session is None or session.path is None else session.path.name
        words = f"{Path(values['file']).name} was not taken. The picture is still {standing}."
        yield {"file": None, "status": panels.progress_bar(0, words)}
        raise
    yield updates


def taken(values: dict[str, Any]) -> dict[str, Any]:
    """Show the picture that was put in, say what was converted, and take over the recipe that it may carry."""
    import gradio as gr

    session = values["session"] or Session()
    prior = chosen_prior(values)
    taken = session.take(values["file"], prior.shape[0])
    shown = small(panels.to_image(array(taken)))
    updates = {**nothing((shown, shown)), "session": session, "file": None, "mask": None}
    updates |= {"editor": painter.value(shown), "words": "Nothing of this picture is restored yet."}
    height, width = taken.y.shape[-2:]
    words = [f"{taken.path.name}, {width}x{height} pixels", *taken.notes]
    updates["status"] = panels.progress_bar(0, f"{'; '.join(words)}. Say what is wrong with it, then restore it.")
    recipe = read_png(session.path)
    if recipe is not None:
        gr.Info("The settings in this picture were taken over; paint or upload the mask again where there was one.")
        updates |= apply(recipe)
    return updates


def apply(recipe: Recipe) -> dict[str, Any]:
    """Set the controls as `recipe` says."""
    import gradio as gr

    updates = {**choose_task(recipe.task), "task": recipe.task, "samples": recipe.samples, "seed": recipe.seed}
    for name, value in recipe.damage.items():
        if name in controls.HANDY:
            low, high, _ = controls.HANDY[name]
            updates[name] = gr.update(value=value, minimum=min(low, value), maximum=max(high, value), visible=True)
        elif name not in ("mask", "kernel"):
            updates[name] = gr.update(value=value, visible=True)
    kept = dict(recipe.knobs)
    preset = controls.preset_of(recipe.task, recipe.algorithm, kept, recipe.samples)
    return updates | {"algorithm": recipe.algorithm, "knobs": kept, "loaded": kept, "preset": preset, "same_seed": True}


def choose_task(task: str, preset: str | None = None) -> dict[str, Any]:
    """Show the controls of this damage, and take for it what the lit `preset` has for it."""
    import gradio as gr

    own = controls.task_knobs(task)
    updates = {name: gr.update(visible=name in own) for name in controls.damage_knobs()}
    updates["sigma"] = gr.update(value=controls.start_value(task, "sigma"), visible=True)
    missing = task == Inpaint.name
    updates |= {name: gr.update(visible=missing) for name in ("mask", "mask_file", "keep", "painting")}
    updates["kernel"] = gr.update(visible="blur" in task)
    updates["estimate"] = gr.update(value="Estimate noise and quality" if task == "jpeg" else "Estimate the noise")
    return updates | choose_preset(preset, task)


def choose_preset(name: str | None, task: str | None = None) -> dict[str, Any]:
    """Set algorithm and knobs; the number of samples is set by the browser (see `controls`)."""
    if name not in controls.PRESETS:
        return {}
    algorithm, kept = controls.PRESETS[name].chosen(task)
    return {"algorithm": algorithm, "knobs": kept, "loaded": kept}


def estimate(values: dict[str, Any]) -> dict[str, Any]:
    """Noise level and, for JPEG, quality of the picture, as far as they can be told from it."""
    import gradio as gr

    given = picture(values)
    from ambient_solve.restore.estimate import jpeg_quality, noise_level

    if values["task"] == "jpeg":
        quality = jpeg_quality(given.path)
        if quality is None:
            raise AmbientSolveError("The picture shows no trace of JPEG compression: set the quality by hand.")
        gr.Info(f"JPEG quality {quality}.")
        return {"quality": quality}
    sigma = float(noise_level(given.y)[0])
    low, high, step = controls.HANDY["sigma"]
    near = min(max(round(sigma / step) * step, low), high)
    said = f"below {low:g}, set to {low:g}" if sigma < low else f"{sigma:.3f}"
    gr.Info(f"Noise level {said} (pixel values go from 0 to 1).")
    if values["session"] is not None:
        values["session"].estimated = near
    return {"sigma": near}


def settled(event: Callable[[dict[str, Any]], Iterator[dict[str, Any]]]) -> Callable[..., Iterator[dict[str, Any]]]:
    """`event`, which leaves the page at rest where it fails, and says there what happened."""

    @wraps(event)
    def run(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import gradio as gr

        try:
            yield from event(values)
        except Exception as error:
            known = isinstance(error, (AmbientSolveError, OSError))
            words = f"Not done. {error if known else 'The terminal of the page tells what went wrong.'}"
            yield {"status": panels.progress_bar(0, words), "stop": gr.update(interactive=False)}
            raise

    return run


@settled
def restore(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Restore the picture: updates for every preview, and for every finished sample."""
    import gradio as gr

    libraries()
    from ambient_solve.app.begin import begun
    from ambient_solve.app.job import Problem
    from ambient_solve.app.run import Moment

    session = values["session"] or Session()
    seed = values["seed"] if values["same_seed"] else random.randrange(2**31)
    order = order_of({**values, "seed": seed})
    job, before = Job(visitor=values.get("visitor"), minutes=values["rules"].minutes), None
    session.stopped, session.share, taken_before = False, 0.0, session.taken
    stoppable, shown = {"session": session, "stop": gr.update(interactive=True)}, {}
    moments = begun(order, lambda: picture({**values, "session": session}), lambda x: chosen_prior(values, x), job)
    for moment in DESK.serve(job, moments, lambda words: Moment(0.0, words)):
        if isinstance(moment, Problem):
            before = small(panels.measured(moment.before, moment.mask))
            piece, session.result = moment.piece, None
            cut = panels.measured(array(piece.picture), None if piece.mask is None else piece.mask.numpy() > 0)
            yield {**nothing((before, before)), "seed": seed, "status": panels.progress_bar(0, "Starting"), **stoppable}
            continue
        if session.taken != taken_before:  # another picture was put in, and is shown
            yield {"stop": gr.update(interactive=False)}
            return
        session.share = moment.share
        updates = {"status": panels.progress_bar(moment.share, moment.words), **({} if before else stoppable)}
        if moment.preview is not None:
            updates["slider"] = tuple(map(small, panels.slider_pair(cut, panels.to_image(moment.preview))))
        if moment.result is not None:
            session.result = moment.result
            shown = views(session, before)
            updates |= shown
        if (session.stopped or job.over) and moment.share < 1:
            words = stopped_words(0 if session.result is None else len(session.result.samples))
            updates["status"] = panels.progress_bar(moment.share, f"{job.over_words} {words}" if job.over else words)
            yield updates
            break
        yield updates
    if shown:
        best = small(panels.to_image(session.result.mean))
        shown["history"] = history.remember(session, {**values, "seed": seed}, before, best)
    # Once more all that is shown: a tab that is closed keeps only the last that it was sent.
    yield {**shown, "stop": gr.update(interactive=False)}


def stop(values: dict[str, Any]) -> dict[str, Any]:
    """Ask the run of this session to end; it does so after the level that it is at, and says what is kept."""
    import gradio as gr

    session = values["session"]
    if session is None:
        return {"stop": gr.update(interactive=False)}
    session.stopped = True
    words = "Stopping: what is being computed is finished first."
    return {"stop": gr.update(interactive=False), "status": panels.progress_bar(session.share, words)}


def stopped_words(finished: int) -> str:
    """What is left of a run that was stopped."""
    if not finished:
        return "Stopped before the first sample was finished: what is shown is unfinished."
    return f"Stopped. {finished} finished sample{'s' * (finished > 1)} kept."


def nothing(pair: tuple[Any, Any]) -> dict[str, Any]:
    """What the page shows of a result while there is none, with `pair` in the slider."""
    import gradio as gr

    return {
        "slider": panels.slider_pair(*pair),
        **dict.fromkeys(("gallery", "spread", "near", "residual", "steps_strip", "details", "python", "shell")),
        **dict.fromkeys(("words", "pixel", "fit"), ""),
        **{name: gr.update(value=None, interactive=False) for name in ("download", "archive")},
    }


def views(session: Session, before: Any) -> dict[str, Any]:
    """All that the page shows of the session's result."""
    import gradio as gr

    result = session.result
    problem, samples = result.problem, result.samples
    images = [small(panels.to_image(x)) for x in samples]
    best = small(panels.to_image(result.mean))
    restored, archive = save(result, session.folder)
    python, shell = how_to_repeat(result)
    words = panels.share_words(problem.mask, samples, problem.order.keep)
    if problem.truth is not None:
        words += f" {panels.truth_words(problem.truth, result.mean)}"
    piece_mask = None if problem.piece.mask is None else problem.piece.mask.numpy() > 0
    many = len(samples) > 1
    return {
        "session": session,
        "slider": panels.slider_pair(before, best),
        "words": words,
        "gallery": [(best, "mean"), *((x, f"sample {s + 1}") for s, x in enumerate(images))],
        "spread": panels.spread_map(samples).image if many else panels.no_spread(samples[0]),
        "pixel": "Click a pixel of the map." if many else "One sample has no spread: ask for two or more.",
        "near": None,
        "residual": panels.residual_map(result.residual, piece_mask).image,
        "fit": panels.fit_words(result.misfit, advice(result, session.estimated)),
        "steps_strip": panels.steps_strip(result.frames),
        "details": details(result),
        "python": python,
        "shell": shell,
        "download": gr.update(value=str(restored), interactive=True),
        "archive": gr.update(value=str(archive), interactive=True),
    }


def advice(result: Result, estimated: float | None = None) -> str:
    """What the misfit says of the stated damage; too good a fit is no news where nothing is to be done about it."""
    from ambient_solve.restore import estimate as restore_estimate

    problem, sigma = result.problem, result.problem.order.options.get("sigma")
    said = restore_estimate.advice(result.misfit, problem.damage)
    if not said or not result.misfit < 1:
        return said
    if problem.mask is not None and problem.order.keep:
        return "A fit that good does no harm here: the measured pixels are kept as they are."
    smallest = sigma is not None and sigma <= controls.HANDY["sigma"][0]
    return "" if smallest or sigma == estimated else said


def choose_sample(values: dict[str, Any], index: int) -> dict[str, Any]:
    """Put the chosen picture of the gallery behind the slider: the mean, or one sample."""
    result = _result(values)
    before = small(panels.measured(result.problem.before, result.problem.mask))
    chosen = result.mean if index == 0 else result.samples[min(index, len(result.samples)) - 1]
    return {"slider": panels.slider_pair(before, small(panels.to_image(chosen)))}


def click_map(values: dict[str, Any], place: tuple[float, float]) -> dict[str, Any]:
    """Read the pixel under a point of the drawn spread map."""
    result = _result(values)
    pixel = panels.spread_map(result.samples).pixel(*place)
    return {} if pixel is None else read_pixel(values, *pixel)


def read_pixel(values: dict[str, Any], row: int, column: int) -> dict[str, Any]:
    """Mean, spread and samples at one pixel."""
    result = _result(values)
    height, width = result.samples.shape[1:3]
    row, column = int(row or 0), int(column or 0)
    if not (0 <= row < height and 0 <= column < width):
        raise AmbientSolveError(f"Row {row}, column {column} is outside the picture of {width}x{height} pixels.")
    return {
        "pixel": panels.pixel_words(result.samples, row, column, result.problem.mask),
        "near": panels.swatches(result.samples, row, column),
        "row": row,
        "column": column,
    }


def order_of(values: dict[str, Any]) -> Order:
    """The order that the controls describe."""
    task, known = values["task"], {k.name: k for k in knobs(TASKS[values["task"]])}
    options = {name: controls.knob_value(known[name], values[name]) for name in controls.task_knobs(task)}
    chosen = dict(values["knobs"] or {})
    samples = int(values["samples"])
    if not 1 <= samples <= MAX_SAMPLES or not 1 <= chosen.get("steps", 1) <= MAX_STEPS:
        raise AmbientSolveError(
            f"The page draws 1 to {MAX_SAMPLES} samples in 1 to {MAX_STEPS} levels: take the command line for more."
        )
    # What was put in for another task is still there, out of sight.
    files = {name: Path(values[name]) if name in known and values[name] else None for name in ("mask", "kernel")}
    return Order(
        task,
        options,
        play=values["play"],
        painted=painter.painted(values["editor"]),
        mask=files["mask"],
        kernel=files["kernel"],
        scattered=values["scattered"] if task == Inpaint.name else 0.0,
        prior=values["prior"],
        algorithm=values["algorithm"],
        knobs=chosen,
        samples=samples,
        seed=int(values["seed"]),
        size=values["size"],
        keep=values["keep"],
    )


def picture(values: dict[str, Any]) -> Picture:
    """The picture of the session at its full depth, or that of the example."""
    from ambient_solve.uploads import open_upload

    session, channels = values["session"], chosen_prior(values).shape[0]
    path = example.PICTURE if session is None or session.path is None else session.path
    if not path.is_file():
        raise AmbientSolveError("The picture is no longer kept: put it in again.")
    return open_upload(path, max_pixels=MAX_PIXELS, channels=channels)


def _result(values: dict[str, Any]) -> Result:
    session = values["session"]
    if session is not None and session.result is not None:
        return session.result
    if session is not None and session.path is not None:
        raise AmbientSolveError("There is no result yet: restore the picture first.")
    return example.result()


def small(image: Any) -> Any:
    """The picture, or a copy of SHOWN pixels at most."""
    if max(image.size) > SHOWN:
        image = image.copy()
        image.thumbnail((SHOWN, SHOWN))
    return image


def array(picture: Picture) -> np.ndarray:
    """The pixels (H, W, C) of a picture."""
    return picture.y[0].permute(1, 2, 0).numpy()
