"""The Gram matrix AA' of a linear operator, in a form in which any function of it costs about as much as AA' itself.

Every closed-form step of a sampler is `f(AA') u` for some scalar function `f`: `1 / (sigma^2 + q^2 t)` is the proximal
step through the Woodbury identity and the guidance of PiGDM, a cut-off `1 / t` that of DDNM. Which form fits is found
by measurement, not by the operator's class, so that a user's own operator gets its closed form too.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, final

import torch
from deepinv.physics import DecomposablePhysics, LinearPhysics
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
Scalar = Callable[[Tensor], Tensor]
"""`f` of the eigenvalues, elementwise. It receives a float32 tensor with as many axes as `u`, its first of length 1 or
N, so that per-sample constants of shape (N, 1, ..., 1) broadcast against it."""

TOLERANCE = 1e-5
"""Relative error on random vectors below which a form of AA' is taken to be right."""
LARGEST_DENSE = 256
"""Most entries of one measurement for which AA' is written as a matrix."""


class Gram(abc.ABC):
    """AA' for rows of one shape (*measurement); its tensors have a leading axis of 1, or one entry per row."""

    @abc.abstractmethod
    def function(self, f: Scalar, u: Tensor) -> Tensor:
        """`f(AA') u`: a function of the matrix, applied to vectors.

        Args:
            f: From a tensor of eigenvalues, 0 or more, to one of the same shape.
            u: Vectors (N, *measurement).

        Returns:
            (N, *measurement).
        """

    @abc.abstractmethod
    def repeat(self, n_samples: int) -> Gram:
        """The same for `n_samples` consecutive rows per image."""


@final
class DiagonalGram(Gram):
    """AA' = diag(d), `d` (1 or N, *measurement): masks, denoising, single-coil MRI, averages over disjoint boxes."""

    def __init__(self, d: Tensor) -> None:
        self.d = d

    def function(self, f: Scalar, u: Tensor) -> Tensor:
        """See `Gram.function`: `f(d) u`."""
        return f(self.d) * u

    def repeat(self, n_samples: int) -> DiagonalGram:
        """Every tensor repeated, or as it is where it is shared."""
        return DiagonalGram(_repeat(self.d, n_samples))


@final
class CirculantGram(Gram):
    """AA' diagonal in the Fourier basis of the last two axes: periodic blur, also when followed by decimation.

    `spectrum` (1 or N, ..., H, W // 2 + 1), real: the half-plane transform of AA' applied to a delta.
    """

    def __init__(self, spectrum: Tensor) -> None:
        self.spectrum = spectrum

    def function(self, f: Scalar, u: Tensor) -> Tensor:
        """See `Gram.function`: one pair of real FFTs."""
        return torch.fft.irfft2(f(self.spectrum) * torch.fft.rfft2(u), s=u.shape[-2:])

    def repeat(self, n_samples: int) -> CirculantGram:
        """Every tensor repeated, or as it is where it is shared."""
        return CirculantGram(_repeat(self.spectrum, n_samples))


@final
class DecomposableGram(Gram):
    """AA' = U diag(s^2) U', from the singular vectors of a `DecomposablePhysics`; `eigenvalues` (1 or N, *modes)."""

    def __init__(self, U: Operator, U_adjoint: Operator, eigenvalues: Tensor) -> None:
        self.U, self.U_adjoint, self.eigenvalues = U, U_adjoint, eigenvalues

    def function(self, f: Scalar, u: Tensor) -> Tensor:
        """See `Gram.function`: one product with U' and two with U."""
        modes = self.U_adjoint(u)
        inside = self._evaluate(f, self.eigenvalues, u)
        # What U does not reach is the null space of A', where every function is f(0).
        zero = f(u.new_zeros(1, *[1] * (u.ndim - 1)))
        return self.U(inside * modes) + zero * (u - self.U(modes))

    def repeat(self, n_samples: int) -> DecomposableGram:
        """Every tensor repeated, or as it is where it is shared."""
        return DecomposableGram(self.U, self.U_adjoint, _repeat(self.eigenvalues, n_samples))

    @staticmethod
    def _evaluate(f: Scalar, eigenvalues: Tensor, u: Tensor) -> Tensor:
        """`f` of the eigenvalues, which may have more axes than `u`: flattened on the way in, restored after."""
        flat = f(eigenvalues.reshape(len(eigenvalues), -1, *[1] * (u.ndim - 2)))
        return flat.reshape(-1, *eigenvalues.shape[1:])


@final
class DenseGram(Gram):
    """AA' = Q diag(t) Q' for a short measurement; `vectors` (1 or N, m, m), `eigenvalues` (1 or N, m)."""

    def __init__(self, vectors: Tensor, eigenvalues: Tensor) -> None:
        self.vectors, self.eigenvalues = vectors, eigenvalues

    def function(self, f: Scalar, u: Tensor) -> Tensor:
        """See `Gram.function`: two products with Q."""
        scale = f(self.eigenvalues.reshape(*self.eigenvalues.shape, *[1] * (u.ndim - 2))).flatten(1)
        modes = torch.einsum("nij,ni->nj", self.vectors.expand(len(u), -1, -1), u.flatten(1))
        return torch.einsum("nij,nj->ni", self.vectors.expand(len(u), -1, -1), scale * modes).reshape(u.shape)

    def repeat(self, n_samples: int) -> DenseGram:
        """Every tensor repeated, or as it is where it is shared."""
        return DenseGram(_repeat(self.vectors, n_samples), _repeat(self.eigenvalues, n_samples))


