"""A prior of latents with the autoencoder that takes them to pictures: `decode` is a network, and not affine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.priors.autoencoder import AUTOENCODER, TAEF2, Autoencoder
from ambient_solve.priors.base import Prior
from ambient_solve.priors.network import NetworkPrior
from ambient_solve.priors.wrapped import WrappedPrior
from ambient_solve.reading.limits import read_json
from ambient_solve.saving import save_tensors

CODE = "autoencoder.json"
"""File in the folder of a latent prior: the kind of its autoencoder, and mean and deviation of each channel."""
KIND = "taef2"
"""The autoencoder that a folder may hold."""
MAX_SIZE = 1e6
"""Most that the mean or the deviation of a channel may be."""


@final
class LatentPrior(WrappedPrior):
    """A prior of normalized latents: `x = autoencoder.decode(mean + std z)`, with `encode` as its inverse, nearly.

    `encode` is deterministic: of an autoencoder that draws latents it takes the mode. Its error, `decode(encode(x))`
    against x, bounds what any algorithm can restore.

    Args:
        inner: The prior of the latents, `z` in its own units; its own `decode` is not used.
        autoencoder: From latents to pictures in [0, 1] and back; `TiledAutoencoder` takes large pictures in pieces.
        mean: Of each channel of the latents, (C,); 0 by default.
        std: Standard deviation of each channel, (C,), above 0; 1 by default.

    Raises:
        AmbientSolveError: the prior has another number of channels than the autoencoder, or the statistics have.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, inner: Prior, autoencoder: Autoencoder, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__(inner)
        channels = autoencoder.channels
        if len(inner.shape) != 3 or inner.shape[0] not in (-1, channels):
            raise AmbientSolveError(
                f"The prior denoises states of shape {_words(inner.shape)}, the autoencoder makes latents of "
                f"{channels} channels: the two must come from one model."
            )
        self.autoencoder = autoencoder
        given = {
            "mean": torch.zeros(channels) if mean is None else mean,
            "std": torch.ones(channels) if std is None else std,
        }
        for name, numbers in given.items():
            numbers = torch.as_tensor(numbers, dtype=torch.float32).detach().clone()
            sound = numbers.shape == (channels,) and bool((numbers.abs() <= MAX_SIZE).all())
            if not sound or (name == "std" and not bool((numbers > 0).all())):
                raise AmbientSolveError(
                    f"{name} of shape {tuple(numbers.shape)} was given; {channels} numbers, one for each channel of "
                    f"the latents{', all above 0' if name == 'std' else ''}, were expected."
                )
            self.register_buffer(name, numbers[:, None, None].to(inner.device), persistent=False)
        self.shape = (channels, *inner.shape[1:])

    @property
    def affine(self) -> None:
        """None: `decode` is a network."""
        return None

    def decode(self, z: Tensor) -> Tensor:
        """See `Prior.decode`: (B, C, h, w) to pictures (B, 3, h * factor, w * factor) in about [0, 1]."""
        return self.autoencoder.decode(self.mean + self.std * z)

    def encode(self, x: Tensor) -> Tensor:
        """See `Prior.encode`; of pictures in [0, 1], and only nearly the inverse of `decode`."""
        return (self.autoencoder.encode(x) - self.mean) / self.std

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """See `Prior.state_shape`."""
        factor, pictures = self.autoencoder.factor, self.autoencoder.pictures
        fixed = [side * factor for side in self.shape[1:] if side != -1]
        if len(image_shape) != 3 or image_shape[0] != pictures or any(n % factor for n in image_shape[1:]):
            raise AmbientSolveError(
                f"The operator works on images of shape {image_shape}, this latent prior makes pictures of {pictures} "
                f"channels whose sides are multiples of {factor}: pad or crop the picture to such sides."
            )
        if fixed and list(image_shape[1:]) != fixed:
            raise AmbientSolveError(
                f"The operator works on images of {image_shape[2]}x{image_shape[1]}, this latent prior makes "
                f"{fixed[1]}x{fixed[0]}: resize the measurement, or build the operator with that img_size."
            )
        return (self.autoencoder.channels, *(n // factor for n in image_shape[1:]))

    @property
    def picture_channels(self) -> int:
        """See `Prior.picture_channels`."""
        return self.autoencoder.pictures

    def memory(self, pixels: int, backward: bool) -> float | None:
        """See `Prior.memory`: that of the network or of the autoencoder, whichever is more."""
        own = self.autoencoder.memory(pixels * self.autoencoder.factor**2, backward)
        inner = self.inner.memory(pixels, backward)
        return None if own is None or inner is None else max(own, inner)

    def takes_tiles(self, side: int) -> bool:
        """No: `TiledAutoencoder` is what takes large pictures."""
        return False

    def save(self, folder: str | Path, card: str = "", dtype: torch.dtype = torch.float16) -> None:
        """Write network, autoencoder and statistics into a folder that `load_prior` reads.

        Args:
            folder: Where to.
            card: Text of the model card.
            dtype: Type of the stored weights.

        Raises:
            AmbientSolveError: the network is no `NetworkPrior`, or the autoencoder no `TAEF2`.
        """
        if not isinstance(self.inner, NetworkPrior) or not isinstance(self.autoencoder, TAEF2):
            raise AmbientSolveError(
                f"A {type(self.inner).__name__} with a {type(self.autoencoder).__name__} cannot be saved; a "
                "NetworkPrior with a TAEF2 can. Pipelines of diffusers are saved by diffusers."
            )
        folder = Path(folder)
        self.inner.save(folder, card, dtype)
        weights = {name: t.to(dtype).contiguous().cpu() for name, t in self.autoencoder.state_dict().items()}
        save_tensors(weights, folder / AUTOENCODER)
        (folder / AUTOENCODER).chmod(0o644)
        write_code(folder, self.mean.flatten(), self.std.flatten())

    @classmethod
    def load(cls, folder: str | Path, precision: str = "auto") -> LatentPrior:
        """Read what `save` wrote.

        Args:
            folder: With a network (model.safetensors, config.json) and an autoencoder (autoencoder.safetensors, .json).
            precision: Arithmetic of both: "auto", "float32" or "bfloat16".

        Returns:
            The prior on the CPU, its weights frozen.

        Raises:
            AmbientSolveError: a file is missing or unreadable, or they do not fit each other.
        """
        folder = Path(folder)
        mean, std = read_code(folder)
        return cls(NetworkPrior.load(folder, precision), TAEF2.load(folder, precision), mean, std).eval()


def is_latent(folder: Path) -> bool:
    """Whether a folder holds a latent prior as `LatentPrior.save` writes it."""
    return (folder / CODE).is_file()


def write_code(folder: Path, mean: Tensor, std: Tensor) -> None:
    """Write autoencoder.json.

    Args:
        folder: Where to.
        mean: Of each channel, (C,).
        std: Standard deviation of each channel, (C,).
    """
    settings = {"kind": KIND, "mean": mean.tolist(), "std": std.tolist()}
    (folder / CODE).write_text(json.dumps(settings, indent=1) + "\n")


def read_code(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, from autoencoder.json, which is not trusted.

    Raises:
        AmbientSolveError: it is missing, of another kind, or holds no such numbers.
    """
    path = folder / CODE
    settings: Any = read_json(path) if path.is_file() else None
    kind = settings.get("kind") if isinstance(settings, dict) else None
    if kind != KIND:
        raise AmbientSolveError(f"{path} says kind = {str(kind)[:60]!r}; an autoencoder {KIND!r} was expected.")
    rows = []
    for name in ("mean", "std"):
        row = settings.get(name)
        if not isinstance(row, list) or not all(type(v) in (int, float) and abs(v) <= MAX_SIZE for v in row):
            raise AmbientSolveError(f"{path}: {name} must be a row of numbers, one for each channel.")
        rows.append(torch.tensor(row, dtype=torch.float32))
    return rows[0], rows[1]


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join("any" if n == -1 else str(n) for n in shape)
