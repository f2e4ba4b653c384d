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
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

Level = float | Tensor
"""A noise level: a float for the whole batch, or a tensor of shape `(B,)` with one level per sample."""


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """`steps` levels from `sigma_max` to `sigma_min`, then 0 (Karras et al., 2022, arXiv 2206.00364, equation 5)."""
    lo, hi = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(hi + i / max(steps - 1, 1) * (lo - hi)) ** rho for i in range(steps)] + [0.0]


def log_linear(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """`steps` geometrically spaced levels from `sigma_max` down to `sigma_min`, then 0."""
    return [sigma_max * (sigma_min / sigma_max) ** (i / max(steps - 1, 1)) for i in range(steps)] + [0.0]


def sigma_from_alpha_bar(alpha_bar: Level) -> Level:
    """The level of a DDPM state `sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) n` once divided by `sqrt(alpha_bar)`."""
    return ((1 - alpha_bar) / alpha_bar) ** 0.5


def alpha_bar_from_sigma(sigma: Level) -> Level:
    """The DDPM `alpha_bar` of level `sigma`; the DDPM state is `z / sqrt(1 + sigma^2)`."""
    return 1 / (1 + sigma**2)


def sigma_from_flow_time(u: Level) -> Level:
    """The level of a flow-matching state `u z0 + (1 - u) n` once it is divided by `u` (`u = 1` is clean)."""
    return (1 - u) / u


def flow_time_from_sigma(sigma: Level) -> Level:
    """The flow time of level `sigma`; the flow state is `z / (1 + sigma)`."""
    return 1 / (1 + sigma)


def per_sample(value: Level, like: Tensor) -> Level:
    """`value` shaped to multiply `like`: a float stays a float, `(B,)` becomes `(B, 1, ..., 1)`."""
    if isinstance(value, Tensor) and value.ndim:
        return value.reshape(-1, *[1] * (like.ndim - 1))
    return value


def churn(sigma: float, sigma_next: float, eta: float) -> float:
    """The fresh noise `b` of the reverse kernel."""
    return eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2))


def reverse(z: Tensor, z0: Tensor, sigma: float, sigma_next: float, fresh: float, streams: Streams) -> Tensor:
    """Move `z` (B, *shape) from `sigma` to `sigma_next` towards the estimate `z0`; fresh noise has deviation `fresh`.

    `fresh = churn(sigma, sigma_next, eta)` gives `K_eta`. No noise is drawn where `fresh` is 0.
    """
    kept = math.sqrt(max(0.0, sigma_next**2 - fresh**2)) / sigma
    z = z0.lerp(z, kept)
    return z.add_(streams.normal(z), alpha=fresh) if fresh > 0 else z


class Streams:
    """One random stream per sample, so that a sample never depends on the batch it ran in.

    Sample `s` of image `b` draws from the stream of `(seeds[b], s)` alone. With one integer seed all images share it:
    an image solved alone and the same image solved in a batch give the same samples. Pass one seed per image to make
    the noise of different images independent.
    """

    def __init__(
        self, seeds: Sequence[int], n_samples: int, device: torch.device | str = "cpu", first_sample: int = 0
    ) -> None:
        samples = range(first_sample, first_sample + n_samples)
        self._samples = [self._generator((seed, 1 + s), device) for seed in seeds for s in samples]
        self._images = [self._generator((seed, 0), device) for seed in seeds]

    @staticmethod
    def _generator(key: tuple[int, ...], device: torch.device | str) -> torch.Generator:
        state = np.random.SeedSequence(key).generate_state(2, np.uint32)
        return torch.Generator(device).manual_seed(int(state[0]) << 31 ^ int(state[1]))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape, dtype and device of `like` (B * S, ...), row i from stream i."""
        return self._fill(like, lambda row, generator: row.normal_(generator=generator))

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers uniform in [0, 1), as `normal` otherwise."""
        return self._fill(like, lambda row, generator: row.uniform_(generator=generator))

    def _fill(self, like: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        if len(like) != len(self._samples):
            raise ValueError(f"noise for {len(like)} rows was asked of {len(self._samples)} streams")
        out = torch.empty(like.shape, dtype=like.dtype, device=self._samples[0].device)
        for row, generator in zip(out, self._samples, strict=True):
            fill(row, generator)
        return out.to(like.device, non_blocking=True)

    def uniform_per_image(self) -> Tensor:
        """One uniform number in [0, 1) per image, shape (B,): what resampling among the samples of an image needs."""
        return torch.stack([torch.rand((), generator=g, device=g.device) for g in self._images])
