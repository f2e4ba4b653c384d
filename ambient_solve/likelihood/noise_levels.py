"""The level and the gain of the noise of an operator, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from deepinv.physics import GaussianNoise, Physics, PoissonGaussianNoise, PoissonNoise, ZeroNoise
from deepinv.physics.noise import NoiseModel
from deepinv.utils import TensorList
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood.packed import Measurement, name_of, parts_of
from ambient_solve.noise import per_sample

COUNTING = (PoissonNoise, PoissonGaussianNoise)
"""Types of noise of photons, whose variance grows with the signal."""


class NoiseLevels(NamedTuple):
    """The noise of a measurement, in the operator's units.

    Attributes:
        sigma: Level of the Gaussian part, (1,) or (B,); of entries of different noise the root mean square.
        gain: Signal of one photon, (1,) or (B,); None for Gaussian noise.
        weights: `sigma` over the level of each entry, (1 or B, *measurement) as `pack` has it, 0 where the noise is
            infinite; None where all entries of an image have one level.
    """

    sigma: Tensor
    gain: Tensor | None = None
    weights: Tensor | None = None


Given = float | Tensor | Sequence[float | Tensor]
"""A level of Gaussian noise: one, one per image (B,), a map that broadcasts to y, or, of stacked operators, a list of
such."""


def noise_levels(op: Physics, sigma_y: Given | None, y: Measurement) -> NoiseLevels:
    """The noise of an operator, `y = gain Poisson(p / gain) + sigma n`, `p` what it measures without noise.

    Args:
        op: The operator, with its `noise_model`.
        sigma_y: Level of Gaussian noise in the operator's units, in place of that model.
        y: The measurement, of which the shape is read.

    Returns:
        The levels, and the weights of entries whose noise differs.

    Raises:
        AmbientSolveError: the noise is of another law, or a level is out of its range.
    """
    parts = parts_of(y)
    images = len(parts[0])
    if sigma_y is not None:
        if isinstance(sigma_y, TensorList):
            sigma_y = list(sigma_y.x)
        stacked: Any = sigma_y if isinstance(y, TensorList) else [sigma_y]
        return _gaussian(stacked, parts, images)
    models = [part.noise_model for part in getattr(op, "physics_list", None) or [op]]
    models = [op.noise_model] if isinstance(op.noise_model, (GaussianNoise, *COUNTING)) else models
    laws = [_parameters(model, op) for model in models]
    if all(isinstance(model, GaussianNoise) for model in models):
        return _gaussian([sigma for sigma, _ in laws] if len(laws) > 1 else laws[0][0], parts, images)
    if any(
        one.shape != other.shape or not torch.equal(one, other)
        for law in laws
        for one, other in zip(law, laws[0], strict=True)
    ):
        raise AmbientSolveError(
            "The stacked operators have different noise, and photons are counted in some. Pass a level of Gaussian "
            "noise for each, sigma_y=[0.01, 0.02, ...], or one for all."
        )
    sigma, gain = (value.flatten() for value in laws[0])
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
    return NoiseLevels(_level(sigma, images) if bool(sigma.any()) else sigma, gain)


def _gaussian(given: Given, parts: list[Tensor], images: int) -> NoiseLevels:
    """Gaussian noise of one level, or of one for each of `parts`; each of them may be a map."""
    if isinstance(given, (list, tuple)) and len(given) not in (1, len(parts)):
        raise AmbientSolveError(
            f"sigma_y holds {len(given)} levels for {len(parts)} stacked operators. Pass one for each, or one for all."
        )
    levels = [_entries(level, part, images) for level, part in zip(_repeated(given, len(parts)), parts, strict=True)]
    flat = [level for level in levels if level.ndim == 1]
    if len(flat) == len(levels):
        flat = torch.broadcast_tensors(*flat)
        if all(torch.equal(level, flat[0]) for level in flat):
            return NoiseLevels(flat[0])
    maps = [_map(level, part) for level, part in zip(levels, parts, strict=True)]
    rows = max(len(m) for m in maps)
    noise = maps[0] if len(maps) == 1 else torch.cat([m.expand(rows, *m.shape[1:]).flatten(1) for m in maps], 1)
    known = torch.isfinite(noise)
    mean = torch.where(known, noise, 0).square().flatten(1).sum(1) / known.flatten(1).sum(1)
    sigma = mean.sqrt()
    return NoiseLevels(sigma, weights=per_sample(sigma, noise) / noise)


def _repeated(given: Any, count: int) -> list[float | Tensor]:
    """A level for each of `count` parts."""
    if not isinstance(given, (list, tuple)):
        return [given] * count
    return list(given) * (count if len(given) == 1 else 1)


def _entries(given: float | Tensor, part: Tensor, images: int) -> Tensor:
    """A level of the noise of `part`, (1,) or (images,), or a map (1 or images, ...) that broadcasts to it."""
    if (
        not isinstance(given, Tensor)
        or given.ndim < 2
        or given.numel() == 1
        or given.shape.numel() == len(given) == images
    ):
        return _level(given, images)
    level = given.detach().to("cpu", torch.float32)
    try:
        fits = torch.broadcast_shapes(level.shape, part.shape) == part.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise AmbientSolveError(
            f"sigma_y has shape {tuple(level.shape)}, y {tuple(part.shape)}. Pass one level, one for each of {images} "
            "image(s), or a map that broadcasts to y."
        )
    # An entry of infinite noise is one that was not measured.
    if not bool((level > 0).all()) or not bool(torch.isfinite(level).any()):
        raise AmbientSolveError(
            f"The noise levels of a map run from {float(level.min())} to {float(level.max())}; they must be above "
            "0, or infinite where nothing was measured."
        )
    return level.reshape(*(1,) * (part.ndim - level.ndim), *level.shape)


def _map(level: Tensor, part: Tensor) -> Tensor:
    """The level of each entry of a part, (1 or B, *measurement) as `pack` has it."""
    level = per_sample(level, part) if level.ndim == 1 else level
    level = level.expand(len(level), *part.shape[1:])
    return level[..., None].expand(*level.shape, 2) if part.is_complex() else level


def _parameters(model: NoiseModel | None, op: Physics) -> tuple[Tensor, Tensor]:
    """`sigma` and `gain` of a noise model of deepinv, in float32; whichever it lacks is 0."""
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
    values = [getattr(model, name, zero).detach().float().cpu() for name in ("sigma", "gain")]
    return values[0], values[1]


def _level(sigma_y: float | Tensor, images: int) -> Tensor:
    """A Gaussian noise level, (1,) or (images,), checked."""
    try:
        sigma = torch.as_tensor(sigma_y, dtype=torch.float32).detach().flatten()
    except (TypeError, ValueError, RuntimeError):
        raise AmbientSolveError(f"sigma_y={sigma_y!r} is not a number; pass for instance sigma_y=0.02.") from None
    if len(sigma) not in (1, images):
        raise AmbientSolveError(
            f"{len(sigma)} noise levels were given for {images} image(s). Pass one, a tensor of shape ({images},), or "
            "a map that broadcasts to y."
        )
    if not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise AmbientSolveError(
            f"The noise level is {sigma.tolist()}, it must be finite and above 0. "
            "For measurements that are almost free of noise pass a small one, such as sigma_y=0.001."
        )
    return sigma