def find_gram(A: Operator, At: Operator, y_like: Tensor, op: Any = None, apply: Callable | None = None) -> Gram | None:
    """The cheapest form that reproduces AA' on random vectors to a relative error of 1e-5, or None.

    Args:
        A: The operator on rows of images; row `i` of `y_like` belongs to image `i`.
        At: Its adjoint.
        y_like: A real tensor of the measurement's shape (B, *measurement); its values are not used.
        op: The physics object; asked for its singular vectors where it is a `DecomposablePhysics`.
        apply: `apply(function, rows)` runs a function of `op` on any number of rows (parameters may belong to images).

    Returns:
        The form; None where no form reproduces the product.
    """
    generator = torch.Generator().manual_seed(0)
    probes = [torch.randn(y_like.shape, generator=generator).to(y_like) for _ in range(2)]
    images = [A(At(u)) for u in probes]

    def fits(gram: Gram) -> bool:
        return all(_close(gram.function(lambda t: t, u), v) for u, v in zip(probes, images, strict=True))

    diagonal = DiagonalGram(_one_if_equal(A(At(torch.ones_like(y_like))).clamp_min(0)))
    if fits(diagonal):
        return diagonal
    if y_like.ndim >= 3:
        delta = torch.zeros_like(y_like)
        delta[..., 0, 0] = 1
        circulant = CirculantGram(_one_if_equal(torch.fft.rfft2(A(At(delta))).real.clamp_min(0)))
        if fits(circulant):
            return circulant
    if isinstance(op, DecomposablePhysics):
        decomposable = _decomposable(op, apply or (lambda function, rows: function(rows)), y_like)
        # The root applied twice is AA' only where U'U is the identity, as a spectral function needs it.
        if fits(decomposable) and all(
            _close(decomposable.function(torch.sqrt, decomposable.function(torch.sqrt, u)), v)
            for u, v in zip(probes, images, strict=True)
        ):
            return decomposable
    if y_like[0].numel() <= LARGEST_DENSE:
        dense = _dense(A, At, y_like)
        if fits(dense):
            return dense
    return None


def find_normal(A: Operator, At: Operator, y_like: Tensor, op: LinearPhysics, apply: Callable) -> Operator:
    """A'A for an iterative solve: the operator's own shortcut, where it has one that gives the same.

    Args:
        A: The operator, as a function.
        At: Its adjoint.
        y_like: A tensor like a measurement, to compare both on.
        op: The operator, as deepinv has it.
        apply: Calls a method of `op` on pictures.

    Returns:
        A'A, as a function.
    """

    def plain(x: Tensor) -> Tensor:
        return At(A(x))

    def fast(x: Tensor) -> Tensor:
        return apply(op.A_adjoint_A, x).float()

    if type(op).A_adjoint_A is LinearPhysics.A_adjoint_A:
        return plain
    x = At(y_like + 1)
    return fast if bool((fast(x) - plain(x)).norm() <= TOLERANCE * plain(x).norm()) else plain


def _decomposable(op: DecomposablePhysics, apply: Callable, y_like: Tensor) -> DecomposableGram:
    modes = op.U_adjoint(y_like)
    squared = torch.as_tensor(op.mask, device=y_like.device).abs().float() ** 2
    leading = len(y_like) if squared.ndim == modes.ndim and len(squared) == len(y_like) else 1
    eigenvalues = squared.expand(leading, *modes.shape[1:])
    return DecomposableGram(lambda m: apply(op.U, m), lambda u: apply(op.U_adjoint, u), eigenvalues)


def _dense(A: Operator, At: Operator, y_like: Tensor) -> DenseGram:
    m = y_like[0].numel()
    columns = []
    for i in range(m):
        e = y_like.new_zeros(len(y_like), m)
        e[:, i] = 1
        columns.append(A(At(e.reshape(y_like.shape))).flatten(1))
    # Once per run and at most 256 x 256: float64 on the CPU costs nothing and keeps small eigenvalues.
    matrix = _one_if_equal(torch.stack(columns, 2)).cpu().double()
    eigenvalues, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return DenseGram(vectors.to(y_like), eigenvalues.clamp_min(0).to(y_like))


def _close(found: Tensor, wanted: Tensor) -> bool:
    """Relative error below the tolerance in every row."""
    error = (found - wanted).flatten(1).norm(dim=1)
    return bool((error <= TOLERANCE * wanted.flatten(1).norm(dim=1)).all())


def _one_if_equal(rows: Tensor) -> Tensor:
    """One row instead of B where all agree, so that a shared operator is stored once."""
    same = torch.allclose(rows, rows[:1].expand_as(rows), rtol=0, atol=1e-6 * float(rows.abs().max()))
    return rows[:1] if same else rows


def _repeat(rows: Tensor, n_samples: int) -> Tensor:
    return rows if len(rows) == 1 else rows.repeat_interleave(n_samples, 0)
