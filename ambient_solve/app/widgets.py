"""Knobs of algorithms as gradio widgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ambient_solve.knobs import Knob, knobs

if TYPE_CHECKING:
    from gradio.components import Component

    from ambient_solve.app.wiring import Parts


SPAN = 1000
"""A knob whose ends are farther apart than this, one divided by the other, gets a number box in place of a slider."""


def knob_widget(k: Knob, value: Any = None) -> Component:
    """The control of a knob of an algorithm.

    Args:
        k: The knob.
        value: What it shows; the default of the knob if None.

    Returns:
        A component of gradio.
    """
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
    """The value of a control in the type of its knob: the page may send whole numbers as floats and the reverse.

    Args:
        k: The knob.
        value: What the page sent; None where nothing is set.

    Returns:
        The value, an int, a float or what was sent.
    """
    return k.type(value) if k.type in (int, float) and value is not None else value


def algorithm_controls(parts: Parts, standing: str) -> None:
    """The choice of an algorithm and, below it, the controls of its knobs.

    Args:
        parts: Parts of the tab: "algorithm" is added, and "knobs" collects the values.
        standing: Algorithm that is chosen at the start.
    """
    import gradio as gr

    parts["algorithm"] = gr.Dropdown(["auto", standing], value=standing, label="Algorithm", elem_classes="algorithm")

    @gr.render(inputs=[parts["algorithm"], parts["loaded"]], show_progress="hidden", concurrency_limit=4)
    def knobs_of(algorithm: str, loaded: dict[str, Any]) -> None:
        from ambient_solve.algorithms import ALGORITHMS

        if algorithm == "auto":
            gr.Markdown(
                "mmps where the damage is linear (latino for a model of latents), daps elsewhere, with their defaults."
            )
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
