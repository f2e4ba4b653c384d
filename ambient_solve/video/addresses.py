"""Addresses: the plane of a clip, where each pixel of a frame first was seen, and the cells that it owns there."""

from __future__ import annotations

import torch
from torch import Tensor

TEAR = 1.5
"""Neighbours whose addresses differ by so many pixels more than they do are no surface."""
APART, ROW = 1 << 14, 1 << 8
"""Pixels between the addresses that begin in two frames, and how many of these lie in a row."""
FRAMES = ROW << 8
"""Longest clip: the addresses of all its cells fit into 32 bits along each axis."""


def pixels(height: int, width: int) -> Tensor:
    """The places of the pixels of a frame: the addresses of a clip's first one.

    Args:
        height: H, of the frame.
        width: W.

    Returns:
        (row, column), (H, W, 2) float64.
    """
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)


def born(height: int, width: int, number: int) -> Tensor:
    """The addresses of pixels that begin in a frame; those of two frames never meet.

    Args:
        height: H, of the frame.
        width: W.
        number: Of the frame, 0 to `FRAMES - 1`.

    Returns:
        (H, W, 2) float64.
    """
    found = pixels(height, width)
    return found + APART * found.new_tensor([number // ROW, number % ROW])


def follow(addresses: Tensor, points: Tensor, own: bool = False) -> Tensor:
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
    shift = addresses - pixels(height, width)
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


def claim(addresses: Tensor, per: int) -> tuple[Tensor, Tensor]:
    """Each cell once, for the first pixel that reaches it.

    Args:
        addresses: Of the pixels, (H, W, 2).
        per: Cells along a pixel; with 1, a pixel reaches the cell of its center alone.

    Returns:
        Owners in increasing order, (N,) numbers of pixels, and their cells, (N, 2).
    """
    places = _places(addresses, per)
    flat = places.reshape(-1, 2)
    keys = flat[:, 0] * (1 << 32) + flat[:, 1]
    ordered, order = keys.sort(stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    chosen = order[first].sort().values
    return chosen // places.shape[1], flat[chosen]


def _places(addresses: Tensor, per: int) -> Tensor:
    """The cells in which points of each pixel lie, (H * W, points, 2): its center, or a finer lattice."""
    height, width = addresses.shape[:2]
    if per == 1:
        return (addresses + 0.5).floor().long().reshape(-1, 1, 2)
    side = 2 * per
    offsets = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    found = [
        follow(addresses, pixels(height, width) + torch.stack([down, along]), own=True)
        for down, along in torch.cartesian_prod(offsets, offsets)
    ]
    points = torch.stack(found, 2).reshape(height * width, side**2, 2)
    return (per * (points + 0.5)).floor().long()
