r"""Pictures larger than a network likes: restored at a working size and pasted back, or in tiles that share one noise.

`TiledPrior` denoises a large state `z` by overlapping tiles, blended with smooth windows at every noise level
(MultiDiffusion: Bar-Tal et al., 2023, arXiv 2302.08113, equation 5, with windows that sum to one):

    D(z) = sum_i S_i' W_i d(S_i z),      sum_i S_i' W_i S_i = I,      J' v = sum_i S_i' J_i' W_i S_i v

`S_i` cuts out tile i, `d` is the denoiser of the prior inside. The noise and the measurement are those of the whole
picture, so that every algorithm and operator works unchanged, and the tiles agree at their seams level by level.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior, Vjp
from ambient_solve.priors.forwarded import as_prior
from ambient_solve.priors.wrapped import WrappedPrior


@final
class TiledPrior(WrappedPrior):
    """`prior` on pictures of any size, in the memory of `at_once` tiles.

    Pictures that fit one tile go through as they are. A backward pass computes its forward pass again, tile by tile.

    Args:
        prior: Any prior of pictures; one of a fixed size takes tiles of that size, and larger pictures than it knows.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share, from 1 to half a tile.
        at_once: Tiles, of one or several samples, that go through the network together; at least 1.
        watch: Called before each of these groups of tiles with the number of tiles that are done since the prior was
            made; what it raises ends the run, so that one is stopped within a tile.

    Attributes:
        done: Tiles that have gone through the network, forward or backward.

    Raises:
        AmbientSolveError: the sizes do not fit together, or the prior is not one of pixels alone.
    """

    def __init__(
        self,
        prior: Prior,
        tile: int = 256,
        overlap: int = 64,
        *,
        at_once: int = 4,
        watch: Callable[[int], object] | None = None,
    ) -> None:
        prior = as_prior(prior)
        if isinstance(prior, AmbientPrior) or prior.affine is None:
            raise AmbientSolveError(
                "A prior that is mask-conditioned, or whose decode is not affine, cannot be tiled: make the picture "
                "smaller."
            )
        if len(prior.shape) != 3 or any(side not in (-1, tile) for side in prior.shape[1:]):
            raise AmbientSolveError(
                f"tile={tile} was given for a prior of shape {tuple(prior.shape)}: tiles are of the size of the prior, "
                "or of any where it takes any."
            )
        if not 0 < overlap <= tile // 2 or at_once < 1:
            raise AmbientSolveError(
                f"tile={tile}, overlap={overlap}, at_once={at_once} were given; an overlap of 1 to tile / 2 pixels, "
                "and at least one tile at once were expected."
            )
        super().__init__(prior)
        self.tile, self.overlap, self.at_once = tile, overlap, at_once
        self.watch, self.done = watch, 0
        self.shape = (prior.shape[0], -1, -1)

    def memory(self, pixels: int, backward: bool) -> float | None:
        """See `Prior.memory`: that of the tiles which are at work together."""
        return self.inner.memory(min(pixels, self.at_once * self.tile**2), backward)

    def takes_tiles(self, side: int) -> bool:
        """No: it is in tiles already."""
        return False

    def denoise(self, z: Tensor, sigma: Level, cond: Any = None) -> Tensor:
        """See `Prior.denoise`. `z` (B, C, H, W)."""
        if self._whole(z):
            return self.inner.denoise(z, sigma, cond)
        z0 = torch.zeros_like(z)
        for places, window in self._places(z):
            tiles = self.inner.denoise(_cut(z, places), _levels(sigma, places), _condition(cond, z, places))
            _add(z0, window * tiles, places)
        return z0

    def denoise_vjp(self, z: Tensor, sigma: Level, cond: Any = None, *, once: bool = False) -> tuple[Tensor, Vjp]:
        """See `Prior.denoise_vjp`. Where the tiles are more than `at_once`, each use of the function costs a forward
        pass beside the backward one.
        """
        if self._whole(z):
            return self.inner.denoise_vjp(z, sigma, cond, once=once)
        if len(self._tiles(z)) <= self.at_once:
            return Prior.denoise_vjp(self, z, sigma, cond, once=once)
        z = z.detach()
        with torch.no_grad():
            z0 = self.denoise(z, sigma, cond)

        def vjp(v: Tensor) -> Tensor:
            out = torch.zeros_like(v)
            for places, window in self._places(z):
                part = _condition(cond, z, places)
                _, pull = self.inner.denoise_vjp(_cut(z, places), _levels(sigma, places), part, once=True)
                _add(out, pull(window * _cut(v, places)), places)
            return out

        return z0, vjp

    def _whole(self, z: Tensor) -> bool:
        return max(z.shape[-2:]) <= self.tile

    def _tiles(self, z: Tensor) -> list[tuple[Place, Tensor, Tensor]]:
        """Every tile of every row, with its window: one factor for its height, one for its width."""
        height, width = (min(self.tile, n) for n in z.shape[-2:])
        return [
            (Place(b, top, left, height, width), down, along)
            for top, down in tile_windows(z.shape[-2], height, self.overlap, z.dtype, z.device)
            for left, along in tile_windows(z.shape[-1], width, self.overlap, z.dtype, z.device)
            for b in range(len(z))
        ]

    def _places(self, z: Tensor) -> Iterator[tuple[list[Place], Tensor]]:
        """Which tiles go through the network together, and their windows (n, 1, h, w)."""
        every = self._tiles(z)
        for first in range(0, len(every), self.at_once):
            if self.watch is not None:
                self.watch(self.done)
            places, down, along = zip(*every[first : first + self.at_once], strict=True)
            yield list(places), torch.stack(down)[:, None, :, None] * torch.stack(along)[:, None, None, :]
            self.done += len(places)

    def tiles(self, height: int, width: int) -> int:
        """How many tiles a picture of this size has.

        Args:
            height: Of the picture, in pixels.
            width: The same.

        Returns:
            Their number, 1 or more.
        """
        tile = [min(self.tile, n) for n in (height, width)]
        return math.prod(len(starts(n, t, self.overlap)) for n, t in zip((height, width), tile, strict=True))

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Prior.state_shape`."""
        small = len(image_shape) == 3 and -1 not in self.inner.shape and min(image_shape[1:]) < self.tile
        if small:
            raise AmbientSolveError(
                f"The picture is {image_shape[2]}x{image_shape[1]}, the prior makes tiles of {self.tile}x{self.tile}: "
                "enlarge the picture to at least that."
            )
        return Prior.state_shape(self, image_shape)


