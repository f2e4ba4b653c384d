"""The private folder of a page: all that visitors put in and get out lies in it, and goes with it.

Its name is ambient-solve-page-USER-PID-RANDOM; while the page runs it holds the lock of the file `lock` in it. A page
that was killed leaves folder and lock file behind, but not the lock: the next page of the same user removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

NAME = re.compile(r"ambient-solve-page-(\d+)-(\d+)-\w+")
"""Name of the folder of a page: user, process, and random letters."""
LOCK = "lock"
"""Name of the file in the folder that is locked while the page runs."""
STARTING = 60.0
"""Time within which a page that starts has locked it, in seconds."""


@dataclass(frozen=True)
class Home:
    """A folder that only its owner can enter, and the lock that says that it is in use."""

    path: Path
    lock: FileLock

    @property
    def gradio(self) -> Path:
        """Where gradio keeps uploads and what it shows."""
        return self.path / "gradio"

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def make_home(base: Path | None = None) -> Home:
    """A new folder in `base`, that of temporary files, once those that dead pages have left there are removed."""
    base = Path(tempfile.gettempdir()) if base is None else base
    purge(base)
    path = Path(tempfile.mkdtemp(prefix=f"ambient-solve-page-{_user()}-{os.getpid()}-", dir=base))
    lock = FileLock(path / LOCK)
    lock.acquire(timeout=5)
    made = Home(path, lock)
    made.gradio.mkdir(mode=0o700)
    return made


def purge(base: Path) -> list[Path]:
    """Remove the folders of dead pages of this user from `base`; returns them."""
    removed = []
    for path in sorted(base.glob("ambient-solve-page-*")):
        found = NAME.fullmatch(path.name)
        if found is None or int(found[1]) != _user() or not _own_folder(path) or _lives(path, int(found[2])):
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path)
    return removed


def _own_folder(path: Path) -> bool:
    """A folder, no link to one, that belongs to this user."""
    with contextlib.suppress(OSError):
        facts = path.lstat()
        return path.is_dir() and not path.is_symlink() and (os.name != "posix" or facts.st_uid == os.getuid())
    return False


def _lives(path: Path, pid: int) -> bool:
    """Whether a page holds the folder, or may be about to take its lock."""
    if (path / LOCK).is_symlink():
        return True
    if (path / LOCK).is_file():
        lock = FileLock(path / LOCK)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        lock.release()
    young = time.time() - path.stat().st_mtime < STARTING
    return young and pid != os.getpid() and _process(pid)


def _process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _user() -> int:
    return os.getuid() if os.name == "posix" else 0


@lru_cache(maxsize=1)
def home() -> Home:
    """The folder of this process."""
    import atexit

    made = make_home()
    atexit.register(made.close)
    return made
