"""The priors that the page keeps between runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ambient_solve.app.wiring import libraries


@lru_cache(maxsize=6)
def kept_prior(read: Callable[[str, str], Any], name: str, device: str, lane: str = "quick") -> Any:
    """A prior, read once and kept for the next run.

    Args:
        read: Reads the prior of this name onto this device.
        name: Embedded prior, folder, or hub id.
        device: Where it runs.
        lane: "quick" or "long"; each lane works with a prior of its own.

    Returns:
        The prior.
    """
    libraries()
    return read(name, device)
