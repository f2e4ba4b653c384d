r"""Do the samples say how sure they are? Checks that need the truth and a few samples of each image.

Let `x0` be a draw of the prior, `y` its measurement and `x1 .. xS` independent draws of the posterior. Given `y` all
S + 1 have one law, so that each of the following holds, whatever the prior and the operator:

    SBC      the rank of `f(x0)` among `f(x1) .. f(xS)` is uniform on 0 .. S  (Talts et al., 2018, arXiv 1804.06788)
    TARP     the same with `f(x) = |x - r|` for a point `r(y)` chosen without x0; if it holds for every choice of r, the
             samples are those of the posterior (Lemos et al., 2023, arXiv 2302.03026, theorem 3)
    misfit   `|y - A x1|^2 / sigma_y^2` is chi-square with as many degrees of freedom as there are measurements

Draws of the prior, which ignore `y`, pass SBC with any `f` that has no `y` in it, and TARP where `r` has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from scipy.special import chdtr, chdtrc, kolmogorov
from torch import Tensor

from ambient_solve.errors import AmbientSolveError

Statistic = Callable[[Tensor], Tensor]
"""A number for each of the samples of each image: (B, S, *shape) to (B, S)."""
MOST_BINS = 20
"""Most bins of a histogram of ranks."""
PER_BIN = 5
"""Fewest ranks that a bin is expected to hold."""


def variance_ratio(samples: Tensor, truth: Tensor) -> float:
    """The variance of the samples over the squared error of their mean: 1 is calibrated, below 1 is overconfident.

    V is the mean sample variance, B the squared error of the posterior mean. The mean of S samples errs by V / S more
    than the posterior mean itself, which is subtracted, so neither has a bias in S.

    Args:
        samples: (B, S, *shape), S at least 2.
        truth: (B, *shape).

    Returns:
        `V / B`; infinite where B is not above 0.

    Raises:
        AmbientSolveError: the shapes do not fit.
    """
    S = samples.shape[1]
    if S < 2 or samples[:, 0].shape != truth.shape:
        raise AmbientSolveError(
            f"variance_ratio needs samples (B, S >= 2, *shape) and truth (B, *shape), "
            f"got {tuple(samples.shape)} and {tuple(truth.shape)}."
        )
    samples, truth = samples.double(), truth.double()
    variance = samples.var(1).mean()
    error = ((samples.mean(1) - truth) ** 2).mean() - variance / S
    return float(variance / error) if error > 0 else math.inf


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """The fraction of entries whose truth lies in the central interval of the samples; calibrated samples give `level`.

    Among S samples and the truth all ranks are equally likely, so the ends are the order statistics at `p (S + 1)`: the
    usual quantiles, at `p (S - 1) + 1`, would make exact samples look overconfident when S is small.

    Args:
        samples: (B, S, *shape).
        truth: (B, *shape).
        level: Probability of the interval, in (0, 1).

    Returns:
        0 to 1.

    Raises:
        AmbientSolveError: there are too few samples for this level.
    """
    S, tail = samples.shape[1], (1 - level) / 2
    position = tail * (S + 1)
    if position < 1 - 1e-9:
        raise AmbientSolveError(f"Coverage at {level} needs {math.ceil(1 / tail - 1e-6) - 1} samples or more, got {S}.")
    ordered = samples.sort(1).values
    low, part = int(position + 1e-9), position - int(position + 1e-9)
    inner = min(low, S - 1)
    bottom = torch.lerp(ordered[:, low - 1], ordered[:, inner], part)
    top = torch.lerp(ordered[:, S - low], ordered[:, S - 1 - inner], part)
    return float(((bottom <= truth) & (truth <= top)).double().mean())


def rank(samples: Tensor, truth: Tensor, seed: int = 0) -> Tensor:
    """The rank of the truth among the samples of one number. Ties, which clipped samples have, are broken at random.

    Args:
        samples: (B, S).
        truth: (B,).
        seed: Decides the ties.

    Returns:
        How many samples lie below the truth, (B,) int64, 0 to S.

    Raises:
        AmbientSolveError: the shapes do not fit.
    """
    if samples.ndim != 2 or samples.shape[:1] != truth.shape:
        raise AmbientSolveError(
            f"rank needs numbers (B, S) and a truth (B,), got {tuple(samples.shape)} and {tuple(truth.shape)}."
        )
    ties = (samples == truth[:, None]).sum(1)
    u = torch.rand(len(truth), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(ties.device)
    return (samples < truth[:, None]).sum(1) + (u * (ties + 1)).long()


def sbc_ranks(samples: Tensor, truth: Tensor, statistics: Mapping[str, Statistic], seed: int = 0) -> dict[str, Tensor]:
    """Ranks for simulation-based calibration: uniform over 0 to S where the samples are those of the posterior.

    The samples of an image must be independent of one another, and the images of each other. Particles that were
    resampled together are not: one of them, chosen at random, is one sample.

    Args:
        samples: (B, S, *shape).
        truth: (B, *shape).
        statistics: Functions to rank by, by name; each makes (B, S) of (B, S, *shape).
        seed: Decides ties.

    Returns:
        The ranks of each statistic by its name, (B,) int64.
    """
    return {name: rank(f(samples), f(truth[:, None])[:, 0], seed) for name, f in statistics.items()}


def tarp_ranks(samples: Tensor, truth: Tensor, references: Tensor | None = None, seed: int = 0) -> Tensor:
    """Ranks for the TARP test: how many samples lie nearer to a reference point than the truth does.

    Args:
        samples: (B, S, *shape).
        truth: (B, *shape).
        references: (B, *shape); they should depend on the measurement, and must not depend on the truth behind it. By
            default each image has the truth of the one before it, an independent draw of the prior, which cannot detect
            samples that ignore `y`.
        seed: Decides ties.

    Returns:
        (B,) int64, 0 to S.

    Raises:
        AmbientSolveError: the shapes do not fit.
    """
    if samples[:, 0].shape != truth.shape:
        raise AmbientSolveError(
            f"tarp_ranks needs samples (B, S, *shape) and truth (B, *shape), "
            f"got {tuple(samples.shape)} and {tuple(truth.shape)}."
        )
    references = truth.roll(1, 0) if references is None else references
    distance = lambda x: (x - references[:, None]).flatten(2).double().norm(dim=2)  # noqa: E731
    return rank(distance(samples), distance(truth[:, None])[:, 0], seed)


def uniformity(ranks: Tensor, n_samples: int) -> float:
    """Test that ranks are uniform, by Pearson's chi-square over at most 20 bins.

    There are as many bins as leave 5 images to each. Where they cannot be equally wide, the expectation is not equal.

    Args:
        ranks: (B,), 0 to `n_samples`.
        n_samples: Samples that the truth was ranked among.

    Returns:
        The p-value.

    Raises:
        AmbientSolveError: a rank is out of range, or there are too few.
    """
    counts = histogram(ranks, n_samples)
    expected = len(ranks) * _widths(len(counts), n_samples) / (n_samples + 1)
    return float(chdtrc(len(counts) - 1, float(((counts - expected) ** 2 / expected).sum())))


def histogram(ranks: Tensor, n_samples: int) -> Tensor:
    """Counts of ranks in the bins of `uniformity`.

    Args:
        ranks: (B,), 0 to `n_samples`.
        n_samples: Samples that the truth was ranked among.

    Returns:
        (bins,) int64.

    Raises:
        AmbientSolveError: a rank is out of range, or there are too few.
    """
    bins = min(n_samples + 1, MOST_BINS, len(ranks) // PER_BIN)
    if bins < 2 or ranks.min() < 0 or ranks.max() > n_samples:
        raise AmbientSolveError(
            f"A test of uniformity needs ranks 0 .. {n_samples} of {2 * PER_BIN} images or more, got {len(ranks)}."
        )
    return torch.bincount(ranks.cpu() * bins // (n_samples + 1), minlength=bins)


def _widths(bins: int, n_samples: int) -> Tensor:
    """How many of the ranks 0 .. n_samples fall into each bin."""
    return torch.bincount(torch.arange(n_samples + 1) * bins // (n_samples + 1), minlength=bins).double()


def misfit_law(misfit: Tensor, measurements: int) -> float:
    """Test that the data misfit of posterior samples is chi-square, by Kolmogorov and Smirnov.

    Several samples of one image share its noise, which makes their misfits dependent: take one.

    Args:
        misfit: `|y - A x|^2 / sigma_y^2` of one `x` for each image, (B,).
        measurements: Degrees of freedom.

    Returns:
        The p-value.
    """
    u = torch.from_numpy(chdtr(measurements, misfit.double().cpu().numpy())).sort().values
    n = len(u)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = float(torch.maximum(steps[1:] - u, u - steps[:-1]).max())
    # With the correction of Stephens (1970) the limit law is within .02 of the exact one from n = 10 on.
    return float(kolmogorov((math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance))
