"""What the page shows of a result: pictures, maps, words and files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ambient_solve.app import panels
from ambient_solve.app.photographs import controls, example, fidelity
from ambient_solve.app.photographs.session import Session, details, hand_out, how_to_repeat, save
from ambient_solve.app.photographs.values import Controls
from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.restore.pictures import Picture
from ambient_solve.verdict.words import MOVEMENT, NO_BLUR, NOISE_LOWER, ROUND_BLUR

if TYPE_CHECKING:
    from ambient_solve.app.photographs.run import Result
    from ambient_solve.verdict.judge import Verdict


SHOWN = 1024
"""Longer side of the pictures on the page, in pixels; the files have all pixels."""
ZOOMED = 2048
"""That of those behind the slider once a run has ended, which one can zoom into."""


def nothing(pair: tuple[Any, Any]) -> dict[str, Any]:
    """What the page shows of a result while there is none, with `pair` in the slider."""
    import gradio as gr

    return {
        "slider": panels.slider_pair(*pair),
        **dict.fromkeys(("gallery", "std", "near", "residual", "share", "steps_strip", "details", "python", "shell")),
        **dict.fromkeys(("words", "pixel", "fit", "share_words", "verdict"), ""),
        **{name: gr.update(value=None, interactive=False) for name in ("download", "archive")},
        "invented": 0,
    }


def views(session: Session, before: Any) -> dict[str, Any]:
    """All that the page shows of the session's result; `files` hands it out once no more samples are coming.

    Args:
        session: With a result.
        before: The picture on the left of the slider, as the tab has drawn it.

    Returns:
        Updates of the page by name.
    """
    result = session.result
    problem, samples = result.problem, result.samples
    images = [small(panels.to_image(x)) for x in samples]
    best = small(panels.to_image(result.mean))
    session.chosen, session.invented = 1, 0.0
    python, shell = how_to_repeat(result)
    words = panels.share_words(problem.mask, samples, problem.request.keep)
    if problem.truth is not None:
        words += f" {panels.truth_words(problem.truth, result.mean)}"
    piece_mask = None if problem.piece.mask is None else problem.piece.mask.numpy() > 0
    many, said = len(samples) > 1, shown_verdict(result, session.estimated)
    return {
        "session": session,
        **shown_fidelity(session),
        "words": words,
        "gallery": [(best, "mean"), *((x, f"sample {s + 1}") for s, x in enumerate(images))],
        "std": panels.std_map(samples).image if many else panels.one_sample(samples[0]),
        "pixel": "Click a pixel of the map." if many else "One sample has no standard deviation: ask for two or more.",
        "near": None,
        "residual": None if result.residual is None else panels.residual_map(result.residual, piece_mask).image,
        "fit": panels.fit_words(result.misfit, said),
        "verdict": panels.verdict_card(said, to_set(said)),
        "steps_strip": panels.steps_strip(result.frames),
        "details": details(result),
        "python": python,
        "shell": shell,
    }


def files(session: Session) -> dict[str, Any]:
    """Write the files of the session's result; the updates that hand them out.

    Args:
        session: With a result.

    Returns:
        Updates by the name of the part.
    """
    import gradio as gr

    restored, archive = save(session.result, session.folder, session.kind)
    found = {"download": restored, "archive": archive}
    return {name: gr.update(value=str(path), interactive=True) for name, path in found.items()}


def shown_verdict(result: Result, estimated: float | None = None) -> Verdict:
    """The verdict on a result; that the noise is lower than stated is no news where nothing is to be done about it.

    Args:
        result: What was restored.
        estimated: The noise level that was read off the picture, None where it was not.

    Returns:
        The verdict that the page shows.
    """
    problem, sigma = result.problem, result.problem.request.options.get("sigma")
    kept = problem.mask is not None and problem.request.keep
    smallest = sigma is not None and sigma <= controls.HANDY["sigma"][0]
    return result.verdict((NOISE_LOWER,) if kept or smallest or sigma == estimated else ())


def to_set(said: Verdict) -> str:
    """Which controls of the page to set after a verdict.

    Args:
        said: The verdict.

    Returns:
        A sentence; empty where it suggests no number.
    """
    labels, cause = controls.LABELS, said.keys[0] if said.keys else ""
    parts = [f"{labels[name]} to {value:g}" for name, value in said.suggested.items()]
    task = {MOVEMENT: "motion-blur", ROUND_BLUR: "gaussian-blur", NO_BLUR: "denoise"}.get(cause)
    chosen = [f"choose \u201c{controls.TASK_WORDS[task]}\u201d"] if task else []
    words = " and ".join([*chosen, *([f"set {', '.join(parts)}"] if parts else [])])
    return f"{words[0].upper()}{words[1:]}, and restore again." if words else ""


def choose_sample(values: Controls, index: int) -> dict[str, Any]:
    """Put the chosen picture of the gallery behind the slider and into the file: the mean, or one sample.

    Args:
        values: Of the tab.
        index: 0 for the mean, 1 and more for the samples.

    Returns:
        Updates by the name of the part.
    """
    result, session = _result(values), values.session or Session()
    if session.result is None:  # the example
        return {"slider": _pair(result, result.mean if index == 0 else result.samples[index - 1])}
    session.chosen, session.invented = max(index, 1), float(index > 0)
    return {"invented": round(100 * session.invented), **shown_fidelity(session), **hand_out_chosen(session)}


def choose_fidelity(values: Controls) -> dict[str, Any]:
    """Show the picture between the mean and the chosen sample, and hand it out.

    Args:
        values: Session and share are read.

    Returns:
        Updates by the name of the part.
    """
    result, share = _result(values), min(max(values.invented / 100, 0.0), 1.0)
    session = values.session
    if session is None or session.result is None:
        return _of_example(result, share)
    session.invented = share
    return {**shown_fidelity(session), **hand_out_chosen(session)}


def choose_kind(values: Controls) -> dict[str, Any]:
    """Hand the picture out in the chosen format.

    Args:
        values: Session and format are read.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: there is no such format.
    """
    from ambient_solve.app.photographs.output import KINDS

    if values.kind not in KINDS:
        raise AmbientSolveError(f"There is no format {values.kind!r}. {suggestion(values.kind, KINDS)}")
    if values.session is None:
        return {}
    values.session.kind = values.kind
    return {} if values.session.result is None else hand_out_chosen(values.session)


def shown_fidelity(session: Session) -> dict[str, Any]:
    """Updates that show the chosen picture of a result, and how much of it was invented.

    Args:
        session: With a result.

    Returns:
        Updates by the name of the part.
    """
    result = session.result
    x = fidelity.blended(result.samples, session.chosen, session.invented)
    return {"slider": _pair(result, x), **_share(result.samples, x, session.invented)}


def hand_out_chosen(session: Session) -> dict[str, Any]:
    """Write the chosen picture in the chosen format; the update that hands it out."""
    import gradio as gr

    result, stem = session.result, session.result.problem.picture.path.stem
    x = fidelity.blended(result.samples, session.chosen, session.invented)
    path = hand_out(result, x, session.folder / "results" / f"{stem}-restored", session.kind)
    return {"download": gr.update(value=str(path), interactive=True)}


def _of_example(result: Result, share: float) -> dict[str, Any]:
    x = fidelity.blended(result.samples, 1, share)
    return {"slider": _pair(result, x), **_share(result.samples, x, share)}


def _share(samples: np.ndarray, x: np.ndarray, invented: float) -> dict[str, Any]:
    """Updates of the picture of what was invented, and of its words."""
    if len(samples) < 2:
        return {"share": panels.one_sample(x), "share_words": "One sample: ask for two or more to see what it invents."}
    step = math.ceil(max(samples.shape[1:3]) / SHOWN)  # of a larger picture every second, third ... pixel
    samples, x = samples[:, ::step, ::step], x[::step, ::step]
    share = fidelity.invented_share(samples, invented)
    # The picture shows what the sample invents, else it would be dark at the mean, which invents nothing.
    drawn = share if invented else fidelity.invented_share(samples)
    return {"share": fidelity.share_picture(x, drawn).image, "share_words": fidelity.invented_words(share, invented)}


def _pair(result: Result, x: np.ndarray) -> tuple[Any, Any]:
    before = panels.measured(result.problem.before, result.problem.mask)
    return panels.slider_pair(small(before, ZOOMED), small(panels.to_image(x), ZOOMED))


def click_map(values: Controls, place: tuple[float, float]) -> dict[str, Any]:
    """Read the pixel under a point of the drawn map of standard deviations.

    Args:
        values: Of the tab.
        place: (x, y) of the click, in pixels of the drawn map from its top left.

    Returns:
        Updates of the page; none where the click is on the color bar.
    """
    result = _result(values)
    pixel = panels.std_map(result.samples).pixel(*place)
    return {} if pixel is None else read_pixel(values, *pixel)


def read_pixel(values: Controls, row: int, column: int) -> dict[str, Any]:
    """Mean, standard deviation and samples at one pixel.

    Args:
        values: The session is read.
        row: From 0, at the top.
        column: From 0, on the left.

    Returns:
        Updates by the name of the part.

    Raises:
        AmbientSolveError: there is no result yet, or the pixel is outside the picture.
    """
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


def _result(values: Controls) -> Result:
    session = values.session
    if session is not None and session.result is not None:
        return session.result
    if session is not None and session.path is not None:
        raise AmbientSolveError("There is no result yet: restore the picture first.")
    return example.result()


def small(image: Any, most: int = SHOWN) -> Any:
    """The picture, or a copy of it.

    Args:
        image: The picture.
        most: Longest side of what is returned, in pixels.

    Returns:
        A picture.
    """
    if max(image.size) > most:
        image = image.copy()
        image.thumbnail((most, most))
    return image


def array(picture: Picture) -> np.ndarray:
    """The pixels (H, W, C) of a picture."""
    return picture.y[0].permute(1, 2, 0).numpy()
