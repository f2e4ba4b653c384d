"""An autoencoder on large pictures: coded and decoded in overlapping tiles that fade into each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.autoencoder import Autoencoder
from ambient_solve.priors.tiled import tile_windows


@final
class TiledAutoencoder(Autoencoder):
    """Another autoencoder, one tile at a time; what fits one tile goes through whole.

    Neighbouring tiles overlap, and each fades in by a squared sine: no edge of a tile is seen. A backward pass computes
    the forward pass of each tile again, so that its memory is that of one tile.

    Args:
        inner: The autoencoder inside.
        tile: Side of a tile, in places of the latent.
        overlap: Places that neighbours share, from 1 to half a tile.

    Raises:
        AmbientSolveError: the sizes do not fit together.
    """

    def __init__(self, inner: Autoencoder, tile: int = 32, overlap: int = 8) -> None:
        super().__init__()
        if not 0 < overlap <= tile // 2:
            raise AmbientSolveError(
                f"tile={tile}, overlap={overlap} were given; an overlap of 1 to tile / 2 places was expected."
            )
        self.inner, self.tile, self.overlap = inner, tile, overlap
        self.channels, self.factor, self.pictures = inner.channels, inner.factor, inner.pictures

    def encode(self, x: Tensor) -> Tensor:
        """See `Autoencoder.encode`."""
        return self._tiles(self.inner.encode, x, self.channels, down=self.factor, up=1)

    def decode(self, latent: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        return self._tiles(self.inner.decode, latent, self.pictures, down=1, up=self.factor)

    def memory(self, pixels: int, backward: bool) -> float | None:
        """See `Autoencoder.memory`: that of one tile."""
        return self.inner.memory(min(pixels, (self.tile * self.factor) ** 2), backward)

    def _tiles(self, code: Callable[[Tensor], Tensor], x: Tensor, channels: int, *, down: int, up: int) -> Tensor:
        """`code` in tiles, of a side in places times `down` before it, times `up` after it."""
        height, width = (n // down for n in x.shape[-2:])
        if max(height, width) <= self.tile:
            return code(x)
        out = x.new_zeros(len(x), channels, height * up, width * up, dtype=torch.float32)
        rows, columns = (min(self.tile, n) for n in (height, width))
        for top, fade_down in tile_windows(height * up, rows * up, self.overlap * up, out.dtype, x.device):
            for left, fade_along in tile_windows(width * up, columns * up, self.overlap * up, out.dtype, x.device):
                place = self._cut(top // up, left // up, rows, columns, down)
                made = checkpoint(code, x[place], use_reentrant=False) if torch.is_grad_enabled() else code(x[place])
                window = fade_down[:, None] * fade_along[None, :]
                spot = self._cut(top // up, left // up, rows, columns, up)
                padded = torch.zeros_like(out)
                padded[spot] = made * window
                out = out + padded
        return out

    @staticmethod
    def _cut(top: int, left: int, rows: int, columns: int, by: int) -> tuple[slice, ...]:
        """The index of a tile in (B, C, H, W), its place and size times `by`."""
        lines, across = slice(top * by, (top + rows) * by), slice(left * by, (left + columns) * by)
        return slice(None), slice(None), lines, across