@dataclass(frozen=True)
class Place:
    """Tile of row `row` of a batch."""

    row: int
    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[int, slice, slice, slice]:
        """The index of the tile in (B, C, H, W)."""
        rows, columns = slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)
        return self.row, slice(None), rows, columns


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles of an axis begin: every `tile - overlap` pixels, the last one so that it ends with the axis.

    Args:
        length: Length of the axis, in pixels.
        tile: Length of a tile.
        overlap: Pixels that neighbours share, less than `tile`.

    Returns:
        First pixels, rising.
    """
    return [*range(0, max(length - tile, 0), tile - overlap), max(length - tile, 0)]


@functools.lru_cache(maxsize=16)
def tile_windows(
    length: int, tile: int, overlap: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[int, Tensor], ...]:
    """(start, window (tile,)) of each tile of an axis; the windows sum to one at every pixel.

    Kept from call to call: a sampling step moves nothing to the device.

    Args:
        length: Length of the axis.
        tile: Length of a tile.
        overlap: What neighbors share.
        dtype: Of the windows.
        device: Where they are.

    Returns:
        The tiles, in the order of the axis.
    """
    first = starts(length, tile, overlap)
    # A squared sine rises over the overlap; at the edges of the picture nothing fades.
    ramp = torch.sin((torch.arange(overlap, dtype=torch.float64) + 0.5) * (math.pi / (2 * overlap))) ** 2
    windows = torch.ones(len(first), tile, dtype=torch.float64)
    windows[1:, :overlap] *= ramp
    windows[:-1, -overlap:] *= ramp.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for start, window in zip(first, windows, strict=True):
        total[start : start + tile] += window
    parts = (w / total[s : s + tile] for s, w in zip(first, windows, strict=True))
    return tuple((s, w.to(device, dtype)) for s, w in zip(first, parts, strict=True))


def _cut(z: Tensor, places: list[Place]) -> Tensor:
    return torch.stack([z[place.slices] for place in places])


def _add(whole: Tensor, tiles: Tensor, places: list[Place]) -> None:
    for tile, place in zip(tiles, places, strict=True):
        whole[place.slices] += tile


def _levels(sigma: Level, places: list[Place]) -> Level:
    return torch.stack([sigma[p.row] for p in places]) if isinstance(sigma, Tensor) and sigma.ndim else sigma


def _condition(cond: Any, z: Tensor, places: list[Place]) -> Any:
    """The condition of the tiles: a class is that of the picture, one of the size of the picture is cut as it is."""
    if cond is None or isinstance(cond, int) or (isinstance(cond, Tensor) and cond.ndim == 0):
        return cond
    if isinstance(cond, Tensor) and cond.ndim == 1 and len(cond) == len(z):
        return torch.stack([cond[place.row] for place in places])
    if not isinstance(cond, Tensor) or cond.shape[-2:] != z.shape[-2:] or len(cond) != len(z):
        raise AmbientSolveError(
            "A tiled prior takes cond as (B, mask_channels, H, W) of the picture's size, a class (B,), or none."
        )
    return _cut(cond, places)
