"""A picture at its working size, whole, reduced or cut out, and the way back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.pictures import Picture

Box = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are the first row and column outside."""


@dataclass(frozen=True)
class Piece:
    """A picture at its working size, and the way back.

    Attributes:
        picture: What is restored. mask: Its observed pixels (h, w), 1 = observed, or None.
        whole: The picture at full size. seen: Its observed pixels (H, W), or None. box: The part that was cut out.
        noise: Factor by which independent noise got smaller: state `noise * sigma` as the noise of the piece.
    """

    picture: Picture
    whole: Picture
    box: Box
    mask: Tensor | None = None
    seen: Tensor | None = None
    noise: float = 1.0

    def paste(self, samples: Tensor) -> Tensor:
        """Restored pieces (B, S, C, h, w) at full size (B, S, C, H, W).

        Observed pixels of a picture with a mask are copied exactly. Without a mask the *change* is enlarged and added,
        so that a picture that was made smaller keeps its detail.
        """
        y, (top, left, bottom, right) = self.whole.y.to(samples), self.box
        height, width = bottom - top, right - left
        rows = samples.flatten(0, 1)
        if (height, width) == tuple(samples.shape[-2:]):
            part = rows
        elif self.mask is not None:
            part = _resize(rows, (height, width))
        else:
            change = rows - self.picture.y.to(samples)
            part = y[..., top:bottom, left:right] + _resize(change, (height, width))
        out = y.repeat(len(rows), 1, 1, 1)
        out[..., top:bottom, left:right] = part
        if self.seen is not None:
            out = torch.where(self.seen.to(samples.device) > 0, y, out)
        return out.unflatten(0, samples.shape[:2])


def fit(picture: Picture, side: int, mask: Tensor | None = None) -> Piece:
    """A picture made smaller by averaging, until its longer side is at most `side`; a small one stays as it is.

    Args:
        picture: The picture at full size.
        side: Longest side in pixels, 1 or more.
        mask: Observed pixels, (H, W), 1 = observed; a small pixel is observed where all it was made of is.

    Returns:
        The piece to restore, which can be pasted back.

    Raises:
        AmbientSolveError: `side` is out of range, or the mask has another size.
    """
    height, width = picture.y.shape[-2:]
    _check_mask(mask, picture)
    if side < 1:
        raise AmbientSolveError(f"side={side} was given, a size in pixels of at least 1 was expected.")
    box, scale = (0, 0, height, width), side / max(height, width)
    if scale >= 1:
        return Piece(picture, picture, box, mask, mask)
    size = max(1, round(scale * height)), max(1, round(scale * width))
    pool = torch.nn.AdaptiveAvgPool2d(size)
    small = None if mask is None else (pool(mask[None].float())[0] > 1 - 1e-6).float()
    noise = math.prod(_averaging(n, m) for n, m in zip((height, width), size, strict=True))
    return Piece(replace(picture, y=pool(picture.y)), picture, box, small, mask, noise)


def crop(picture: Picture, box: Box, mask: Tensor | None = None) -> Piece:
    """The part of a picture inside a box.

    Args:
        picture: The picture at full size.
        box: Where to cut, such as `missing_box(mask)`.
        mask: Observed pixels, (H, W), 1 = observed.

    Returns:
        The piece to restore, which can be pasted back.

    Raises:
        AmbientSolveError: the box is not inside the picture, or the mask has another size.
    """
    height, width = picture.y.shape[-2:]
    _check_mask(mask, picture)
    top, left, bottom, right = box
    if not (0 <= top < bottom <= height and 0 <= left < right <= width):
        raise AmbientSolveError(
            f"The box {tuple(box)} (top, left, bottom, right) is not inside the picture of {width}x{height}."
        )
    inside = (slice(top, bottom), slice(left, right))
    part = replace(picture, y=picture.y[..., top:bottom, left:right].contiguous())
    return Piece(part, picture, (top, left, bottom, right), None if mask is None else mask[inside].contiguous(), mask)


def missing_box(mask: Tensor, margin: int = 64, least: int = 128) -> Box:
    """The smallest box round what is missing, with a margin.

    Args:
        mask: Observed pixels, (H, W), 1 = observed.
        margin: Pixels added on each side, >= 0.
        least: Smallest width and height, in pixels, where the picture has as many.

    Returns:
        The box, inside the picture.

    Raises:
        AmbientSolveError: nothing is missing.
    """
    missing = (mask < 0.5).nonzero()
    if not len(missing):
        raise AmbientSolveError("Nothing is missing in the mask, so that there is no region to cut out.")
    first, last, sides = missing.min(0).values.tolist(), missing.max(0).values.tolist(), []
    for low, high, length in zip(first, last, mask.shape, strict=True):
        low, high = low - margin, high + 1 + margin
        short = max(0, least - (high - low))
        low, high = low - short // 2, high + short - short // 2
        # What sticks out on one side is given to the other.
        low, high = low - max(0, high - length), high - min(0, low)
        sides.append((max(0, low), min(length, high)))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _check_mask(mask: Tensor | None, picture: Picture) -> None:
    if mask is not None and tuple(mask.shape) != tuple(picture.y.shape[-2:]):
        raise AmbientSolveError(
            f"The mask has shape {tuple(mask.shape)}, the picture is (H, W) = {tuple(picture.y.shape[-2:])}."
        )


def _averaging(length: int, to: int) -> float:
    """Root mean square, over pixels, of what averaging `length` entries into `to` leaves of independent noise."""
    counts = [-(-(i + 1) * length // to) - i * length // to for i in range(to)]
    return math.sqrt(sum(1 / n for n in counts) / to)


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bicubic", align_corners=False)
