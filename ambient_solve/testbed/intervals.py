"""Intervals over seeds: of one entry, of the difference of two, paired by seed, and of the agreement of two scales.

They hold what other first weights and another order of the pictures change. What another pool or other held-out
pictures would change is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ambient_solve.errors import AmbientSolveError

CONFIDENCE = 0.95
"""Probability with which an interval holds the truth."""
RESAMPLES = 2000
"""Bootstrap samples of a rank correlation."""


def mean_interval(values: Sequence[float], comparisons: int = 1) -> tuple[float, float, float]:
    """The mean of independent values and its interval, by Student's t.

    Args:
        values: One for each seed.
        comparisons: Intervals that are looked at together (Bonferroni).

    Returns:
        Mean, lower and upper end; the ends are infinite where there is one value.
    """
    from scipy.stats import t

    x = np.asarray(values, float)
    if len(x) < 2:
        return float(x.mean()), -math.inf, math.inf
    chance = (1 - CONFIDENCE) / comparisons
    reach = float(t.ppf(1 - chance / 2, len(x) - 1)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()), float(x.mean()) - reach, float(x.mean()) + reach


def paired_interval(
    values: Sequence[float], reference: Sequence[float], comparisons: int = 1
) -> tuple[float, float, float]:
    """The mean difference of two entries and its interval, paired by seed.

    Args:
        values: Of one entry, by seed.
        reference: Of the other, for the same seeds.
        comparisons: As for `mean_interval`.

    Returns:
        Mean, lower and upper end.

    Raises:
        AmbientSolveError: they have different numbers of seeds.
    """
    if len(values) != len(reference):
        raise AmbientSolveError(f"Entries of {len(values)} and {len(reference)} seeds cannot be compared seed by seed.")
    return mean_interval(np.subtract(values, reference).tolist(), comparisons)


def rank_agreement(small: np.ndarray, large: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Spearman's correlation of the means of entries at two scales, with a bootstrap interval over the seeds.

    Args:
        small: Values (entries, seeds) at one scale.
        large: Values (entries, other seeds) at the other, entries in the same order.
        seed: Decides the bootstrap samples.

    Returns:
        The correlation, lower and upper end.

    Raises:
        AmbientSolveError: the entries are not the same, or fewer than 3.
    """
    from scipy.stats import spearmanr

    if len(small) != len(large) or len(small) < 3:
        raise AmbientSolveError(
            f"Ranks of {len(small)} and {len(large)} entries were given; 3 or more, the same, were expected."
        )
    rng = np.random.default_rng((seed, len(small)))

    def drawn(values: np.ndarray) -> np.ndarray:
        return values[:, rng.integers(values.shape[1], size=values.shape[1])].mean(1)

    found = [float(spearmanr(drawn(small), drawn(large)).statistic) for _ in range(RESAMPLES)]
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(spearmanr(small.mean(1), large.mean(1)).statistic), float(low), float(high)
