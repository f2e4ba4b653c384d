r"""A mask that is painted on one frame and follows what it covers along the motion.

Every painted part, pixels that touch, moves as one body: its map from the first frame is affine, `x_t = A x_0 + b`, and
each step is fitted to the flow inside of it, robustly, for a brush takes some of the background along. The first frame,
moved by that map, is then compared with the frame itself, and what motion is left is fitted too where that explains the
frame better: errors of single steps do not add up. The mask is always read in the first frame, so that it neither frays
nor grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError
from ambient_solve.video.flow import FlowOf, flow_method, is_cut, pull

MARGIN = 1
"""Pixels by which a mask that was moved is larger: too much that is missing does less harm than too little."""
RIDGE = 0.02
"""Weight of a step without turn and stretch: a thin or small part does not tell of them."""
ROUNDS = 8
"""Fits of a step, each weighted by how well the one before explained a pixel."""
FINEST = 0.1
"""Deviation from a body's motion that every flow has, in pixels."""


def followed_masks(
    mask: Tensor, frames: Iterable[Tensor], flow: str | FlowOf, margin: int = MARGIN
) -> Iterator[tuple[Tensor, bool]]:
    """The mask of each frame of a clip, from that of the first one.

    Args:
        mask: Of the first frame, (H, W), 1 = observed.
        frames: The clip as it was measured, (C, H, W) each, asked for one at a time.
        flow: How the motion is found, see `flow`.
        margin: Pixels by which each mask but the first one is larger, 0 or more.

    Yields:
        The mask (H, W), and whether a scene begins at this frame; from there on nothing is missing.

    Raises:
        AmbientSolveError: there is no such flow, or the frames have different sizes.
    """
    estimate = flow_method(flow) if isinstance(flow, str) else flow
    parts = _parts(mask < 0.5)
    maps = [torch.eye(3, dtype=torch.float64) for _ in parts]
    nothing, opening, before, ended = torch.ones_like(mask, dtype=torch.float32), None, None, False
    for frame in frames:
        if opening is None or before is None:
            opening = before = frame
            yield mask.float(), False
            continue
        if ended:
            yield nothing, False
            continue
        if frame.shape != before.shape:
            raise AmbientSolveError(
                f"A frame of shape {tuple(frame.shape)} follows one of {tuple(before.shape)}: all of a clip have "
                "one size."
            )
        back, forth = estimate(frame, before), estimate(before, frame)
        ended = is_cut(before, frame, back, forth)
        if ended:
            yield nothing, True
            continue
        maps = [_step(forth, _moved(part, m)) @ m for part, m in zip(parts, maps, strict=True)]
        maps = [_corrected(estimate, opening, frame, part, m) for part, m in zip(parts, maps, strict=True)]
        before, missing = frame, torch.zeros_like(nothing)
        for part, m in zip(parts, maps, strict=True):
            missing = torch.maximum(missing, _moved(part, m))
        yield 1 - F.max_pool2d((missing > 0.01).float()[None], 2 * margin + 1, 1, margin)[0], False


def _parts(missing: Tensor) -> list[Tensor]:
    """Pixels that touch, corner or side, (H, W) float each."""
    from scipy import ndimage

    labels, count = ndimage.label(missing.numpy(), structure=torch.ones(3, 3).numpy())
    return [torch.from_numpy(labels == n + 1).float() for n in range(count)]


def _pixels(height: int, width: int) -> Tensor:
    """Row, column and 1 of each pixel, (3, H, W) float64."""
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in (height, width))
    found = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return torch.cat([found, torch.ones_like(found[:1])])


def _read(image: Tensor, back: Tensor) -> Tensor:
    """An image (C, H, W) where a map (3, 3) leads, and which of these places are in it, (H, W)."""
    here = _pixels(*image.shape[1:])
    there = torch.einsum("ij,jhw->ihw", back, here)
    last = torch.tensor(image.shape[1:], dtype=torch.float64).reshape(2, 1, 1) - 0.5
    inside = ((there[:2] > -0.5) & (there[:2] < last)).all(0)
    return torch.cat([pull(image, (there - here)[:2].float()), inside[None].float()])


def _moved(part: Tensor, forth: Tensor) -> Tensor:
    """A painted part of the first frame where a map takes it, (H, W)."""
    found = _read(part[None], torch.linalg.inv(forth))
    return found[0] * found[1]


def _step(flow: Tensor, inside: Tensor) -> Tensor:
    """The affine map that a flow is inside of a part, (3, 3); none where the part has left the frame."""
    step = torch.eye(3, dtype=torch.float64)
    chosen = inside > 0.5
    if not bool(chosen.any()):
        return step
    places = _pixels(*inside.shape)[:2, chosen]
    there = flow.double()[:, chosen]
    middle = places.mean(1, keepdim=True)
    scale = (places - middle).square().sum(0).mean().sqrt().clamp_min(1.0)
    basis = torch.cat([(places - middle) / scale, torch.ones_like(places[:1])])
    ridge = RIDGE * places.shape[1] * torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64))
    # Cauchy's weights, from the median on: no least squares in between would be led astray by the background.
    away = (there - there.median(1, keepdim=True).values).square().sum(0)
    for _ in range(ROUNDS):
        weight = 1 / (1 + away / away.median().clamp_min(FINEST**2))
        ratio = weight.sum() / len(weight)
        found = torch.linalg.solve((basis * weight) @ basis.T + ratio * ridge, (basis * weight) @ there.T).T
        away = (there - found @ basis).square().sum(0)
    step[:2, :2] += found[:, :2] / scale
    step[:2, 2] = found[:, 2] - (found[:, :2] / scale) @ middle[:, 0]
    return step


def _corrected(estimate: FlowOf, opening: Tensor, frame: Tensor, part: Tensor, forth: Tensor) -> Tensor:
    """A map, with the motion that is left between the first frame, moved by it, and this frame."""
    there = _moved(part, forth)
    if not bool((there > 0.5).any()):
        return forth
    expected = _read(opening, torch.linalg.inv(forth))
    # Outside of what the first frame shows there is nothing to compare.
    shown = torch.where(expected[-1:] > 0, expected[:-1], frame)
    better = _step(estimate(shown, frame), there) @ forth
    return min((forth, better), key=lambda found: _mismatch(opening, frame, part, found))


def _mismatch(opening: Tensor, frame: Tensor, part: Tensor, forth: Tensor) -> float:
    """Mean absolute difference of a part of the first frame, moved, and of the frame."""
    back = torch.linalg.inv(forth)
    weight = _moved(part, forth)
    if float(weight.sum()) == 0:
        return float("inf")
    return float(((_read(opening, back)[:-1] - frame).abs().mean(0) * weight).sum() / weight.sum())
