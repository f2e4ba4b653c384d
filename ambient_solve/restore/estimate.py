r"""What a user need not know: the noise level of a picture, and its JPEG quality.

Noise: the covariance of small patches is that of the clean picture plus `sigma^2 I`. Patches of weak texture span few
directions, and are found by turns with the level (Liu, Tanaka and Okutomi, 2013, "Single-image noise level estimation
for blind denoising", IEEE TIP 22(12)): those below `tau`, which noise alone exceeds with chance 1 - delta,

    |Dh p|^2 + |Dv p|^2 < tau = sigma^2 F^-1(delta; shape n^2 / 2, scale 2 tr(Dh'Dh + Dv'Dv) / n^2)     (F: gamma)

and `sigma^2` the least eigenvalue of their covariance. It is too small an answer, so that in the end the mean of all
eigenvalues that belong to the noise is taken: the longest tail whose mean is its median (Chen, Zhu and Heng, 2015, "An
efficient statistical method for image noise level estimation", ICCV).

JPEG: coefficients of the cosine transform of 8 x 8 blocks lie on multiples of the quantisation steps, whatever the file
was saved as afterwards.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from ambient_solve.errors import AmbientSolveError
from ambient_solve.restore.jpeg_files import jpeg_settings

if TYPE_CHECKING:
    from torch import Tensor

PATCH = 7
"""Side of a patch, in pixels."""
DELTA = 1 - 1e-6
"""Probability that the gradient of noise alone stays below the threshold of weak texture."""
ROUNDS = 10
"""Most updates of the noise level."""
MOST = 200_000
"""Most patches of a channel that are used."""
FEWEST = 100
"""Patches below which no covariance is estimated."""
ENOUGH = 1000
"""Patches inside the range of values from which on those at its ends are left out."""
MIN_BLOCKS = 16
"""Fewest blocks of 8 x 8 pixels by which a JPEG is recognised."""
MOST_BLOCKS = 2000
"""Most blocks that are used."""
ROUNDING = 0.4
"""Standard deviation of a decoded coefficient, in grey levels of 255."""
OUTLIERS = 0.05
"""Share of the coefficients that are off by more."""
DECISIVE = 0.2
"""Log-likelihood ratio, for each block, above which a picture was a JPEG."""


def noise_level(x: Tensor) -> Tensor:
    """The standard deviation of white noise in each picture of `x` (B, C, H, W) in [0, 1]: (B,) float32.

    Pictures in three channels share one level. What was compressed, enlarged or sharpened has no white noise, and the
    answer is then too low.
    """
    import torch

    if x.ndim != 4 or min(x.shape[-2:]) < 2 * PATCH:
        raise AmbientSolveError(
            f"x has shape {tuple(x.shape)}; pictures (B, C, H, W) of at least {2 * PATCH} pixels a side were expected."
        )
    levels = [math.sqrt(sum(_variance(channel) for channel in picture) / len(picture)) for picture in x]
    return torch.tensor(levels, dtype=torch.float32)


def _variance(channel: Tensor) -> float:
    """The variance of the noise in `channel` (H, W)."""
    from scipy.stats import gamma

    stride = math.ceil(math.sqrt(channel.numel() / MOST))
    squares = (
        channel.detach().cpu().unfold(0, PATCH, stride).unfold(1, PATCH, stride).reshape(-1, PATCH, PATCH).double()
    )
    texture = squares.diff(dim=1).square().sum((1, 2)) + squares.diff(dim=2).square().sum((1, 2))
    patches = squares.flatten(1)
    # Each row of Dh and Dv has the squared norm 2.
    unit = float(gamma.ppf(DELTA, PATCH**2 / 2, scale=2 * 4 * PATCH * (PATCH - 1) / PATCH**2))
    chosen, variance = patches, float(_eigenvalues(patches)[-1])
    for _ in range(ROUNDS):
        weak = patches[texture < variance * unit]
        if len(weak) < FEWEST:
            return variance
        chosen = _unclipped(weak, math.sqrt(variance))
        previous, variance = variance, float(_eigenvalues(chosen)[-1])
        if abs(variance - previous) <= 1e-3 * previous:
            break
    return _tail(_eigenvalues(chosen))


def _unclipped(patches: Tensor, sigma: float) -> Tensor:
    """Those of `patches` (N, n) whose means keep away from 0 and 1, where noise is cut off; all where they are few."""
    mean = patches.mean(1)
    for distance in (2.5, 2.0, 1.5, 1.0):
        inside = (mean >= distance * sigma) & (mean <= 1 - distance * sigma)
        if int(inside.sum()) >= ENOUGH:
            return patches[inside]
    return patches


def _eigenvalues(patches: Tensor) -> Tensor:
    """Of the covariance of `patches` (N, n), from large to small, none below 0."""
    import torch

    return torch.linalg.eigvalsh(torch.cov(patches.T)).flip(0).clamp_min(0)


def _tail(eigenvalues: Tensor) -> float:
    """The mean of the most eigenvalues, counted from the least, whose mean is not above their median."""
    tails = (eigenvalues[i:] for i in range(len(eigenvalues)))
    return next(float(tail.mean()) for tail in tails if tail.mean() <= tail.median() or len(tail) == 1)


def jpeg_quality(path: str | Path) -> int | None:
    """libjpeg's quality of a JPEG file, from its header; for other files that of the JPEG they once were.

    None where there is no trace of one: never compressed, or resized, cropped off the grid of blocks or noisy since, or
    of a quality so high that rounding to 8 bits hides its steps.
    """
    try:
        found = jpeg_settings(path)
    except OSError:
        found = None  # what is wrong with the file is said below, where it is opened
    if found is not None:
        return found[0]
    coefficients = _block_coefficients(path)
    if len(coefficients) < MIN_BLOCKS:
        return None
    evidence = [_evidence(coefficients, quality) for quality in range(1, 101)]
    best = max(range(100), key=evidence.__getitem__)
    return best + 1 if evidence[best] > DECISIVE * len(coefficients) else None


def _block_coefficients(path: str | Path) -> Tensor:
    """The cosine transforms (n, 63), mean left out, of at most MOST_BLOCKS blocks of luminance on the grid of a JPEG.

    Blocks with clipped pixels, which decoding has changed, and repeated ones, which prove nothing twice, are left out.
    """
    import torch

    from ambient_solve.data.images import open_image, to_tensor
    from ambient_solve.operators.jpeg import TO_YCBCR, dct_matrix

    image = open_image(path)
    if image.mode.startswith("I") or image.mode == "F":
        return torch.empty(0, 63)  # more than 8 bits: no decoded JPEG
    if min(image.size) < 8:
        return torch.empty(0, 63)
    stride = 8 * math.ceil(math.sqrt(image.width * image.height / 64 / MOST_BLOCKS))
    blocks = to_tensor(image, 3).unfold(1, 8, stride).unfold(2, 8, stride).flatten(1, 2).float()
    blocks = blocks[:, ((blocks > 0) & (blocks < 255)).all(0).all(-1).all(-1)]
    luminance = torch.einsum("c,cnij->nij", torch.tensor(TO_YCBCR[0]), blocks)
    dct = dct_matrix()
    coefficients = torch.einsum("ui,nij,vj->nuv", dct, luminance, dct).flatten(1)[:, 1:]
    return (100 * coefficients).round().unique(dim=0) / 100


def _evidence(coefficients: Tensor, quality: int) -> float:
    """Log-likelihood ratio of "these (n, 63) lie on the steps of `quality`" to "they lie anywhere".

    A coefficient at distance r from the nearest multiple of the step s, other than 0, counts
    `log((1 - e) s N(r; 0, w^2) + e)`, w the width of the decoder's rounding. Round 0, where the coefficients of smooth
    pictures are anyway, only those count that are too large for it. Half the blocks may be spoilt, by colours that were
    clipped: a block counts `log((ratio + 1) / 2)`.
    """
    import torch

    from ambient_solve.operators.jpeg import quantisation_tables

    step = quantisation_tables(quality)[0].flatten()[1:]
    nearest = (coefficients / step).round()
    r = coefficients - nearest * step
    peak = step / (ROUNDING * math.sqrt(2 * math.pi)) * torch.exp(-0.5 * (r / ROUNDING) ** 2)
    elsewhere = torch.where(r.abs() > 3 * ROUNDING, math.log(OUTLIERS), 0.0)
    ratio = torch.where(nearest == 0, elsewhere, ((1 - OUTLIERS) * peak + OUTLIERS).log()).sum(1)
    return float((torch.logaddexp(ratio, torch.zeros(())) - math.log(2)).sum())
