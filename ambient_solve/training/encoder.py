"""A small classifier that is given the noise level: the way down of the U-Net, pooled at every resolution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.noise import per_sample
from ambient_solve.priors.network import multiplies_bfloat16, pad_to
from ambient_solve.priors.unet import Block


class Encoder(nn.Module):
    """Maps pictures (B, channels, H, W) with noise of level `sigma` (B,) to one score for each class, (B, classes).

    `c_noise` (B,) is the number that its blocks are given, `ln(sigma) / 4` in EDM; its input is scaled by
    EDM's `c_in` (Karras et al., 2022, arXiv 2206.00364, table 1). Every resolution is pooled over the picture to the
    mean and the logarithm of the deviation of its channels: in the latter, noise and blur of fine details show as much
    where both are weak.
    """

    def __init__(self, channels: int, classes: int, width: int, embedding: int = 96, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.sigma_data, widths = sigma_data, (width, 2 * width, 3 * width)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(1000), 32)), persistent=False)
        self.embed = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.enter = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.down = nn.ModuleList()
        for before, wide in zip((width, *widths), widths, strict=False):
            if self.down:
                self.down.append(nn.Conv2d(before, wide, 3, stride=2, padding=1))
            self.down.append(Block(wide, wide, embedding, 8))
        self.leave = nn.Sequential(
            nn.Linear(2 * sum(widths) + embedding + 1, wide), nn.SiLU(), nn.Linear(wide, classes)
        )
        self.stride = 2 * 2 ** (len(widths) - 1)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.frequencies.device

    def forward(self, z: Tensor, sigma: Tensor, c_noise: Tensor) -> Tensor:
        """Class scores of noisy pictures; between a class and clean, their difference is the logarithm of the odds.

        Args:
            z: Noisy pictures, (B, C, H, W).
            sigma: Noise level of each, (B,).
            c_noise: What the network is given as the level, (B,).

        Returns:
            (B, classes) float32.
        """
        waves = c_noise[:, None] * self.frequencies
        x = pad_to(z * per_sample((sigma**2 + self.sigma_data**2).rsqrt(), z), self.stride)
        with torch.autocast(z.device.type, torch.bfloat16, enabled=multiplies_bfloat16(z.device)):
            level = self.embed(torch.cat([waves.cos(), waves.sin()], dim=1))
            h = self.enter(F.pixel_unshuffle(x, 2))
            pooled = [level, c_noise[:, None]]
            for layer in self.down:
                h = layer(h, level) if isinstance(layer, Block) else layer(h)
                if isinstance(layer, Block):
                    log_std = (h.float().flatten(2).var(-1, unbiased=False) + 1e-8).log() / 2
                    pooled += [F.silu(h.float()).mean((-2, -1)), log_std]
        return self.leave(torch.cat([p.float() for p in pooled], 1))
