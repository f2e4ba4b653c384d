"""The command `ambient-solve app`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import Annotated, NoReturn

import tyro

from ambient_solve.app.passwords import read_auth
from ambient_solve.errors import AmbientSolveError


@dataclass(frozen=True)
class App:
    """Open the page that restores pictures in a browser. Only this machine can reach it, unless --share is given."""

    prior: str = "photos"
    """Embedded prior, folder, or hub id (owner/name, or owner/name@revision)."""
    device: Annotated[str, tyro.conf.arg(metavar="auto|cpu|cuda")] = "auto"
    """auto takes the graphics card where there is one."""
    port: int = 0
    """Port of the page; 0 takes the first free one from 7860."""
    share: bool = False
    """Make a public link, through a server of gradio. Needs --auth, or --public."""
    auth: Annotated[str, tyro.conf.arg(metavar="USER:FILE", help_behavior_hint="")] = ""
    """Ask for the name USER and for the password that is the first line of FILE."""
    public: bool = False
    """With --share: whoever has the link may use the page, without a password."""
    allow_host: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME", help_behavior_hint="(repeatable)")]
    ] = ()
    """Further name by which the page may be asked for, such as that of a proxy before it."""
    more_priors: tyro.conf.UseAppendAction[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="PRIOR", help_behavior_hint="(repeatable)")]
    ] = ()
    """Further prior to choose from, of photographs or of scans."""
    open_priors: bool = False
    """Let visitors name any folder or hub id as prior; on this machine alone."""
    max_minutes: float = 60.0
    """Minutes after which a job ends with what it has finished; 0 is no limit."""

    def run(self) -> int:
        """See the class."""
        from ambient_solve.app.hosts import checked_names
        from ambient_solve.app.page import launch
        from ambient_solve.app.rules import Rules

        self._check()
        names, auth = checked_names(self.allow_host), read_auth(self.auth)
        rules = Rules((self.prior, *self.more_priors), self.open_priors, self.max_minutes)
        # A service ends with SIGTERM: like Ctrl+C, it takes the files of the visitors along.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            launch(
                self.prior,
                self.device,
                port=self.port or None,
                share=self.share,
                auth=auth,
                rules=rules,
                names=names,
            )
        leave()

    def _check(self) -> None:
        """Refuse what would open the page farther than was meant."""
        if not 0 <= self.port < 65536:
            raise AmbientSolveError(f"--port {self.port} was given, a number from 0 to 65535 was expected.")
        if not self.max_minutes >= 0:
            raise AmbientSolveError(f"--max-minutes {self.max_minutes} was given, 0 or more was expected.")
        if self.share and not self.auth and not self.public:
            raise AmbientSolveError(
                "--share lets everybody in who has the link: give --auth USER:FILE with it, or --public."
            )
        if self.open_priors and (self.share or self.auth or self.allow_host):
            raise AmbientSolveError(
                "--open-priors lets visitors name any folder of this machine: leave it out with --share, --auth or "
                "--allow-host, and name priors with --more-priors."
            )


def leave() -> NoReturn:
    """Remove the files of the visitors and end at once: a thread that computes would abort an ordinary end."""
    from ambient_solve.app.folder import home

    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)
    tunnels = getattr(sys.modules.get("gradio.tunneling"), "CURRENT_TUNNELS", ())
    for tunnel in tunnels:
        tunnel.kill()
    home().close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
