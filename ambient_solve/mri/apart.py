"""Reading a scan in a process of its own, under a limit of memory and time: what a page does with files of others.

Whatever a file makes of the libraries that decode it, it ends that process alone. Arrays come back as plain numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ambient_solve.errors import (
    AmbientSolveError,
    AmbiguousAxes,
    Part,
    UnnamedArray,
    UnreadableFile,
    WrongAxes,
)
from ambient_solve.mri.files import read, read_array, read_noise
from ambient_solve.reading.raw import Raw

SECONDS = 300
"""The longest time that a file may take."""
BESIDE = 512_000_000
"""Bytes for the program itself and its libraries, beside twice what the scan may take."""
ARRAYS = ("data", "mask", "noise", "reference")
"""Fields of a scan that are arrays."""

KINDS = {kind.__name__: kind for kind in (UnreadableFile, AmbiguousAxes, WrongAxes, UnnamedArray)}
"""Errors that keep their fields on the way; others come as their sentence."""

_ONE = threading.Lock()


def read_all(path: str, axes: str | None, mask: str | None, noise: str | None, most: float) -> Raw:
    """A scan with the mask and the noise that lie in files of their own.

    Args:
        path: The scan, as `read` takes it.
        axes: See `read`.
        mask: File of the sampling mask, or None.
        noise: File of the noise scan, or None.
        most: Bytes that each array may take.

    Returns:
        The scan, with the mask and the noise of these files in place of its own.
    """
    raw = read(path, axes, most)
    own = {} if mask is None else {"mask": read_array(mask, ("mask",), most)}
    own |= {} if noise is None else {"noise": read_noise(noise, raw.data.shape[1], most)}
    return Raw(**{**raw.__dict__, **own})


def read_apart(path: str, axes: str | None, mask: str | None, noise: str | None, most: float) -> Raw:
    """`read_all` in a process of its own, one at a time: a file that takes too much memory ends that process alone.

    Args:
        path, axes, mask, noise, most: As for `read_all`.

    Returns:
        What `read_all` returns.

    Raises:
        AmbientSolveError: what `read_all` raises, or that the process exceeded its memory or its time.
    """
    with _ONE, tempfile.TemporaryDirectory(prefix="ambient-solve-scan-") as folder:
        order = json.dumps({"path": path, "mask": mask, "noise": noise, "axes": axes, "most": most, "folder": folder})
        paths = os.pathsep.join(p for p in sys.path if p)
        environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        # It works where the caller does and calls files as the caller did, but imports nothing from there.
        program = "import sys; sys.path = [p for p in sys.path if p]; from ambient_solve.mri.apart import main; main()"
        command = [sys.executable, "-c", program]
        try:
            ended = subprocess.run(command, input=order.encode(), env=environment, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise UnreadableFile(path, f"takes more than {SECONDS} seconds to read: give a part of it.") from None
        answer = _answer(ended.stdout)
        if "error" in answer:
            raise _error(**answer["error"])
        if ended.returncode or not answer:
            raise UnreadableFile(
                path, "cannot be read: the process that read it was ended, most likely for the memory it took."
            )
        arrays = {n: np.load(Path(folder, f"{n}.npy"), allow_pickle=False) for n in ARRAYS if n in answer["arrays"]}
    voxel = None if answer["voxel"] is None else tuple(answer["voxel"])
    return Raw(**arrays, magnitude=answer["magnitude"], voxel=voxel, notes=tuple(answer["notes"]))


def _answer(said: bytes) -> dict[str, Any]:
    """The last line that the process wrote; empty where it is no answer."""
    try:
        answer = json.loads(said.splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return answer if isinstance(answer, dict) else {}


def main() -> None:
    """Read what standard input asks for; arrays go to files of a folder, the rest to standard output."""
    order = json.loads(sys.stdin.buffer.read())
    folder = order.pop("folder")
    limit_memory(2 * order["most"] + BESIDE)
    try:
        raw = read_all(**order)
        arrays = {name: getattr(raw, name) for name in ARRAYS if getattr(raw, name) is not None}
        for name, array in arrays.items():
            np.save(Path(folder, f"{name}.npy"), array, allow_pickle=False)
        answer = {"arrays": list(arrays), "magnitude": raw.magnitude, "voxel": raw.voxel, "notes": raw.notes}
    except AmbientSolveError as error:
        answer = {"error": _described(error)}
    except MemoryError:
        error = UnreadableFile(order["path"], "takes more memory to read than it may: give a part of it.")
        answer = {"error": _described(error)}
    print(json.dumps(answer, default=str), flush=True)


def _described(error: AmbientSolveError) -> dict[str, Any]:
    """What `_error` makes the same error of."""
    fields = error.fields if isinstance(error, UnreadableFile) else {"message": str(error)}
    return {"kind": type(error).__name__, "fields": fields}


def _error(kind: str, fields: dict[str, Any]) -> AmbientSolveError:
    if isinstance(fields.get("path"), list):
        fields["path"] = Part(*fields["path"])
    return KINDS.get(kind, AmbientSolveError)(**fields)


def limit_memory(most: float) -> None:
    """Let this process take `most` bytes more than it has, where the system can hold it to that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = int(pages * resource.getpagesize() + most)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
