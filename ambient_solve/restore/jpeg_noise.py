r"""The noise of a picture that was stored as JPEG: what rounding in the cosine transform has left of it, and hidden.

A coefficient of a block before it was rounded to k steps q is that of the clean picture plus white noise of level s.
Blocks come in classes, from flat ones to edges, which differ in how much variance t the clean picture adds at the
frequencies (u, v), so that

    p(block) = sum_t w_t prod_uv P( (|k| - 1/2) q < |N(0, s^2 + t / (u^2 + v^2)^d)| < (|k| + 1/2) q )

and s is where the likelihood is largest, the weights w_t fitted for each s by expectation maximisation. Below the level
at which noise alone rounds to 0 nearly always, nothing can be known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators.jpeg import TO_YCBCR, dct_matrix

DECAY = 1.3
"""d above: natural pictures have variances that fall about so."""
CLASSES = 13
"""Classes of blocks beside the flat ones."""
TEXTURE = (1e-1, 1e5)
"""Least and largest t, in squared gray levels of 255."""
LEVELS = (0.3, 80.0, 40)
"""Least and largest s that are tried, in gray levels, and how many."""
ROUNDING = 1 / 12
"""Variance of rounding the decoded pixels to whole gray levels."""
UNLIKELY = 0.02
"""Share of the coefficients that may be anything, as edges are."""
SPAN = 2000
"""Gray levels over which these spread."""
ROUNDS = 12
"""Expectation maximisation steps for each level, which go on from the weights of the one before."""
SEEN = 0.02
"""Share of the coefficients that noise alone must move off 0 to be seen."""
DROP = 2.0
"""Log-likelihood below its largest value up to which a level is possible."""
MOST = 500
"""Most blocks that are used."""
FEWEST = 16
"""Fewest blocks."""


@final
@dataclass(frozen=True)
class FileNoise:
    """What a picture says of its noise.

    Attributes:
        level: Standard deviation in each channel, for values from 0 to 1; None where rounding hides it.
        hidden: Level below which nothing can be known.
        hidden_by: What hides it.
    """

    level: float | None
    hidden: float
    hidden_by: str = "JPEG compression"

    @property
    def words(self) -> str:
        """The level, or what it is below."""
        if self.level is None:
            return f"below {self.hidden:.2g} cannot be known: {self.hidden_by} hides it"
        return f"{self.level:.3g}"


def jpeg_noise(y: Tensor, steps: Tensor) -> FileNoise:
    """The noise that a picture had when it was compressed.

    Args:
        y: The decoded picture, (C, H, W) in [0, 1], C 1 or 3, on the grid of its blocks. The noise of three channels is
            taken to be independent, but where they are the same.
        steps: Quantisation of the luminance, (8, 8), in gray levels of 255.

    Returns:
        The level, or that it is hidden.

    Raises:
        AmbientSolveError: fewer than 16 blocks have no clipped pixel.
    """
    y = 255 * y.detach().cpu().double()
    gray = len(y) == 1 or bool((y == y[:1]).all())
    mix = torch.tensor([1.0] if gray else TO_YCBCR[0], dtype=torch.float64)
    unit = 255 * float(mix.square().sum().sqrt())
    q = steps.double().flatten()[1:]
    k = _whole_steps(y[:1] if gray else y, mix, q)
    if len(k) < FEWEST:
        raise AmbientSolveError(
            f"The picture has {len(k)} blocks of 8 x 8 pixels without black or white, at least {FEWEST} were expected."
        )
    levels = torch.logspace(*(math.log10(s) for s in LEVELS[:2]), LEVELS[2], dtype=torch.float64)
    likelihood = _log_likelihood(k, q, levels)
    best = int(likelihood.argmax())
    level = _peak(levels, likelihood, best)
    possible = float(levels[likelihood >= likelihood[best] - DROP].max())
    hidden = hidden_level(steps)
    if level < hidden:
        return FileNoise(None, max(hidden, possible) / unit)
    return FileNoise(level / unit, hidden / unit)


def hidden_level(steps: Tensor) -> float:
    """The level of noise, in gray levels of luminance, that moves too few coefficients off 0 to be seen.

    Args:
        steps: Quantisation of the luminance, (8, 8).
    """
    q = steps.double().flatten()[1:]
    levels = torch.logspace(-2, 3, 2001, dtype=torch.float64)
    moved = torch.erfc(q / (2 * math.sqrt(2) * levels[:, None])).mean(1)
    return float(levels[moved >= SEEN][0])


def _whole_steps(y: Tensor, mix: Tensor, q: Tensor) -> Tensor:
    """Steps (n, 63) of the coefficients of blocks that have no clipped pixel, evenly over the picture."""
    h, w = (8 * (n // 8) for n in y.shape[-2:])
    blocks = y[:, :h, :w].unfold(1, 8, 8).unfold(2, 8, 8).flatten(1, 2)
    blocks = blocks[:, ((blocks > 0.5) & (blocks < 254.5)).all(0).flatten(1).all(1)]
    if blocks.shape[1] > MOST:
        blocks = blocks[:, torch.linspace(0, blocks.shape[1] - 1, MOST).long()]
    dct = dct_matrix().double()
    luminance = torch.einsum("c,cnij->nij", mix, blocks)
    return (torch.einsum("ui,nij,vj->nuv", dct, luminance, dct).flatten(1)[:, 1:] / q).round()


def _log_likelihood(k: Tensor, q: Tensor, levels: Tensor) -> Tensor:
    """Of each level, with the weights of the classes that suit it best: (n levels,)."""
    u = torch.arange(8, dtype=torch.float64)
    fall = (u[:, None] ** 2 + u**2).flatten()[1:] ** -DECAY
    spread = torch.logspace(*(math.log10(t) for t in TEXTURE), CLASSES, dtype=torch.float64)
    texture = torch.cat([torch.zeros(1, dtype=torch.float64), spread])[:, None] * fall
    below, above = (k.abs() - 0.5) * q / math.sqrt(2), (k.abs() + 0.5) * q / math.sqrt(2)
    weights, found = torch.full((len(texture),), 1 / len(texture), dtype=torch.float64), []
    for level in levels:
        std = (level**2 + texture + ROUNDING).sqrt()
        low, high = below[:, None] / std, above[:, None] / std
        # Far out 1 - erf loses its digits, erfc keeps them; around 0 an interval has either sign.
        inside = torch.where(low > 0, low.clamp_min(0).erfc() - high.erfc(), high.erf() - low.erf()) / 2
        logs = ((1 - UNLIKELY) * inside + UNLIKELY * q / SPAN).log().sum(2)
        for _ in range(ROUNDS):
            weights = (logs + weights.log()).softmax(1).mean(0).clamp_min(1e-6)
            weights = weights / weights.sum()
        found.append(torch.logsumexp(logs + weights.log(), 1).sum())
    return torch.stack(found)


def _peak(levels: Tensor, likelihood: Tensor, best: int) -> float:
    """Where a parabola through the largest value and its neighbours is largest, in the logarithm of the level."""
    if not 0 < best < len(levels) - 1:
        return float(levels[best])
    before, middle, after = (float(likelihood[best + i]) for i in (-1, 0, 1))
    bend = before - 2 * middle + after
    offset = (before - after) / 2 / bend if bend < 0 else 0.0
    return float(levels[best] * (levels[1] / levels[0]) ** offset)
