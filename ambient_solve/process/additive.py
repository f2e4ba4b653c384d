r"""Additive noise: the process of today's priors, its ancestral step, and its grids of levels.

The additive process (variance exploding, the convention of EDM) is `z_sigma = z0 + sigma n`, `n ~ N(0, I)` or the
prior's own kind of unit noise. Its step from level `sigma` to `sigma_next`, given an estimate `z0` of the clean state,
is the reverse kernel

    K_eta:  z <- z0 + sqrt(sigma_next^2 - b^2) (z - z0) / sigma + b n
            b = eta sigma_next sqrt(1 - sigma_next^2 / sigma^2)

`eta = 1` is the ancestral step of DDPM (Ho et al., 2020, arXiv 2006.11239), `eta = 0` the DDIM step (Song et al., 2021,
arXiv 2010.02502, equation 12), which is one Euler step of the probability-flow ODE.

A grid of levels is a plain list of floats, decreasing, its last entry exactly 0, computed once per run so that a
sampling step never waits for a device.
"""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from ambient_solve.noise import Level, per_sample
from ambient_solve.process.base import Process


@final
class Additive(Process):
    """`z_sigma = z0 + sigma n`; levels are deviations in `z` units.

    The terminal law is that of `sigma_max n`: the data are dropped, which are small against the noise.
    """

    def perturb(self, z0: Tensor, level: Level, n: Tensor) -> Tensor:
        """See `Process.perturb`."""
        return z0 + per_sample(level, z0) * n

    def terminal(self, level: float, n: Tensor) -> Tensor:
        """See `Process.terminal`."""
        return level * n

    def reverse(
        self,
        z: Tensor,
        z0: Tensor,
        level: float,
        level_next: float,
        fresh: float = 0.0,
        n: Tensor | None = None,
        kept: float | None = None,
    ) -> Tensor:
        """See `Process.reverse`; a `fresh` of `ancestral_noise(level, level_next, eta)` gives `K_eta`."""
        if kept is None:
            kept = math.sqrt(max(0.0, level_next**2 - fresh**2)) / level
        z = z0.lerp(z, kept)
        return z if n is None or fresh <= 0 else z.add_(n, alpha=fresh)

    def levels(self, steps: int, lowest: float, highest: float) -> list[float]:
        """See `Process.levels`; the grid of `karras`."""
        return karras(steps, lowest, highest)


def ancestral_noise(sigma: float, sigma_next: float, eta: float) -> float:
    """The deviation `b` of the fresh noise of an ancestral step: of the reverse kernel `K_eta`.

    Args:
        sigma: Level before the step, in `z` units, > 0.
        sigma_next: Level after it, 0 to `sigma`.
        eta: Share of the ancestral noise, 0 to 1: 1 is DDPM, 0 is DDIM.

    Returns:
        `eta sigma_next sqrt(1 - (sigma_next / sigma)^2)`, in `z` units.
    """
    return eta * sigma_next * math.sqrt(max(0.0, 1 - (sigma_next / sigma) ** 2))


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """The noise levels of EDM (Karras et al., 2022, arXiv 2206.00364, equation 5).

    Args:
        steps: Levels above 0, 1 or more.
        sigma_min: The last of them, in `z` units, > 0.
        sigma_max: The first.
        rho: Curvature of the grid, > 0: larger puts more levels at low noise; 7 is that of the paper.

    Returns:
        `steps + 1` floats, decreasing, the last one 0.
    """
    lo, hi = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return [(hi + i / max(steps - 1, 1) * (lo - hi)) ** rho for i in range(steps)] + [0.0]


def log_linear(steps: int, sigma_min: float, sigma_max: float) -> list[float]:
    """Geometrically spaced noise levels.

    Args:
        steps: Levels above 0, 1 or more.
        sigma_min: The last of them, in `z` units, > 0.
        sigma_max: The first.

    Returns:
        `steps + 1` floats, decreasing, the last one 0.
    """
    return [sigma_max * (sigma_min / sigma_max) ** (i / max(steps - 1, 1)) for i in range(steps)] + [0.0]
