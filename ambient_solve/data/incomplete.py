"""Damage that leaves a part to be observed: pixels, lines of k-space, coefficients."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from ambient_solve.data.damage import COEFFICIENTS, K_SPACE, NOISE, PIXELS, Damage, seed_of
from ambient_solve.data.observation import coil_maps, observed, with_noise
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.transforms import derandomised, from_kspace, randomised, to_kspace


@dataclass(frozen=True, kw_only=True)
class MaskedPixels(Damage, abc.ABC):
    """Pixels are missing, in all channels: `z = m (z0 + sigma e)` (Daras et al., 2023, arXiv 2305.19256)."""

    hides: ClassVar[str] = PIXELS
    sigma: float = knob(*NOISE)

    @abc.abstractmethod
    def mask(self, size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """Draw the observed pixels of one picture.

        Args:
            size: (C, H, W).
            rng: Where all that is random comes from.

        Returns:
            (1, H, W), 1 = observed.
        """

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        mask = self.mask(tuple(sample.z.shape), rng).to(torch.uint8)
        return with_noise(replace(sample, z=observed(sample.z, mask), mask=mask), self.sigma, rng)


@final
@dataclass(frozen=True, kw_only=True)
class RandomMask(MaskedPixels):
    """Single pixels are missing, chosen at random."""

    name: ClassVar[str] = "random-mask"
    missing: float = knob(0.5, 0.01, 0.99, "share of the pixels that is missing")

    def mask(self, size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """See `MaskedPixels.mask`."""
        from ambient_solve.operators import inpaint_random

        return inpaint_random(size, self.missing, seed=seed_of(rng)).mask[0, :1]


@final
@dataclass(frozen=True, kw_only=True)
class BoxMask(MaskedPixels):
    """A rectangle is missing, anywhere in the picture."""

    name: ClassVar[str] = "box-mask"
    side: float = knob(0.5, 0.01, 0.99, "height and width of the rectangle, as a share of the picture's")

    def mask(self, size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """See `MaskedPixels.mask`."""
        return 1 - _box(size, self.side, rng)


@final
@dataclass(frozen=True, kw_only=True)
class PatchMask(MaskedPixels):
    """All is missing but a rectangle, anywhere in the picture."""

    name: ClassVar[str] = "patch-mask"
    side: float = knob(0.5, 0.01, 0.99, "height and width of the rectangle, as a share of the picture's")

    def mask(self, size: tuple[int, int, int], rng: np.random.Generator) -> Tensor:
        """See `MaskedPixels.mask`."""
        return _box(size, self.side, rng)


@final
@dataclass(frozen=True, kw_only=True)
class KSpaceLines(Damage):
    """Undersampled MRI: `y = m (F S z0 + sigma e)` for vertical lines m, stored as `z = A^H y` (arXiv 2403.08728).

    For complex pictures, real and imaginary part in 2 channels. `e` is complex, each part of unit deviation.
    """

    name: ClassVar[str] = "kspace"
    hides: ClassVar[str] = K_SPACE
    levels: ClassVar[tuple[str, ...]] = ()
    acceleration: int = knob(4, 2, 64, "R: one line of R is measured")
    center: int = knob(8, 0, 256, "how many of them lie in the middle, side by side; the others are random")
    sigma: float = knob(0.0, 0.0, 100.0, "noise level of each part of what is observed, in units of the picture")
    maps: str = knob("", help="safetensors file with the coil maps, `maps` (coils, H, W); empty for one coil")

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        from deepinv.physics.generator import RandomMaskGenerator

        sample, (height, width) = self.whole(sample, rng), sample.z.shape[-2:]
        if self.center >= width // self.acceleration:
            raise AmbientSolveError(
                f"One line of {self.acceleration} is {width // self.acceleration} of {width} lines, and center = "
                f"{self.center} leaves none of them to be random: lower center or acceleration."
            )
        # The generator takes the share of the middle and rounds down the number of lines that it makes of it.
        middle = (self.center + 0.5) / width
        lines = RandomMaskGenerator(
            (height, width), self.acceleration, middle, torch.Generator().manual_seed(seed_of(rng))
        )
        mask, maps = lines.step()["mask"][0], sample.maps[None]
        z = from_kspace(mask * to_kspace(sample.z[None], maps), maps)[0]
        return with_noise(replace(sample, z=z, mask=mask.to(torch.uint8)), self.sigma, rng)

    def whole(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.whole`."""
        channels, *size = sample.z.shape
        if channels != 2:
            raise AmbientSolveError(
                f"kspace is for complex pictures, real and imaginary part in 2 channels; {channels} were given."
            )
        maps = coil_maps(self.maps) if self.maps else torch.ones(1, *size, dtype=torch.complex64)
        if list(maps.shape[1:]) != size:
            raise AmbientSolveError(
                f"The coil maps of {self.maps} are {maps.shape[2]}x{maps.shape[1]}, the picture is {size[1]}x{size[0]}."
            )
        return replace(sample, mask=torch.ones(1, *size, dtype=torch.uint8), maps=maps)


@final
@dataclass(frozen=True, kw_only=True)
class CompressedSensing(Damage):
    """A share of randomised coefficients: `y = m (T z0 + sigma e)`, stored as `z = T^H y`; see `transforms.randomised`.

    Signs and coefficients are drawn anew for each picture.
    """

    name: ClassVar[str] = "compressed-sensing"
    hides: ClassVar[str] = COEFFICIENTS
    keep: float = knob(0.5, 0.01, 0.99, "share of the coefficients that is measured")
    sigma: float = knob(*NOISE)

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        sample, n = self.whole(sample, rng), sample.z.numel()
        chosen = rng.permutation(n) < min(max(round(self.keep * n), 1), n - 1)
        mask = torch.from_numpy(chosen.astype(np.uint8)).reshape(sample.z.shape)
        z = derandomised(mask * randomised(sample.z, sample.signs), sample.signs)
        return with_noise(replace(sample, z=z, mask=mask), self.sigma, rng)

    def whole(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.whole`."""
        signs = torch.from_numpy(2 * rng.integers(0, 2, tuple(sample.z.shape), dtype=np.int8) - 1)
        return replace(sample, mask=torch.ones_like(signs, dtype=torch.uint8), signs=signs)


def _box(size: tuple[int, int, int], side: float, rng: np.random.Generator) -> Tensor:
    """1 inside a rectangle somewhere in a picture of `size`, (1, H, W)."""
    from ambient_solve.operators import inpaint_box

    height, width = (min(max(round(side * n), 1), max(n - 1, 1)) for n in size[1:])
    top, left = (int(rng.integers(n - m + 1)) for n, m in zip(size[1:], (height, width), strict=True))
    return 1 - inpaint_box(size, (top, left, height, width)).mask[0, :1]
