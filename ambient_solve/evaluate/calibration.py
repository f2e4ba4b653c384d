"""Do the samples say how sure they are? Checks that need the truth and a few samples of each image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError


def variance_ratio(samples: Tensor, truth: Tensor) -> float:
    """`V / B` for samples (B, S, *shape) and truth (B, *shape); 1 is calibrated, below 1 is overconfident.

    V is the mean sample variance, B the squared error of the posterior mean. The mean of S samples errs by V / S more
    than the posterior mean itself, which is subtracted, so neither has a bias in S. Infinite where B is not above 0.
    """
    S = samples.shape[1]
    if S < 2 or samples[:, 0].shape != truth.shape:
        raise AmbientSolveError(
            f"variance_ratio needs samples (B, S >= 2, *shape) and truth (B, *shape), "
            f"got {tuple(samples.shape)} and {tuple(truth.shape)}."
        )
    samples, truth = samples.double(), truth.double()
    spread = samples.var(1).mean()
    error = ((samples.mean(1) - truth) ** 2).mean() - spread / S
    return float(spread / error) if error > 0 else math.inf


def coverage(samples: Tensor, truth: Tensor, level: float = 0.9) -> float:
    """Fraction of entries whose truth lies in the central interval of `level`; equals `level` for calibrated samples.

    Among S samples and the truth all ranks are equally likely, so the ends are the order statistics at `p (S + 1)`: the
    usual quantiles, at `p (S - 1) + 1`, would make exact samples look overconfident when S is small.
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
