"""Which pixels of each frame are missing: one picture for all frames, or a video of masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ambient_solve.errors import UnreadableFile
from ambient_solve.restore.pictures import read_mask
from ambient_solve.restore.tasks import Inpaint
from ambient_solve.video.files import read_video

SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
"""Files that are read as a video of masks."""
WHITE = 128
"""A pixel of a video of masks is missing from this brightness on."""


def is_video(mask: object) -> bool:
    """Whether a mask is a video file.

    Args:
        mask: What was given as one.
    """
    return isinstance(mask, (str, Path)) and Path(mask).suffix.lower() in SUFFIXES


def masks(
    damage: Inpaint, size: tuple[int, int], name: str, first: int = 0, last: int | None = None
) -> Iterator[Tensor]:
    """The mask of each frame.

    Args:
        damage: The task, with its mask.
        size: (H, W) of the frames.
        name: What an error calls the clip.
        first: Number of the first frame.
        last: Number behind that of the last one; None goes on while the clip does.

    Yields:
        (H, W) float32, 1 = observed.

    Raises:
        AmbientSolveError: the mask has another size, cannot be read, or ends before the clip.
    """
    if not is_video(damage.mask):
        fixed = damage.mask if isinstance(damage.mask, Tensor) else read_mask(damage.mask, size, name)
        while True:
            yield fixed.float()
    number = first
    for frame in read_video(damage.mask, first, last):
        if tuple(frame.pixels.shape[1:]) != size:
            height, width = frame.pixels.shape[1:]
            raise UnreadableFile(damage.mask, f"is {width}x{height}, but {name} is {size[1]}x{size[0]}.", "The mask ")
        number = frame.number + 1
        yield (frame.pixels.amax(0) < WHITE).float()
    raise UnreadableFile(damage.mask, f"ends after {number} frames, before {name} does.", "The mask ")


def with_mask(damage: Inpaint, mask: Tensor) -> Inpaint:
    """The task for one frame.

    Args:
        damage: The task of the clip.
        mask: Of the frame, (H, W), 1 = observed.

    Returns:
        The task.
    """
    return replace(damage, mask=mask)


def reduced(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask at the size of frames that were made smaller: a pixel is observed where all that it was made of is.

    Args:
        mask: (H, W), 1 = observed.
        size: (h, w).

    Returns:
        (h, w).
    """
    if tuple(mask.shape) == size:
        return mask
    return (torch.nn.functional.adaptive_avg_pool2d(mask[None], size)[0] > 1 - 1e-6).float()
