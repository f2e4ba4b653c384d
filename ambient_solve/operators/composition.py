"""`compose`: damages that happened one after another, as one operator."""

from __future__ import annotations

import math

import torch
from deepinv.physics import GaussianNoise, LinearPhysics, Physics
from deepinv.physics.forward import ComposedLinearPhysics, ComposedPhysics
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, first_line


def compose(*operators: Physics, sigma: float | None = None) -> Physics:
    """Operators that act one after another, the first on the picture: `y = A_k(... A_2(A_1 x)) + noise`.

    Linear ones are a linear operator, whose adjoint is that of their matrices. One that is not linear, such as `jpeg`,
    makes the whole non-linear. A picture that was reduced, blurred, rounded to JPEG and scratched is

        compose(super_resolution(size), gaussian_blur(small), jpeg(small), inpaint(mask), sigma=0.02)

    Noise is added once, at the end. That of all operators but the last is left out.

    Args:
        operators: One or more, in the order in which they happened. Each takes what the one before it measures.
        sigma: Standard deviation of the Gaussian noise, >= 0, for images in [0, 1]; by default the noise is that of the
            last operator.

    Returns:
        The operator. The operators themselves are not changed.

    Raises:
        AmbientSolveError: one of them is no operator, or does not take what the one before it measures.
    """
    _check(operators, sigma)
    linear = all(isinstance(op, LinearPhysics) for op in operators)
    made: Physics = (ComposedLinearPhysics if linear else ComposedPhysics)(*operators)
    if sigma is not None:
        made.noise_model = GaussianNoise(float(sigma))
    size = getattr(operators[0], "img_size", None)
    if size is not None:
        made.img_size = tuple(size)
        _try(operators, torch.zeros(1, *made.img_size))
    # What JPEG rounds is no noise: a good sample's misfit need not be 1 (see `Jpeg`).
    made.nominal_noise = any(getattr(op, "nominal_noise", False) for op in operators)
    return made


def _check(operators: tuple[Physics, ...], sigma: float | None) -> None:
    if not operators:
        raise AmbientSolveError("compose was given no operator; one or more were expected, such as denoise(img_size).")
    for op in operators:
        if not isinstance(op, Physics):
            raise AmbientSolveError(
                f"compose was given a {type(op).__name__}, deepinv physics were expected, in the order in which they "
                "happened; ambient_solve.operators builds common ones."
            )
    number = isinstance(sigma, (int, float)) and not isinstance(sigma, bool)
    if sigma is not None and not (number and sigma >= 0 and math.isfinite(sigma)):
        raise AmbientSolveError(
            f"sigma={sigma!r} was given, a noise level of at least 0 (images in [0, 1]) was expected."
        )


def _try(operators: tuple[Physics, ...], x: Tensor) -> None:
    """Hand a picture on from one operator to the next, and say where it does not fit."""
    for number, op in enumerate(operators, 1):
        name, given = type(op).__name__, tuple(x.shape[1:])
        size = getattr(op, "img_size", None)
        try:
            problem = None if size is None or tuple(size) == given else f"it was built for {tuple(size)}"
            x = x if problem else op.A(x)
        except AmbientSolveError:
            raise
        except Exception as error:  # noqa: BLE001 - deepinv and torch raise half a dozen types for a shape
            problem = first_line(error, 160)
        if problem:
            raise AmbientSolveError(
                f"Operator {number} of {len(operators)}, {name}, does not take what the one before it measures, of "
                f"shape {given}: {problem}. Build each for the size that the one before it leaves."
            ) from None
