"""How much a visitor may send: bytes and files of a request, and bytes of all visitors together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import traceback
from collections.abc import MutableMapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from ambient_solve.app.hosts import ASGI, Receive, Scope, Send, header, refuse

UPLOAD = "/gradio_api/upload"
"""Where files are sent, which go to the disk; whatever is sent elsewhere is kept in memory."""
MEASURED = 2.0
"""Time for which the size of the folder is taken to be what it was, in seconds."""


@dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        json: Bytes of a request that is no upload; a mask painted at full size has some hundred thousand.
        upload: Bytes of an upload. files: Files of one upload. folder: Bytes of all that visitors have here.
    """

    json: int = 8_000_000
    upload: int = 2_100_000_000
    files: int = 256
    folder: int = 20_000_000_000


class Bodies:
    """ASGI middleware: 413 where a request is larger than `limits`, 507 where `folder` is full, counted as it comes.

    What goes wrong behind it is printed on the terminal by its kind and place, never with its words: those may hold
    what a visitor has sent.
    """

    def __init__(self, app: ASGI, limits: Limits, folder: Path) -> None:
        self.app, self.limits, self.folder = app, limits, folder
        self.coming, self.measured = 0, (-MEASURED, 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._safely(scope, receive, send)
            return
        boundary = _boundary(scope)
        most = self.limits.upload if boundary else self.limits.json
        claimed = header(scope, "content-length")
        if claimed and claimed[0].isdigit() and int(claimed[0]) > most:
            await refuse(send, 413, _too_large(most))
        elif boundary and await self.used() + self.coming > self.limits.folder:
            await refuse(send, 507, "The page is full: try again in an hour.")
        else:
            count = _Count(most, self.limits.files, boundary)
            await self._counted(scope, receive, send, count)

    async def _counted(self, scope: Scope, receive: Receive, send: Send, count: _Count) -> None:
        """Pass on what fits. Once it does not, the rest is not read, and the answer is 413, whatever the page says."""
        started = whole = False
        room = self.limits.folder - self.measured[1] - self.coming if count.boundary else count.most

        async def limited() -> MutableMapping[str, Any]:
            nonlocal whole
            message = await receive()
            if message["type"] == "http.disconnect" and not whole:
                return _end(scope)
            if message["type"] == "http.request":
                chunk, whole = message.get("body", b""), not message.get("more_body")
                self.coming += len(chunk)
                if not count.words:
                    count.take(chunk, room)
            return _end(scope) if count.words else message

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if count.words and not started:
                return
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._safely(scope, limited, answer)
        finally:
            self.coming -= count.size
            self.measured = (-MEASURED, 0)
        if count.words and not started:
            await refuse(send, count.status, count.words)

    async def _safely(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except _TooMuch:
            pass
        except Exception as error:
            tell(error)
            if not started and scope["type"] == "http":
                await refuse(send, 500, "Something went wrong; the terminal of the page tells where.")

    async def used(self) -> int:
        """Bytes in the folder, measured at most every MEASURED seconds."""
        when, size = self.measured
        if time.monotonic() - when > MEASURED:
            size = await asyncio.to_thread(folder_size, self.folder)
            self.measured = (time.monotonic(), size)
        return size


class _TooMuch(Exception):  # noqa: N818 - no error of the page
    """A request went over its limit."""


@dataclass
class _Count:
    """What has come of a body, and in `words` why no more of it is taken."""

    most: int
    files: int
    boundary: bytes
    size: int = 0
    parts: int = 0
    tail: bytes = b""
    words: str = ""
    status: int = 413

    def take(self, chunk: bytes, room: int) -> None:
        self.size += len(chunk)
        if self.boundary:
            # A boundary may be cut by the end of a chunk.
            seen = self.tail + chunk
            self.parts += seen.count(self.boundary)
            self.tail = _open_end(seen, self.boundary)
        if self.size > self.most:
            self.words = _too_large(self.most)
        elif self.parts > self.files + 1:  # the last one closes the body
            self.words = f"At most {self.files} files are taken at a time: put in a zip of them, or fewer."
        elif self.size > room:
            self.words, self.status = "The page is full: try again in an hour.", 507


def _open_end(seen: bytes, mark: bytes) -> bytes:
    """The end of `seen` with which `mark` may begin."""
    for size in range(min(len(mark) - 1, len(seen)), 0, -1):
        if mark.startswith(seen[-size:]):
            return seen[-size:]
    return b""


def _end(scope: Scope) -> MutableMapping[str, Any]:
    """What stops whoever reads the body, and has them clear away what they have written."""
    if _boundary(scope):
        with contextlib.suppress(ImportError):
            from starlette.formparsers import MultiPartException

            raise MultiPartException("The request exceeded the maximum allowed size.")
    raise _TooMuch


def _boundary(scope: Scope) -> bytes:
    """What parts the files of an upload; empty where the request is none."""
    if scope["path"] != UPLOAD:
        return b""
    given = Message()
    given["content-type"] = (header(scope, "content-type") or [""])[0]
    name = given.get_param("boundary")
    upload = given.get_content_type() == "multipart/form-data"
    return b"--" + str(name).encode("latin-1", "replace") if upload and name else b""


def take_files_only() -> None:
    """Have gradio refuse the parts of an upload that are no files, which it would keep in memory, however large."""
    from gradio.route_utils import GradioMultiPartParser
    from starlette.formparsers import MultiPartException

    finished = GradioMultiPartParser.on_headers_finished
    if finished.__module__ == __name__:
        return

    def checked(parser: Any) -> None:
        finished(parser)
        if parser._current_part.file is None:
            raise MultiPartException("Files alone are taken here.")

    GradioMultiPartParser.on_headers_finished = checked


def _too_large(most: int) -> str:
    return f"At most {most / 1e6:g} MB are taken in one request."


def folder_size(folder: Path) -> int:
    """Bytes of all files in `folder`; those with several names count once."""
    seen: dict[tuple[int, int], int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.lstat(os.path.join(path, name))
                seen[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(seen.values())


def tell(error: BaseException) -> None:
    """Say on the terminal which kind of error happened where, without its words."""
    places = "".join(traceback.format_tb(error.__traceback__))
    print(f"{places}{type(error).__name__} (its words are not shown: they may hold a visitor's)", file=sys.stderr)
