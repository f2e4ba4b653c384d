"""One run at a time in a folder: a lock that dies with the process that holds it.

The operating system releases it however the process ends, by SIGKILL too. Workers that outlive their launcher hold it
as long as they can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from ambient_solve.errors import AmbientSolveError

LOCK = "run.lock"
"""File of a run's folder that is locked while it runs."""
HOLDER = "run.holder"
"""File beside it that names the process."""


@contextlib.contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made, for as long as the block lasts.

    Raises:
        AmbientSolveError: Another process holds it; the sentence names the process and its machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Not a singleton: a second lock of the same process must be refused as well.
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False, is_singleton=False)
    try:
        lock.acquire()
    except Timeout:
        raise AmbientSolveError(
            f"{folder} is in use by {_holder(folder)}: wait for that run, stop it, or choose another --out."
        ) from None
    try:
        part = folder / (HOLDER + ".part")
        part.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n")
        part.replace(folder / HOLDER)
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


@contextlib.contextmanager
def only_run_among(accelerator: Accelerator, folder: Path) -> Iterator[None]:
    """`only_run_in` for all processes of a run: the main one holds the lock, and where it cannot, all of them end.

    Args:
        accelerator: Of all processes.
        folder: Folder of the run.

    Raises:
        AmbientSolveError: another run works in the folder.
    """
    with contextlib.ExitStack() as held:
        refused = None
        try:
            if accelerator.is_main_process:
                held.enter_context(only_run_in(folder))
        except (AmbientSolveError, OSError) as error:
            refused = error
        held_by_us = torch.tensor([int(refused is None)], device=accelerator.device)
        held_by_us = int(accelerator.gather(held_by_us).min())
        if refused is not None:
            raise refused
        if not held_by_us:
            sys.exit(2)  # the main process says why
        yield


def _holder(folder: Path) -> str:
    try:
        record = json.loads((folder / HOLDER).read_text())
        return f"process {record['pid']} on {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process, which has only just begun or ended"
