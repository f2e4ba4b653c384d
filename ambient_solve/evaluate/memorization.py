"""What a prior has memorized of the pictures that it was trained on: copies among its samples, and recall from noise.

Two attacks, each by pixels and by the features of a network (`evaluate.features`):

- *Near copies.* A sample that is less than `NEAR` times as far from one picture of the training set as from any other
  copies it (Yoon et al., 2023; Carlini et al., 2023, arXiv 2301.13188). Held-out pictures in place of samples show what
  share chance alone gives.
- *Recall.* Pictures of the training set, and held-out ones, get so much noise that half of their variance is noise, and
  are denoised once. How much nearer to the original the prior comes than a reference that has not seen them, such as
  the prior that it was fine-tuned from, is the gain. A training picture counts as recalled where its gain exceeds those
  of 95 % of the held-out ones: 5 % are by chance, and everything more is memory.

Of a damaged picture both versions count, the stored one and the clean one where it is known: whichever is nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.evaluate.features import middle_features
from ambient_solve.noise import Streams
from ambient_solve.priors.ambient import AmbientPrior
from ambient_solve.priors.base import Prior

NEAR = 0.6
"""A near copy is less than this many times as far from the nearest picture as from the second nearest."""
CHANCE = 0.05
"""Share of training pictures that count as recalled by chance."""
BATCH = 32
"""Pictures that are denoised together."""
TINY = 1e-9
"""Least distance, so that a logarithm can be taken."""
Describe = Callable[[Tensor], Tensor]
"""From pictures (N, C, H, W) in [-1, 1] to (N, d)."""


@dataclass(frozen=True)
class Memorization:
    """What was found; all are shares, 0 to 1.

    Attributes:
        copies_pixels: Near copies among the samples, by pixels.
        copies_features: By features.
        copies_by_chance: Near copies among held-out pictures, by pixels.
        recalled_pixels: Training pictures recalled from noise, by pixels; `CHANCE` for a prior that memorized nothing.
        recalled_features: By features.
        samples: How many samples were looked at.
        known: How many training pictures.
        held_out: How many held-out pictures.
    """

    copies_pixels: float
    copies_features: float
    copies_by_chance: float
    recalled_pixels: float
    recalled_features: float
    samples: int
    known: int
    held_out: int

    def __str__(self) -> str:
        """A few lines for a reader."""
        recalled = f"{100 * self.recalled_pixels:.1f} % by pixels, {100 * self.recalled_features:.1f} % by features"
        copies = f"{100 * self.copies_pixels:.1f} % by pixels, {100 * self.copies_features:.1f} % by features"
        return (
            f"near copies among {self.samples} samples: {copies} ({100 * self.copies_by_chance:.1f} % of held-out "
            f"pictures)\nrecalled at 50 % noise, of {self.known} training pictures: {recalled} ({100 * CHANCE:.0f} % "
            "by chance)"
        )

    def as_row(self) -> dict[str, float]:
        """All of it by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def near_copies(made: Tensor, known: Sequence[Tensor]) -> Tensor:
    """Which of some pictures are near copies of a known one.

    Args:
        made: Descriptions (N, d).
        known: Versions of the known pictures, each (M, d), M at least 2.

    Returns:
        (N,) bool.

    Raises:
        AmbientSolveError: fewer than two pictures are known.
    """
    if not known or len(known[0]) < 2:
        raise AmbientSolveError("Near copies are found among two known pictures or more: give more of them.")
    apart = torch.stack([torch.cdist(made.flatten(1), k.flatten(1)) for k in known]).amin(0)
    first, second = apart.topk(2, largest=False).values.T
    return first < NEAR * second


def recalled(gains: Tensor, of_others: Tensor) -> float:
    """The share of training pictures whose gain exceeds those of all but `CHANCE` of the held-out pictures.

    Args:
        gains: Of the training pictures, (N,).
        of_others: Of the held-out ones, (M,).

    Returns:
        The share, about `CHANCE` where both have the same law.
    """
    return float((gains > torch.quantile(of_others.double(), 1 - CHANCE)).double().mean())


