"""The U-Net of guided-diffusion (Dhariwal and Nichol, 2021, arXiv 2105.05233), under the names of its checkpoints.

Its size follows from the shapes in a checkpoint, but for the channels of an attention head, which no tensor shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError

MULTIPLES = {6: (1, 1, 2, 2, 4, 4), 5: (1, 1, 2, 3, 4), 4: (1, 2, 3, 4), 7: (0.5, 1, 1, 2, 2, 4, 4)}
"""Widths of the published networks, in multiples of the first, by the number of their levels."""
MAX_BLOCKS = 6
"""Residual blocks of one level, at most."""
GROUPS = 32
"""Groups of every normalisation."""


@dataclass(frozen=True)
class AdmConfig:
    """The size of a network.

    Attributes:
        channels: Of the picture.
        out_channels: `channels`, or twice as many where a variance is predicted too.
        width: Channels of the first level.
        multiples: Channels of each level, in multiples of `width`.
        blocks: Residual blocks of each level on the way down; one more on the way up.
        attention: Indices of the levels with attention.
        head_channels: Channels of an attention head.
        moved: Whether residual blocks change the resolution, in place of convolutions.
        scale_shift: Whether the level scales and shifts, in place of being added.
        classes: Classes that the network knows; 0 is none.
    """

    channels: int
    out_channels: int
    width: int
    multiples: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    head_channels: int
    moved: bool
    scale_shift: bool
    classes: int


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)


class AdmBlock(nn.Module):
    """A residual block, which may halve (`move` = -1) or double (1) the resolution."""

    def __init__(self, c_in: int, c_out: int, embedding: int, scale_shift: bool, move: int = 0) -> None:
        super().__init__()
        self.move, self.scale_shift = move, scale_shift
        self.in_layers = nn.Sequential(_norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, c_out * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(_norm(c_out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """One residual block.

        Args:
            h: (B, c_in, H, W).
            level: The embedded time, (B, embedding).

        Returns:
            (B, c_out, H', W').
        """
        r = self.in_layers[:2](h)
        if self.move:
            r, h = _moved(r, self.move), _moved(h, self.move)
        r = self.in_layers[2](r)
        e = self.emb_layers(level)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            r = self.out_layers[1:](self.out_layers[0](r) * (1 + scale) + shift)
        else:
            r = self.out_layers(r + e)
        return self.skip_connection(h) + r


def _moved(h: Tensor, move: int) -> Tensor:
    return F.avg_pool2d(h, 2) if move < 0 else F.interpolate(h, scale_factor=2.0, mode="nearest")


class AdmAttention(nn.Module):
    """Self-attention over all places; q, k and v of one head stand together."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.heads = max(channels // head_channels, 1)
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """See `AdmBlock.forward`; the level is not used."""
        flat = h.flatten(2)
        rows = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1)).transpose(-1, -2)
        mixed = F.scaled_dot_product_attention(rows[:, :, 0], rows[:, :, 1], rows[:, :, 2])
        return (flat + self.proj_out(mixed.transpose(-1, -2).flatten(1, 2))).reshape(h.shape)


class AdmMove(nn.Module):
    """Half (`op`) or double (`conv`) the resolution by a convolution."""

    def __init__(self, channels: int, move: int) -> None:
        super().__init__()
        if move < 0:
            self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.move = move

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """See `AdmBlock.forward`; the level is not used."""
        return self.op(h) if self.move < 0 else self.conv(_moved(h, 1))


