"""What a restored clip is: a frame at a time, or all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.results import Restoration
from ambient_solve.video.flow import Motion
from ambient_solve.video.state import ClipState


@final
@dataclass(frozen=True, eq=False)
class RestoredFrame:
    """A frame of a clip: what `VideoSolver.stream` yields.

    Attributes:
        number: Of the frame, from 0.
        restoration: Its samples (1, S, C, H, W), their misfit, and how they were made.
        motion: What leads to it from the frame before, as the measured clip shows it; None for the first one.
        state: What the next frame needs; `VideoSolver.stream(..., state=...)` goes on from there.
    """

    number: int
    restoration: Restoration
    motion: Motion | None
    state: ClipState

    @property
    def cut(self) -> bool:
        """Whether a scene begins here, not counting the first frame."""
        return self.motion is not None and self.motion.cut


@final
@dataclass(frozen=True, eq=False)
class VideoRestoration:
    """Posterior samples of a clip: sample s of each frame goes with sample s of the others.

    Attributes:
        samples: (T, S, C, H, W) float32.
        chi2: Misfit of each sample of each frame, (T, S); 1 is right.
        cuts: Numbers of the frames at which a scene begins, the first one left out.
        network_calls: Forward passes per sample, of all frames together.
        vjps: Backward passes.
        seconds: Wall time of the sampling.
        settings: Those of the first frame, with how its noise moved.
    """

    samples: Tensor
    chi2: Tensor
    cuts: tuple[int, ...]
    network_calls: int
    vjps: int
    seconds: float
    settings: dict[str, Any]

    @property
    def mean(self) -> Tensor:
        """Posterior mean of each frame, (T, C, H, W)."""
        return self.samples.mean(1)

    @property
    def std(self) -> Tensor | None:
        """Posterior standard deviation of each pixel, (T, C, H, W); None with one sample."""
        return self.samples.std(1) if self.samples.shape[1] > 1 else None

    def __repr__(self) -> str:
        frames, samples, *size = self.samples.shape
        words = f"{samples} sample{'s' * (samples > 1)} of a clip of {frames} frames {' x '.join(map(str, size))}"
        cuts = f", {len(self.cuts)} cuts" if self.cuts else ""
        made, chi2 = self.settings, float(self.chi2.float().mean())
        return (
            f"VideoRestoration: {words}{cuts} by {made.get('algorithm', '?')}, {made.get('steps', '?')} levels, noise "
            f"{made.get('noise', '?')}, {self.seconds:.3g} s\nmisfit {chi2:.2f} (1 is right)\n"
            ".mean .std .samples .chi2 .cuts .settings"
        )


def join_frames(frames: Iterable[RestoredFrame]) -> VideoRestoration:
    """A clip from its frames, of which no state is kept.

    Args:
        frames: In their order, 1 or more.

    Returns:
        The clip.

    Raises:
        AmbientSolveError: there is none.
    """
    found, cuts = [], []
    for frame in frames:
        found.append(frame.restoration)
        cuts += [frame.number] if frame.cut else []
    if not found:
        raise AmbientSolveError("There is no frame to restore: y is empty, or all of its frames are done.")
    return VideoRestoration(
        samples=torch.cat([r.samples for r in found]),
        chi2=torch.cat([r.chi2 for r in found]),
        cuts=tuple(cuts),
        network_calls=sum(r.network_calls for r in found),
        vjps=sum(r.vjps for r in found),
        seconds=sum(r.seconds for r in found),
        settings=found[0].settings,
    )
