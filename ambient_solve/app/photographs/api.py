"""Endpoints for programs: the page without the page.

client = gradio_client.Client("http://127.0.0.1:7860")
given = {"task": "denoise", "options": {"sigma": 0.1}}
picture, record = client.predict(file=handle_file("old.png"), **given, api_name="/restore")
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ambient_solve.app import presets
from ambient_solve.app.desk import DESK, Job
from ambient_solve.app.photographs import choices, controls
from ambient_solve.app.photographs.prompts import NAMES
from ambient_solve.app.photographs.session import Session, details, save
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.rules import Rules
from ambient_solve.app.wiring import libraries
from ambient_solve.restore.recipe import MAX_PROMPT

RESTORE = (
    "Restore a damaged picture. task: what is wrong with it; options: a JSON object of its knobs, such as "
    "{'sigma': 0.1}, and what is left out stands as on the page. {options} mask: for inpaint, and only there, a "
    "picture, white where pixels are missing; preset: Fast, Balanced, Faithful, Creative. samples: 0 for those of the "
    "preset; seed: decides the samples. prompt, negative, guidance: words, where the prior takes them. "
    "Returns the restored picture (a PNG that carries its settings) and a JSON "
    "object with the misfit, the verdict on what was stated, the settings and the seconds; before that, how far it is."
)
"""Description of the endpoint /restore; {options} lists the knobs of each damage."""
ESTIMATE = "Estimate the noise level of a picture, and the JPEG quality it was once stored with (null: no trace)."
"""Description of the endpoint /estimate."""


def endpoints(prior: str, device: str, rules: Rules, sentences: Callable[..., Any], model: dict[str, Any]) -> None:
    """Add the endpoints /restore and /estimate to the page that is being built.

    Args:
        prior: Name of the prior that is used where none is asked for.
        device: Where it runs.
        rules: What a visitor may ask for.
        sentences: Wraps a function, so that an error reaches the visitor as a sentence.
        model: Settings of gradio for events that use the prior.
    """
    import gradio as gr

    # Their names are those of the parameters of the endpoint.
    def restore(
        request: Any,
        file: str,
        task: str,
        options: Any,
        mask: str | None = None,
        preset: str = "Fast",
        samples: int = 0,
        seed: int = 0,
        prompt: str = "",
        negative: str = "",
        guidance: float = 1.0,
    ) -> Iterator[tuple[str | None, dict[str, Any]]]:
        given = {"file": file, "task": task, "options": options, "mask": mask}
        given |= {"preset": preset, "samples": samples, "seed": seed, "visitor": request.session_hash}
        given |= {"prompt": prompt, "negative": negative, "guidance": guidance}
        yield from restored(given, prior, device, rules)

    restore.__annotations__["request"] = gr.Request  # not as text, which gradio could not resolve

    def estimate(file: str) -> dict[str, Any]:
        return estimated(file, prior, device)

    with gr.Row(visible=False):
        picture, result, record = gr.File(label="picture"), gr.File(label="restored"), gr.JSON(label="record")
        inputs = [
            picture,
            gr.Dropdown(list(controls.TASK_WORDS), value="denoise", label="task", allow_custom_value=True),
            gr.JSON({}, label="options"),
            gr.File(label="mask"),
            gr.Dropdown(list(presets.PRESETS), value="Fast", label="preset"),
            gr.Number(0, precision=0, label="samples"),
            gr.Number(0, precision=0, label="seed"),
            *(gr.Textbox("", max_length=MAX_PROMPT, label=name) for name in ("prompt", "negative")),
            gr.Number(1, label="guidance"),
        ]
        start, guess = gr.Button("restore"), gr.Button("estimate")
    said = {"api_name": "restore", "api_description": RESTORE.replace("{options}", _options()), **model}
    start.click(sentences(restore), inputs, [result, record], **said)
    guess.click(sentences(estimate), [picture], record, api_name="estimate", api_description=ESTIMATE)


def _options() -> str:
    """Every option of every task: where it belongs, what it means, and what it may be."""
    lines = []
    for name, k in controls.damage_knobs().items():
        tasks = [task for task in controls.TASK_WORDS if name in controls.task_knobs(task)]
        where = "every task" if len(tasks) == len(controls.TASK_WORDS) else ", ".join(tasks)
        meaning = controls.HINTS.get(name, k.help)
        values = " or ".join(k.choices) if k.choices else f"{k.lo:g} to {k.hi:g}"
        lines.append(f"{name} ({where}): {meaning}; {values}.")
    return " ".join(lines)


def restored(
    given: dict[str, Any], prior: str, device: str, rules: Rules | None = None
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """What /restore answers, in parts: the progress, and at last the result.

    Args:
        given: Arguments of the endpoint by name.
        prior: Name of the prior that is used where none is asked for.
        device: Where it runs.
        rules: What a visitor may ask for; this one prior by default.

    Yields:
        None and the progress; at last the path of the picture and its record.

    Raises:
        AmbientSolveError: the picture or an option does not fit.
    """
    libraries()
    from ambient_solve.app.begin import begun
    from ambient_solve.app.photographs.job import PreparedRequest
    from ambient_solve.app.photographs.run import Progress
    from ambient_solve.errors import AmbientSolveError
    from ambient_solve.priors.base import NO_WORDS

    rules = Rules((prior,)) if rules is None else rules
    if given["file"] is None:
        raise AmbientSolveError("No picture was given.")
    preset = presets.PRESETS[given["preset"]]
    algorithm, settings = preset.chosen(given["task"])
    options = given["options"] or {}
    known = controls.task_knobs(given["task"])
    if not isinstance(options, dict) or any(name not in known for name in options):
        raise AmbientSolveError(f"options={options!r} was given; knobs of {given['task']} were expected: {known}.")
    first, others = controls.separated(given["task"])
    standing = {name: controls.start_value(given["task"], name) for name in known}
    values = Controls(
        mask=given["mask"],
        task=first,
        also=others,
        damage={**standing, **options},
        prior=prior,
        device=device,
        rules=rules,
        algorithm=algorithm,
        knobs=settings,
        samples=given["samples"] or preset.samples,
        seed=given["seed"],
        **{name: given[name] for name in NAMES if name in given},
    )
    model = choices.prior_of(prior, device)
    if values.prompt and not model.takes_words:
        raise AmbientSolveError(NO_WORDS)
    if model.affine is None:  # those of the presets need an affine decode
        values = replace(values, algorithm="auto", knobs={})
    with contextlib.closing(Session()) as session:
        picture = lambda: session.take(given["file"], model.picture_channels)  # noqa: E731
        load = lambda lane: choices.chosen_prior(values, lane)  # noqa: E731
        job, result = Job(visitor=given.get("visitor"), minutes=rules.minutes), None
        reports = begun(choices.request_of(values), picture, load, job)
        for report in DESK.serve(job, reports, lambda words: Progress(0.0, words)):
            if isinstance(report, PreparedRequest):
                continue
            yield None, {"share": round(report.share, 3), "words": report.words}
            result = report.result or result
        if result is None:
            raise AmbientSolveError(f"{job.over_words} No sample was finished by then.")
        best, _ = save(result, session.folder)
        ended = {"ended": job.over_words} if job.over and report.share < 1 else {}
        yield str(best), {"misfit": result.misfit, **ended, **details(result)}


def estimated(file: str | None, prior: str, device: str) -> dict[str, Any]:
    """What /estimate answers.

    Args:
        file: The uploaded picture, or None.
        prior: Name of the prior, which decides between grey and colour.
        device: Where the prior runs.

    Returns:
        "noise_level", 0 to 1 and never below what rounding or JPEG compression hides, "noise" in words, and
        "jpeg_quality".

    Raises:
        AmbientSolveError: no picture was given, or it cannot be read.
    """
    libraries()
    from ambient_solve.errors import AmbientSolveError
    from ambient_solve.restore.estimate import jpeg_quality
    from ambient_solve.restore.noise import picture_noise

    if file is None:
        raise AmbientSolveError("No picture was given.")
    with contextlib.closing(Session()) as session:
        picture = session.take(file, choices.prior_of(prior, device).picture_channels)
        noise = picture_noise(picture)
        level = max(noise.level or 0.0, noise.hidden)
        return {"noise_level": level, "noise": noise.words, "jpeg_quality": jpeg_quality(picture.path)}
