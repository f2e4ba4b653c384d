"""Streams whose white noise follows the motion of a clip, where it has the size of a frame.

An algorithm draws white noise beside that of the diffusion: for draws of a posterior, for probes, for the noise of a
measurement. Where it stayed at the pixels while the picture moves, the clip would flicker by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from ambient_solve.noise import Streams

if TYPE_CHECKING:
    from ambient_solve.video.warped_noise import Frame

WHITE = 1 << 31
"""Number of the first of these draws; those of the diffusion noise lie below."""
OTHERS = 1 << 40
"""Number of the branch that gives what has another size than a frame."""


@final
class FrameStreams(Streams):
    """The streams of one run, for one frame.

    Args:
        streams: One stream per row, of the same seeds for each frame.
        frames: Where the frame takes its white noise, which has no law; several for a group of frames.
        scene: Number of the frame from which on the rest, such as noise of small measurements, stays the same.
    """

    def __init__(self, streams: Streams, frames: Sequence[Frame], scene: int = 0) -> None:
        self.__dict__.update(streams.__dict__)
        self._inner, self._frames, self._drawn = streams, list(frames), 0
        self._others = streams.branch(OTHERS + scene) if scene else streams

    def normal(self, like: Tensor) -> Tensor:
        """See `Streams.normal`; a tensor (B * S, C, H, W) of the size of the frame gets noise that follows it.

        Of a group of k frames it is one (B * S, C, k, H, W).
        """
        size, group = tuple(self._frames[0].addresses.shape[:2]), len(self._frames)
        whole = (like.shape[1], group, *size) if like.ndim == 5 else (like.shape[1], *size) if like.ndim == 4 else ()
        if tuple(like.shape[1:]) != whole or (like.ndim == 4 and group > 1) or not like.is_floating_point():
            return self._others.normal(like)
        self._drawn += 1
        shape = (len(like), like.shape[1], *size)
        made = [frame.noise(WHITE + self._drawn, shape, self._inner) for frame in self._frames]
        return (torch.stack(made, 2) if like.ndim == 5 else made[0]).to(like)

    def uniform(self, like: Tensor) -> Tensor:
        """See `Streams.uniform`."""
        return self._others.uniform(like)
