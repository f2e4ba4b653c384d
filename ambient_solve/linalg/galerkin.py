r"""Systems whose matrix is meant to be symmetric and is not quite: Galerkin's solution in a Krylov space.

With `P = (p_1, ..., p_k)` an orthonormal basis of the space that `b, M b, ..., M^(k-1) b` span, and `H = P'MP`,

    x = P c,    H c = P'b

is what conjugate gradients find after `k` steps where `M` is symmetric and positive. The covariance `sigma^2 J` of
moment matching is that for an exact prior, not for a network, whose Jacobian `J` is only nearly symmetric: conjugate
gradients, which take the symmetry for granted, then lose their way after a few steps. Here

    H = S + K,    c = Q max(e, |K|)^-1 Q' P'b,    S = Q diag(e) Q' symmetric, K antisymmetric

What is not symmetric in `H` is an error of `M`, and as large an error must be expected of `S`: no curvature below
the spectral norm `|K|` is believed. For a symmetric `M`, `K` is zero and nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ambient_solve.linalg.conjugate_gradient import ROUNDING
from ambient_solve.noise import Level, per_sample

CarryingMatvec = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`p -> (M p, E p)`, rows independent; `E` is any linear map that is computed on the way to `M p`."""


def galerkin(
    matvec: CarryingMatvec, b: Tensor, iterations: int, floor: Level = 0.0, atol: Level | None = None
) -> tuple[Tensor, Tensor]:
    """Solve `M x = b` row by row in the Krylov space of `b`, and carry `E x` along.

    `x` is a combination of the vectors that were multiplied, so `E x` needs no product of its own. In moment matching
    (Rozet et al., 2024, arXiv 2405.13712) `M p = sigma^2 p + A C A'p` and `E p = C A'p`: one network call less.

    Args:
        matvec: `p -> (M p, E p)`; `M` nearly symmetric and positive on each row.
        b: Right-hand sides, (N, *shape).
        iterations: Products with `M`, 1 or more; as many vectors of each kind are kept.
        floor: A known lower bound of the spectrum of `M`, a float or (N,); 0 knows none.
        atol: A row whose residual `|b - M x|` is at most this, a float or (N,), stays where it is, whatever the others
            do. When all rows have converged the products end, but only on the CPU: an accelerator would have to wait.

    Returns:
        `x` (N, *shape), and `E x`.
    """
    length = _dot(b, b).sqrt()
    basis: list[Tensor] = []
    products: list[Tensor] = []
    carried: list[Tensor] = []
    coefficients, done = b.new_zeros(len(b), 0), length <= 0 if atol is None else length <= atol
    p, iterations = _unit(b, length), max(iterations, 1)
    for step in range(iterations):
        product, extra = matvec(p)
        for kept, new in ((basis, p), (products, product), (carried, extra)):
            kept.append(new)
        if atol is not None or step + 1 == iterations:
            found = _coefficients(basis, products, b, floor)
            grown = torch.nn.functional.pad(coefficients, (0, found.shape[1] - coefficients.shape[1]))
            coefficients = torch.where(done[:, None], grown, found)
            residual = b - _combine(coefficients, products)
            done = done | (_dot(residual, residual).sqrt() <= (0 if atol is None else atol))
            if atol is not None and b.device.type == "cpu" and bool(done.all()):
                break
        if step + 1 < iterations:
            p = _orthogonal(product, basis)
    return _combine(coefficients, basis), _combine(coefficients, carried)


def _coefficients(basis: list[Tensor], products: list[Tensor], b: Tensor, floor: Level) -> Tensor:
    """`c`, (N, k)."""
    h = torch.stack([torch.stack([_dot(p, product) for product in products], 1) for p in basis], 1).double()
    finite = h.isfinite().all(-1).all(-1)  # a denoiser that gives NaN is named by the run; linalg would only raise
    h = torch.where(finite[:, None, None], h, 0)
    symmetric, error = (h + h.mT) / 2, (h - h.mT) / 2
    least = torch.linalg.matrix_norm(error, 2).clamp_min(0)
    least = torch.maximum(least, torch.as_tensor(floor, dtype=least.dtype, device=least.device))
    e, q = torch.linalg.eigh(symmetric)
    e = torch.maximum(e, least[:, None])
    seen = torch.einsum("nij,ni->nj", q, torch.stack([_dot(p, b) for p in basis], 1).double())
    found = torch.einsum("nij,nj->ni", q, torch.where(e > 0, seen / torch.where(e > 0, e, 1), 0)).to(b.dtype)
    return torch.where(finite[:, None], found, torch.nan)


def _orthogonal(v: Tensor, basis: list[Tensor]) -> Tensor:
    """`v` without its share in `basis`, of length 1; 0 where nothing is left, and the space exhausted."""
    whole = _dot(v, v).sqrt()
    for _ in range(2):  # Once leaves an error of rounding that the second time removes (Kahan, Parlett).
        for p in basis:
            v = torch.addcmul(v, per_sample(_dot(p, v), v), p, value=-1)
    left = _dot(v, v).sqrt()
    return _unit(v, torch.where(left > ROUNDING * whole, left, 0))


def _unit(v: Tensor, length: Tensor) -> Tensor:
    """`v / length`, and 0 where `length` is."""
    return per_sample(torch.where(length > 0, 1 / torch.where(length > 0, length, 1), 0), v) * v


def _combine(coefficients: Tensor, vectors: list[Tensor]) -> Tensor:
    total = torch.zeros_like(vectors[0])
    for c, v in zip(coefficients.unbind(1), vectors, strict=True):
        total = torch.addcmul(total, per_sample(c, v), v)
    return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)
