r"""Diffusion noise for the frames of a clip, from one source that is evaluated along the motion.

What a sampler makes of two frames flickers where their noise differs, and does not where a pixel keeps its noise as it
moves. Each pixel of a frame has an address in a plane that belongs to the clip: the place where it was first seen. A
frame takes its noise at its addresses, the start and the fresh noise of every level alike, by one of five kinds:

    fixed         at the pixels, whatever moves
    independent   at addresses of its own for each frame
    nearest       white noise of the cell in which the address lies
    integral      white noise integrated over the area that the pixel covers in the plane, divided by the root of that
                  area (How I Warped Your Noise; Chang et al., 2024, ICLR), on cells of 1/4 pixel by 1/4 pixel
    field         a Gaussian process at the address (Warped Diffusion; Daras et al., 2024, arXiv 2410.16152)

A cell belongs to the first pixel that reaches it: each pixel is the scaled sum of cells of its own, so that white noise
stays exactly white however long the clip. A pixel left without a cell begins anew, as do pixels that come into sight
from behind others, and all pixels after a cut.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, suggestion
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior
from ambient_solve.priors.field import Field
from ambient_solve.priors.wrapped import WrappedPrior
from ambient_solve.video.addresses import FRAMES, born, claim, follow, pixels
from ambient_solve.video.streams import FrameStreams

KINDS = ("fixed", "independent", "nearest", "integral", "field")
CELLS = 4
"""Cells along a pixel for `integral`."""


@final
@dataclass(frozen=True)
class Cells:
    """The cells of each pixel: `owners` in increasing order, (N,) pixels; `places` (N, 2); `counts` (H * W,), >= 1."""

    owners: Tensor
    places: Tensor
    counts: Tensor


@final
@dataclass(frozen=True)
class Frame:
    """Where a frame takes its noise; `first_frame` makes the first, and `next` the others.

    Attributes:
        kind: One of `KINDS`.
        number: 0 for the first frame.
        addresses: (row, column) in pixels of the clip's plane, (H, W, 2) float64.
        law: The field that is evaluated, or None for white noise.
        cells: For white noise.
    """

    kind: str
    number: int
    addresses: Tensor
    law: Field | None = None
    cells: Cells | None = field(default=None, repr=False)

    def next(self, flow: Tensor, occluded: Tensor | None = None, *, cut: bool = False) -> Frame:
        """Follow the motion into the next frame.

        Args:
            flow: (2, H, W) in pixels, rows and columns: the next frame shows at `p` what this one shows at
                `p + flow[:, p]`. Places outside of the frame are followed, too.
            occluded: Pixels of the next frame that this one does not show, (H, W) bool.
            cut: The next frame shows another scene.

        Returns:
            The next frame.

        Raises:
            AmbientSolveError: flow or mask has another size, or the flow is not finite.
        """
        height, width = self.addresses.shape[:2]
        if tuple(flow.shape) != (2, height, width) or not bool(flow.isfinite().all()):
            raise AmbientSolveError(
                f"A finite flow of shape {(2, height, width)} was expected, got {tuple(flow.shape)}: estimate it from "
                "frames of this size."
            )
        if occluded is not None and tuple(occluded.shape) != (height, width):
            raise AmbientSolveError(
                f"A mask of shape {(height, width)} was expected for occluded pixels, got {tuple(occluded.shape)}."
            )
        number = self.number + 1
        if number >= FRAMES:
            raise AmbientSolveError(f"A clip has at most {FRAMES} frames, cut it in two.")
        if self.kind == "fixed" and not cut:
            return replace(self, number=number)
        begun = born(height, width, number)
        if self.kind in ("fixed", "independent") or cut:
            return _read(replace(self, number=number, addresses=begun))
        moved = follow(self.addresses, pixels(height, width) + flow.movedim(0, -1).to(begun))
        if occluded is not None:
            moved = torch.where(occluded.to(moved.device)[..., None], begun, moved)
        return _read(replace(self, number=number, addresses=moved))

    def noise(self, number: int, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """Draw the unit noise of this frame.

        Args:
            number: Of the draw, 0 to 2^32 - 1: draws of one number follow the motion from frame to frame.
            shape: Of the states, (B * S, C, H, W).
            streams: One stream per row, of the same seeds for each frame; nothing is taken from the streams themselves.

        Returns:
            Noise of that shape, float32 on the device of the streams.

        Raises:
            AmbientSolveError: the states are not those of frames of this size.
        """
        height, width = self.addresses.shape[:2]
        if len(shape) != 4 or tuple(shape[2:]) != (height, width):
            raise AmbientSolveError(
                f"The clip has frames of {height} x {width} and the states are {tuple(shape)}; states (rows, channels, "
                f"{height}, {width}) were expected: take a prior that works on pixels, or the flow at its size."
            )
        rows, channels = shape[:2]
        if self.law is not None:
            draw = self.law.draw(rows, channels, streams.branch(number))
            return draw.at(self.addresses.reshape(-1, 2)).reshape(shape)
        cells = self.cells
        groups = torch.arange(-(-channels // 4))  # an address has four numbers
        rest = torch.stack([torch.full_like(groups, number), groups], 1).repeat(len(cells.places), 1)
        counters = torch.cat([cells.places.repeat_interleave(len(groups), 0), rest], 1)
        values = streams.addressed(counters).reshape(rows, len(cells.places), -1)[..., :channels]
        sums = values.new_zeros(rows, height * width, channels).index_add_(1, cells.owners.to(values.device), values)
        return (sums / cells.counts.sqrt().to(sums)[:, None]).movedim(2, 1).reshape(shape)


def first_frame(kind: str, size: tuple[int, int], law: Field | None = None) -> Frame:
    """Begin a clip.

    Args:
        kind: One of `KINDS`.
        size: Height and width of the frames, in pixels.
        law: The field of kind "field"; "fixed" and "independent" may take one, too.

    Returns:
        The first frame.

    Raises:
        AmbientSolveError: there is no such kind, or kind and field do not fit.
    """
    if kind not in KINDS:
        raise AmbientSolveError(f"There is no kind of noise {kind!r}. {suggestion(str(kind), KINDS)}")
    if kind == "field" and law is None:
        raise AmbientSolveError("Noise of kind 'field' needs its law, that with which the prior was trained: Field().")
    if kind in ("nearest", "integral") and law is not None:
        raise AmbientSolveError(f"Noise of kind {kind!r} is white, and a field was given: take kind 'field'.")
    return _read(Frame(kind, 0, pixels(*size), law))


@final
class FramePrior(WrappedPrior):
    """A prior whose diffusion noise is that of one frame: every draw of a run, in its order, follows the motion.

    Draws are counted for each `Streams` by itself, so that a sample does not depend on those drawn before it.

    White noise that an algorithm draws beside it follows, too, where `white_frame` says how.

    Args:
        inner: The prior.
        frame: The frame.
        white_frame: The same frame without a law, for white noise; None leaves that at the pixels.
        scene: Number of the first frame of this scene, where noise of other sizes begins anew.
    """

    def __init__(self, inner: Prior, frame: Frame, white_frame: Frame | None = None, scene: int = 0) -> None:
        super().__init__(inner)
        self.frame, self.white_frame, self.scene = frame, white_frame, scene
        self._drawn: weakref.WeakKeyDictionary[Streams, int] = weakref.WeakKeyDictionary()

    def correlate(self, v: Tensor) -> Tensor:
        """See `Prior.correlate`: of the noise at the pixels, with which the denoiser was trained."""
        return self.inner.correlate(v) if self.frame.law is None else self.frame.law.correlate(v)

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """See `Prior.noise`."""
        number = self._drawn.get(streams, 0)
        self._drawn[streams] = number + 1
        return self.frame.noise(number, shape, streams).to(self.device)

    def streams_of_run(self, streams: Streams) -> Streams:
        """See `Prior.streams_of_run`."""
        return streams if self.white_frame is None else FrameStreams(streams, [self.white_frame], self.scene)


def _read(frame: Frame) -> Frame:
    """The frame with its cells; pixels left without one begin anew."""
    if frame.law is not None:
        return frame
    per = CELLS if frame.kind == "integral" else 1
    owners, places = claim(frame.addresses, per)
    lost = torch.bincount(owners, minlength=frame.addresses[..., 0].numel()) == 0
    if bool(lost.any()):
        height, width = frame.addresses.shape[:2]
        begun = born(height, width, frame.number)
        addresses = torch.where(lost.reshape(height, width, 1), begun, frame.addresses)
        frame = replace(frame, addresses=addresses)
        whole = torch.cartesian_prod(torch.arange(per), torch.arange(per)).reshape(-1, 2) if per > 1 else 0
        fresh = per * begun.reshape(-1, 1, 2)[lost].long() + whole
        owners = torch.cat([owners, lost.nonzero()[:, 0].repeat_interleave(per**2)])
        places = torch.cat([places, fresh.reshape(-1, 2)])
        order = owners.argsort(stable=True)
        owners, places = owners[order], places[order]
    return replace(frame, cells=Cells(owners, places, torch.bincount(owners, minlength=len(lost))))
