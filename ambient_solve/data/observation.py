"""What of a picture was observed: masks, coil maps, and the noise of a measurement as it reaches the stored picture."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.transforms import derandomised, from_kspace


def observed(z: Tensor, mask: Tensor) -> Tensor:
    """`z` where `mask` is 1, else 0: a product would leave the sign of what is hidden, as -0.

    Args:
        z: Values, of any shape.
        mask: Of a shape that broadcasts to it; 1 is observed.

    Returns:
        The shape of `z`.
    """
    return torch.where(mask.bool(), z, 0.0)


def with_noise(sample: Sample, sigma: float, rng: np.random.Generator) -> Sample:
    """A sample measured with noise: `A^H m e` is added, e white where it is measured.

    Args:
        sample: Without noise.
        sigma: Level of the noise, in units of z; 0 returns the sample.
        rng: Where the noise comes from.

    Returns:
        The sample with the noise in `z` and its level in `sigma_noise`.
    """
    if sigma == 0:
        return sample
    shape, mask = tuple(sample.z.shape), sample.mask
    if sample.maps is not None:
        real, imaginary = (_normal(rng, tuple(sample.maps.shape)) for _ in range(2))
        e = from_kspace((mask * torch.complex(real, imaginary))[None], sample.maps[None])[0]
    elif sample.signs is not None:
        e = derandomised(mask * _normal(rng, shape), sample.signs)
    else:
        e = _normal(rng, shape) if mask is None else observed(_normal(rng, shape), mask)
    return replace(sample, z=sample.z + sigma * e, sigma_noise=sigma)


def checked_mask(mask: Any, z: Tensor, what: str) -> Tensor:
    """The mask of a sample, once it is known to fit.

    Args:
        mask: 1 = observed, (H, W), (1, H, W) or (C, H, W).
        z: The picture (C, H, W).
        what: What an error calls the mask.

    Returns:
        uint8 (1, H, W) or (C, H, W).

    Raises:
        AmbientSolveError: another size, another value than 0 and 1, or nothing observed.
    """
    mask = torch.as_tensor(mask)
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or len(mask) not in (1, len(z)) or mask.shape[1:] != z.shape[1:]:
        raise AmbientSolveError(f"{what} has shape {tuple(mask.shape)}, its picture {tuple(z.shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise AmbientSolveError(f"{what} has values besides 0 (missing) and 1 (observed).")
    if not bool(mask.any()):
        raise AmbientSolveError(f"{what} observes nothing; 1 = observed in tensors, black = observed in pictures.")
    return mask.to(torch.uint8)


@functools.lru_cache(maxsize=4)
def coil_maps(path: str) -> Tensor:
    """The coil maps of a safetensors file, complex64 (coils, H, W), scaled to `sum |S|^2 = 1` wherever there is any."""
    try:
        maps = load_file(path)["maps"]
    except (OSError, SafetensorError, KeyError) as error:
        raise AmbientSolveError(
            f"{path} is no safetensors file with `maps` ({type(error).__name__}: {error})."
        ) from None
    if maps.ndim != 3 or not maps.is_complex():
        raise AmbientSolveError(
            f"The maps of {path} are {maps.dtype} {tuple(maps.shape)}; complex (coils, H, W) expected."
        )
    return (maps / maps.abs().square().sum(0).sqrt().clamp_min(1e-12)).to(torch.complex64)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
