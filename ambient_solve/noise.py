r"""Noise levels, the reverse kernel and the random streams.

One convention everywhere (EDM, variance exploding): `z_sigma = z0 + sigma * n`, `n ~ N(0, I)`. A grid of levels is a
plain list of floats, decreasing, its last entry exactly 0, computed once per run so that a sampling step never waits
for a device.

The step from level `sigma` to `sigma_next`, given an estimate `z0` of the clean image, is the reverse kernel

    K_eta:  z <- z0 + sqrt(sigma_next^2 - b^2) (z - z0) / sigma + b n
            b = eta sigma_next sqrt(1 - sigma_next^2 / sigma^2)

`eta = 1` is the ancestral step of DDPM (Ho et al., 2020, arXiv 2006.11239), `eta = 0` the DDIM step (Song et al., 2021,
arXiv 2010.02502, equation 12), which is one Euler step of the probability-flow ODE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Level = float | Tensor
"""A noise level: a float for the whole batch, or a tensor of shape `(B,)` with one level per sample."""


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """The noise levels of EDM (Karras et al., 2022, arXiv 2206.00364, equation 5).

    Args:
        steps: Levels above 0, 1 or more.
        sigma_min: The last of them, in `z` units, > 0.
        sigma_max: The first.
        rho: Curvature of the grid, > 0: larger puts more levels at low noise; 7 is that of the paper.

    Returns:
        `steps + 1` floats, decreasing, the last one 0.
    """
    lo, hi = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(hi + i / max(steps - 1, 1) * (lo - hi)) ** rho for i in range(steps)] + [0.0]


def log_linear(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Geometrically spaced noise levels.

    Args:
        steps: Levels above 0, 1 or more.
        sigma_min: The last of them, in `z` units, > 0.
        sigma_max: The first.

    Returns:
        `steps + 1` floats, decreasing, the last one 0.
    """
    return [sigma_max * (sigma_min / sigma_max) ** (i / max(steps - 1, 1)) for i in range(steps)] + [0.0]


def sigma_from_alpha_bar(alpha_bar: Level) -> Level:
    """The noise level of a DDPM state `sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) n`, divided by `sqrt(alpha_bar)`.

    Args:
        alpha_bar: Cumulative signal power of DDPM, in (0, 1]: a float, or a tensor (B,).

    Returns:
        `sqrt((1 - alpha_bar) / alpha_bar)`, in `z` units.
    """
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def alpha_bar_from_sigma(sigma: Level) -> Level:
    """The DDPM `alpha_bar` of a noise level; the DDPM state is `z / sqrt(1 + sigma^2)`.

    Args:
        sigma: Noise level in `z` units, >= 0: a float, or a tensor (B,).

    Returns:
        `1 / (1 + sigma^2)`, in (0, 1].
    """
    return 1 / (1 + sigma**2)


def sigma_from_flow_time(u: Level) -> Level:
    """The noise level of a flow-matching state `u z0 + (1 - u) n`, divided by `u`.

    Args:
        u: Flow time, in (0, 1], 1 is clean: a float, or a tensor (B,).

    Returns:
        `(1 - u) / u`, in `z` units.
    """
    return (1 - u) / u


def flow_time_from_sigma(sigma: Level) -> Level:
    """The flow time of a noise level; the flow state is `z / (1 + sigma)`.

    Args:
        sigma: Noise level in `z` units, >= 0: a float, or a tensor (B,).

    Returns:
        `1 / (1 + sigma)`, in (0, 1], 1 is clean.
    """
    return 1 / (1 + sigma)


def per_sample(value: Level, like: Tensor) -> Level:
    """A level, shaped to multiply a batch.

    Args:
        value: A float, or a tensor (B,).
        like: The batch, (B, *shape).

    Returns:
        The float as it is; the tensor as (B, 1, ..., 1).
    """
    if isinstance(value, Tensor) and value.ndim:
        return value.reshape(-1, *[1] * (like.ndim - 1))
    return value


def ancestral_noise(sigma: float, sigma_next: float, eta: float) -> float:
    """The deviation `b` of the fresh noise of an ancestral step: of the reverse kernel `K_eta`.

    Args:
        sigma: Level before the step, in `z` units, > 0.
        sigma_next: Level after it, 0 to `sigma`.
        eta: Share of the ancestral noise, 0 to 1: 1 is DDPM, 0 is DDIM.

    Returns:
        `eta sigma_next sqrt(1 - (sigma_next / sigma)^2)`, in `z` units.
    """
    return eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2))


