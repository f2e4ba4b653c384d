"""Autoencoders, which map pictures to latents and back: the base class, and TAEF2 with its file.

TAEF2 is the tiny autoencoder of FLUX.2 (Bohan, 2025, MIT): 8 pixels a side and 3 channels become one place of 32
channels. It has no mean and no variance to draw from, and its latents are used as they are.
"""

from __future__ import annotations

import abc
from collections import OrderedDict
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ambient_solve.errors import AmbientSolveError, reason, suggestion
from ambient_solve.priors.network import PRECISIONS, multiplies_bfloat16

AUTOENCODER = "autoencoder.safetensors"
"""File of the weights of an autoencoder, in the folder of a latent prior."""
WIDTH = 64
"""Channels of every feature of TAEF2."""
POOLED_GROUPS = 4
"""Groups of the normalisation of its pooled blocks."""
BYTES_FORWARD = 4 * WIDTH * 5
"""Memory of TAEF2 per pixel of a picture without a backward pass: a few features of `WIDTH` channels in float32."""
BYTES_BACKWARD = 4 * WIDTH * 12
"""The same with a backward pass."""
LIMIT = 3.0
"""Beyond about this size its decoder squashes the values of a latent."""


class Autoencoder(nn.Module, abc.ABC):
    """Maps pictures (B, pictures, H, W) in [0, 1] to latents (B, channels, H / factor, W / factor), and back.

    Attributes:
        channels: Of a latent.
        factor: Pixels along one side that become one place of the latent.
        pictures: Channels of a picture.
    """

    channels: int
    factor: int
    pictures: int = 3

    @abc.abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The latents of pictures; where the autoencoder draws from a law, its mode.

        Args:
            x: (B, pictures, H, W) in [0, 1], H and W multiples of `factor`.

        Returns:
            (B, channels, H / factor, W / factor).
        """

    @abc.abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """The pictures of latents, not clamped.

        Args:
            latent: (B, channels, h, w).

        Returns:
            (B, pictures, h * factor, w * factor), about [0, 1].
        """

    def memory(self, pixels: int, backward: bool) -> float | None:
        """Memory that the coding or decoding of one picture takes.

        Args:
            pixels: Of the picture.
            backward: Whether a backward pass follows.

        Returns:
            Bytes; None where that is not known.
        """
        return None


class Plain(nn.Module):
    """Three convolutions and a shortcut, `relu(x + conv3(relu(conv2(relu(conv1(x))))))`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.conv3 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, 64, H, W), and so is the result."""
        return F.relu(x + self.conv3(F.relu(self.conv2(F.relu(self.conv1(x))))))


class Pooled(Plain):
    """The same after a normalised 1x1 branch, the only layer that sees the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.pool_in = nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False)
        self.pool_norm = nn.GroupNorm(POOLED_GROUPS, 4 * WIDTH)
        self.pool_out = nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """See `Plain.forward`."""
        return super().forward(x + self.pool_out(F.relu(self.pool_norm(self.pool_in(x)))))


def _stage(kind: type[nn.Module], count: int) -> nn.Module:
    return nn.Sequential(OrderedDict((f"block{i}", kind()) for i in range(count)))


def _strided() -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)


def _doubling() -> nn.Conv2d:
    return nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)


