r"""Classical reconstructions without a prior, each a function `(y, op) -> x`: what a learned prior has to beat.

adjoint           A'y
pseudo-inverse    A^+ y, in closed form where deepinv has one, else by its least squares from zero
tv                argmin |y - A x|^2 / 2 + weight sum_i |(D x)_i|_2          (Rudin, Osher and Fatemi, 1992)
wavelet           argmin |y - A x|^2 / 2 + weight |W x|_1                    (Donoho and Johnstone, 1994)

D are forward differences, W the details of an orthonormal Haar transform. The first is minimised by the primal-dual
algorithm of Condat (2013, algorithm 3.1) and Vu, with |u_i| <= weight and 1 / t = |A|^2 / 2 + 8 s, since |D|^2 <= 8,

    x' = x - t (A'(A x - y) + D'u)        u <- project(u + s D(2 x' - x))        x <- x'

(proximal gradients would need an inner solve at each step, and with a cut short one creep into large holes), the second
by accelerated proximal gradients, x <- shrink(v - A'(A v - y) / |A|^2) (Beck and Teboulle, 2009). By default the weight
is half the noise level of the measurement; no weight suits every operator, so tune it before you compare.

`y` is (B, ...), the result (B, C, H, W). `op` is not changed: deepinv's methods set attributes, so a copy is used.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from deepinv.models import TVDenoiser
from deepinv.physics import LinearPhysics, Physics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError


def adjoint(y: Tensor, op: Physics) -> Tensor:
    """The adjoint of the operator applied to the measurement.

    Args:
        y: Measurement.
        op: The operator, linear.

    Returns:
        Pictures, (B, *shape).
    """
    return _linear(op, "adjoint").A_adjoint(y)


def pseudo_inverse(y: Tensor, op: Physics) -> Tensor:
    """The least-squares solution of least norm: the pseudo-inverse of the operator, applied to the measurement.

    Args:
        y: Measurement.
        op: The operator, linear.

    Returns:
        Pictures, (B, *shape).
    """
    return _linear(op, "pseudo-inverse").A_dagger(y)


def total_variation(y: Tensor, op: Physics, weight: float | None = None, iterations: int = 500) -> Tensor:
    """Reconstruction of least total variation: the minimiser of `variation_objective`.

    Args:
        y: Measurement.
        op: The operator, linear.
        weight: Weight of the total variation, >= 0; chosen from the noise level by default.
        iterations: Primal-dual steps, 1 or more.

    Returns:
        Pictures, (B, C, H, W).
    """
    op = _linear(op, "tv")
    weight, x = _weight(weight, op), op.A_adjoint(y)
    # A dual step of this length fills u in a few iterations wherever neighbours differ by a tenth or more.
    s = 10 * weight
    t = 1 / (_squared_norm(op, x) / 2 + 8 * s)
    u = x.new_zeros(*x.shape, 2)
    for _ in range(iterations):
        new = x - t * (op.A_adjoint(op.A(x) - y) + TVDenoiser.nabla_adjoint(u))
        u = u + s * TVDenoiser.nabla(2 * new - x)
        u = u * (weight / u.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1)
        x = new
    return x


def wavelet(y: Tensor, op: Physics, weight: float | None = None, levels: int = 3, iterations: int = 200) -> Tensor:
    """Wavelet-sparse reconstruction: the minimiser of `wavelet_objective`.

    Args:
        y: Measurement.
        op: The operator, linear.
        weight: Weight of the l1 norm, >= 0; chosen from the noise level by default.
        levels: Levels of the Haar transform, 1 or more.
        iterations: Accelerated proximal gradient steps, 1 or more.

    Returns:
        Pictures, (B, C, H, W).
    """
    op = _linear(op, "wavelet")
    weight, x = _weight(weight, op), op.A_adjoint(y)
    step, extrapolated, t = 1 / _squared_norm(op, x), x, 1.0
    for _ in range(iterations):
        gradient = op.A_adjoint(op.A(extrapolated) - y)
        new = _shrink(extrapolated - step * gradient, step * weight, levels)
        t_new = (1 + (1 + 4 * t**2) ** 0.5) / 2
        extrapolated = new + (t - 1) / t_new * (new - x)
        x, t = new, t_new
    return x


def variation_objective(x: Tensor, y: Tensor, op: Physics, weight: float) -> Tensor:
    """`|y - A x|^2 / 2 + weight sum_i |(D x)_i|_2` of each picture, (B,).

    Args:
        x: Pictures, (B, C, H, W).
        y: Measurement.
        op: The operator, linear.
        weight: Weight of the total variation, >= 0.

    Returns:
        (B,).
    """
    variation = TVDenoiser.nabla(x).norm(dim=-1).flatten(1).sum(1)
    return (copy.deepcopy(op).A(x) - y).square().flatten(1).sum(1) / 2 + weight * variation


def wavelet_objective(x: Tensor, y: Tensor, op: Physics, weight: float, levels: int = 3) -> Tensor:
    """`|y - A x|^2 / 2 + weight |W x|_1` of each picture, (B,).

    Args:
        x: Pictures, (B, C, H, W).
        y: Measurement.
        op: The operator, linear.
        weight: Weight of the l1 norm of the Haar details `W x`, >= 0.
        levels: Levels of the transform, 1 or more.

    Returns:
        (B,).
    """
    details = sum(d.abs().flatten(1).sum(1) for d in haar(x, levels)[1])
    return (copy.deepcopy(op).A(x) - y).square().flatten(1).sum(1) / 2 + weight * details


def haar(x: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """An orthonormal Haar transform. A last row or column without a partner stays in the approximation.

    Args:
        x: (B, C, H, W), of any size.
        levels: 1 or more.

    Returns:
        The approximation, and the details, three for each level, finest first.
    """
    details: list[Tensor] = []
    for _ in range(levels):
        low, high = _split(x, -1)
        x, vertical = _split(low, -2)
        details += [vertical, *_split(high, -2)]
    return x, details


def _shrink(x: Tensor, threshold: float, levels: int) -> Tensor:
    x, details = haar(x, levels)
    details = [d.sign() * (d.abs() - threshold).clamp_min(0) for d in details]
    while details:
        *details, vertical, low, high = details
        x = _join(_join(x, vertical, -2), _join(low, high, -2), -1)
    return x


def _split(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Sums and differences of neighbours along `axis`, each over the root of 2; a last odd entry is the last sum."""
    half = x.shape[axis] // 2
    pairs, rest = x.split([2 * half, x.shape[axis] - 2 * half], axis)
    first, second = pairs.unflatten(axis, (half, 2)).unbind(axis)
    return torch.cat([(first + second) / math.sqrt(2), rest], axis), (first - second) / math.sqrt(2)


