"""The measured clip of a file: its frames, their masks and their operators, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import Inpaint, Task
from ambient_solve.video.files import SHARE, VideoFrame, VideoWriter, read_video
from ambient_solve.video.following import followed_masks
from ambient_solve.video.masks import is_video, masks, reduced, with_mask

if TYPE_CHECKING:
    from deepinv.physics import Physics


@final
@dataclass
class Clip:
    """The measured frames of a file.

    Attributes:
        path: The file. damage: What happened to each frame.
        first: Number of the first frame. last: Number behind that of the last one, None for all.
        side: Frames are made smaller until their longer side is at most so many pixels; None leaves them.
        follow: How the motion is found along which the mask of the first frame moves; None where it does not.
        time: That of the frame that was read last, in seconds.
    """

    path: Path
    damage: Task
    first: int = 0
    last: int | None = None
    side: int | None = None
    follow: str | None = None
    time: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if self.follow is None:
            return
        if not isinstance(self.damage, Inpaint):
            raise AmbientSolveError(f"A mask can follow the motion, and {self.damage.name} has none: take inpaint.")
        if is_video(self.damage.mask):
            raise AmbientSolveError("A video of masks has one for each frame already: give a picture to be followed.")

    def frames(self) -> Iterator[VideoFrame]:
        """The frames as the file has them."""
        return read_video(self.path, self.first, self.last)

    def picture(self, frame: VideoFrame) -> Picture:
        """A frame as a measurement, at the size at which it is restored."""
        self.time = frame.time
        y = frame.pixels[None].float() / 255
        size = working_size(tuple(y.shape[-2:]), self.side)
        y = y if size == tuple(y.shape[-2:]) else torch.nn.functional.adaptive_avg_pool2d(y, size)
        gray = bool((y - y.mean(1, keepdim=True)).abs().max() < 2 / 255)  # what rounding leaves of a gray clip
        return Picture(self.path, y, (), 3 if gray else 1)

    def masks(self, picture: Picture) -> Iterator[Tensor | None]:
        """The mask of each frame at the size of a picture, 1 = observed; None where the damage is no mask."""
        if not isinstance(self.damage, Inpaint):
            while True:
                yield None
        whole = next(iter(self.frames())).pixels.shape[1:]
        size = tuple(picture.y.shape[-2:])
        standing = masks(self.damage, tuple(whole), self.path.name, self.first, self.last)
        if self.follow is None:
            for mask in standing:
                yield reduced(mask, size)
            return
        clip = Clip(self.path, self.damage, self.first, self.last, self.side)
        seen = (clip.picture(frame).y[0] for frame in clip.frames())
        for mask, _ in followed_masks(reduced(next(standing), size), seen, self.follow):
            yield mask

    def operator(self, picture: Picture, mask: Tensor | None) -> Physics:
        """The operator of a frame.

        Args:
            picture: The frame.
            mask: Its mask (H, W), 1 = observed; None where the damage is no mask.

        Returns:
            The operator.
        """
        if mask is None:
            return self.damage.operator(picture)
        if bool(mask.all()):  # nothing is missing in this frame
            from ambient_solve.operators import denoise

            return denoise(tuple(picture.y.shape[1:]), self.damage.sigma)
        return with_mask(self.damage, mask).operator(picture)

    def measurements(self, begun: int) -> tuple[Iterator[Tensor], Callable[[int], Physics]]:
        """The measured frames, and the operator of the one that was read last.

        Args:
            begun: Frames that are done, whose operators are not made.

        Returns:
            An iterator over (C, H, W), and a function of the number of a frame.
        """
        made: dict[int, Physics] = {}

        def read() -> Iterator[Tensor]:
            fixed, seen = None, None
            for number, frame in enumerate(self.frames()):
                if number == 0:
                    seen = self.masks(self.picture(frame))
                mask = next(seen)
                picture = self.picture(frame)
                if number >= begun:
                    moving = isinstance(self.damage, Inpaint) and (is_video(self.damage.mask) or self.follow)
                    fixed = self.operator(picture, mask) if moving or fixed is None else fixed
                    made.clear()
                    made[number] = fixed
                yield picture.y[0]

        return read(), lambda number: made[number]


def working_size(whole: tuple[int, int], side: int | None) -> tuple[int, int]:
    """The size at which frames are restored.

    Args:
        whole: (H, W) as the file has them.
        side: Longest side, in pixels; None leaves them.

    Returns:
        (h, w), even where frames are made smaller: most players show no others.
    """
    if side is None or max(whole) <= side:
        return whole
    height, width = (max(SHARE, SHARE * round(n * side / max(whole) / SHARE)) for n in whole)
    return height, width


def write_measured(clip: Clip, out: Path) -> Path:
    """Write the frames of a clip as they go into the restoration, to be looked at beside it.

    Args:
        clip: The clip.
        out: The video, without sound; an odd row or column at the end is left out, which most players need.

    Returns:
        `out`.
    """
    with VideoWriter(out, clip.path, sound=False) as writer:
        for frame in clip.frames():
            writer.write(_even((clip.picture(frame).y[0] * 255).round().to(torch.uint8)), frame.time)
    return out


def playable(path: Path, to: Path) -> Path:
    """A restored video as browsers play it: in MP4, with an even number of rows and columns.

    Args:
        path: What `restore_video` wrote.
        to: Where a copy is written, if one is needed.

    Returns:
        The file itself, or the copy, which has no sound.
    """
    height, width = next(read_video(path)).pixels.shape[1:]
    if path.suffix.lower() == ".mp4" and height % SHARE == width % SHARE == 0:
        return path
    with VideoWriter(to, path, sound=False) as writer:
        for frame in read_video(path):
            writer.write(_even(frame.pixels), frame.time)
    return to


def _even(pixels: Tensor) -> Tensor:
    height, width = (max(n - n % SHARE, 1) for n in pixels.shape[1:])
    return pixels[:, :height, :width]
