"""Conjugate gradients on a batch of independent systems: coefficients per row, a bounded number of steps, no sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_solve.noise import Level, per_sample

Matvec = Callable[[Tensor], Tensor]
"""`p -> M p`, rows independent; `M` symmetric and positive definite on each row."""

CarryingMatvec = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`p -> (M p, E p)`, `E` any linear map that is computed on the way to `M p`."""

ROUNDING = 1e-7
"""Relative residual at which a row stops: the rounding error of float32."""


@dataclass
class WarmStart:
    """The last solution of a sequence of similar solves, where the next one starts.

    Args:
        solution: (N, *shape), or None before the first solve, which then starts at zero.
    """

    solution: Tensor | None = None


def conjugate_gradient(
    matvec: Matvec,
    b: Tensor,
    iterations: int,
    x0: Tensor | None = None,
    rtol: float = 0.0,
    precondition: Matvec | None = None,
) -> Tensor:
    """Solve `M x = b` row by row by conjugate gradients (Hestenes and Stiefel, 1952).

    Args:
        matvec: `p -> M p`, symmetric and positive definite on each row.
        b: Right-hand sides, (N, *shape).
        iterations: Most products with `M`, 1 or more; `x0` costs one more.
        x0: Where to start, (N, *shape); zero by default.
        rtol: A row whose residual is at most `rtol |b|` stays where it is. On the CPU the products end when all have
            converged. 0 does every product.
        precondition: Nearly `M^-1`, symmetric and positive definite on each row.

    Returns:
        `x`, (N, *shape).
    """
    atol = rtol * _dot(b, b).sqrt() if rtol else None
    r = b if x0 is None else b - matvec(x0)
    x = _iterate(lambda p: (matvec(p), None), r, iterations, 0.0, atol, precondition)[0]
    return x if x0 is None else x0 + x


def carrying_conjugate_gradient(
    matvec: CarryingMatvec, b: Tensor, iterations: int, curvature_floor: Level = 0.0, atol: Level | None = None
) -> tuple[Tensor, Tensor]:
    """Solve `M x = b` from zero, and carry `E x` along.

    `x = sum_j alpha_j p_j`, so `E x = sum_j alpha_j E p_j` needs no product of its own. In moment matching (Rozet et
    al., 2024, arXiv 2405.13712) `M p = sigma^2 p + A C A'p` and `E p = C A'p`: one network call less.

    The Jacobian of a network is only nearly symmetric and positive: a curvature `p'Mp` below `curvature_floor * p'p` is
    its error and would throw the row far away.

    Args:
        matvec: `p -> (M p, E p)`.
        b: Right-hand sides, (N, *shape).
        iterations: Most products with `M`, 1 or more.
        curvature_floor: A known lower bound of the spectrum of `M`, a float or (N,); 0 knows none.
        atol: A row whose residual `|b - M x|` is at most this, a float or (N,), stays where it is, whatever the others
            do. When all rows have converged the products end, but only on the CPU: an accelerator would have to wait.

    Returns:
        `x` (N, *shape), and `E x`.
    """
    x, carried = _iterate(matvec, b, max(iterations, 1), curvature_floor, atol)
    return x, torch.zeros_like(b) if carried is None else carried


def _iterate(
    matvec: Callable,
    b: Tensor,
    iterations: int,
    curvature_floor: Level,
    atol: Level | None = None,
    precondition: Matvec | None = None,
) -> tuple[Tensor, Tensor | None]:
    x, r, carried = torch.zeros_like(b), b, None
    p, rr, rs = _residuals(r, precondition)
    converged = ROUNDING**2 * rr
    if atol is not None:
        converged = torch.maximum(converged, atol**2 * torch.ones_like(rr))
    can_sync = atol is not None and b.device.type == "cpu"
    bounded = isinstance(curvature_floor, Tensor) or curvature_floor > 0
    for step in range(iterations):
        product, extra = matvec(p)
        # A row at the rounding level of float32 is frozen: left running for hundreds of steps its coefficients become
        # quotients of denormal numbers, and it diverges.
        rs = torch.where(rr > converged, rs, 0)
        curvature = _dot(p, product)
        alpha = _ratio(rs, torch.maximum(curvature, curvature_floor * _dot(p, p)) if bounded else curvature)
        x = torch.addcmul(x, per_sample(alpha, p), p)
        if extra is not None:
            moved = per_sample(alpha, extra) * extra
            carried = moved if carried is None else carried + moved
        if step + 1 < iterations:
            r = torch.addcmul(r, per_sample(alpha, r), product, value=-1)
            before = rs
            s, rr, rs = _residuals(r, precondition)
            if can_sync and bool((rr <= converged).all()):
                break
            p = torch.addcmul(s, per_sample(_ratio(rs, before), p), p)
    return x, carried


def _residuals(r: Tensor, precondition: Matvec | None) -> tuple[Tensor, Tensor, Tensor]:
    """`s`, nearly `M^-1 r`, with `r'r` and `r's`."""
    rr = _dot(r, r)
    if precondition is None:
        return r, rr, rr
    s = precondition(r)
    return s, rr, _dot(r, s)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """`a / b`, and 0 where `b` is not positive: a converged row has 0 / 0 and must not move."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)