def _join(low: Tensor, high: Tensor, axis: int) -> Tensor:
    """The inverse of `_split`."""
    half = high.shape[axis]
    sums, rest = low.split([half, low.shape[axis] - half], axis)
    pairs = torch.stack([sums + high, sums - high], axis) / math.sqrt(2)
    return torch.cat([pairs.flatten(axis - 1, axis), rest], axis)


def _squared_norm(op: LinearPhysics, like: Tensor) -> float:
    """`|A|^2`, the largest eigenvalue of A'A, by power iteration on one picture like `like`."""
    v = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    for _ in range(50):
        v = op.A_adjoint(op.A(v / v.norm()))
    return float(v.norm())


def _linear(op: Physics, name: str) -> LinearPhysics:
    """A copy of `op`, which must be linear."""
    if not isinstance(op, LinearPhysics):
        raise AmbientSolveError(f"{name} needs a linear operator, {type(op).__name__} is none: leave it out there.")
    return copy.deepcopy(op)


def _weight(weight: float | None, op: Physics) -> float:
    if weight is None:
        sigma = getattr(op.noise_model, "sigma", None)
        if sigma is None:
            raise AmbientSolveError(f"{type(op).__name__} has no noise level to set the weight by: pass weight=0.01.")
        weight = float(torch.as_tensor(sigma).max()) / 2
    if not weight >= 0:
        raise AmbientSolveError(f"weight={weight} was given, a number of at least 0 was expected.")
    return weight


Baseline = Callable[..., Tensor]
BASELINES: dict[str, Baseline] = {
    "adjoint": adjoint,
    "pseudo-inverse": pseudo_inverse,
    "tv": total_variation,
    "wavelet": wavelet,
}
"""By the name that the command line knows them by."""
