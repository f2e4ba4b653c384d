"""Conjugate gradients on a batch of independent systems: coefficients per row, no more steps than asked, no sync."""

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


@dataclass
class WarmStart:
    """What a sequence of similar solves remembers: the last solution, where the next one starts."""

    solution: Tensor | None = None


def conjugate_gradient(
    matvec: Matvec,
    b: Tensor,
    iterations: int,
    x0: Tensor | None = None,
    accuracy: float = 0.0,
    precondition: Matvec | None = None,
) -> Tensor:
    """Solve `M x = b` row by row (Hestenes and Stiefel, 1952) for `b` (N, *shape), starting at `x0` (zero by default).

    Without `x0` it costs `iterations` products, with it one more. A row whose residual is at most `accuracy |b|` stays
    where it is; on the CPU the products end when all have come so far. `precondition` is nearly `M^-1`, symmetric and
    positive definite on each row.
    """
    enough = accuracy * _dot(b, b).sqrt() if accuracy else None
    r = b if x0 is None else b - matvec(x0)
    x = _iterate(lambda p: (matvec(p), None), r, iterations, 0.0, enough, precondition)[0]
    return x if x0 is None else x0 + x


def carrying_conjugate_gradient(
    matvec: CarryingMatvec, b: Tensor, iterations: int, floor: Level = 0.0, enough: Level | None = None
) -> tuple[Tensor, Tensor]:
    """Solve `M x = b` from zero and return `(x, E x)` at a cost of `iterations` products, or fewer with `enough`.

    `x = sum_j alpha_j p_j`, so `E x = sum_j alpha_j E p_j` needs no product of its own. In moment matching (Rozet et
    al., 2024, arXiv 2405.13712) `M p = sigma^2 p + A C A'p` and `E p = C A'p`: one network call less.

    `floor` (float or (N,)) is a known lower bound of the spectrum of `M`. The Jacobian of a network is only nearly
    symmetric and positive; a curvature `p'Mp` below `floor * p'p` is its error and would throw the row far away.

    A row whose residual `|b - M x|` is at most `enough` (float or (N,)) stays where it is, whatever the others do. When
    all rows have come so far the products end, but only on the CPU: looking would make an accelerator wait.
    """
    return _iterate(matvec, b, max(iterations, 1), floor, enough)


def _iterate(
    matvec: Callable,
    b: Tensor,
    iterations: int,
    floor: Level,
    enough: Level | None = None,
    precondition: Matvec | None = None,
) -> tuple[Tensor, Tensor | None]:
    x, r, carried = torch.zeros_like(b), b, None
    p, rr, rs = _residuals(r, precondition)
    converged = ROUNDING**2 * rr
    if enough is not None:
        converged = torch.maximum(converged, enough**2 * torch.ones_like(rr))
    looks = enough is not None and b.device.type == "cpu"
    bounded = isinstance(floor, Tensor) or floor > 0
    for step in range(iterations):
        product, extra = matvec(p)
        # A row at the rounding level of float32 is frozen: left running for hundreds of steps its coefficients become
        # quotients of denormal numbers, and it diverges.
        rs = torch.where(rr > converged, rs, 0)
        curvature = _dot(p, product)
        alpha = _ratio(rs, torch.maximum(curvature, floor * _dot(p, p)) if bounded else curvature)
        x = torch.addcmul(x, per_sample(alpha, p), p)
        if extra is not None:
            moved = per_sample(alpha, extra) * extra
            carried = moved if carried is None else carried + moved
        if step + 1 < iterations:
            r = torch.addcmul(r, per_sample(alpha, r), product, value=-1)
            before = rs
            s, rr, rs = _residuals(r, precondition)
            if looks and bool((rr <= converged).all()):
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
