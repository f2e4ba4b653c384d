"""`Batch` and `Objective`: what a training loss is given and what it returns."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ambient_solve.noise import Streams

Denoiser = Callable[..., Tensor]
"""`(z (B, *shape), sigma (B,), cond=None) -> E[z0 | z]`, shape of z; `cond` (B, mask_channels, H, W) comes with z."""


@dataclass
class Batch:
    """One training batch; everything is per sample.

    Attributes:
        z: What is stored, (B, *shape): the clean sample plus `sigma_noise` times a noise drawn once and for all.
        sigma: Noise level drawn for this training step, (B,).
        sigma_noise: Physical noise already in `z`, (B,); 0 is clean.
        sigma_min, sigma_max: The sample may be used at `sigma > sigma_min` or `sigma < sigma_max`, (B,).
        mask: What was observed, 1 or 0, broadcastable to `z`; None means everything. Unobserved entries of `z` are 0.
        signs: +-1, shape of `z`: the mask is one of coefficients, `transforms.randomised`.
        maps: Complex coil maps (B, coils, H, W): the mask is one of k-space, and `z` is `A^H` of what was measured.
    """

    z: Tensor
    sigma: Tensor
    sigma_noise: Tensor
    sigma_min: Tensor
    sigma_max: Tensor
    mask: Tensor | None = None
    signs: Tensor | None = None
    maps: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return Batch(**moved)


class Objective(abc.ABC):
    """A training loss whose minimiser is `E[z0 | z_sigma]`, or what of it the observations allow.

    Class attributes:
        mask_channels: How many channels of `cond` it shows the denoiser.
        below: Whether it learns levels at which no sample may be used.
        incomplete: Whether it knows what a mask hides; noisy: whether it knows of noise and annotations.
    """

    mask_channels: int = 0
    below: bool = False
    incomplete: ClassVar[bool] = False
    noisy: ClassVar[bool] = True

    @abc.abstractmethod
    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """Loss of each sample, (B,). The noise of row i comes from stream i alone."""

    def held_out(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """Loss against the whole of clean pictures `batch.z`, of which the denoiser sees what `batch.mask` lets it."""
        return self.loss(denoise, batch, streams)

    def of_data(self) -> Objective:
        """The part of it that single stored samples answer: what a noisy held-out sample can be judged by."""
        return self

    def keep_probability(self, observed: float) -> float | None:
        """Share of the pixels the denoiser is shown, of a share that is observed; None if it is unconditional."""
        return None


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """`lambda(sigma) = 1 / sigma^2 + 1 / sigma_data^2` (Karras et al., 2022, arXiv 2206.00364, table 1).

    It is the inverse of the posterior variance of a Gaussian of deviation `sigma_data`.
    """
    return 1 / sigma**2 + 1 / sigma_data**2
