"""`Batch` and `Objective`: what a training loss is given and what it returns."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from ambient_solve.process import Additive, Process

Denoiser = Callable[..., Tensor]
"""`(z (B, *shape), sigma (B,), cond=None) -> E[z0 | z]`, shape of z; `cond` (B, mask_channels, H, W) comes with z."""


@dataclass
class Batch:
    """One training batch; everything is per sample.

    Attributes:
        z: What is stored, (B, *shape): the clean sample plus `sigma_noise` times a noise drawn once and for all.
        sigma: Noise level drawn for this training step, (B,).
        sigma_noise: Physical noise already in `z`, (B,); 0 is clean.
        sigma_min: The sample may be used at `sigma > sigma_min`, (B,); 0 is everywhere above its own noise.
        sigma_max: It may also be used at `sigma < sigma_max`, (B,).
        mask: What was observed, 1 or 0, broadcastable to `z`; None means everything. Unobserved entries of `z` are 0.
        signs: +-1, shape of `z`: the mask is one of coefficients, `transforms.randomised`.
        maps: Complex coil maps (B, coils, H, W): the mask is one of k-space, and `z` is `A^H` of what was measured.
        blur: Deviation in pixels of a Gaussian blur, its edges wrapped round, that was done to the clean sample before
            its noise, (B,); None means none.
        captions: What each sample shows, in words, B of them; None where that is not known.
    """

    z: Tensor
    sigma: Tensor
    sigma_noise: Tensor
    sigma_min: Tensor
    sigma_max: Tensor
    mask: Tensor | None = None
    signs: Tensor | None = None
    maps: Tensor | None = None
    blur: Tensor | None = None
    captions: tuple[str, ...] | None = None

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        tensors = {k: v for k, v in vars(self).items() if isinstance(v, Tensor)}
        moved = {k: v.to(device, non_blocking=True) for k, v in tensors.items()}
        return Batch(**moved, captions=self.captions)


class Objective(abc.ABC):
    """A training loss whose minimizer is `E[z0 | z_sigma]`, or what of it the observations allow.

    Class attributes:
        mask_channels: How many channels of `cond` it shows the denoiser.
        below: Whether it learns levels at which no sample may be used.
        incomplete: Whether it knows what a mask hides.
        noisy: Whether it knows of noise and annotations.
        worded: Whether its denoiser is conditioned on the captions of the samples.
    """

    mask_channels: int = 0
    below: bool = False
    incomplete: ClassVar[bool] = False
    noisy: ClassVar[bool] = True
    worded: ClassVar[bool] = False

    @abc.abstractmethod
    def loss(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """The loss of each sample; the noise of row i comes from stream i alone.

        Args:
            denoise: The network that is trained.
            batch: B samples, as stored, and the level drawn for each.
            streams: B streams of random numbers.

        Returns:
            (B,), differentiable in the parameters of the network.

        Raises:
            AmbientSolveError: the batch holds what this objective cannot learn from.
        """

    def held_out(self, denoise: Denoiser, batch: Batch, streams: Streams) -> Tensor:
        """The loss against whole, clean pictures, of which the denoiser sees what the mask lets through.

        Args:
            denoise: The network that is judged.
            batch: B clean pictures z; `mask` hides from the denoiser alone.
            streams: B streams of random numbers.

        Returns:
            (B,).
        """
        return self.loss(denoise, batch, streams)

    def of_process(self, process: Process) -> Objective:
        """The objective for a prior of a forward process.

        Args:
            process: The process.

        Returns:
            An objective whose level is that of the process.

        Raises:
            AmbientSolveError: it knows of additive noise alone, and the process is another.
        """
        if not isinstance(process, Additive):
            raise AmbientSolveError(
                f"{type(self).__name__} learns from additive noise, and the process of this prior is "
                f"{type(process).__name__}: set objective: {{kind: soft}}, or process: {{kind: additive}}."
            )
        return self

    def of_data(self) -> Objective:
        """The part of it that single stored samples answer: what a noisy held-out sample can be judged by."""
        return self

    def keep_probability(self, observed: float) -> float | None:
        """The share of the pixels that training shows a mask-conditioned denoiser.

        Args:
            observed: Share of the pixels that the data hold, in (0, 1].

        Returns:
            A share in (0, 1], what `AmbientPrior` draws masks by; None where the denoiser is unconditional.
        """
        return None


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """The weight of a level, `1 / sigma^2 + 1 / sigma_data^2` (Karras et al., 2022, arXiv 2206.00364, table 1).

    It is the inverse of the posterior variance of a Gaussian of standard deviation `sigma_data`.

    Args:
        sigma: Levels above 0, of any shape.
        sigma_data: Standard deviation of one entry of the data, above 0.

    Returns:
        The weights, shape of sigma.
    """
    return 1 / sigma**2 + 1 / sigma_data**2
