"""Scratches that stand still: lines that most frames of a clip have at the same place, whatever moves behind them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ambient_solve.restore.scratches import find_scratches
from ambient_solve.video.files import read_video

MOST = 0.5
"""Share of the frames from which on what all of them have is no thing of the scene."""


def still_scratches(
    path: str | Path, first: int = 0, last: int | None = None, readiness: float = 0.5, frames: int = 8
) -> Tensor:
    """The pixels of a clip that no scratch covers which stands still; to be looked at, and corrected.

    Args:
        path: The clip.
        first: Number of the first frame.
        last: Number behind that of the last one; None goes to the end.
        readiness: How readily a line is taken for a scratch, above 0 and up to 1.
        frames: How many are looked at, spread evenly, at least 1.

    Returns:
        (H, W) float32, 1 = observed, 0 = scratched.

    Raises:
        AmbientSolveError: the clip cannot be read, or `readiness` is out of its range.
    """
    count = (last if last is not None else _count(path)) - first
    step = max(count // frames, 1)
    seen, total = 0, None
    for frame in read_video(path, first, last):
        if (frame.number - first) % step or seen == frames:
            continue
        found = 1 - find_scratches(frame.pixels[None].float() / 255, readiness).float()
        total, seen = (found if total is None else total + found), seen + 1
    return (total < max(MOST * seen, 1)).float() if total is not None else torch.ones(0, 0)


def _count(path: str | Path) -> int:
    return sum(1 for _ in read_video(path))
