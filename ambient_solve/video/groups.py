r"""Frames that one measurement joins, restored together: a prior of pictures as one of groups of frames.

A group z has the shape (C, k, H, W). Its noise is that of k frames along the motion. With guidance each estimate is
drawn to the mean of all k, and of the last one of the group before, each moved to where it is:

    D'_i = D(z_i) + w t_i (mean_j P_ij D(z_j) - D(z_i)),      i, j = 1 ... k

A chain from each frame to the next would not do: what a measurement says of the whole group must reach each frame by
way of all of them, or the sum does not converge. The motion inside a group cannot be seen: it is that between two
measurements, in k equal parts. The likelihood of a joined measurement has no closed form with motion; the algorithms
solve it by conjugate gradients over the group.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.wrapped import WrappedPrior
from ambient_solve.video.guidance import follow_flow
from ambient_solve.video.streams import FrameStreams
from ambient_solve.video.warped_noise import Frame


@final
class GroupPrior(WrappedPrior):
    """A prior of pictures (C, H, W) as one of groups (C, k, H, W).

    Args:
        inner: The prior of pictures.
        frames: Where each frame of the group takes its diffusion noise.
        whites: Where each takes its white noise.
        flows: From each frame back to the one before it, (k, 2, H, W); the first leads out of the group.
        trusts: How far each shows what the one before shows, (k, H, W), 0 to 1.
        weight: Of the guidance; 0 is none.
        before: Estimates of the last frame of the group before, call by call; none for the first group of a scene.
        levels: The levels of these calls.
        scene: As for `FramePrior`.

    Attributes:
        estimates: What this run gave the last frame so far.
        seen: The levels of its calls.
    """

    def __init__(
        self,
        inner: Prior,
        frames: Sequence[Frame],
        whites: Sequence[Frame],
        flows: Tensor,
        trusts: Tensor,
        weight: float,
        before: Sequence[Tensor] = (),
        levels: Sequence[float] = (),
        scene: int = 0,
    ) -> None:
        super().__init__(inner)
        self.shape = (inner.shape[0], len(frames), *inner.shape[1:])
        self.whites, self.scene = list(whites), scene
        self.frames, self.flows, self.trusts, self.weight = list(frames), flows, trusts, weight
        self.before, self.levels = list(before), list(levels)
        self.estimates: list[Tensor] = []
        self.seen: list[float] = []
        self._drawn: weakref.WeakKeyDictionary[Streams, int] = weakref.WeakKeyDictionary()

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Prior.state_shape`: those of the frames."""
        if len(image_shape) != 4 or image_shape[1] != len(self.frames):
            raise AmbientSolveError(
                f"Groups of {len(self.frames)} frames were expected, the operator works on {image_shape}."
            )
        channels, frames, *size = image_shape
        inner = self.inner.state_shape((channels, *size))
        return (inner[0], frames, *inner[1:])

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """See `Prior.noise`: that of each frame along the motion."""
        number = self._drawn.get(streams, 0)
        self._drawn[streams] = number + 1
        rows, channels, _, *size = shape
        made = [frame.noise(number, (rows, channels, *size), streams) for frame in self.frames]
        return torch.stack(made, 2).to(self.device)

    def streams_of_run(self, streams: Streams) -> Streams:
        """See `Prior.streams_of_run`."""
        return FrameStreams(streams, self.whites, self.scene)

    def begin(self, shape: tuple[int, ...], streams: Streams) -> None:
        """See `Prior.begin`: the calls are counted from here."""
        self.estimates, self.seen = [], []
        rows, channels, frames, *size = shape
        self.inner.begin((rows * frames, channels, *size), streams)

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        level = sigma.repeat_interleave(z.shape[2]) if isinstance(sigma, Tensor) and sigma.ndim else sigma
        flat = z.transpose(1, 2).flatten(0, 1)
        single = list(self.inner.denoise(flat, level, cond).unflatten(0, (len(z), z.shape[2])).unbind(1))
        number = len(self.estimates)
        same = number < len(self.before) and self.levels[number] == float(torch.as_tensor(sigma).flatten()[0])
        last = self.before[number].to(z) if same and self.before[number].shape == single[0].shape else None
        if self.weight:
            single = self._agreed(single, last)
        last = single[-1]
        self.estimates.append(last.detach())
        self.seen.append(float(torch.as_tensor(sigma).flatten()[0]))
        return torch.stack(single, 2)

    def _agreed(self, single: list[Tensor], last: Tensor | None) -> list[Tensor]:
        """Estimates drawn to the mean of all, moved; `last` is that of the group before."""
        flows, trusts = self.flows.to(single[0]), self.trusts.to(single[0])
        mean, count = single[0], torch.ones_like(trusts[0])
        if last is not None:
            share = len(single) * trusts[0]  # as much as the frames of this group together
            mean, count = (share * follow_flow(last, flows[0]) + mean) / (share + 1), share + 1
        for i in range(1, len(single)):
            count = trusts[i] * count
            mean, count = (count * follow_flow(mean, flows[i]) + single[i]) / (count + 1), count + 1
        found = []
        for i in reversed(range(len(single))):
            trust = trusts[i] if i or last is not None else torch.ones_like(trusts[0])
            found.append(single[i] + self.weight * trust * (mean - single[i]))
            mean = follow_flow(mean, -flows[i]) if i else mean
        return found[::-1]

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`: through the frames and what follows the motion between them."""
        return Prior.denoise_vjp(self, z, sigma, cond, once=once)
