"""What every run of the page has: a way to stop, and a page at rest where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from ambient_solve.app import panels
from ambient_solve.app.wiring import C, HasSession
from ambient_solve.errors import AmbientSolveError


def settled(event: Callable[[C], Iterator[dict[str, Any]]]) -> Callable[[C], Iterator[dict[str, Any]]]:
    """`event`, which leaves the page at rest where it fails, and says there what happened."""

    @wraps(event)
    def run(values: C) -> Iterator[dict[str, Any]]:
        import gradio as gr

        try:
            yield from event(values)
        except Exception as error:
            known = isinstance(error, (AmbientSolveError, OSError))
            words = f"Not done. {error if known else 'The terminal of the page tells what went wrong.'}"
            yield {"status": panels.progress_bar(0, words), "stop": gr.update(interactive=False)}
            raise

    return run


def stop(values: HasSession) -> dict[str, Any]:
    """Ask the run of this session to end; it does so after the level that it is at, and says what is kept."""
    import gradio as gr

    session = values.session
    if session is None:
        return {"stop": gr.update(interactive=False)}
    session.stopped = True
    words = "Stopping: what is being computed is finished first."
    return {"stop": gr.update(interactive=False), "status": panels.progress_bar(session.share, words)}
