"""The command `ambient-solve app`."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ambient_solve.errors import AmbientSolveError


@dataclass(frozen=True)
class App:
    """Open the page that restores pictures in a browser. Only this machine can reach it, unless --share is given."""

    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name)."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")] = "auto"
    """auto takes the graphics card where there is one."""
    port: int = 0
    """Port of the page; 0 takes the first free one from 7860."""
    share: bool = False
    """Make a public link, through a server of gradio. Give --auth with it."""
    auth: Annotated[str, tyro.conf.arg(metavar="USER:FILE", help_behavior_hint="")] = ""
    """Ask for the name USER and for the password that is the first line of FILE."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.app.page import launch

        if not 0 <= self.port < 65536:
            raise AmbientSolveError(f"--port {self.port} was given, a number from 0 to 65535 was expected.")
        # A service ends with SIGTERM: like Ctrl+C, it takes the files of the visitors along.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        launch(self.prior, self.device, port=self.port or None, share=self.share, auth=read_auth(self.auth))
        return 0


def read_auth(text: str) -> list[tuple[str, str]] | None:
    """The name and the password that `text`, USER:FILE, asks for; None where it is empty."""
    if not text:
        return None
    user, colon, file = text.partition(":")
    if not (user and colon and Path(file).is_file()):
        raise AmbientSolveError(
            f"--auth {text} was given, USER:FILE was expected, the password in the file's first line."
        )
    password = Path(file).read_text().partition("\n")[0].strip()
    if not password:
        raise AmbientSolveError(f"The first line of {file} is empty; the password for --auth was expected there.")
    return [(user, password)]
