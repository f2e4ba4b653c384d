"""The U-Nets of EDM (Karras et al., 2022, arXiv 2206.00364, tables 7 and 8), under the names of their checkpoints.

DDPM++ and NCSN++ (Song et al., 2021, arXiv 2011.13456) and ADM (Dhariwal and Nichol, 2021, arXiv 2105.05233). Their
size follows from the shapes in a checkpoint, but for the channels of an attention head of ADM, which no tensor shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError

GROUPS = 32
"""Groups of a normalisation, at most."""
GROUP_CHANNELS = 4
"""Channels of a group, at least."""
EPS = {False: 1e-6, True: 1e-5}
"""What a normalisation adds to a variance, by whether the network is ADM."""
POSITIONS = 10_000
"""The longest wave of the embedding of the level."""
FILTERS = {2: (1.0, 1.0), 4: (1.0, 3.0, 3.0, 1.0)}
"""The filters by which the resolution changes: those of DDPM++ and ADM, and of NCSN++."""
MAX_BLOCKS = 64
"""Residual blocks of one level, at most."""


@dataclass(frozen=True)
class EdmConfig:
    """The size of a network.

    Attributes:
        resolution: Pixels along one side of the pictures of its training.
        channels: Of the picture.
        out_channels: Of the answer.
        width: Channels of the input convolution.
        widths: Channels of each level.
        blocks: Residual blocks of each level on the way down; one more on the way up.
        attention: Indices of the levels with attention.
        noise: Entries of the embedding of the level.
        embedding: Entries of what the blocks are given of it.
        taps: Of the filter by which the resolution changes, 2 or 4.
        adm: Whether the network is ADM.
        fourier: Whether the embedding has random frequencies (NCSN++).
        residual: Whether the picture itself is added to every level on the way down (NCSN++).
        classes: Classes that the network knows; 0 is none.
        augment: Labels of an augmentation of its training, which are 0 afterwards; 0 is none.
        head_channels: Channels of an attention head of ADM; the others have one head.
    """

    resolution: int
    channels: int
    out_channels: int
    width: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    noise: int
    embedding: int
    taps: int = 2
    adm: bool = False
    fourier: bool = False
    residual: bool = False
    classes: int = 0
    augment: int = 0
    head_channels: int = 64


def _norm(channels: int, adm: bool) -> nn.GroupNorm:
    return nn.GroupNorm(min(GROUPS, channels // GROUP_CHANNELS), channels, eps=EPS[adm])


class EdmResampled(nn.Module):
    """Half (`move` = -1) or double (1) the resolution by a filter, and convolve.

    Args:
        c_in: Channels taken.
        c_out: Channels given.
        kernel: Pixels along one side of the convolution; 0 is none.
        move: -1 or 1.
        taps: Of the filter.
        outside: Whether the convolution comes before the filter, and its answers beyond the border count.
    """

    resample_filter: Tensor

    def __init__(self, c_in: int, c_out: int, kernel: int, move: int, taps: int, outside: bool = False) -> None:
        super().__init__()
        self.move, self.outside = move, outside
        self.weight = nn.Parameter(torch.zeros(c_out, c_in, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(c_out)) if kernel else None
        row = torch.tensor(FILTERS[taps])
        self.register_buffer("resample_filter", (row[:, None] * row / row.sum() ** 2)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """From (B, c_in, H, W) to (B, c_out, H', W')."""
        border = (self.resample_filter.shape[-1] - 1) // 2
        if self.weight is None:
            return self._filtered(x, border)
        side = self.weight.shape[-1] // 2
        if self.outside:
            return self._filtered(F.conv2d(x, self.weight, self.bias, padding=side + border), 0)
        return F.conv2d(self._filtered(x, border), self.weight, self.bias, padding=side)

    def _filtered(self, x: Tensor, border: int) -> Tensor:
        channels = x.shape[1]
        taps = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        if self.move < 0:
            return F.conv2d(x, taps, stride=2, padding=border, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=border, groups=channels)


class EdmBlock(nn.Module):
    """A residual block, which may change the resolution, with attention behind it or without.

    Args:
        c_in: Channels taken.
        c_out: Channels given.
        config: Of the network.
        move: -1 halves the resolution, 1 doubles it.
        attention: Whether there is attention.
    """

    def __init__(self, c_in: int, c_out: int, config: EdmConfig, move: int = 0, attention: bool = False) -> None:
        super().__init__()
        self.in_channels, self.adm = c_in, config.adm
        self.scale = 1.0 if config.adm else math.sqrt(0.5)
        self.heads = max(c_out // config.head_channels, 1) if config.adm else 1
        same = c_in == c_out
        self.norm0 = _norm(c_in, config.adm)
        self.conv0: nn.Module = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1)
        if move:
            self.conv0 = EdmResampled(c_in, c_out, 3, move, config.taps)
            self.skip = EdmResampled(c_in, c_out, 0 if same and config.adm else 1, move, config.taps)
        self.affine = nn.Linear(config.embedding, c_out * (2 if config.adm else 1))
        self.norm1 = _norm(c_out, config.adm)
        self.conv1 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.norm2 = _norm(c_out, config.adm) if attention else None
        self.qkv = nn.Conv2d(c_out, 3 * c_out, 1) if attention else None
        self.proj = nn.Conv2d(c_out, c_out, 1) if attention else None

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """One block.

        Args:
            x: (B, c_in, H, W).
            level: The embedded level, (B, embedding).

        Returns:
            (B, c_out, H', W').
        """
        h, e = self.conv0(F.silu(self.norm0(x))), self.affine(level)[:, :, None, None]
        if self.adm:
            scale, shift = e.chunk(2, 1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + e)
        h = (self.conv1(F.silu(h)) + self.skip(x)) * self.scale
        return h if self.qkv is None else (self._attended(h) + h) * self.scale

    def _attended(self, h: Tensor) -> Tensor:
        """Self-attention over all places; q, k and v of one channel stand together."""
        assert self.norm2 is not None and self.qkv is not None and self.proj is not None
        rows = self.qkv(self.norm2(h)).flatten(2).unflatten(1, (self.heads, -1, 3))
        q, k, v = (rows[:, :, :, i].transpose(-1, -2) for i in range(3))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return self.proj(mixed.reshape(h.shape))


class EdmFrequencies(nn.Module):
    """The random frequencies of the embedding of NCSN++, under their name in a checkpoint."""

    freqs: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(count))


class Edm(nn.Module):
    """Maps (B, channels, H, W), `ln(sigma) / 4` (B,) and classes (B,) to (B, out_channels, H, W)."""

    def __init__(self, config: EdmConfig) -> None:
        super().__init__()
        self.config, wide, top = config, config.widths, len(config.widths) - 1
        noise, embedding, adm = config.noise, config.embedding, config.adm
        self.map_noise = EdmFrequencies(noise // 2) if config.fourier else None
        self.map_label = (
            nn.Linear(config.classes, embedding if adm else noise, bias=not adm) if config.classes else None
        )
        self.map_augment = nn.Linear(config.augment, noise, bias=False) if config.augment else None
        self.map_layer0, self.map_layer1 = nn.Linear(noise, embedding), nn.Linear(embedding, embedding)
        names = [f"{config.resolution >> i}x{config.resolution >> i}" for i in range(top + 1)]
        self.entry = f"enc.{names[0]}_conv"

        c, skips = config.width, [config.width]
        self.enc = nn.ModuleDict({f"{names[0]}_conv": nn.Conv2d(config.channels, c, 3, padding=1)})
        shown = config.channels
        for i, n in enumerate(wide):
            if i:
                self.enc[f"{names[i]}_down"] = EdmBlock(c, c, config, -1)
                skips.append(c)
            if i and config.residual:
                self.enc[f"{names[i]}_aux_residual"] = EdmResampled(shown, c, 3, -1, config.taps, outside=True)
                shown = c
            for j in range(config.blocks):
                self.enc[f"{names[i]}_block{j}"] = EdmBlock(c, n, config, 0, i in config.attention)
                c = n
                skips.append(c)
        self.dec = nn.ModuleDict()
        for i, n in reversed(list(enumerate(wide))):
            if i == top:
                self.dec[f"{names[i]}_in0"] = EdmBlock(c, c, config, 0, True)
                self.dec[f"{names[i]}_in1"] = EdmBlock(c, c, config)
            else:
                self.dec[f"{names[i]}_up"] = EdmBlock(c, c, config, 1)
            for j in range(config.blocks + 1):
                attention = i in config.attention and (adm or j == config.blocks)
                self.dec[f"{names[i]}_block{j}"] = EdmBlock(c + skips.pop(), n, config, 0, attention)
                c = n
        norm, last = _norm(c, adm), nn.Conv2d(c, config.out_channels, 3, padding=1)
        if adm:
            self.out_norm, self.out_conv = norm, last
        else:
            self.dec[f"{names[0]}_aux_norm"], self.dec[f"{names[0]}_aux_conv"] = norm, last

    def forward(self, x: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output of the network, F of equation 7.

        Args:
            x: The picture times c_in, (B, channels, H, W).
            times: `ln(sigma) / 4`, (B,).
            labels: A class for each, (B,); None is none.

        Returns:
            (B, out_channels, H, W).
        """
        level = self._level(times.float(), labels)
        skips: list[Tensor] = []
        shown, h = x, x
        for name, layer in self.enc.items():
            if name.endswith("aux_residual"):
                h = shown = skips[-1] = (h + layer(shown)) * math.sqrt(0.5)
            else:
                h = layer(h, level) if isinstance(layer, EdmBlock) else layer(h)
                skips.append(h)
        for layer in self.dec.values():
            if not isinstance(layer, EdmBlock):
                break
            h = layer(h if h.shape[1] == layer.in_channels else torch.cat([h, skips.pop()], 1), level)
        norm, last = (self.out_norm, self.out_conv) if self.config.adm else list(self.dec.values())[-2:]
        return last(F.silu(norm(h)))

    def _level(self, times: Tensor, labels: Tensor | None) -> Tensor:
        """The embedded level, (B, embedding)."""
        config, half = self.config, self.config.noise // 2
        if self.map_noise is not None:
            angles = times[:, None] * (2 * math.pi * self.map_noise.freqs)
        else:
            steps = torch.arange(half, device=times.device) / (half if config.adm else max(half - 1, 1))
            angles = times[:, None] * (1 / POSITIONS) ** steps
        waves = [angles.cos(), angles.sin()]
        e = torch.cat(waves if config.adm else waves[::-1], 1)
        known: Tensor | float = 0.0
        if self.map_label is not None and labels is not None:
            one = F.one_hot(labels, config.classes).to(e)
            known = self.map_label(one if config.adm else one * math.sqrt(config.classes))
        if not config.adm:
            return F.silu(self.map_layer1(F.silu(self.map_layer0(e + known))))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(e))) + known)


