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

KINDS = ("fixed", "independent", "nearest", "integral", "field")
CELLS = 4
"""Cells along a pixel for `integral`."""
TEAR = 1.5
"""Neighbours whose addresses differ by so many pixels more than they do are no surface."""
APART, ROW = 1 << 14, 1 << 8
"""Pixels between the addresses that begin in two frames, and how many of these lie in a row."""
FRAMES = ROW << 8
"""Longest clip: the addresses of all its cells fit into 32 bits along each axis."""


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
        number, pixels = self.number + 1, _pixels(height, width)
        if number >= FRAMES:
            raise AmbientSolveError(f"A clip has at most {FRAMES} frames, cut it in two.")
        if self.kind == "fixed" and not cut:
            return replace(self, number=number)
        born = _born(pixels, number)
        if self.kind in ("fixed", "independent") or cut:
            return _read(replace(self, number=number, addresses=born))
        moved = _follow(self.addresses, pixels + flow.movedim(0, -1).to(pixels))
        if occluded is not None:
            moved = torch.where(occluded.to(moved.device)[..., None], born, moved)
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
    return _read(Frame(kind, 0, _pixels(*size), law))


@final
class FramePrior(WrappedPrior):
    """A prior whose diffusion noise is that of one frame: every draw of a run, in its order, follows the motion.

    Draws are counted for each `Streams` by itself, so that a sample does not depend on those drawn before it.

    Args:
        inner: The prior.
        frame: The frame.
    """

    def __init__(self, inner: Prior, frame: Frame) -> None:
        super().__init__(inner)
        self.frame = frame
        self._drawn: weakref.WeakKeyDictionary[Streams, int] = weakref.WeakKeyDictionary()
        if frame.law is not None:
            self.sigma_jacobian = 0.0  # as for `FieldPrior`: `sigma^2 J` is no covariance

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """See `Prior.noise`."""
        number = self._drawn.get(streams, 0)
        self._drawn[streams] = number + 1
        return self.frame.noise(number, shape, streams).to(self.device)


def _pixels(height: int, width: int) -> Tensor:
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)


def _born(pixels: Tensor, number: int) -> Tensor:
    """The addresses of pixels that begin in frame `number`; those of two frames never meet."""
    return pixels + APART * pixels.new_tensor([number // ROW, number % ROW])


def _follow(addresses: Tensor, points: Tensor, own: bool = False) -> Tensor:
    """The addresses of points of a frame, linear between pixels of one surface and rigid beyond it.

    Args:
        addresses: Of the pixels, (H, W, 2).
        points: (H, W, 2), in pixels of the frame.
        own: The surface is that of the pixel (i, j) for the point (i, j); otherwise that of the nearest pixel.

    Returns:
        (H, W, 2).
    """
    height, width = addresses.shape[:2]
    last = points.new_tensor([height - 1, width - 1])
    shift = addresses - _pixels(height, width)
    corner = torch.minimum(points.floor().clamp_min(0), (last - 1).clamp_min(0))
    part = (points - corner).clamp(0, 1)
    nearest = torch.minimum(points.round().clamp_min(0), last).long()
    anchor = shift if own else shift[nearest[..., 0], nearest[..., 1]]
    total, weights = torch.zeros_like(points), torch.zeros_like(points[..., :1])
    for down in (0, 1):
        for along in (0, 1):
            row, column = torch.minimum(corner + corner.new_tensor([down, along]), last).long().unbind(-1)
            found = shift[row, column]
            weight = (part[..., 0] if down else 1 - part[..., 0]) * (part[..., 1] if along else 1 - part[..., 1])
            weight = weight * ((found - anchor).abs().amax(-1) < TEAR)
            total, weights = total + weight[..., None] * found, weights + weight[..., None]
    return points + torch.where(weights > 0, total / weights.clamp_min(1e-12), anchor)


def _read(frame: Frame) -> Frame:
    """The frame with its cells; pixels left without one begin anew."""
    if frame.law is not None:
        return frame
    height, width = frame.addresses.shape[:2]
    pixels, per = _pixels(height, width), CELLS if frame.kind == "integral" else 1
    places = _places(frame.addresses, per)
    owners, cells = _claim(places, per)
    lost = torch.bincount(owners, minlength=height * width) == 0
    if lost.any():
        addresses = torch.where(lost.reshape(height, width, 1), _born(pixels, frame.number), frame.addresses)
        frame = replace(frame, addresses=addresses)
        inside = torch.cartesian_prod(torch.arange(per), torch.arange(per)) if per > 1 else torch.zeros(1, 2).long()
        fresh = per * _born(pixels, frame.number).reshape(-1, 1, 2)[lost].long() + inside
        owners = torch.cat([owners, lost.nonzero()[:, 0].repeat_interleave(per**2)])
        cells = torch.cat([cells, fresh.reshape(-1, 2)])
        order = owners.argsort(stable=True)
        owners, cells = owners[order], cells[order]
    return replace(frame, cells=Cells(owners, cells, torch.bincount(owners, minlength=height * width)))


def _places(addresses: Tensor, per: int) -> Tensor:
    """The cells in which points of each pixel lie, (H * W, points, 2): its center, or a finer lattice."""
    height, width = addresses.shape[:2]
    if per == 1:
        return (addresses + 0.5).floor().long().reshape(-1, 1, 2)
    pixels, side = _pixels(height, width), 2 * per
    offsets = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    found = [
        _follow(addresses, pixels + torch.stack([down, along]), own=True)
        for down, along in torch.cartesian_prod(offsets, offsets)
    ]
    points = torch.stack(found, 2).reshape(height * width, side**2, 2)
    return (per * (points + 0.5)).floor().long()


def _claim(places: Tensor, per: int) -> tuple[Tensor, Tensor]:
    """Each cell once, for the first pixel that reaches it: owners in increasing order (N,), and cells (N, 2)."""
    flat = places.reshape(-1, 2)
    keys = flat[:, 0] * (1 << 32) + flat[:, 1]
    ordered, order = keys.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    chosen = order[first].sort().values
    return chosen // places.shape[1], flat[chosen]
