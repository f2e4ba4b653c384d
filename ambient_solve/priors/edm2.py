"""The magnitude-preserving U-Net of EDM2 (Karras et al., 2024, arXiv 2312.02696), under the names of its checkpoints.

Its size follows from the shapes in a checkpoint, but for the channels of an attention head, which no tensor shows, and
the shares by which sums are weighed, which are those of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError

EPS = 1e-4
"""What is added to a magnitude before it divides."""
ACTIVATION = 0.596
"""Magnitude of SiLU of unit noise."""
RESIDUAL = 0.3
"""Share of the residual branch in a sum, and of attention."""
HALF = 0.5
"""Share of a skip in a concatenation, and of the class in the embedding."""
LIMIT = 256.0
"""Largest activation."""
PREFIX = "unet."
"""How the names of the network begin, where a checkpoint holds more."""
OF_THE_LOSS = "logvar_"
"""How the names begin of what only the loss needs."""
MOST_CHANNELS = 3
"""Of a picture; a network of more works on the codes of an autoencoder."""
MAX_BLOCKS = 64
"""Residual blocks of one level, at most."""


@dataclass(frozen=True)
class Edm2Config:
    """The size of a network.

    Attributes:
        resolution: Pixels along one side of the pictures of its training.
        channels: Of the picture.
        widths: Channels of each level.
        blocks: Residual blocks of each level on the way down; one more on the way up.
        attention: Indices of the levels with attention.
        noise: Entries of the embedding of the level.
        embedding: Entries of what the blocks are given of it.
        classes: Classes that the network knows; 0 is none.
        head_channels: Channels of an attention head.
    """

    resolution: int
    channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    noise: int
    embedding: int
    classes: int = 0
    head_channels: int = 64


def _unit(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """`x` with a root mean square of one along some axes."""
    return x / (x.square().mean(dim, keepdim=True).sqrt() + EPS)


def _sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """A weighed sum whose magnitude is that of its parts (equation 88)."""
    return a.lerp(b, share) / math.hypot(1 - share, share)


def _joined(a: Tensor, b: Tensor) -> Tensor:
    """A concatenation to which both parts contribute the same (equation 103)."""
    wide = math.sqrt((a.shape[1] + b.shape[1]) / (HALF**2 + (1 - HALF) ** 2))
    return torch.cat([a * (wide * (1 - HALF) / math.sqrt(a.shape[1])), b * (wide * HALF / math.sqrt(b.shape[1]))], 1)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x) / ACTIVATION


class Edm2Weight(nn.Module):
    """A linear layer (`kernel` = 0) or a convolution without a bias, whose weights count by their direction alone.

    Args:
        c_in: Channels taken.
        c_out: Channels given.
        kernel: Pixels along one side of the convolution.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(c_out, c_in, *[kernel] * (2 if kernel else 0)))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """The layer, times a gain.

        Args:
            x: (B, c_in) or (B, c_in, H, W).
            gain: A number.

        Returns:
            (B, c_out) or (B, c_out, H, W).
        """
        w = _unit(self.weight, tuple(range(1, self.weight.ndim))) * (gain / math.sqrt(self.weight[0].numel()))
        return F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)


