"""Features of pictures in a network that has a name and that everybody has: the embedded prior of photographs.

A picture is described by the means over its pixels of what the middle of that U-Net answers at noise level .1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ambient_solve.priors.load import load_prior

NETWORK = "photos"
"""The embedded prior whose features are taken."""
LEVEL = 0.1
"""Noise level that the network is given, in units of z; no noise is added."""
BATCH = 64
"""Pictures at once."""


@torch.no_grad()
def middle_features(pictures: Tensor, device: str = "cpu") -> Tensor:
    """Describe pictures.

    Args:
        pictures: (N, 1 or 3, H, W) in [-1, 1].
        device: Where the network computes.

    Returns:
        (N, width of the middle) float32, on the CPU.
    """
    prior: Any = load_prior(NETWORK, "float32", device=device)
    found: list[Tensor] = []
    hook = prior.network.middle.register_forward_hook(
        lambda _m, _i, out: found.append(out.float().mean((-2, -1)).cpu())
    )
    try:
        for part in pictures.expand(-1, 3, -1, -1).split(BATCH):
            prior.denoise(part.to(device), LEVEL)
    finally:
        hook.remove()
    return torch.cat(found)
