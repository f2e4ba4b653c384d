"""The password of the page: read from a file, and asked for ever more slowly the more often it was wrong."""

from __future__ import annotations

import asyncio
import hmac
import os
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ambient_solve.app.hosts import ADDRESS
from ambient_solve.errors import AmbientSolveError

FIRST = 0.5
"""Wait after the first wrong password, in seconds; each further one doubles it."""
LONGEST = 30.0
"""Longest wait after a wrong password, in seconds."""
PATIENCE = 60.0
"""Longest wait that is accepted, in seconds; whoever would have to wait longer is refused at once."""
FREE = 10
"""Number of wrong passwords, from anywhere, that slow nobody else down."""
OVERALL = 2.0
"""Time between two passwords that are looked at, once there were more wrong ones than FREE, in seconds."""
FORGOTTEN = 900.0
"""Time after which wrong passwords are forgotten, in seconds."""
MOST = 10_000
"""Number of addresses that are remembered."""


@dataclass
class Past:
    """Wrong passwords of an address: how many, when the last came, and when the next one is looked at."""

    wrong: int = 0
    last: float = 0.0
    free: float = 0.0


class Passwords:
    """What gradio asks whether a name and a password are right. Waiting holds up nobody else.

    An address waits FIRST seconds after a wrong password, twice as long after each further one; attempts that come at
    once stand in line. After FREE wrong passwords from anywhere one is looked at in OVERALL seconds, whoever asks: many
    addresses guess no faster than one. Those who are logged in notice nothing.
    """

    def __init__(
        self,
        known: dict[str, str],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.known, self.clock, self.sleep = known, clock, sleep
        self.past: dict[str, Past] = {}
        self.all = Past()

    async def __call__(self, user: str, password: str) -> bool:
        """Whether they are right, after the wait that is due.

        Raises:
            starlette.exceptions.HTTPException: 429, where the wait would be longer than PATIENCE.
        """
        now, address = self.clock(), ADDRESS.get()
        past = self._of(address, now)
        slowed = self.all.wrong >= FREE
        wait = max(past.free - now, self.all.free - now if slowed else 0.0, 0.0)
        if wait > PATIENCE:
            from starlette.exceptions import HTTPException

            raise HTTPException(429, "Too many wrong passwords: wait some minutes.")
        step = self._step(past.wrong)
        # Before it is known whether it is right, so that attempts that come at once wait for each other.
        past.wrong, past.last, past.free = past.wrong + 1, now, now + wait + step
        if slowed:
            self.all.free = max(self.all.free, now) + OVERALL
        if wait:
            await self.sleep(wait)
        right = hmac.compare_digest(self.known.get(user, "\0").encode(), password.encode())
        if right:
            self.past.pop(address, None)
        else:
            self.all.wrong, self.all.last = self.all.wrong + 1, self.clock()
        return right

    def _of(self, address: str, now: float) -> Past:
        if now - self.all.last > FORGOTTEN:
            self.all = Past()
        past = self.past.pop(address, Past())
        if past.wrong and now - max(past.last, past.free) > FORGOTTEN:
            past = Past()
        while len(self.past) >= MOST:
            del self.past[next(iter(self.past))]
        self.past[address] = past  # the last of them, as the one that was used last
        return past

    def _step(self, wrong: int) -> float:
        return min(FIRST * 2 ** min(wrong, 16), LONGEST)


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
    if os.name == "posix" and Path(file).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        print(f"Others on this machine can read the password: chmod 600 {file}", file=sys.stderr)
    return [(user, password)]
