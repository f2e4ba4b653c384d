r"""The pictures of a concept as latents, with the noise level above which each may be used.

An autoencoder is no linear map, so that what is known of a damaged picture holds for its latent only nearly:

    noise of level s in the picture      is taken for white noise in the latent, of the root mean square of
                                         E(x + s n) - E(x), further noise n drawn; exact where E has orthonormal rows
    pixels that were not observed        are filled with the mean of the others. A place of the latent counts in the
                                         loss where all of its pixels were observed, at levels above the root mean
                                         square of what another fill changes of the places that do not count
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ambient_solve.data.corruption import MANIFEST, read_corrupted
from ambient_solve.data.images import read_images, to_tensor
from ambient_solve.data.sample import Sample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch
from ambient_solve.priors.latent import LatentPrior

DRAWS = 4
"""Times that noise, or another fill, is drawn to find the level of a latent."""
CORRUPTED = "corrupted:"
"""Before a folder of damaged pictures, as `write_corrupted` writes them."""


def concept_samples(data: str, size: int, sigma: float = 0.0, limit: int = 0) -> list[Sample]:
    """The pictures of a concept, square and of one size.

    Args:
        data: Pictures as `read_images` takes them, or corrupted:FOLDER.
        size: Side in pixels. Clean pictures are cut square and scaled; of noisy and masked ones the middle is cut out,
            as scaling would change their noise.
        sigma: Noise that all of them hold, where pixel values go from 0 to 1.
        limit: At most this many; 0 is all.

    Returns:
        The samples; `z` in [-1, 1], `sigma_noise` in its units, `sigma_min` a level of the prior.

    Raises:
        AmbientSolveError: there is no such picture, one is too small, or the noise is stated twice.
    """
    folder = data.removeprefix(CORRUPTED)
    if data.startswith(CORRUPTED) or (Path(folder) / MANIFEST).is_file():
        if sigma:
            raise AmbientSolveError(
                f"sigma={sigma} was given, and {folder} says the noise of each picture: leave it out."
            )
        samples = list(read_corrupted(folder))
    else:
        samples = [
            Sample(name, x.float() / 127.5 - 1, sigma_noise=2 * sigma)
            for name, x in ((n, x if sigma else _scaled(x, size)) for n, x in read_images(data))
        ]
    samples = samples[: limit or None]
    found = [replace(s, z=_middle(s.name, s.z.float(), size)) for s in samples]
    masks = [None if s.mask is None else _middle(s.name, s.mask.float(), size).amin(0, keepdim=True) for s in samples]
    return [replace(s, mask=mask) for s, mask in zip(found, masks, strict=True)]


def _scaled(picture: Tensor, size: int) -> Tensor:
    side = min(picture.shape[1:])
    square = _middle("picture", picture, side)
    image = Image.fromarray(square.permute(1, 2, 0).contiguous().numpy())
    return to_tensor(image.resize((size, size), Image.Resampling.LANCZOS))


def _middle(name: str, x: Tensor, size: int) -> Tensor:
    height, width = x.shape[1:]
    if min(height, width) < size:
        raise AmbientSolveError(f"{name} is {width}x{height}, smaller than the {size} pixels that are learned from.")
    top, left = (height - size) // 2, (width - size) // 2
    return x[:, top : top + size, left : left + size]


@torch.no_grad()
def latents_of(prior: LatentPrior, samples: Sequence[Sample], seed: int = 0) -> Batch:
    """Latents of pictures, and what is known of each.

    Args:
        prior: Whose autoencoder encodes.
        samples: As `concept_samples` returns them.
        seed: Of the noise by which levels are found.

    Returns:
        The latents `z` (n, C, h, w), `sigma_noise` and `sigma_min` in their units, and `mask` (n, 1, h, w) of the
        places that count, None where all do; `sigma` is 0.

    Raises:
        AmbientSolveError: no place of a picture was observed whole.
    """
    rows = [_latent(prior, sample, Streams([seed + i], 1)) for i, sample in enumerate(samples)]
    z, noise, least, masks = zip(*rows, strict=True)
    whole = all(bool(mask.all()) for mask in masks)
    zero = torch.zeros(len(rows))
    mask = None if whole else torch.cat(masks)
    return Batch(torch.cat(z), zero, torch.tensor(noise), torch.tensor(least), zero, mask)


def _latent(prior: LatentPrior, sample: Sample, streams: Streams) -> tuple[Tensor, float, float, Tensor]:
    """One latent, the level of its noise, the level above which it may be used, and the places that count."""
    factor = prior.autoencoder.factor
    x = (sample.z[None].float() + 1) / 2
    seen = torch.ones_like(x[:, :1]) if sample.mask is None else sample.mask[None].float()
    mean = (x * seen).sum((-2, -1), keepdim=True) / seen.sum((-2, -1), keepdim=True).clamp_min(1)
    filled = x * seen + mean * (1 - seen)
    code = lambda picture: prior.encode(picture.to(prior.device)).cpu()  # noqa: E731
    z, sigma = code(filled), sample.sigma_noise / 2
    counts = -F.max_pool2d(-seen, factor)
    if not bool(counts.any()):
        raise AmbientSolveError(
            f"{sample.name} has no square of {factor} pixels that was observed whole: leave it out."
        )
    level, least = 0.0, sample.sigma_min
    if sigma > 0:
        level = _rms([code(filled + sigma * seen * streams.normal(x)) - z for _ in range(DRAWS)], counts)
    if not bool(counts.all()):
        fills = [x * seen + streams.uniform(mean) * (1 - seen) for _ in range(DRAWS)]
        least = max(least, _rms([code(fill) - z for fill in fills], 1 - counts))
    return z, level, least, counts


def _rms(changes: Sequence[Tensor], where: Tensor) -> float:
    squares = torch.cat(list(changes)).square().mean((0, 1), keepdim=True)
    return float(((squares * where).sum() / where.sum()).sqrt())


def admissible(latents: Batch, levels: np.ndarray, factor: float) -> np.ndarray:
    """Which latents may be used at which levels.

    Args:
        latents: As `latents_of` returns them.
        levels: (B,).
        factor: By how much a level must exceed the noise of a latent, `objectives.denoise.buffer`.

    Returns:
        (B, n), true where one may be used.
    """
    least = np.maximum(latents.sigma_noise.numpy() * factor, latents.sigma_min.numpy())
    return levels[:, None] > least[None]