class Adm(nn.Module):
    """Maps (B, channels, H, W), times (B,) and classes (B,) to (B, out_channels, H, W)."""

    def __init__(self, config: AdmConfig) -> None:
        super().__init__()
        self.config, width, embedding = config, config.width, 4 * config.width
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_emb = nn.Embedding(config.classes, embedding) if config.classes else None
        wide = [int(m * width) for m in config.multiples]
        block = lambda a, b, move=0: AdmBlock(a, b, embedding, config.scale_shift, move)  # noqa: E731
        moving = lambda c, move: block(c, c, move) if config.moved else AdmMove(c, move)  # noqa: E731

        def layers(c_in: int, c_out: int, level: int) -> list[nn.Module]:
            attention = [AdmAttention(c_out, config.head_channels)] if level in config.attention else []
            return [block(c_in, c_out), *attention]

        c, skips = wide[0], [wide[0]]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.channels, c, 3, padding=1)])])
        for level, n in enumerate(wide):
            for _ in range(config.blocks):
                self.input_blocks.append(nn.ModuleList(layers(c, n, level)))
                c = n
                skips.append(c)
            if level + 1 < len(wide):
                self.input_blocks.append(nn.ModuleList([moving(c, -1)]))
                skips.append(c)
        self.middle_block = nn.ModuleList([block(c, c), AdmAttention(c, config.head_channels), block(c, c)])
        self.output_blocks = nn.ModuleList()
        for level, n in reversed(list(enumerate(wide))):
            for i in range(config.blocks + 1):
                part = layers(c + skips.pop(), n, level)
                c = n
                if level and i == config.blocks:
                    part.append(moving(c, 1))
                self.output_blocks.append(nn.ModuleList(part))
        self.out = nn.Sequential(_norm(c), nn.SiLU(), nn.Conv2d(c, config.out_channels, 3, padding=1))

    def forward(self, x: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output of the network.

        Args:
            x: (B, channels, H, W), in units of one variance.
            times: From 0 to 999, (B,).
            labels: A class for each, (B,); None where the network knows none.

        Returns:
            (B, out_channels, H, W).
        """
        half = self.config.width // 2
        waves = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half) * times[:, None].float()
        level = self.time_embed(torch.cat([waves.cos(), waves.sin()], 1))
        if self.label_emb is not None and labels is not None:
            level = level + self.label_emb(labels)
        first = cast(nn.ModuleList, self.input_blocks[0])
        h = first[0](x)
        skips = [h]
        for part in self.input_blocks[1:]:
            h = _through(part, h, level)
            skips.append(h)
        h = _through(self.middle_block, h, level)
        for part in self.output_blocks:
            h = _through(part, torch.cat([h, skips.pop()], 1), level)
        return self.out(h)


def _through(part: Any, h: Tensor, level: Tensor) -> Tensor:
    for layer in part:
        h = layer(h, level)
    return h


def read_size(shapes: Mapping[str, tuple[int, ...]], head_channels: int) -> AdmConfig:
    """The size of a network from the shapes of its tensors.

    Args:
        shapes: Of the tensors of a checkpoint, by name.
        head_channels: Channels of an attention head.

    Returns:
        The size.

    Raises:
        AmbientSolveError: these are not the tensors of such a network.
    """
    needed = ("input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight", "middle_block.1.qkv.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise AmbientSolveError(
            f"The checkpoint is no guided-diffusion network: {missing[0]} is missing. Choose another --kind."
        )
    width, channels = shapes[needed[0]][0], shapes[needed[0]][1]
    width = shapes["time_embed.0.weight"][1]
    count = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks."))
    wide = [shapes[needed[0]][0]]
    for i in range(1, count):
        conv = shapes.get(f"input_blocks.{i}.0.in_layers.2.weight") or shapes.get(f"input_blocks.{i}.0.op.weight")
        if conv is None:
            raise AmbientSolveError(f"The checkpoint is no guided-diffusion network: block {i} has no convolution.")
        wide.append(conv[0])
    attended = {i for i in range(count) if f"input_blocks.{i}.1.qkv.weight" in shapes}
    strided = {i for i in range(count) if f"input_blocks.{i}.0.op.weight" in shapes}
    found = []
    for blocks in range(1, MAX_BLOCKS + 1):
        levels, rest = divmod(count, blocks + 1)
        moves = {level * (blocks + 1) for level in range(1, levels)}
        if rest or not levels or (strided and strided != moves):
            continue
        each = [wide[level * (blocks + 1) + 1 : (level + 1) * (blocks + 1)] for level in range(levels)]
        marks = [{i in attended for i in range(n * (blocks + 1) + 1, (n + 1) * (blocks + 1))} for n in range(levels)]
        kept = all(wide[m] == wide[m - 1] for m in moves)
        if not kept or attended & moves or any(len(set(e)) != 1 for e in each) or any(len(m) != 1 for m in marks):
            continue
        multiples = tuple(e[0] / width for e in each)
        found.append(
            (multiples != MULTIPLES.get(levels), blocks, multiples, [n for n, m in enumerate(marks) if True in m])
        )
    if not found:
        raise AmbientSolveError("The blocks of the checkpoint fit no guided-diffusion network: choose another --kind.")
    _, blocks, multiples, attention = min(found)
    emb = shapes["middle_block.0.emb_layers.1.weight"][0]
    return AdmConfig(
        channels=channels,
        out_channels=shapes["out.2.weight"][0],
        width=width,
        multiples=tuple(int(m) if m == int(m) else m for m in multiples),
        blocks=blocks,
        attention=tuple(attention),
        head_channels=head_channels,
        moved=not strided and len(multiples) > 1,
        scale_shift=emb == 2 * shapes["middle_block.0.in_layers.2.weight"][0],
        classes=shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else 0,
    )
