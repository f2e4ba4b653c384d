"""What every run of the page has: a way to stop, buttons that say whether one is at work, rest where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from ambient_solve.app import panels
from ambient_solve.app.wiring import C, HasSession
from ambient_solve.errors import AmbientSolveError

STARTS = ("run", "run_many")
"""Buttons that start a run."""


def at_work() -> dict[str, Any]:
    """Updates of the buttons while a run is at work: no second one is started by accident, and it can be stopped."""
    import gradio as gr

    return {**{name: gr.update(interactive=False) for name in STARTS}, "stop": gr.update(interactive=True)}


def at_rest() -> dict[str, Any]:
    """Updates of the buttons once no run is at work."""
    import gradio as gr

    return {**{name: gr.update(interactive=True) for name in STARTS}, "stop": gr.update(interactive=False)}


def settled(event: Callable[[C], Iterator[dict[str, Any]]]) -> Callable[[C], Iterator[dict[str, Any]]]:
    """`event`, which leaves the page at rest where it fails, and says there what happened."""

    @wraps(event)
    def run(values: C) -> Iterator[dict[str, Any]]:
        try:
            yield from event(values)
        except Exception as error:
            known = isinstance(error, (AmbientSolveError, OSError))
            words = f"Not done. {error if known else 'The terminal of the page tells what went wrong.'}"
            yield {"status": panels.progress_bar(0, words), **at_rest()}
            raise

    return run


def stop(values: HasSession) -> dict[str, Any]:
    """Ask the run of this session to end; it does so after its pass through the network, and says what is kept."""
    import gradio as gr

    session = values.session
    if session is None:
        return {"stop": gr.update(interactive=False)}
    session.stopped = True
    words = "Stopping: what is being computed is finished first."
    return {"stop": gr.update(interactive=False), "status": panels.progress_bar(session.share, words)}
