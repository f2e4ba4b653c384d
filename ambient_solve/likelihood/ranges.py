"""Whether a measurement is on the scale of pictures from 0 to 1: those from 0 to 255, or from -1 to 1, are refused."""

from __future__ import annotations

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood.measurement import Received

PICTURES = (0.5, 0.5)
"""`decode` of a prior of pictures from 0 to 1, which are -1 to 1 in its own units."""
LARGE = 20.0
"""Times that a measurement may be as large as pictures from 0 to 1 make it."""
SHARE = 0.05
"""Share of the entries of pictures from -1 to 1 that are below 0, at least."""


@torch.no_grad()
def check_range(received: Received, affine: tuple[float, float] | None, sigma: Tensor, gain: Tensor | None) -> None:
    """Refuse a measurement of pictures on another scale than that of the prior.

    Args:
        received: The measurement and its operator.
        affine: Of the prior; only priors of pictures from 0 to 1 say what the scale is.
        sigma: Noise level in the operator's units, (1,) or (B,).
        gain: Signal of one photon, or None.

    Raises:
        AmbientSolveError: the scale is that of pictures from 0 to 255, or from -1 to 1.
    """
    if affine != PICTURES:
        return
    y, seen, shape = received.y, received.seen, received.image_shape
    if not bool(seen.any()):
        return
    like = y.new_ones(len(y), *shape)
    white = received.operator.A(like)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(y)
    largest = torch.stack([_power(white, seen), _power(received.operator.A(like * noise), seen)]).amax(0)
    level = sigma.to(y.device).expand(len(y))
    counting = 0.0 if gain is None else 30 * gain.to(y.device)
    excess = _power(y, seen) > LARGE**2 * largest + 1.5 * level**2 + counting
    if bool((excess & (largest > 0)).any()):
        times = float((_power(y, seen) / largest.clamp_min(1e-30)).sqrt().max())
        raise AmbientSolveError(
            f"y is {times:.0f} times as large as pictures from 0 to 1 make it, which is the scale here. Of pictures "
            "from 0 to 255 pass y / 255, and the noise level divided by 255."
        )
    if gain is None and float(level.max()) <= 0.2 and bool(((white - 1).abs() <= 0.2)[seen].all()):
        _check_sign(y[seen], 6 * float(level.max()))


def _check_sign(entries: Tensor, noise: float) -> None:
    """Refuse what an operator that averages cannot make of pictures from 0 to 1, but of those from -1 to 1."""
    inside = float(entries.abs().max()) <= 1.02 + noise
    if inside and float((entries < -0.1 - noise).float().mean()) >= SHARE:
        raise AmbientSolveError(
            f"y goes from {float(entries.min()):.2f} to {float(entries.max()):.2f}, and pictures go from 0 to 1 here. "
            "Of pictures from -1 to 1 pass (y + 1) / 2, and half the noise level."
        )


def _power(y: Tensor, seen: Tensor) -> Tensor:
    """Mean square of the entries that see anything, (B,)."""
    return torch.where(seen, y, 0).square().flatten(1).sum(1) / seen.flatten(1).sum(1).clamp_min(1)
