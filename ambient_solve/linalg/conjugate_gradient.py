"""Conjugate gradients on a batch of independent systems: coefficients per row, a bounded number of steps, no sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ambient_solve.noise import per_sample

Matvec = Callable[[Tensor], Tensor]
"""`p -> M p`, rows independent; `M` symmetric and positive definite on each row."""

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
    x = _iterate(matvec, r, iterations, atol, precondition)
    return x if x0 is None else x0 + x


def _iterate(matvec: Matvec, b: Tensor, iterations: int, atol: Tensor | None, precondition: Matvec | None) -> Tensor:
    x, r = torch.zeros_like(b), b
    p, rr, rs = _residuals(r, precondition)
    converged = ROUNDING**2 * rr
    if atol is not None:
        converged = torch.maximum(converged, atol**2)
    can_sync = atol is not None and b.device.type == "cpu"
    for step in range(iterations):
        product = matvec(p)
        # A row at the rounding level of float32 is frozen: left running for hundreds of steps its coefficients become
        # quotients of denormal numbers, and it diverges.
        rs = torch.where(rr > converged, rs, 0)
        alpha = _ratio(rs, _dot(p, product))
        x = torch.addcmul(x, per_sample(alpha, p), p)
        if step + 1 < iterations:
            r = torch.addcmul(r, per_sample(alpha, r), product, value=-1)
            before = rs
            s, rr, rs = _residuals(r, precondition)
            if can_sync and bool((rr <= converged).all()):
                break
            p = torch.addcmul(s, per_sample(_ratio(rs, before), p), p)
    return x


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
