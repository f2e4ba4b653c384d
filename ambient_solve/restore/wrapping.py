"""Whether a reduced picture shows that its last rows were mixed into its first ones, as periodic operators leave it.

A shift of the large picture cannot be seen in the small one, and the misfit does not tell where its pixels lie. But
deepinv's `Downsampling`, which puts them on the first of those they are made of, repeats the picture at its edges by
default: the first row then depends on the last one, beyond what the rows next to it explain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

CLEAR = 11.0
"""Standard errors by which the last row counts; no crop of a photograph that Pillow has reduced came so far."""
SHARE = 0.1
"""Weight of the last row in the first one, at least."""
SHORTEST = 8
"""Pixels of a side below which nothing is said."""


def wraps(y: Tensor) -> bool:
    """Whether the first row and column of `y` (1, C, H, W) are mixed with the last ones."""
    if min(y.shape[-2:]) < SHORTEST:
        return False
    found = [_last_in_first(axis) for axis in (y[0].double(), y[0].double().mT)]
    weights, errors = zip(*found, strict=True)
    return sum(weights) / 2 > SHARE and sum(errors) / 2**0.5 > CLEAR


def _last_in_first(y: Tensor) -> tuple[float, float]:
    """The weight of the last column of `y` (C, H, W) in the first beside the two next to it; and in standard errors."""
    import torch

    first = y[..., 0].flatten()
    columns = [y[..., i].flatten() for i in (1, 2, -1)] + [torch.ones_like(first)]
    design = torch.stack(columns, 1)
    inverse = torch.linalg.pinv(design.mT @ design, hermitian=True)
    weights = inverse @ (design.mT @ first)
    variance = (first - design @ weights).square().sum() / max(len(first) - len(columns), 1)
    weight, error = float(weights[2]), float((variance * inverse[2, 2]).clamp_min(0).sqrt())
    return weight, weight / max(error, 1e-12)
