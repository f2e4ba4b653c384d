"""The level and the gain of the noise of an operator, checked."""

from __future__ import annotations

import torch
from deepinv.physics import GaussianNoise, Physics, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from deepinv.physics.noise import NoiseModel
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood.packed import Measurement, name_of, parts_of

COUNTING = (PoissonNoise, PoissonGaussianNoise)
"""Types of noise of photons, whose variance grows with the signal."""


def noise_levels(op: Physics, sigma_y: float | Tensor | None, y: Measurement) -> tuple[Tensor, Tensor | None]:
    """The noise of an operator, `y = gain Poisson(p / gain) + sigma n`, `p` what it measures without noise.

    Args:
        op: The operator, with its `noise_model`.
        sigma_y: Level of Gaussian noise in the operator's units, a number or one per image, in place of that model.
        y: The measurement, whose length B is read.

    Returns:
        `sigma` and `gain` in the operator's units, each (1,) or (B,); the gain is None for Gaussian noise.

    Raises:
        AmbientSolveError: the noise is of another law, or a level is out of its range.
    """
    parts = parts_of(y)
    images = len(parts[0])
    if sigma_y is not None:
        return _level(sigma_y, images), None
    models = [part.noise_model for part in getattr(op, "physics_list", None) or [op]]
    models = [op.noise_model] if isinstance(op.noise_model, (GaussianNoise, *COUNTING)) else models
    laws = [_parameters(model, op) for model in models]
    if any(not torch.equal(one, other) for law in laws for one, other in zip(law, laws[0], strict=True)):
        raise AmbientSolveError("The stacked operators have different noise levels. Pass one for all: sigma_y=...")
    sigma, gain = laws[0]
    if isinstance(models[0], GaussianNoise):
        return _level(sigma, images), None
    for part in parts:
        if part.is_complex() or (not bool(sigma.any()) and bool((part < 0).any())):
            raise AmbientSolveError(
                f"y has complex or negative entries, {name_of(models[0])} counts photons. "
                "Pass sigma_y=... to treat the noise as Gaussian of that level."
            )
    if len(gain) not in (1, images) or not bool((torch.isfinite(gain) & (gain > 0)).all()):
        raise AmbientSolveError(
            f"The gain of {name_of(models[0])} is {gain.tolist()}; one number above 0 was expected, or one for each of "
            f"{images} image(s)."
        )
    return (_level(sigma, images) if bool(sigma.any()) else sigma), gain


def _parameters(model: NoiseModel | None, op: Physics) -> tuple[Tensor, Tensor]:
    """`sigma` and `gain` of a noise model of deepinv, flat in float32; whichever it lacks is 0."""
    if isinstance(model, ZeroNoise) or model is None:
        raise AmbientSolveError(f"{name_of(op)} has no noise level. Pass sigma_y=..., for instance sigma_y=0.02.")
    if not isinstance(model, (GaussianNoise, *COUNTING)):
        raise AmbientSolveError(
            f"{name_of(op)} has {name_of(model)}; Gaussian, Poisson and Poisson-Gaussian noise are known. "
            "Pass sigma_y=... to treat the noise as Gaussian of that level."
        )
    if isinstance(model, PoissonNoise) and not bool(model.normalize):
        raise AmbientSolveError(
            "PoissonNoise(normalize=False) returns counts; pass y * gain, with PoissonNoise(gain) in the operator."
        )
    zero = torch.zeros(1)
    values = [getattr(model, name, zero).detach().flatten().float().cpu() for name in ("sigma", "gain")]
    return values[0], values[1]


def _level(sigma_y: float | Tensor, images: int) -> Tensor:
    """A Gaussian noise level, (1,) or (images,), checked."""
    try:
        sigma = torch.as_tensor(sigma_y, dtype=torch.float32).detach().flatten()
    except (TypeError, ValueError, RuntimeError):
        raise AmbientSolveError(f"sigma_y={sigma_y!r} is not a number; pass for instance sigma_y=0.02.") from None
    if len(sigma) not in (1, images):
        raise AmbientSolveError(
            f"{len(sigma)} noise levels were given for {images} image(s). Pass one, or a tensor of shape ({images},)."
        )
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise AmbientSolveError(
            f"The noise level is {sigma.tolist()}, it must be finite and above 0. "
            "For measurements that are almost free of noise pass a small one, such as sigma_y=0.001."
        )
    return sigma
