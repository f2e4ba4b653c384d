"""A small, fully convolutional U-Net: the `F` of the EDM preconditioning.

Pixel-unshuffle in front and pixel-shuffle behind halve the resolution at which the convolutions run; every other layer
is a 3x3 convolution or a group normalisation, so that one set of weights serves pictures of any size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The same layer with zero weights: a residual branch that starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class GroupNorm(nn.GroupNorm):
    """In the weights' precision where a gradient will be asked for: on a CPU bfloat16 is slow at it, channels last."""

    def forward(self, h: Tensor) -> Tensor:
        """`h` (B, C, H, W), of which the result has the dtype."""
        if not torch.is_grad_enabled():
            return super().forward(h)
        with torch.autocast(h.device.type, enabled=False):
            return super().forward(h.to(self.weight.dtype)).to(h.dtype)


def normalisation(groups: int, channels: int) -> nn.Module:
    """Group normalisation.

    Args:
        groups: 0 leaves it out.
        channels: A multiple of `groups`.

    Returns:
        The layer.
    """
    return GroupNorm(groups, channels) if groups else nn.Identity()


class Block(nn.Module):
    """Residual block; the noise level enters as a scale and a shift after the second normalisation."""

    def __init__(self, c_in: int, c_out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = normalisation(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.level = nn.Linear(embedding, 2 * c_out)
        self.norm2 = normalisation(groups, c_out)
        self.conv2 = _zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """One residual block.

        Args:
            h: (B, c_in, H, W).
            level: The embedded noise level, (B, embedding).

        Returns:
            (B, c_out, H, W).
        """
        scale, shift = self.level(level)[:, :, None, None].chunk(2, dim=1)
        r = self.conv1(F.silu(self.norm1(h)))
        r = self.conv2(F.silu(self.norm2(r) * (1 + scale) + shift))
        return self.skip(h) + r


class UNet(nn.Module):
    """Maps (B, channels + mask_channels, H, W) and one number per sample to (B, channels, H, W).

    `H` and `W` must be multiples of `stride`.

    Args:
        channels: Of a picture.
        widths: Channels of the levels, from fine to coarse.
        blocks: Residual blocks of each level on the way down and, one more, on the way up.
        unshuffle: Side in pixels of the squares that become channels before the first level.
        groups: Of the group normalisations; 0 leaves them out.
        embedding: Numbers that the noise level is embedded in.
        mask_channels: Channels of the input beside those of the picture.
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        unshuffle: int = 2,
        groups: int = 8,
        embedding: int = 192,
        mask_channels: int = 0,
    ) -> None:
        super().__init__()
        if len(blocks) != len(widths):
            raise ValueError(f"blocks = {blocks} must be one number, or one for each of the {len(widths)} widths")
        self.unshuffle = unshuffle
        self.stride = unshuffle * 2 ** (len(widths) - 1)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), 32)), persistent=False)
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d((channels + mask_channels) * unshuffle**2, widths[0], 3, padding=1)
        self.down, self.up, skips = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        width = widths[0]
        for level, wide in enumerate(widths):
            if level:
                self.down.append(nn.Conv2d(width, wide, 3, stride=2, padding=1))
                skips.append(wide)
                width = wide
            for _ in range(blocks[level]):
                self.down.append(Block(width, wide, embedding, groups))
                skips.append(wide)
        self.middle = Block(width, width, embedding, groups)
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks[level] + 1):
                self.up.append(Block(width + skips.pop(), wide, embedding, groups))
                width = wide
            if level:
                self.up.append(nn.Conv2d(width, width, 3, padding=1))
        self.leave = nn.Sequential(
            normalisation(groups, width), nn.SiLU(), _zero(nn.Conv2d(width, channels * unshuffle**2, 3, padding=1))
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The raw output of the network, before the preconditioning.

        Args:
            x: (B, channels + mask_channels, H, W).
            level: The `c_noise` of EDM, (B,).

        Returns:
            (B, channels, H, W).
        """
        waves = level[:, None] * self.frequencies
        level = self.embed(torch.cat([waves.cos(), waves.sin()], dim=1))
        h = self.enter(F.pixel_unshuffle(x, self.unshuffle))
        skips = [h]
        for layer in self.down:
            h = layer(h, level) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        h = self.middle(h, level)
        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), level)
            else:
                h = layer(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.leave(h), self.unshuffle)
