r"""What a forward process is, and the one step by which every sampler here goes back.

A process takes clean states to states at a level. All processes here have, from a lower level r to a level t, the form

    z_t = M_t(z_r) + s_t n,      n ~ N(0, I) or the prior's own kind of unit noise

with r = 0 for `Additive` (M_t the identity) and `Soft` (M_t = C_t linear), and r = t - l for `Drift`, where M_t moves
along a drift. Going back to t' < t takes three acts: *restore*, v = E[z_r | z_t], the network's part; *read off* the
noise that explains what is seen, (z - M_t(v)) / s_t; *degrade* again, to t', with a part of that noise and fresh noise:

    z' = M_t'(v) + k (z - M_t(v)) + b n                                                                  (step)

The settings of (step), each a pair of the share k that is kept and the deviation b of what is fresh:

    deterministic   k = s' / s                  b = 0                  all noise that stays is the noise read off
    ancestral       k = sqrt(s'^2 - b^2) / s    b = eta s' sqrt(1 - s'^2 / s^2)
    momentum        k = s'^2 / s^2              b = sqrt(s^2 - s'^2)
    naive           k = 0                       b = s'                 degrade the estimate, with new noise

*Deterministic* is the restoration-degradation sampler of Daras et al. (2023, arXiv 2303.03384). With M the identity,
z' = v + (s' / s)(z - v): DDIM (Song et al., 2021, arXiv 2010.02502, equation 12). With a noise that does not change,
s' = s, so that k = 1, z' = z - M_t(v) + M_t'(v): the sampler of Cold Diffusion (Bansal et al., 2022, arXiv 2208.09392,
algorithm 2), also in the limit of no noise at all.

*Momentum* is the sampler of Soft Diffusion (Daras et al., 2022, arXiv 2209.05442): first denoise, by a step of length
s^2 - s'^2 along the score (C_t v - z) / s^2 with noise of that variance, y = z + (1 - s'^2 / s^2)(C_t v - z) + b n;
then deblur, z' = y + (C_t' - C_t) v. Its sum is (step). The noise of z' has variance k^2 s^2 + b^2, which is more than
s'^2, by (s^2 - s'^2)^2 / s^2: of second order in the step. *Naive* is the sampler that forgets z: every step collapses
to the mean that the network gives, however many there are.
"""

from __future__ import annotations

import abc
import math

from torch import Tensor

from ambient_solve.noise import Level

SAMPLERS = ("deterministic", "momentum", "naive")
"""Settings of the step, by name; `deterministic` with fresh noise is ancestral."""


class Process(abc.ABC):
    """A forward process, from clean states at level 0 to its terminal law at the highest level; it holds no state."""

    @abc.abstractmethod
    def perturb(self, z0: Tensor, level: Level, n: Tensor) -> Tensor:
        """Add noise to clean states.

        Args:
            z0: Clean states, (B, *shape).
            level: A float, () or (B,), 0 or more.
            n: Unit noise, the shape of `z0`.

        Returns:
            States at `level`, (B, *shape).
        """

    @abc.abstractmethod
    def terminal(self, level: float, n: Tensor) -> Tensor:
        """States of the law from which a run starts.

        Args:
            level: The highest level, > 0.
            n: Unit noise, (B, *shape).

        Returns:
            States at `level`, the shape of `n`.
        """

    @abc.abstractmethod
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
        """Take a reverse step from `level` to `level_next`, towards the estimate `z0`.

        Args:
            z: States at `level`, (B, *shape).
            z0: Estimates of the clean states, the same shape; for `Drift` of the states at the level it restores to.
            level: Level before the step, > 0.
            level_next: Level after it, 0 to `level`.
            fresh: Deviation of the fresh noise, 0 or more.
            n: Unit noise, the same shape; only needed where `fresh` is above 0.
            kept: Share of the noise of `z` that stays; None keeps what makes the noise that of `level_next`.

        Returns:
            States at `level_next`, (B, *shape).
        """

    @abc.abstractmethod
    def levels(self, steps: int, lowest: float, highest: float) -> list[float]:
        """The levels of a run.

        Args:
            steps: Levels above 0, 1 or more.
            lowest: The last of them.
            highest: The first of them.

        Returns:
            `steps + 1` floats, decreasing from `highest` by way of `lowest` to exactly 0.
        """

    def deviations(self, level: float, level_next: float) -> tuple[float, float]:
        """The noise of a step: deviations of the noise that `reverse` finds in `z`, and of that at the next level.

        Args:
            level: Level before the step, > 0.
            level_next: Level after it, 0 to `level`.

        Returns:
            Both, in `z` units; the levels themselves unless the process says otherwise.
        """
        return level, level_next


def noise_shares(sampler: str, s: float, s_next: float) -> tuple[float, float]:
    """The settings of a reverse step of one of the `SAMPLERS`, for `Process.reverse`.

    At level 0 nothing is kept and nothing is fresh: a run ends with the estimate.

    Args:
        sampler: "deterministic", "momentum" or "naive".
        s: Deviation of the noise before the step, 0 or more, see `Process.deviations`.
        s_next: That after it, 0 to `s`.

    Returns:
        The share that is kept, and the deviation of the fresh noise.
    """
    if sampler == "momentum":
        fresh = math.sqrt(max(0.0, s**2 - s_next**2)) if s_next > 0 else 0.0
        return share_kept(s, s_next, 0.0) ** 2, fresh
    if sampler == "naive":
        return 0.0, s_next
    return share_kept(s, s_next, 0.0), 0.0


def share_kept(s: float, s_next: float, fresh: float) -> float:
    """The share of the noise that is kept so that, with the fresh noise, its deviation is that of the next level.

    Args:
        s: Deviation of the noise before the step, 0 or more; 0 is a process without noise.
        s_next: That after it, 0 to `s`.
        fresh: Deviation of the fresh noise, 0 to `s_next`.

    Returns:
        `sqrt(s_next^2 - fresh^2) / s`; 1 where there is no noise, the limit of a noise that does not change.
    """
    return math.sqrt(max(0.0, s_next**2 - fresh**2)) / s if s > 0 else 1.0


def degrade_again(
    z: Tensor, degraded: Tensor, degraded_next: Tensor, kept: float, fresh: float, n: Tensor | None
) -> Tensor:
    """Read off the noise of `z` and degrade again with a part of it: (step) of the module.

    Args:
        z: States, (B, *shape).
        degraded: What was restored, without noise at the level of `z`: M_t(v), the same shape.
        degraded_next: The same at the next level, M_t'(v).
        kept: Share of the noise that stays.
        fresh: Deviation of the fresh noise.
        n: Unit noise, the shape of `z`; only needed where `fresh` is above 0.

    Returns:
        States at the next level, the shape of `z`.
    """
    moved = degraded_next + kept * (z - degraded)
    return moved.add_(n, alpha=fresh) if fresh > 0 else moved