class Edm2Block(nn.Module):
    """A residual block on the way down or up, which may change the resolution, with attention behind it or without.

    Args:
        c_in: Channels taken.
        c_out: Channels given.
        config: Of the network.
        down: Whether it is on the way down.
        move: -1 halves the resolution, 1 doubles it.
        attention: Whether there is attention.
    """

    def __init__(
        self, c_in: int, c_out: int, config: Edm2Config, down: bool, move: int = 0, attention: bool = False
    ) -> None:
        super().__init__()
        self.down, self.move = down, move
        self.heads = max(c_out // config.head_channels, 1)
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = Edm2Weight(c_out if down else c_in, c_out, 3)
        self.emb_linear = Edm2Weight(config.embedding, c_out)
        self.conv_res1 = Edm2Weight(c_out, c_out, 3)
        self.conv_skip = Edm2Weight(c_in, c_out, 1) if c_in != c_out else None
        self.attn_qkv = Edm2Weight(c_out, 3 * c_out, 1) if attention else None
        self.attn_proj = Edm2Weight(c_out, c_out, 1) if attention else None

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """One block.

        Args:
            x: (B, c_in, H, W).
            level: The embedded level, (B, embedding).

        Returns:
            (B, c_out, H', W').
        """
        if self.move:
            x = F.avg_pool2d(x, 2) if self.move < 0 else F.interpolate(x, scale_factor=2.0, mode="nearest")
        if self.down:
            x = x if self.conv_skip is None else self.conv_skip(x)
            x = _unit(x, (1,))
        scale = self.emb_linear(level, self.emb_gain)[:, :, None, None] + 1
        h = self.conv_res1(_silu(self.conv_res0(_silu(x)) * scale))
        if not self.down and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = _sum(x, h, RESIDUAL)
        if self.attn_qkv is not None:
            x = _sum(x, self._attended(x), RESIDUAL)
        return x.clamp(-LIMIT, LIMIT)

    def _attended(self, x: Tensor) -> Tensor:
        """Self-attention over all places by cosines; q, k and v of one channel stand together."""
        assert self.attn_qkv is not None and self.attn_proj is not None
        rows = _unit(self.attn_qkv(x).flatten(2).unflatten(1, (self.heads, -1, 3)), (2,))
        q, k, v = (rows[:, :, :, i].transpose(-1, -2) for i in range(3))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return self.attn_proj(mixed.reshape(x.shape))


class Edm2Waves(nn.Module):
    """The random waves of the embedding of the level, `sqrt(2) cos(f t + phase)`."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(count))
        self.register_buffer("phases", torch.zeros(count))

    def forward(self, times: Tensor) -> Tensor:
        """From (B,) to (B, count)."""
        return (times[:, None] * self.freqs + self.phases).cos() * math.sqrt(2)


class Edm2(nn.Module):
    """Maps (B, channels, H, W), `ln(sigma) / 4` (B,) and classes (B,) to (B, channels, H, W)."""

    def __init__(self, config: Edm2Config) -> None:
        super().__init__()
        self.config, wide, top = config, config.widths, len(config.widths) - 1
        self.emb_fourier = Edm2Waves(config.noise)
        self.emb_noise = Edm2Weight(config.noise, config.embedding)
        self.emb_label = Edm2Weight(config.classes, config.embedding) if config.classes else None
        self.out_gain = nn.Parameter(torch.zeros(()))
        names = [f"{config.resolution >> i}x{config.resolution >> i}" for i in range(top + 1)]
        self.entry = f"enc.{names[0]}_conv"

        c, skips = wide[0], [wide[0]]
        self.enc = nn.ModuleDict({f"{names[0]}_conv": Edm2Weight(config.channels + 1, c, 3)})
        for i, n in enumerate(wide):
            if i:
                self.enc[f"{names[i]}_down"] = Edm2Block(c, c, config, True, -1)
                skips.append(c)
            for j in range(config.blocks):
                self.enc[f"{names[i]}_block{j}"] = Edm2Block(c, n, config, True, 0, i in config.attention)
                c = n
                skips.append(c)
        self.dec = nn.ModuleDict()
        for i, n in reversed(list(enumerate(wide))):
            if i == top:
                self.dec[f"{names[i]}_in0"] = Edm2Block(c, c, config, False, 0, True)
                self.dec[f"{names[i]}_in1"] = Edm2Block(c, c, config, False)
            else:
                self.dec[f"{names[i]}_up"] = Edm2Block(c, c, config, False, 1)
            for j in range(config.blocks + 1):
                block = Edm2Block(c + skips.pop(), n, config, False, 0, i in config.attention)
                self.dec[f"{names[i]}_block{j}"] = block
                c = n
        self.out_conv = Edm2Weight(c, config.channels, 3)

    def forward(self, x: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output of the network.

        Args:
            x: The picture times c_in, (B, channels, H, W).
            times: `ln(sigma) / 4`, (B,).
            labels: A class for each, (B,); None is none.

        Returns:
            (B, channels, H, W).
        """
        level = self.emb_noise(self.emb_fourier(times.float()))
        if self.emb_label is not None and labels is not None:
            one = F.one_hot(labels, self.config.classes).to(level) * math.sqrt(self.config.classes)
            level = _sum(level, self.emb_label(one), HALF)
        level = _silu(level)
        h, skips = torch.cat([x, torch.ones_like(x[:, :1])], 1), list[Tensor]()
        for layer in self.enc.values():
            h = layer(h, level) if isinstance(layer, Edm2Block) else layer(h)
            skips.append(h)
        for name, layer in self.dec.items():
            h = layer(_joined(h, skips.pop()) if "_block" in name else h, level)
        return self.out_conv(h, self.out_gain)


def named_edm2(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the network in a checkpoint, without what only its loss needs.

    Args:
        state: Tensors by name.

    Returns:
        Tensors by name, and no settings.
    """
    kept = {name: t for name, t in state.items() if not name.startswith(OF_THE_LOSS)}
    inside = kept and all(name.startswith(PREFIX) for name in kept)
    return {name.removeprefix(PREFIX) if inside else name: t for name, t in kept.items()}, {}


def read_edm2(shapes: Mapping[str, tuple[int, ...]], head_channels: int) -> Edm2Config:
    """The size of a network from the shapes of its tensors.

    Args:
        shapes: Of the tensors of a checkpoint, by name.
        head_channels: Channels of an attention head.

    Returns:
        The size.

    Raises:
        AmbientSolveError: these are not the tensors of such a network, or it works on codes of pictures.
    """
    sides = [
        n.removeprefix("enc.").split("_")[0] for n in shapes if n.startswith("enc.") and n.endswith("_conv.weight")
    ]
    side = sides[0].split("x")[0] if len(sides) == 1 else ""
    if not side.isdecimal() or not 0 < len(side) < 6 or sides[0] != f"{side}x{side}" or not int(side):
        raise _no_edm2("one enc.NxN_conv.weight was expected")
    resolution = int(side)
    name = lambda i, part: f"enc.{resolution >> i}x{resolution >> i}_{part}"  # noqa: E731
    levels, blocks = 1, 0
    while levels < resolution.bit_length() and f"{name(levels, 'down')}.conv_res0.weight" in shapes:
        levels += 1
    while blocks < MAX_BLOCKS and f"{name(0, f'block{blocks}')}.conv_res0.weight" in shapes:
        blocks += 1
    widths = [(shapes.get(f"{name(i, 'block0')}.conv_res1.weight") or (0,))[0] for i in range(levels)]
    noise, out = shapes.get("emb_noise.weight", ()), shapes.get("out_conv.weight", ())
    label = shapes.get("emb_label.weight", (0, 0))
    if len(noise) != 2 or len(out) != 4 or len(label) != 2 or not blocks or not all(widths):
        raise _no_edm2("emb_noise.weight, out_conv.weight or the blocks of a level are missing, or of another shape")
    if out[0] > MOST_CHANNELS:
        raise AmbientSolveError(
            f"This network of EDM2 makes {out[0]} channels, the codes of an autoencoder that the file does not hold; "
            "one of pictures was expected, such as edm2-img64."
        )
    return Edm2Config(
        resolution=resolution,
        channels=out[0],
        widths=tuple(widths),
        blocks=blocks,
        attention=tuple(i for i in range(levels) if f"{name(i, 'block0')}.attn_qkv.weight" in shapes),
        noise=noise[1],
        embedding=noise[0],
        classes=label[1],
        head_channels=head_channels,
    )


def _no_edm2(why: str) -> AmbientSolveError:
    return AmbientSolveError(f"The checkpoint is no network of EDM2: {why}. Choose another --kind.")
