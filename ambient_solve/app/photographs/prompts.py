"""The prompt of the page: shown where the prior takes words, limited in length, and left out everywhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.values import Controls
from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.recipe import MAX_PROMPT

if TYPE_CHECKING:
    from ambient_solve.app.wiring import Parts
    from ambient_solve.priors.base import Prior
    from ambient_solve.priors.text import Prompt

NAMES = ("prompt", "negative", "guidance")
"""Controls of the words."""
MOST = 20.0
"""Largest guidance of the page."""


def prompt_controls(parts: Parts) -> None:
    """The controls of the words, which are hidden until a prior is there that takes them.

    Args:
        parts: Parts of the tab, to which they are added.
    """
    import gradio as gr

    limit: dict[str, Any] = {"max_length": MAX_PROMPT, "max_lines": 3, "interactive": True}
    with gr.Group(visible=False) as parts["at_prompt"]:
        parts["prompt"] = gr.Textbox(
            "", label="What the picture shows", info='in words, such as "a photo of a cat"', elem_id="prompt", **limit
        )
        parts["negative"] = gr.Textbox("", label="What it does not show", elem_id="negative", **limit)
        parts["guidance"] = gr.Slider(
            1, MOST, value=1.0, step=0.5, label="How much the words count", info="1 is what the model was trained with",
            elem_id="guidance",
        )  # fmt: skip


def typed_words(values: Controls) -> dict[str, Any]:
    """The words of a request; what belongs to a prompt is left out where there is none.

    Args:
        values: Of the tab.

    Returns:
        Fields of `RestoreRequest`.

    Raises:
        AmbientSolveError: they are longer than the page takes.
    """
    prompt, negative = (" ".join(str(text or "").split()) for text in (values.prompt, values.negative))
    longest = max(len(prompt), len(negative))
    if longest > MAX_PROMPT:
        raise AmbientSolveError(f"The prompt has {longest} characters, the page takes {MAX_PROMPT}: shorten it.")
    return {"prompt": prompt, "negative": negative, "guidance": float(values.guidance)} if prompt else {}


def worded(request: RestoreRequest, prior: Prior) -> tuple[RestoreRequest, Prompt | None]:
    """A request and the condition that its words are; words that a prior does not take stand out of sight.

    Args:
        request: What is to be restored, and how.
        prior: The prior.

    Returns:
        The request, without words where the prior takes none, and the condition, None for none.

    Raises:
        AmbientSolveError: the prior cannot take these words.
    """
    if not request.prompt or not prior.takes_words:
        return replace(request, prompt="", negative="", guidance=1.0), None
    from ambient_solve.priors.text import Prompt

    condition = Prompt(request.prompt, request.negative, request.guidance)
    prior.check_condition(condition)
    return request, condition
