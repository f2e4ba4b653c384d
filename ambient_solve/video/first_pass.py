r"""What a flow is estimated from: a picture of each frame that is made of its measurement alone.

Of a linear operator it is the smoothest picture that explains the measurement, without a network:

    argmin_x  |y - A x|^2 / sigma^2 + |grad x|^2 / SLOPE^2

It fills what is missing, enlarges what was reduced, and takes the noise out of what is smooth. A flow that were
estimated from the truth would hand the sampler what it has to find.
"""

from __future__ import annotations

import torch
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from ambient_solve.linalg.conjugate_gradient import conjugate_gradient

SLOPE = 0.05
"""Deviation of the difference of neighbors, where pixel values go from 0 to 1."""
ITERATIONS = 100
"""Steps of conjugate gradients, at most."""


def smooth_picture(y: Tensor, op: Physics, sigma: float, start: Tensor | None = None) -> Tensor | None:
    """The smoothest picture that explains a measurement.

    Args:
        y: (1, *measurement).
        op: The operator.
        sigma: Level of its noise, > 0.
        start: Where the solution begins, (1, C, H, W): that of the frame before.

    Returns:
        (1, C, H, W); None where the operator is not linear, or its images have no two axes of space.
    """
    if not isinstance(op, LinearPhysics):
        return None
    b = op.A_adjoint(y)
    if b.ndim != 4 or b.is_complex():
        return None
    ratio = (sigma / SLOPE) ** 2
    begin = start if start is not None and start.shape == b.shape else None
    return conjugate_gradient(lambda x: op.A_adjoint(op.A(x)) + ratio * _roughness(x), b, ITERATIONS, begin, 1e-3)


def _roughness(x: Tensor) -> Tensor:
    """`grad' grad x` with free edges."""
    found = torch.zeros_like(x)
    for axis in (-2, -1):
        steps = x.diff(dim=axis)
        found = found - torch.cat([steps, torch.zeros_like(x.narrow(axis, 0, 1))], axis)
        found = found + torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), steps], axis)
    return found
