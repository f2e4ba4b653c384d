"""Jobs of visitors who do not listen are ended, and no visitor holds more places than others.

Gradio sends what a job says through a stream that the browser opens after it has asked for the job. A job whose stream
is never opened, or was closed, works for nobody.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ambient_solve.app.hosts import ADDRESS, ASGI, Receive, Scope, Send
from ambient_solve.app.wiring import MODEL

if TYPE_CHECKING:
    from gradio import Blocks

UNHEARD = 10.0
"""Time after which a job without an open stream ends, in seconds."""
LOOK = 1.0
"""Time between two looks at the jobs, in seconds."""
GONE = f"The job has ended: its stream was not opened within {UNHEARD:g} seconds, or was closed."
"""Sentence that a stream gets which is opened too late."""
PLACES = 64
"""Number of jobs on a prior that may be there, at work or waiting."""
OF_VISITOR = 3
"""Number of them that may be of one visitor: one at work and two that wait."""
OF_ADDRESS = PLACES // 2
"""Number of them that may come from one address, from which many visitors may come."""


class OpenStreams:
    """ASGI middleware that knows which streams are open, ends the jobs that nobody listens to, and counts the others.

    Args:
        app: What is behind it.
        page: A list of the page, empty until there is one.
    """

    def __init__(self, app: ASGI, page: list[Blocks]) -> None:
        self.app, self.page = app, page
        self.open: Counter[str] = Counter()
        self.unheard: dict[str, int] = {}
        self.watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; while it is a stream, it counts as open."""
        if scope["type"] == "http" and self.page and self.watch is None:
            self._limit_places()
            self.watch = asyncio.create_task(self._end_unheard())
        session = self._session(scope) if scope["type"] == "http" and self.page else ""
        if not session:
            await self.app(scope, receive, send)
            return
        self.open[session] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.open[session] -= 1
            if self.open[session] <= 0:
                del self.open[session]

    def _session(self, scope: Scope) -> str:
        """Whose stream this is; empty where the request is none."""
        if scope["method"] != "GET":
            return ""
        words = scope["path"].strip("/").split("/")
        if words[-2:] == ["queue", "data"]:
            return (parse_qs(scope["query_string"].decode("latin-1")).get("session_hash") or [""])[0]
        if "call" in words[-4:-2]:
            event = self.page[0]._queue.event_ids_to_events.get(words[-1])
            return "" if event is None else event.session_hash
        return ""

    def _limit_places(self) -> None:
        """Have the queue refuse a job of a visitor who has enough of them."""
        queue = self.page[0]._queue
        push = queue.push

        async def limited(body: Any, request: Any, username: str | None) -> tuple[bool, Any, str]:
            fn = self.page[0].fns.get(body.fn_index)
            words = self.refusal(body.session_hash, ADDRESS.get()) if fn is not None and is_job(fn) else ""
            return (False, words, "queue_full") if words else await push(body=body, request=request, username=username)

        queue.push = limited

    def refusal(self, session: str | None, address: str) -> str:
        """Why one more job of a visitor is not taken.

        Args:
            session: Session of the visitor.
            address: Where the request comes from.

        Returns:
            A sentence; empty where it is taken.
        """
        jobs = [event for event in self.events() if is_job(event.fn) and event.alive]
        if len(jobs) >= PLACES:
            return f"{PLACES} jobs are waiting already: try again later."
        if sum(event.session_hash == session for event in jobs) >= OF_VISITOR:
            return f"{OF_VISITOR} of your jobs are here already: wait for one of them, or stop it."
        if sum(address_of(event) == address for event in jobs) >= OF_ADDRESS:
            return f"{OF_ADDRESS} jobs from your address are here already: try again later."
        return ""

    def events(self) -> Iterator[Any]:
        """All events that wait or are at work."""
        queue = self.page[0]._queue
        for waiting in queue.event_queue_per_concurrency_id.values():
            yield from list(waiting.queue)
        for working in queue.active_jobs:
            yield from working or ()

    async def _end_unheard(self) -> None:
        """Looks are counted, not seconds: on a machine so busy that streams open late, looks come late, too."""
        from gradio.server_messages import ProcessCompletedMessage

        queue = self.page[0]._queue
        while True:
            await asyncio.sleep(LOOK)
            unheard = {}
            for event in list(self.events()):
                if event.session_hash in self.open or not event.alive:
                    continue
                looks = self.unheard.get(event._id, 0) + 1
                if looks * LOOK < UNHEARD:
                    unheard[event._id] = looks
                    continue
                # For whoever comes late after all.
                said = ProcessCompletedMessage(output={"error": GONE}, success=False)
                queue.send_message(event, said)
                await queue.clean_events(event_id=event._id)
            self.unheard = unheard


def is_job(fn: Any) -> bool:
    """Whether an event works on a prior for long."""
    return fn.concurrency_id == MODEL["concurrency_id"]


def address_of(event: Any) -> str:
    """Where the request for the event came from."""
    client = getattr(event.request, "client", None)
    return "" if client is None else client.host
