"""Between gradio and the events of a tab: values in the order of the page become dictionaries, and back again."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from ambient_solve.errors import AmbientSolveError

if TYPE_CHECKING:
    from gradio.components import Component

    from ambient_solve.app.session import Session

Parts = dict[str, "Component"]
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
"""One job at a time works on a prior, whatever started it."""
KEPT = 3600
"""Seconds that files and sessions are kept after they were last used."""

_IMPORTING = threading.Lock()


def libraries() -> None:
    """Import what takes seconds, one thread at a time: two at once might find each other's modules unfinished."""
    with _IMPORTING:
        import ambient_solve.app.job
        import ambient_solve.app.run
        import ambient_solve.mri  # noqa: F401


def connect(
    parts: Parts,
    trigger: Callable[..., Any],
    event: Callable[..., Any],
    reads: Sequence[str],
    changes: Sequence[str],
    **settings: Any,
) -> None:
    """Start `event`, values by name in and updates by name out, with `trigger`."""
    settings = {"show_progress": "hidden", "api_visibility": "private", **settings}
    trigger(told(event, reads, parts), [parts[n] for n in reads], [parts[n] for n in changes], **settings)


def connect_select(
    parts: Parts, trigger: Callable[..., Any], event: Callable[..., Any], reads: Sequence[str], changes: Sequence[str]
) -> None:
    """The same for a click on a picture: `event` is given its place besides the values."""
    import gradio as gr

    # Gradio tells the place of a click to a parameter of its own type alone.
    def chosen(place: gr.SelectData, *values: Any) -> Any:
        return named(event(dict(zip(reads, values, strict=True)), place.index), parts)

    chosen.__annotations__ = {"place": gr.SelectData}  # not as text, which gradio could not resolve
    settings = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    trigger(sentences(chosen), [parts[n] for n in reads], [parts[n] for n in changes], **settings)


def told(event: Callable[..., Any], names: Sequence[str], parts: Parts) -> Callable[..., Any]:
    """`event` as gradio calls it: values in the order of `names`, updates by component."""
    if inspect.isgeneratorfunction(event):

        def stream(*values: Any) -> Iterator[Any]:
            for updates in event(dict(zip(names, values, strict=True))):
                yield named(updates, parts)

        return sentences(stream)
    return sentences(lambda *values: named(event(dict(zip(names, values, strict=True))), parts))


def named(updates: dict[str, Any], parts: Parts) -> dict[Component, Any]:
    """Updates by component, for updates by name."""
    return {parts[name]: value for name, value in updates.items()}


def sentences(event: Callable[..., Any]) -> Callable[..., Any]:
    """`event`, with errors of the library shown on the page as the sentences that they are."""
    import gradio as gr

    if inspect.isgeneratorfunction(event):

        @wraps(event)
        def stream(*values: Any) -> Iterator[Any]:
            try:
                yield from event(*values)
            except (AmbientSolveError, OSError) as error:
                raise gr.Error(str(error), duration=None, print_exception=False) from None

        return stream

    @wraps(event)
    def call(*values: Any) -> Any:
        try:
            return event(*values)
        except (AmbientSolveError, OSError) as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from None

    return call


def forget(session: Session | None) -> None:
    """Remove the folder of a session that has gone."""
    if session is not None:
        session.close()
