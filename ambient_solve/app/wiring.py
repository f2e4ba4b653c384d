"""Between gradio and the events of a tab: values become controls, updates by name become components."""

from __future__ import annotations

import hashlib
import html
import inspect
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ambient_solve.errors import AmbientSolveError, on_a_page

if TYPE_CHECKING:
    from gradio.components import Component
    from PIL import Image


C = TypeVar("C")
"""The controls of a tab, a frozen dataclass."""
Parts = dict[str, "Component"]
"""The parts of a tab by name."""


class AnySession(Protocol):
    """What the page keeps of one browser session, whatever the tab.

    Attributes:
        stopped: The visitor has asked the run to end.
        share: How far the run is, 0 to 1.
    """

    stopped: bool
    share: float

    def close(self) -> None:
        """Remove its files."""


class HasSession(Protocol):
    """The controls of a tab, of which the session is known."""

    @property
    def session(self) -> AnySession | None:
        """None before the first event that needs one."""


MODEL = {"concurrency_id": "model", "concurrency_limit": None}
"""Jobs on a prior, whatever started them; who of them works is decided by the desk."""
KEPT = 3600
"""Time that files and sessions are kept after they were last used, in seconds."""
READ_IN = 12
"""Time that a sentence about what went wrong stays on the page, in seconds; the status goes on saying it."""

_IMPORTING = threading.Lock()


def libraries() -> None:
    """Import what takes seconds, one thread at a time: two at once might find each other's modules unfinished."""
    with _IMPORTING:
        import ambient_solve.app.clips.job
        import ambient_solve.app.photographs.job
        import ambient_solve.app.photographs.run
        import ambient_solve.mri.reconstruction
        import ambient_solve.video.restoring  # noqa: F401


def connect(
    parts: Parts,
    trigger: Callable[..., Any],
    event: Callable[[C], Any],
    read: Callable[[Mapping[str, Any]], C],
    reads: Sequence[str],
    changes: Sequence[str],
    **settings: Any,
) -> None:
    """Start an event of a tab with a trigger of gradio.

    Args:
        parts: The parts of the tab by name.
        trigger: What starts it, such as `button.click`.
        event: Takes the controls, gives updates by the name of the part.
        read: Makes the controls of values by the name of the part.
        reads: Parts whose values the event may read.
        changes: Parts that it may change.
        settings: Passed to the trigger.
    """
    settings = {"show_progress": "hidden", "api_visibility": "private", **settings}
    trigger(as_gradio(event, read, reads, parts), [parts[n] for n in reads], [parts[n] for n in changes], **settings)


def connect_select(
    parts: Parts,
    trigger: Callable[..., Any],
    event: Callable[[C, Any], Any],
    read: Callable[[Mapping[str, Any]], C],
    reads: Sequence[str],
    changes: Sequence[str],
) -> None:
    """Start an event with a click on a picture.

    Args:
        parts: The components by name.
        trigger: The `select` of a component.
        event: Takes the controls and the place of the click, and returns updates by name.
        read: Makes the controls of their values by name.
        reads: Names of the components whose values it takes.
        changes: Names of those that it may update.
    """
    import gradio as gr

    # Gradio passes the place of a click to a parameter of its own type alone.
    def chosen(place: gr.SelectData, *values: Any) -> Any:
        return named(event(read(dict(zip(reads, values, strict=True))), place.index), parts)

    chosen.__annotations__ = {"place": gr.SelectData}  # not as text, which gradio could not resolve
    settings = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    trigger(sentences(chosen), [parts[n] for n in reads], [parts[n] for n in changes], **settings)


def as_gradio(
    event: Callable[[C], Any], read: Callable[[Mapping[str, Any]], C], names: Sequence[str], parts: Parts
) -> Callable[..., Any]:
    """An event as gradio calls it.

    Args:
        event: Takes the controls; returns updates by name, or yields them.
        read: Makes the controls of their values by name.
        names: Names of the components, in the order in which gradio passes their values.
        parts: The components by name.

    Returns:
        A function of the values, to updates by component.
    """
    if inspect.isgeneratorfunction(event):

        def stream(request: Any, *values: Any) -> Iterator[Any]:
            visitor = {"visitor": getattr(request, "session_hash", None)}
            for updates in event(read({**dict(zip(names, values, strict=True)), **visitor})):
                yield named(updates, parts)

        import gradio as gr

        stream.__annotations__ = {"request": gr.Request}  # not as text, which gradio could not resolve
        return sentences(stream)
    return sentences(lambda *values: named(event(read(dict(zip(names, values, strict=True)))), parts))


def named(updates: dict[str, Any], parts: Parts) -> dict[Component, Any]:
    """Updates by component, for updates by name, their pictures as files.

    Args:
        updates: Values by the name of their part.
        parts: The components by name.

    Returns:
        The values by component.
    """
    return {parts[name]: filed(value, parts[name]) for name, value in updates.items()}


def filed(value: Any, part: Component) -> Any:
    """`value` with the pictures in it replaced by the names of their files, which `part` then shows.

    Args:
        value: An update of gradio, a picture, or a list of these.
        part: The component that shows it.

    Returns:
        The same with a file in place of each picture.
    """
    from PIL import Image

    if isinstance(value, Image.Image):
        return _file(value, Path(part.GRADIO_CACHE), getattr(part, "format", "webp"))
    if isinstance(value, (list, tuple)):
        return type(value)(filed(each, part) for each in value)
    if isinstance(value, dict) and "value" in value:
        return {**value, "value": filed(value["value"], part)}
    return value


def _file(image: Image.Image, cache: Path, kind: str) -> str:
    """The file of `image` in gradio's cache, whole at any time.

    Gradio itself writes the file of a picture anew whenever it is shown again, and cuts off those that are reading it.
    """
    held = io.BytesIO()
    image.save(held, kind)
    path = cache / hashlib.sha256(held.getvalue()).hexdigest() / f"image.{kind}"
    if path.is_file():
        os.utime(path)  # gradio deletes what has not been used for long
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as unfinished:
        unfinished.write(held.getvalue())
    os.replace(unfinished.name, path)
    return str(path)


def sentences(event: Callable[..., Any], *, program: bool = False) -> Callable[..., Any]:
    """An event with errors of the library shown on the page as the sentences that they are.

    Args:
        event: Of gradio, a function or a generator.
        program: A program asks, which takes the sentence as it is; the page takes it for HTML, so that it is escaped.

    Returns:
        The event.
    """
    import gradio as gr

    def said(error: Exception) -> gr.Error:
        words = on_a_page(error)
        words = words if program else html.escape(words, quote=False)
        return gr.Error(words, duration=READ_IN, print_exception=False)

    if inspect.isgeneratorfunction(event):

        @wraps(event)
        def stream(*values: Any) -> Iterator[Any]:
            try:
                yield from event(*values)
            except (AmbientSolveError, OSError) as error:
                raise said(error) from None

        return stream

    @wraps(event)
    def call(*values: Any) -> Any:
        try:
            return event(*values)
        except (AmbientSolveError, OSError) as error:
            raise said(error) from None

    return call


def forget(session: AnySession | None) -> None:
    """Remove the files of a session that has gone."""
    if session is not None:
        session.close()
