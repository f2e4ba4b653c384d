"""Whether the network of a training is compiled, and where what was compiled is kept."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

import torch

from ambient_solve.errors import AmbientSolveError, first_line
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.training.config import Config

LONG = 200_000
"""Samples from which on training saves more time than compiling takes, a minute or two of two cores."""
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compiles(config: Config, device: torch.device, processes: int) -> bool:
    """Whether the network is to be compiled.

    With "auto" where that was measured to pay: on a CPU, for LONG samples or more, in one process, with the objective
    that calls the network once for a batch.

    Args:
        config: Configuration of the training.
        device: Where it runs.
        processes: How many processes train.

    Returns:
        True where it is.

    Raises:
        AmbientSolveError: "always" was asked for where torch.compile does not work.
    """
    asked = config.compile == "always"
    pays = device.type == "cpu" and config.images >= LONG and processes == 1 and type(config.objective) is Denoise
    if config.compile == "never" or not (asked or pays):
        return False
    _keep_apart()
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except RuntimeError as error:
        if asked:
            reason = first_line(error)
            raise AmbientSolveError(
                f"compile: always, but torch.compile does not work here ({reason}). Install a C++ compiler, or "
                "compile: never."
            ) from None
        return False
    return True


def _keep_apart() -> None:
    """Keep what was compiled for vectors of one width apart from what is compiled for another.

    The cache of torch.compile finds code without asking how wide the vectors of this CPU are
    (`ATEN_CPU_CAPABILITY`, or a folder that several machines share); code for narrower ones then writes past the
    end of what it fills.
    """
    capability = torch.backends.cpu.get_cpu_capability().lower()
    folder = Path(os.environ.get(CACHE) or Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}")
    if folder.name != capability:
        os.environ[CACHE] = str(folder / capability)