def reverse(z: Tensor, z0: Tensor, sigma: float, sigma_next: float, fresh: float, streams: Streams) -> Tensor:
    """Take a reverse step from `sigma` to `sigma_next`, towards the estimate `z0`.

    Args:
        z: State at level `sigma`, (B, *shape).
        z0: Estimate of the clean state, the same shape.
        sigma: Level before the step, in `z` units, > 0.
        sigma_next: Level after it, 0 to `sigma`.
        fresh: Deviation of the fresh noise, 0 to `sigma_next`: `ancestral_noise(sigma, sigma_next, eta)` gives `K_eta`.
        streams: Where the noise comes from; none is drawn where `fresh` is 0.

    Returns:
        State at level `sigma_next`, (B, *shape).
    """
    kept = math.sqrt(max(0.0, sigma_next**2 - fresh**2)) / sigma
    z = z0.lerp(z, kept)
    return z.add_(streams.normal(z), alpha=fresh) if fresh > 0 else z


class Streams:
    """One random stream per sample, so that a sample never depends on the batch it ran in, nor on the machine.

    Sample `s` of image `b` draws from the stream of `(seeds[b], s)` alone. With one integer seed all images share it:
    an image solved alone and the same image solved in a batch give the same samples. Pass one seed per image to make
    the noise of different images independent.

    The bits are those of Philox 4x64, a counter-based generator (Salmon et al., 2011, SC11), drawn by NumPy; what makes
    normal numbers of them runs on the device. A seed gives the same noise on every CPU and GPU, up to rounding.

    Args:
        seeds: One seed, a whole number of 0 or more, for each image.
        n_samples: Samples of each image.
        device: Where the noise is made.
        first_sample: Number of the first sample: streams `first_sample` to `first_sample + n_samples - 1` are opened.
    """

    def __init__(
        self, seeds: Sequence[int], n_samples: int, device: torch.device | str = "cpu", first_sample: int = 0
    ) -> None:
        self.device = torch.device(device)
        samples = range(first_sample, first_sample + n_samples)
        self._samples = [_philox(1 + s, seed) for seed in seeds for s in samples]
        self._images = [_philox(0, seed) for seed in seeds]

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape, dtype and device of `like` (B * S, ...), row i from stream i.

        Two uniform numbers make two normal ones (Box and Muller, 1958). The first has 31 bits: 6.7 is the largest draw.
        """
        pairs = -(-like[0].numel() // 2)
        words = self._words(like, 2 * pairs)
        real = torch.promote_types(like.dtype, torch.float32)
        radius = (-2 * (((words[:, :pairs] & 0x7FFFFFFF).to(real) + 0.5) * 2.0**-31).log()).sqrt_()
        angle = _unit(words[:, pairs:]).to(real) * (2 * math.pi)
        both = torch.cat([radius * angle.cos(), radius * angle.sin()], 1)
        return both[:, : like[0].numel()].reshape(like.shape).to(like.device, like.dtype, non_blocking=True)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), multiples of 2^-24; otherwise as `normal`.

        Args:
            like: Gives the shape (B * S, ...), the dtype and the device.

        Returns:
            Numbers of the shape of `like`, row i from stream i.
        """
        return _unit(self._words(like, like[0].numel())).reshape(like.shape).to(like.device, like.dtype)

    def uniform_per_image(self) -> Tensor:
        """One uniform number in [0, 1) per image, shape (B,): what resampling among the samples of an image needs."""
        return _unit(self._bits(self._images, 1))[:, 0]

    def _words(self, like: Tensor, count: int) -> Tensor:
        if len(like) != len(self._samples):
            raise ValueError(f"noise for {len(like)} rows was asked of {len(self._samples)} streams")
        return self._bits(self._samples, count)

    def _bits(self, streams: Sequence[np.random.Philox], count: int) -> Tensor:
        """The next `count` words of 32 bits of each stream, (streams, count) int32 on the device."""
        raw = np.stack([stream.random_raw(-(-count // 2)) for stream in streams])
        words = torch.from_numpy(raw.astype("<u8", copy=False).view("<i4"))[:, :count]
        if self.device.type == "cuda":  # from pinned memory, so that the copy does not wait for the device
            words = words.pin_memory()
        return words.to(self.device, non_blocking=True)


def _philox(sample: int, seed: int) -> np.random.Philox:
    # The seed comes last: NumPy pads with zeros, and a seed of several words could pass for a seed and a sample.
    return np.random.Philox(key=np.random.SeedSequence((sample, seed)).generate_state(2, np.uint64))


def _unit(words: Tensor) -> Tensor:
    """Words of 32 bits as float32 numbers in [0, 1): their upper 24 bits, which a float32 holds exactly."""
    return ((words >> 8) & 0xFFFFFF).float() * 2.0**-24
