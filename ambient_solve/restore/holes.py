"""Holes of a picture: how wide they are, and what stands in for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mirrored(y: Tensor, observed: Tensor) -> Tensor:
    """A picture whose missing pixels are mirror images, at the edge of their hole, of what is round it.

    Texture and noise go on as they are, so that their level can be estimated.

    Args:
        y: (B, C, H, W).
        observed: (H, W), 1 = observed.

    Returns:
        (B, C, H, W).
    """
    import numpy as np
    import torch
    from scipy.ndimage import distance_transform_edt

    seen = observed.cpu().numpy() > 0.5
    if seen.all():
        return y
    nearest = distance_transform_edt(~seen, return_distances=False, return_indices=True)
    place = np.indices(seen.shape)
    beyond = [np.clip(2 * n - p, 0, side - 1) for n, p, side in zip(nearest, place, seen.shape, strict=True)]
    there = seen[beyond[0], beyond[1]]
    rows, columns = (torch.from_numpy(np.where(there, b, n)) for b, n in zip(beyond, nearest, strict=True))
    return y[..., rows, columns]


def depth(observed: Tensor) -> float:
    """The distance, in pixels, of the missing pixel that is furthest from any observed one.

    Args:
        observed: (H, W), 1 = observed.
    """
    from scipy.ndimage import distance_transform_edt

    return float(distance_transform_edt(observed.cpu().numpy() <= 0.5).max())
