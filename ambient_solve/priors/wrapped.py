"""A prior around another: what it does not change it hands on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ambient_solve.noise import Level, Streams
from ambient_solve.priors.base import Prior, Vjp


class WrappedPrior(Prior):
    """A prior that answers as `inner` does; a subclass overrides what it changes.

    A subclass that overrides `denoise` overrides `denoise_vjp` too, and vice versa: the derivative of another denoiser
    than its own would be silently wrong.

    Args:
        inner: The prior inside. Its shape and its levels are copied when it is wrapped.

    Raises:
        TypeError: a subclass overrides only one of `denoise` and `denoise_vjp`.
    """

    def __init__(self, inner: Prior) -> None:
        super().__init__()
        self.inner = inner
        self.shape = inner.shape
        self.sigma_min = inner.sigma_min
        self.sigma_max = inner.sigma_max
        self.sigma_data = inner.sigma_data
        self.sigma_jacobian = inner.sigma_jacobian
        self.process = inner.process

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if ("denoise" in vars(cls)) != ("denoise_vjp" in vars(cls)):
            raise TypeError(f"{cls.__name__} must override denoise and denoise_vjp together, or neither.")

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`."""
        return self.inner.denoise(z, sigma, cond)

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`."""
        return self.inner.denoise_vjp(z, sigma, cond, once=once)

    def shown(self, z: Tensor, cond: Any = None) -> Tensor:
        """See `Prior.shown`."""
        return self.inner.shown(z, cond)

    @property
    def affine(self) -> tuple[float, float] | None:
        """See `Prior.affine`."""
        return self.inner.affine

    def decode(self, z: Tensor) -> Tensor:
        """See `Prior.decode`."""
        return self.inner.decode(z)

    def encode(self, x: Tensor) -> Tensor:
        """See `Prior.encode`."""
        return self.inner.encode(x)

    def noise(self, shape: tuple[int, ...], streams: Streams) -> Tensor:
        """See `Prior.noise`."""
        return self.inner.noise(shape, streams)

    @property
    def white(self) -> bool:
        """See `Prior.white`."""
        return type(self).noise is WrappedPrior.noise and self.inner.white

    def correlate(self, v: Tensor) -> Tensor:
        """See `Prior.correlate`."""
        return self.inner.correlate(v)

    def streams_of_run(self, streams: Streams) -> Streams:
        """See `Prior.streams_of_run`."""
        return self.inner.streams_of_run(streams)

    def begin(self, shape: tuple[int, ...], streams: Streams) -> None:
        """See `Prior.begin`."""
        return self.inner.begin(shape, streams)

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Prior.state_shape`."""
        return self.inner.state_shape(image_shape)

    def memory(self, pixels: int, backward: bool) -> float | None:
        """See `Prior.memory`."""
        return self.inner.memory(pixels, backward)

    @property
    def picture_channels(self) -> int:
        """See `Prior.picture_channels`."""
        return self.inner.picture_channels

    @property
    def takes_words(self) -> bool:
        """See `Prior.takes_words`."""
        return self.inner.takes_words

    def check_condition(self, cond: Any) -> None:
        """See `Prior.check_condition`."""
        return self.inner.check_condition(cond)

    def passes(self, cond: Any = None) -> int:
        """See `Prior.passes`."""
        return self.inner.passes(cond)

    def takes_tiles(self, side: int) -> bool:
        """See `Prior.takes_tiles`."""
        return self.inner.takes_tiles(side)

    @property
    def device(self) -> torch.device:
        """See `Prior.device`."""
        return self.inner.device
