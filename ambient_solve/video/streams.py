"""Streams whose white noise follows the motion of a clip, where it has the size of a frame.

An algorithm draws white noise beside that of the diffusion: for draws of a posterior, for probes, for the noise of a
measurement. Where it stayed at the pixels while the picture moves, the clip would flicker by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

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
        frame: Where the frame takes its white noise; it has no law.
        scene: Number of the frame from which on the rest, such as noise of small measurements, stays the same.
    """

    def __init__(self, streams: Streams, frame: Frame, scene: int = 0) -> None:
        self.__dict__.update(streams.__dict__)
        self._inner, self._frame, self._drawn = streams, frame, 0
        self._others = streams.branch(OTHERS + scene) if scene else streams

    def normal(self, like: Tensor) -> Tensor:
        """See `Streams.normal`; a tensor (B * S, C, H, W) of the size of the frame gets noise that follows it."""
        size = tuple(self._frame.addresses.shape[:2])
        if like.ndim != 4 or tuple(like.shape[2:]) != size or not like.is_floating_point():
            return self._others.normal(like)
        self._drawn += 1
        return self._frame.noise(WHITE + self._drawn, tuple(like.shape), self._inner).to(like)

    def uniform(self, like: Tensor) -> Tensor:
        """See `Streams.uniform`."""
        return self._others.uniform(like)
