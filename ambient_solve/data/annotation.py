"""Which sample may be used at which noise level, and the stateless sigma-first draw.

A sample is admissible at `sigma` if `sigma > b * sigma_noise` and (`sigma > sigma_min` or `sigma < sigma_max`)
(Ambient Diffusion Omni; Daras et al., 2025, arXiv 2506.10038). Drawing the level first and then an admissible sample
keeps the density of levels as chosen; what changes with the level is the mixture of samples.
"""

from __future__ import annotations

import math

import numpy as np

from ambient_solve.errors import AmbientSolveError


def admitted(sigma: float, sigma_noise: float, sigma_min: float, sigma_max: float, buffer: float) -> bool:
    """Whether a sample may be used at a noise level, as `Admission` decides it.

    Args:
        sigma: The level, in `z` units.
        sigma_noise: Noise that the sample already holds.
        sigma_min: Level above which it may be used.
        sigma_max: Level below which it may be used too, 0 for none.
        buffer: Factor by which `sigma` must exceed `sigma_noise`, >= 1.

    Returns:
        True where it may.
    """
    floor = buffer * sigma_noise
    if sigma_max > sigma_min:
        return sigma > floor
    return sigma > max(floor, sigma_min) or floor < sigma < sigma_max


class Admission:
    """Answers "how many samples are admissible at sigma, and which is the k-th" by binary search.

    `sigma_noise`, `sigma_min`, `sigma_max` and `share` have shape (n,); `share` is the relative chance of each sample.
    """

    def __init__(
        self, sigma_noise: np.ndarray, sigma_min: np.ndarray, sigma_max: np.ndarray, share: np.ndarray, buffer: float
    ) -> None:
        if not np.all(np.isfinite(share) & (share >= 0)):
            raise AmbientSolveError("The share of a sample is a number that is 0 or more.")
        floor = buffer * sigma_noise
        # Where sigma_max exceeds sigma_min the two permissions meet: every level above the sample's noise is admitted.
        meet = sigma_max > sigma_min
        above = np.where(meet, floor, np.maximum(floor, sigma_min))
        below = np.where(~meet & (sigma_max > floor), sigma_max, 0.0)
        if np.any((below > 0) & (sigma_noise > 0)):
            raise AmbientSolveError("A sample that already holds noise cannot also be admitted below sigma_max.")
        self._above = np.argsort(above, kind="stable")
        self._below = np.argsort(-below, kind="stable")
        self._thresholds, self._ceilings = above[self._above], -below[self._below]
        self._above_share = np.cumsum(share[self._above])
        self._below_share = np.cumsum(share[self._below])

    def draw(self, sigma: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw one admissible sample for each noise level.

        Args:
            sigma: Levels, (B,).
            u: Uniform numbers in [0, 1), (B,).

        Returns:
            Indices of samples, (B,).

        Raises:
            AmbientSolveError: no sample may be used at a level.
        """
        n_above = np.searchsorted(self._thresholds, sigma, side="left")
        n_below = np.searchsorted(self._ceilings, -sigma, side="left")
        total_above = np.where(n_above > 0, self._above_share[n_above - 1], 0.0)
        total_below = np.where(n_below > 0, self._below_share[n_below - 1], 0.0)
        total = total_above + total_below
        if np.any(total <= 0):
            level = float(sigma[np.argmin(total)])
            raise AmbientSolveError(
                f"No sample may be used at sigma = {level:.4g}. Add cleaner samples, or raise the smallest level drawn."
            )
        t = np.minimum(u * total, np.nextafter(total, 0))
        first = np.minimum(np.searchsorted(self._above_share, t, side="right"), np.maximum(n_above - 1, 0))
        second = np.minimum(
            np.searchsorted(self._below_share, t - total_above, side="right"), np.maximum(n_below - 1, 0)
        )
        return np.where(t < total_above, self._above[first], self._below[second])

    def gap(self) -> tuple[float, float]:
        """`(low, high)`: no sample may be used at `low <= sigma <= high`; empty, `low > high`, if one always may."""
        above = self._thresholds[np.diff(self._above_share, prepend=0.0) > 0]
        below = -self._ceilings[np.diff(self._below_share, prepend=0.0) > 0]
        return float(below.max(initial=0.0)), float(above.min(initial=math.inf))


def log_normal_levels(u: np.ndarray, mean: float, std: float, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Noise levels with `ln sigma ~ N(mean, std^2)`, truncated to a range.

    Args:
        u: Uniform numbers in [0, 1], of any shape.
        mean: Mean of `ln sigma`.
        std: Standard deviation of `ln sigma`, > 0.
        sigma_min: Least level, > 0.
        sigma_max: Largest level.

    Returns:
        Levels of the shape of `u`, in `z` units.
    """
    from scipy.special import ndtr, ndtri

    lo, hi = ndtr((math.log(sigma_min) - mean) / std), ndtr((math.log(sigma_max) - mean) / std)
    return np.exp(mean + std * ndtri(lo + u * (hi - lo)))