class Encoder(nn.Module):
    """Pictures in [0, 1] to latents of TAEF2."""

    def __init__(self, pictures: int, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(pictures, WIDTH, 3, padding=1)
        self.stage0 = _stage(Plain, 1)
        self.down1, self.stage1 = _strided(), _stage(Plain, 3)
        self.down2, self.stage2 = _strided(), _stage(Plain, 3)
        self.down3, self.stage3 = _strided(), _stage(Pooled, 3)
        self.conv_out = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, 3, H, W) to (B, 32, H / 8, W / 8)."""
        h = self.stage0(self.conv_in(x))
        h = self.stage1(self.down1(h))
        h = self.stage2(self.down2(h))
        return self.conv_out(self.stage3(self.down3(h)))


class Decoder(nn.Module):
    """Latents of TAEF2 to pictures in [0, 1]."""

    def __init__(self, pictures: int, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.stage3, self.up3 = _stage(Pooled, 3), _doubling()
        self.stage2, self.up2 = _stage(Plain, 3), _doubling()
        self.stage1, self.up1 = _stage(Plain, 3), _doubling()
        self.stage0 = _stage(Plain, 1)
        self.conv_out = nn.Conv2d(WIDTH, pictures, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """`latent` (B, 32, h, w) to (B, 3, 8 h, 8 w)."""
        h = self.stage3(F.relu(self.conv_in(LIMIT * torch.tanh(latent / LIMIT))))
        h = self.stage2(self.up3(_twice(h)))
        h = self.stage1(self.up2(_twice(h)))
        return self.conv_out(self.stage0(self.up1(_twice(h))))


def _twice(h: Tensor) -> Tensor:
    return F.interpolate(h, scale_factor=2.0, mode="nearest")


@final
class TAEF2(Autoencoder):
    """The tiny autoencoder of FLUX.2, with random weights; `load` reads its file."""

    channels, factor = 32, 8

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise AmbientSolveError(f"precision={precision!r} is not a choice. {suggestion(precision, PRECISIONS)}")
        self.precision = precision
        self.encoder, self.decoder = Encoder(self.pictures, self.channels), Decoder(self.pictures, self.channels)

    def encode(self, x: Tensor) -> Tensor:
        """See `Autoencoder.encode`."""
        return self._run(self.encoder, x)

    def decode(self, latent: Tensor) -> Tensor:
        """See `Autoencoder.decode`."""
        return self._run(self.decoder, latent)

    def memory(self, pixels: int, backward: bool) -> float:
        """See `Autoencoder.memory`."""
        return (BYTES_BACKWARD if backward else BYTES_FORWARD) * pixels

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        half = self.precision == "bfloat16" or (self.precision == "auto" and multiplies_bfloat16(x.device))
        if half:  # four times as fast on a CPU, but channels last alone
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            return network(x).float()

    @classmethod
    def load(cls, path: str | Path, precision: str = "auto") -> TAEF2:
        """Read the weights, of any floating-point type.

        Args:
            path: A safetensors file of 158 tensors, or a folder that holds one called `AUTOENCODER`.
            precision: Arithmetic: "float32", "bfloat16", or "auto", bfloat16 where the hardware multiplies it natively.
                It moves a picture by .002 of white, a twentieth of what the autoencoder itself loses.

        Returns:
            The autoencoder on the CPU, its weights frozen.

        Raises:
            AmbientSolveError: the file is missing or unreadable, or holds the tensors of something else.
        """
        path = Path(path) / AUTOENCODER if Path(path).is_dir() else Path(path)
        with torch.device("meta"):
            made = cls(precision)
        load_checked(made, path)
        return made.eval().requires_grad_(False)


def load_checked(module: nn.Module, path: Path) -> None:
    """Give a module, made on the device "meta", the weights of a safetensors file, once names and shapes are known.

    Args:
        module: Takes float32 weights on the CPU.
        path: The file.

    Raises:
        AmbientSolveError: it cannot be read, or its tensors are not those of the module.
    """
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    if not path.is_file():
        raise AmbientSolveError(f"There is no autoencoder {path}; a safetensors file was expected.")
    try:
        with safe_open(path, framework="pt") as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        wrong = mismatch(expected, held)
        if wrong:
            raise AmbientSolveError(f"{path} is no {type(module).__name__}: {wrong}.")
        weights = {name: t.float() for name, t in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise AmbientSolveError(
            f"{path} is not a readable safetensors file ({reason(error)}). Copy it again."
        ) from None
    bad = next((name for name, t in weights.items() if not bool(t.isfinite().all())), None)
    if bad:
        raise AmbientSolveError(f"{path}: {bad} has NaN or infinite numbers: the file is damaged, copy it again.")
    module.load_state_dict(weights, assign=True)


def mismatch(expected: dict[str, tuple[int, ...]], held: dict[str, tuple[int, ...]]) -> str:
    """What is wrong with the tensors of a file, in words.

    Args:
        expected: Names and shapes of the module.
        held: Those of the file.

    Returns:
        The words; empty where they are the same.
    """
    missing, extra = [n for n in expected if n not in held], [n for n in held if n not in expected]
    if missing or extra:
        words = [
            f"{len(names)} tensors are {what}, such as {names[0][:80]}"
            for names, what in ((missing, "missing"), (extra, "not expected"))
            if names
        ]
        return " and ".join(words)
    name = next((n for n in expected if held[n] != expected[n]), None)
    return "" if name is None else f"{name} has shape {held[name]}, {expected[name]} was expected"