@torch.no_grad()
def denoised_from_half(prior: Prior, z: Tensor, seed: int) -> Tensor:
    """Pictures, as a prior denoises them once when half of their variance is noise.

    Args:
        prior: The prior; a mask-conditioned one is shown everything.
        z: States (N, *shape).
        seed: Of the noise; that of row i depends on (seed, i) alone.

    Returns:
        Pictures in [-1, 1], (N, C, H, W), on the CPU.
    """
    sigma = min(max(float((z - z.mean(0)).square().mean().sqrt()), prior.sigma_min), prior.sigma_max)
    found = []
    for rows in torch.arange(len(z)).split(BATCH):
        noisy = z[rows] + sigma * Streams([seed], len(rows), "cpu", int(rows[0])).normal(z[rows])
        shape = (len(rows), prior.mask_channels, *z.shape[2:]) if isinstance(prior, AmbientPrior) else ()
        cond = torch.ones(shape, device=prior.device) if shape else None
        z0 = prior.denoise(noisy.to(prior.device), sigma, cond)
        found.append((2 * prior.decode(z0) - 1).cpu())
    return torch.cat(found)


def gain(found: Tensor, by_reference: Tensor, versions: Sequence[Tensor]) -> Tensor:
    """How much nearer to the originals a prior comes from noise than a reference, as a logarithm.

    Args:
        found: Descriptions of what the prior makes of noisy pictures, (N, d).
        by_reference: Of what the reference makes of them, (N, d).
        versions: Descriptions of the versions of the pictures, each (N, d).

    Returns:
        (N,); 0 where both come as near.
    """
    apart = [
        torch.stack([(x - v).norm(dim=1) for v in versions]).amin(0).clamp_min(TINY) for x in (found, by_reference)
    ]
    return (apart[1] / apart[0]).log()


@torch.no_grad()
def memorization(
    prior: Prior,
    reference: Prior,
    samples: Tensor,
    known: Sequence[Tensor],
    held_out: Sequence[Tensor],
    *,
    seed: int = 0,
) -> Memorization:
    """What a prior has memorized.

    Args:
        prior: The prior, trained.
        reference: One that has not seen the pictures, such as that which the training began with.
        samples: States that it drew, (N, *shape).
        known: Versions of the training pictures as states, each (M, *shape), M at least 2: the clean ones first, where
            they are known, and the stored ones.
        held_out: The same versions of pictures that it has not seen, each (K, *shape), K at least 1.
        seed: Of the noise.

    Returns:
        What was found.

    Raises:
        AmbientSolveError: fewer than two pictures are known, or none is held out.
    """
    if not held_out or not len(held_out[0]):
        raise AmbientSolveError("No picture is held out, without which memory and chance look alike: hold some out.")

    def shown(z: Tensor) -> Tensor:
        return torch.cat([(2 * prior.decode(part.to(prior.device)) - 1).cpu() for part in z.float().split(BATCH)])

    made, seen, others = shown(samples), [shown(v) for v in known], [shown(v) for v in held_out]
    pixels: Describe = lambda x: x.flatten(1)  # noqa: E731
    scale = middle_features(_colors(seen[0])).std(0).clamp_min(TINY)
    features: Describe = lambda x: middle_features(_colors(x)) / scale  # noqa: E731
    copies = [near_copies(d(made), [d(v) for v in seen]).float().mean() for d in (pixels, features)]
    sets = ((known[0].float(), seen, seed), (held_out[0].float(), others, seed + 1))
    denoised = [[denoised_from_half(one, z, key) for one in (prior, reference)] for z, _, key in sets]
    shares = [
        recalled(
            *(
                gain(describe(a), describe(b), [describe(v) for v in versions])
                for (a, b), (_, versions, _) in zip(denoised, sets, strict=True)
            )
        )
        for describe in (pixels, features)
    ]
    chance = near_copies(pixels(others[0]), [pixels(v) for v in seen]).float().mean()
    return Memorization(*map(float, copies), float(chance), *shares, len(samples), len(known[0]), len(held_out[0]))


def _colors(x: Tensor) -> Tensor:
    """Pictures of 1 or 3 channels; of complex ones, 2 channels, the magnitude."""
    return x if x.shape[1] in (1, 3) else (x + 1).square().sum(1, keepdim=True).sqrt() / math.sqrt(2)
