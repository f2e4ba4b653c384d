r"""One step down a sum of squares that goes through a decoder: what `psld` and `ldps` share.

    phi(z0) = sum_k w_k |r_k(z0)|^2 / 2,   g = -grad phi,   move = a g,   a = |g|^2 / (sum_k w_k |J_k g|^2 + d |g|^2)

`a` is the exact minimum along g of phi with its residuals made linear, plus `d |move|^2 / 2`: no rate has to be chosen,
whatever the scale of the decoder. `J_k g` is a difference of two forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ambient_solve.noise import per_sample
from ambient_solve.process import ancestral_noise

REACH = 0.1
"""Root mean square of the difference that stands for a derivative, in deviations of the data: above the rounding of a
decoder in bfloat16."""

Residuals = Callable[[Tensor], Sequence[Tensor]]
"""`z0 (N, *shape) -> (r_1, r_2, ...)`, each (N, ...)."""


def descend(
    residuals: Residuals, weights: Sequence[float], z0: Tensor, *, squared: bool, damping: Tensor, sigma_data: float
) -> Tensor:
    """The move from `z0` down the sum of squares, or, not squared, of norms.

    Args:
        residuals: See `Residuals`; differentiable.
        weights: Of each, >= 0; one of weight 0 is not there to begin with.
        z0: States, (N, *shape).
        squared: Whether phi is a sum of squares. Else it is one of norms, `sum_k w_k |r_k|`, and the move its gradient.
        damping: `d`, (N,): how firmly `z0` is held, relative to the weights; of squares alone.
        sigma_data: Deviation of one entry of the states.

    Returns:
        What is to be added to `z0`, in its shape.
    """
    with torch.enable_grad():
        leaf = z0.detach().requires_grad_()
        found = residuals(leaf)
        squares = [r.square().flatten(1).sum(1) for r in found]
        terms = [s / 2 if squared else s.clamp_min(1e-24).sqrt() for s in squares]
        phi = sum((w * t.sum() for w, t in zip(weights, terms, strict=True)), z0.new_zeros(()))
        g = -torch.autograd.grad(phi, leaf)[0]
    if not squared:
        return g
    power = g.square().flatten(1).sum(1)
    size = (power / g[0].numel()).sqrt().clamp_min(1e-30)
    scale = REACH * sigma_data / size
    with torch.no_grad():
        moved = residuals(z0 + per_sample(scale, g) * g)
        pushed = [(m - r).square().flatten(1).sum(1) / scale**2 for m, r in zip(moved, found, strict=True)]
        curvature = sum((w * p for w, p in zip(weights, pushed, strict=True)), damping * power)
        return per_sample(power / curvature.clamp_min(1e-30), g) * g


def held(sigma: float, sigma_next: float, sigma_data: float, eta: float) -> float:
    """Variance by which a level holds its estimate: that of the clean state, times the level's share of the way to 0.

    The first is `(1 / sigma^2 + 1 / sigma_data^2)^-1`, of Gaussian data. The second is the share of the estimate in the
    reverse step: without it a measurement would count once for each level, and its noise be fitted.

    Args:
        sigma: The level, in units of z.
        sigma_next: The next one.
        sigma_data: Deviation of one entry of the data.
        eta: Fresh noise of the reverse step.

    Returns:
        The variance, > 0.
    """
    kept = math.sqrt(max(0.0, sigma_next**2 - ancestral_noise(sigma, sigma_next, eta) ** 2)) / sigma
    return (1 - kept) / (1 / sigma**2 + 1 / sigma_data**2)


def pulled_length(sigma: float, sigma_next: float, sigma_data: float) -> float:
    """What a move that is pulled back through the denoiser has to be multiplied by.

    The papers step a state of one variance, `x = z / sqrt(1 + sigma^2 / sigma_data^2)`: both changes of variable.
    """
    v = sigma_data**2
    return ((1 + sigma**2 / v) * (1 + sigma_next**2 / v)) ** 0.5
