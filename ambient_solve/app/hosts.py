"""Who may talk to the page: browsers that call it by a name of its own, and no page of another site.

A site whose name is made to lead to this machine (DNS rebinding) would otherwise be taken for the page itself by the
browser, and could use it without a password.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from ambient_solve.errors import AmbientSolveError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI application."""

READING = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing, for which a browser need not say where it comes from."""
NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
"""Host name, in lower case."""
ADDRESS: ContextVar[str] = ContextVar("address", default="")
"""The address that the request in hand comes from."""


class Hosts:
    """ASGI middleware: 403 unless `Host` is loopback or one of `names`, and unless a change comes from the page.

    Args:
        app: What is behind it.
        names: Further names of the page, without a port; the set may grow while the page runs.
    """

    def __init__(self, app: ASGI, names: set[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        words = self._wrong(scope)
        if words and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif words:
            await refuse(send, 403, words)
        else:
            ADDRESS.set((scope.get("client") or ("",))[0])
            await self.app(scope, receive, send)

    def _wrong(self, scope: Scope) -> str:
        """Why the request is refused; empty where it is not."""
        given = {name: header(scope, name) for name in ("host", "x-forwarded-host", "origin", "sec-fetch-site")}
        forwarded = [name for names in given["x-forwarded-host"] for name in names.split(",")]
        if len(given["host"]) != 1 or not all(map(self._known, [*given["host"], *forwarded])):
            return "This page does not go by that name: --allow-host NAME adds one."
        if scope.get("method") in READING:
            return ""
        if len(given["origin"]) > 1 or not all(self._own(origin, given["host"][0]) for origin in given["origin"]):
            return "Another site may change nothing here."
        if "cross-site" in given["sec-fetch-site"] and not given["origin"]:
            return "Another site may change nothing here."
        return ""

    def _known(self, host: str) -> bool:
        name, _ = split(host)
        return is_loopback(name) or name in self.names

    def _own(self, origin: str, host: str) -> bool:
        """Whether `origin` is the page: the very host that was asked, or a name that was allowed."""
        scheme, _, place = origin.lower().partition("://")
        if scheme not in ("http", "https"):
            return False
        name, port = split(place)
        usual = "443" if scheme == "https" else "80"
        asked, asked_port = split(host)
        return name in self.names or (name == asked != "" and (port or usual) == (asked_port or usual))


def is_loopback(name: str) -> bool:
    """Whether `name` is one of those by which a machine calls itself."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def split(place: str) -> tuple[str, str]:
    """The name and the port, which may be empty, of NAME:PORT; two empty texts where it is none."""
    try:
        parts = urlsplit(f"//{place.strip()}")
        plain = parts.hostname is not None and not (parts.path or parts.query or parts.fragment or "@" in place)
        return (parts.hostname, str(parts.port or "")) if plain else ("", "")
    except ValueError:
        return "", ""


def checked_names(names: Iterable[str]) -> set[str]:
    """What was given with --allow-host, in small letters.

    Raises:
        AmbientSolveError: an address with a scheme, a port or a path, or a pattern, where a name was expected.
    """
    for name in names:
        if not NAME.fullmatch(name.lower()):
            raise AmbientSolveError(
                f"--allow-host {name} was given, a name such as page.example.org was expected, without port."
            )
    return {name.lower() for name in names}


def header(scope: Scope, name: str) -> list[str]:
    """A header of an ASGI request, decoded as latin-1.

    Args:
        scope: The request.
        name: Name of the header, in lower case.

    Returns:
        Its value; empty where it is missing.
    """
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name.encode()]


async def refuse(send: Send, status: int, words: str) -> None:
    """Answer a request with a sentence, and close the connection.

    Args:
        send: Of the ASGI request.
        status: HTTP status.
        words: The sentence.
    """
    body = f"{words}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
