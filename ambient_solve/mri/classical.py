"""Classical reconstructions of one slice: zero-filled, CG-SENSE, and two of sigpy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.mri.problem import Problem

POWER = 0.35
"""Deviation of each part of a normalised picture, what CG-SENSE supposes of it."""
WEIGHTS = {"l1-wavelet": 0.5, "tv": 1.0}
"""The lambda of sigpy's reconstructions, in units of the noise level."""


def zero_filled(p: Problem) -> Tensor:
    """`A^H y`, (1, 2, H, W)."""
    return p.op.A_adjoint(p.y)


def cg_sense(p: Problem, weight: float, iterations: int = 30) -> Tensor:
    """CG-SENSE (Pruessmann et al., 2001, MRM 46, 638): `(A^H A + weight I)^-1 A^H y`.

    This is the posterior mean under a white Gaussian prior.

    Args:
        p: The problem of one slice.
        weight: Regularisation, >= 0.
        iterations: Steps of conjugate gradients, 1 or more.

    Returns:
        Real and imaginary part, (1, 2, H, W).
    """
    return conjugate_gradient(lambda x: p.op.A_adjoint_A(x) + weight * x, p.op.A_adjoint(p.y), iterations)


def l1_wavelet(p: Problem, weight: float, iterations: int = 100) -> Tensor:
    """Wavelet-sparse reconstruction (Lustig et al., 2007, MRM 58, 1182), by sigpy's `L1WaveletRecon`.

    Args:
        p: The problem of one slice.
        weight: Weight of the l1 norm of the wavelet coefficients, >= 0.
        iterations: Steps, 1 or more.

    Returns:
        Real and imaginary part, (1, 2, H, W).
    """
    return _sigpy("L1WaveletRecon", p, weight, iterations)


def total_variation(p: Problem, weight: float, iterations: int = 100) -> Tensor:
    """Total-variation reconstruction (Block et al., 2007, MRM 57, 1086), by sigpy's `TotalVariationRecon`.

    Args:
        p: The problem of one slice.
        weight: Weight of the total variation, >= 0.
        iterations: Steps, 1 or more.

    Returns:
        Real and imaginary part, (1, 2, H, W).
    """
    return _sigpy("TotalVariationRecon", p, weight, iterations)


CLASSICAL: dict[str, Callable[..., Tensor]] = {
    "zero-filled": zero_filled,
    "cg-sense": cg_sense,
    "l1-wavelet": l1_wavelet,
    "tv": total_variation,
}
"""The classical methods by name."""


def default_weight(p: Problem, method: str) -> float:
    """The default regularisation weight of a classical method: a function of the noise level alone.

    Args:
        p: The problem of one slice.
        method: One of `CLASSICAL`, or "zero-filled", which has weight 0.

    Returns:
        The weight, >= 0.
    """
    return (p.sigma / POWER) ** 2 if method == "cg-sense" else WEIGHTS.get(method, 0.0) * p.sigma


def _sigpy(app: str, p: Problem, weight: float, iterations: int) -> Tensor:
    try:
        from sigpy.mri import app as apps
    except ImportError:
        raise AmbientSolveError("This method needs sigpy: pip install 'ambient-solve[mri]'.") from None
    y = torch.complex(p.y[0, 0], p.y[0, 1]).numpy()
    mask = p.mask.numpy().astype(y.dtype)
    made = getattr(apps, app)(y, p.maps.numpy(), weight, weights=mask, max_iter=iterations, show_pbar=False).run()
    return torch.view_as_real(torch.from_numpy(made)).permute(2, 0, 1)[None].float().contiguous()
