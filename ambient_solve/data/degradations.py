"""Damage that makes a picture worse in a way that noise of some level drowns: blur, compression, reduction."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ambient_solve import process
from ambient_solve.data.damage import ABOVE, Damage, seed_of
from ambient_solve.data.sample import Sample
from ambient_solve.knobs import knob


@dataclass(frozen=True, kw_only=True)
class Degraded(Damage, abc.ABC):
    """Worse in a way that noise of level `sigma_min` drowns (Ambient Omni; Daras et al., 2025, arXiv 2506.10038)."""

    sigma_min: float = knob(*ABOVE)

    @abc.abstractmethod
    def degrade(self, z: Tensor, rng: np.random.Generator) -> Tensor:
        """Degrade one picture.

        Args:
            z: Clean, (C, H, W), in [-1, 1] units.
            rng: Where all that is random comes from.

        Returns:
            (C, H, W).
        """

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        return replace(sample, z=self.degrade(sample.z, rng), sigma_min=self.sigma_min)


@final
@dataclass(frozen=True, kw_only=True)
class GaussianBlur(Degraded):
    """Out of focus; the edge is reflected."""

    name: ClassVar[str] = "gaussian-blur"
    width: float = knob(0.8, 0.1, 100.0, "standard deviation of the blur in pixels")

    def degrade(self, z: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Degraded.degrade`."""
        from ambient_solve.operators import gaussian_blur

        return _blurred(z, gaussian_blur(tuple(z.shape), self.width, 0.0, "valid"))


@final
@dataclass(frozen=True, kw_only=True)
class PeriodicBlur(Degraded):
    """Out of focus, with edges that wrap round: a state of a soft process, which knows from which level on."""

    name: ClassVar[str] = "periodic-blur"
    width: float = knob(1.5, 0.1, 100.0, "standard deviation of the blur in pixels")

    def degrade(self, z: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Degraded.degrade`."""
        return process.GaussianBlur()(z[None], self.width)[0]

    def apply(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """See `Damage.apply`."""
        return replace(super().apply(sample, rng), blur=self.width)


@final
@dataclass(frozen=True, kw_only=True)
class MotionBlur(Degraded):
    """Camera shake, another path for each picture; the edge is reflected."""

    name: ClassVar[str] = "motion-blur"
    length: int = knob(7, 2, 200, "side of the square that the path stays in, in pixels")

    def degrade(self, z: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Degraded.degrade`."""
        from ambient_solve.operators import motion_blur

        return _blurred(z, motion_blur(tuple(z.shape), self.length, 0.0, seed_of(rng), "valid"))


@final
@dataclass(frozen=True, kw_only=True)
class JpegBlocks(Degraded):
    """JPEG compression."""

    name: ClassVar[str] = "jpeg"
    quality: int = knob(25, 1, 100, "JPEG quality, libjpeg's scale")

    def degrade(self, z: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Degraded.degrade`."""
        from ambient_solve.operators import jpeg

        return 2 * jpeg(tuple(z.shape), self.quality).A((z[None] + 1) / 2)[0] - 1


@final
@dataclass(frozen=True, kw_only=True)
class Downsampling(Degraded):
    """Made smaller and brought back to size, bicubically and with anti-aliasing. Any size will do."""

    name: ClassVar[str] = "downsampling"
    factor: int = knob(2, 2, 32, "how many times smaller")

    def degrade(self, z: Tensor, rng: np.random.Generator) -> Tensor:
        """See `Degraded.degrade`."""
        small = [max(round(n / self.factor), 1) for n in z.shape[-2:]]
        reduced = F.interpolate(z[None], size=small, mode="bicubic", antialias=True)
        return F.interpolate(reduced, size=z.shape[-2:], mode="bicubic", antialias=True)[0]


def _blurred(z: Tensor, op: Any) -> Tensor:
    """`z` through a blur that keeps only what its kernel covers wholly, its edge reflected before."""
    reach = op.filter.shape[-1] // 2
    return op.A(F.pad(z[None], 4 * (reach,), mode="reflect"))[0]