def read_edm(shapes: Mapping[str, tuple[int, ...]], head_channels: int) -> EdmConfig:
    """The size of a network from the shapes of its tensors.

    Args:
        shapes: Of the tensors of a checkpoint, by name.
        head_channels: Channels of an attention head of ADM.

    Returns:
        The size.

    Raises:
        AmbientSolveError: these are not the tensors of such a network.
    """
    sides = [_side(name) for name in shapes if name.startswith("enc.") and name.endswith("_conv.weight")]
    if len(sides) != 1 or not sides[0]:
        raise _no_edm("one enc.NxN_conv.weight was expected")
    resolution, adm = sides[0], "out_conv.weight" in shapes
    name = lambda i, part: f"{resolution >> i}x{resolution >> i}_{part}"  # noqa: E731
    levels = 1
    while levels < resolution.bit_length() and f"enc.{name(levels, 'down')}.norm0.weight" in shapes:
        levels += 1
    blocks = 0
    while blocks < MAX_BLOCKS and f"enc.{name(0, f'block{blocks}')}.norm0.weight" in shapes:
        blocks += 1
    last = "out_conv" if adm else f"dec.{name(0, 'aux_conv')}"
    widths = [shapes.get(f"enc.{name(i, 'block0')}.conv1.bias", (0,)) for i in range(levels)]
    filters = shapes.get(f"enc.{name(1, 'down')}.conv0.resample_filter", (1, 1, 2, 2))
    augment = shapes.get("map_augment.weight", (0, 0))
    label = shapes.get("map_label.weight", (0, 0))
    entry = shapes[f"enc.{name(0, 'conv')}.weight"]
    out, first = shapes.get(f"{last}.weight", ()), shapes.get("map_layer0.weight", ())
    if len(entry) != 4 or len(out) != 4 or len(first) != 2 or len(label) != 2 or len(augment) != 2 or not blocks:
        raise _no_edm(f"{last}.weight, map_layer0.weight or the blocks of a level are missing, or of another shape")
    if any(len(w) != 1 or not w[0] for w in widths) or filters[-1] not in FILTERS or len(filters) != 4:
        raise _no_edm("a level has no convolution, or a filter of a length other than 2 and 4")
    marks = tuple(i for i in range(levels) if f"enc.{name(i, 'block0')}.qkv.weight" in shapes)
    return EdmConfig(
        resolution=resolution,
        channels=entry[1],
        out_channels=out[0],
        width=entry[0],
        widths=tuple(w[0] for w in widths),
        blocks=blocks,
        attention=marks,
        noise=first[1],
        embedding=first[0],
        taps=filters[-1],
        adm=adm,
        fourier="map_noise.freqs" in shapes,
        residual=any(n.endswith("aux_residual.weight") for n in shapes),
        classes=label[1],
        augment=augment[1],
        head_channels=head_channels,
    )


def _side(name: str) -> int:
    """N of a name such as enc.NxN_conv.weight; 0 where it is no such name."""
    side = name.removeprefix("enc.").split("_")[0]
    height, _, width = side.partition("x")
    return int(height) if height == width and height.isdecimal() and 0 < len(height) < 6 else 0


def _no_edm(why: str) -> AmbientSolveError:
    return AmbientSolveError(f"The checkpoint is no network of EDM: {why}. Choose another --kind.")
