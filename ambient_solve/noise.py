"""Noise levels, their conversions, and the random streams; `ambient_solve.process` says what a level means."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Level = float | Tensor
SomeLevel = TypeVar("SomeLevel", float, Tensor, float | Tensor)
"""A noise level: a float for the whole batch, or a tensor of shape `(B,)` with one level per sample."""


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


def per_sample(value: SomeLevel, like: Tensor) -> SomeLevel:
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
        self._seeds, self._rows = seeds, [(1 + s, seed) for seed in seeds for s in samples]
        self._samples = [_philox(*row) for row in self._rows]
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

    def branch(self, number: int) -> Streams:
        """Further streams of the same rows: what they give does not depend on what was drawn before.

        Args:
            number: Which of them, 0 to 2^63; no two share a number with one another, nor with the streams themselves.

        Returns:
            Streams at their beginning.
        """
        new = copy.copy(self)
        new._samples = [_philox(*row, number + 1) for row in self._rows]
        new._images = [_philox(0, seed, number + 1) for seed in self._seeds]
        return new

    def addressed(self, counters: Tensor) -> Tensor:
        """Standard normal noise by address, in any order: row i holds the numbers of its stream at these counters.

        The bits are those of Philox 4x32 with ten rounds, whose key is the stream's.

        Args:
            counters: (N, 4) int64, of which the lower 32 bits count.

        Returns:
            Four numbers for each counter, (B * S, N, 4) float32 on the device of the streams.
        """
        counters = counters.to(self.device).T & _LOW
        drawn = torch.stack([torch.stack(_philox32(counters, _key32(*row)), -1) for row in self._rows])
        radius = (-2 * (((drawn[..., :2] >> 1).float() + 0.5) * 2.0**-31).log()).sqrt_()
        angle = (drawn[..., 2:] >> 8).float() * (2 * math.pi * 2.0**-24)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)

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


def _philox(sample: int, seed: int, block: int = 0) -> np.random.Philox:
    # The seed comes last: NumPy pads with zeros, and a seed of several words could pass for a seed and a sample.
    key = np.random.SeedSequence((sample, seed)).generate_state(2, np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, block], np.uint64))  # a block of 2^192 draws


def _key32(sample: int, seed: int) -> tuple[int, int]:
    first, second = np.random.SeedSequence((sample, seed)).generate_state(6, np.uint32)[4:]  # not those of `_philox`
    return int(first), int(second)


_LOW = 0xFFFFFFFF


def _philox32(counters: Tensor, key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox 4x32-10 (Salmon et al., 2011): words of 32 bits in int64, whose products keep their 64 bits.

    Args:
        counters: (4, N) int64, 0 to 2^32 - 1.
        key: Two words.

    Returns:
        Four words for each counter, (N,) int64 each.
    """
    a, b, c, d = counters
    first, second = key
    for _ in range(10):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, c = ((right >> 32) & _LOW) ^ b ^ first, ((left >> 32) & _LOW) ^ d ^ second
        b, d = right & _LOW, left & _LOW
        first, second = (first + 0x9E3779B9) & _LOW, (second + 0xBB67AE85) & _LOW
    return a, b, c, d


def _unit(words: Tensor) -> Tensor:
    """Words of 32 bits as float32 numbers in [0, 1): their upper 24 bits, which a float32 holds exactly."""
    return ((words >> 8) & 0xFFFFFF).float() * 2.0**-24
