"""A small pool of head phantoms, 16 pixels wide, for the tests of the testbed."""

from __future__ import annotations

from pathlib import Path

from ambient_solve.testbed.domains import gather_pictures
from ambient_solve.testbed.entry import Choice, write_entry
from ambient_solve.testbed.pool import Pool, Shares, make_pool, read_pool

HELD_OUT = 8
"""Pictures that the pool holds out."""


def small_pool(folder: Path, seed: int = 0, pictures: int = 110) -> Pool:
    """A pool of so many phantoms, and of textures from another domain."""
    own, foreign = gather_pictures("brain-scans", 16)
    make_pool(folder, "brain-scans", own[:pictures], foreign[:20], shares=Shares(), held_out=HELD_OUT, seed=seed)
    return read_pool(folder)


def table(path: Path, *rows: Choice) -> Path:
    """A table of these rows."""
    write_entry(path, rows)
    return path
