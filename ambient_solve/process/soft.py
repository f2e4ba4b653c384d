r"""A linear corruption and noise together: the process of Soft Diffusion (Daras et al., 2022, arXiv 2209.05442).

    z_t = C_t z0 + s_t n

Any `C_t` that is the identity at level 0. Without noise, `s_t = 0`, it is the process of Cold Diffusion (Bansal et al.,
2022, arXiv 2208.09392); with `C_t` the identity and `s_t = t`, `Additive`. `base` derives its step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.noise import Level, per_sample
from ambient_solve.process.additive import log_linear
from ambient_solve.process.base import Process, degrade_again, share_kept
from ambient_solve.process.families import LinearFamily

Law = Callable[[float, Tensor], Tensor]
"""`(level, n) -> z`: states of a terminal law, from unit noise of their shape."""
Grid = Callable[[int, float, float], list[float]]
"""`(steps, lowest, highest) -> levels`, see `Process.levels`."""


@final
class Soft(Process):
    """`z_t = C_{strength(t)} z0 + noise(t) n`, for a family of linear corruptions and noise.

    Unless `law` is given, the terminal law is that of `noise(t) n`: it drops `C_t z0`. What the strongest corruption
    leaves of the data, such as the mean brightness after a blur, must then be small against the noise.

    Args:
        corruption: `(z, strength) -> C z`, with strength 0 the identity: a `LinearFamily`, or a function of one's own
            that takes a strength for each row, (B,), too.
        strength: The strength at a level, 0 at level 0; of a float and of a tensor (B,).
        noise: The deviation of the noise at a level, in `z` units, 0 at level 0; the level itself unless given.
        law: The terminal law, see above.
        grid: The levels of a run, such as `partial(equal_distances, distance)`; geometric unless given.
    """

    def __init__(
        self,
        corruption: Callable[[Tensor, Level], Tensor],
        strength: Callable[[Level], Level],
        noise: Callable[[Level], Level] = lambda level: level,
        law: Law | None = None,
        grid: Grid = log_linear,
    ) -> None:
        self.corruption, self.strength, self.noise, self.law, self.grid = corruption, strength, noise, law, grid

    def corrupt(self, z0: Tensor, level: Level) -> Tensor:
        """The states of a level without their noise.

        Args:
            z0: Clean states, (B, *shape).
            level: A float, () or (B,), 0 or more.

        Returns:
            `C_t z0`, the shape of `z0`.
        """
        return self.corruption(z0, self.strength(level))

    def perturb(self, z0: Tensor, level: Level, n: Tensor) -> Tensor:
        """See `Process.perturb`."""
        return self.corrupt(z0, level) + per_sample(self.noise(level), z0) * n

    def terminal(self, level: float, n: Tensor) -> Tensor:
        """See `Process.terminal`."""
        return self.noise(level) * n if self.law is None else self.law(level, n)

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
        """See `Process.reverse`: `C_t' z0 + k (z - C_t z0) + b n`."""
        if kept is None:
            kept = share_kept(*self.deviations(level, level_next), fresh)
        return degrade_again(z, self.corrupt(z0, level), self.corrupt(z0, level_next), kept, fresh, n)

    def bridge(self, z: Tensor, z0: Tensor, level: float, level_next: float, n: Tensor) -> Tensor:
        """Draw the state of a lower level, given that of a level and the clean one: the reverse of a Markov process.

        The states of one path are `z_t = C_t C_t'^-1 z_t' + noise`. In a part with gains g and g' of both levels, and
        r = g / g', so that the noise has variance `s^2 - r^2 s'^2`, Bayes' rule gives

            z' = g' z0 + k (z - g z0) + b n,      k = r s'^2 / s^2,      b^2 = s'^2 (1 - r^2 s'^2 / s^2)

        Samplers of `reverse` have one k for all parts: the laws of their states are right, but not how two states of a
        path hang together, on which the law of `z0` given a state depends. With an estimate for `z0` this step draws
        from it, in the limit of small steps.

        Args:
            z: States at `level`, (B, *shape).
            z0: Estimates of the clean states, the same shape.
            level: Level before the step, > 0.
            level_next: Level after it, 0 to `level`.
            n: Unit noise, the same shape.

        Returns:
            States at `level_next`, the shape of `z`.

        Raises:
            AmbientSolveError: the corruption has no spectrum.
        """
        family = self.corruption
        if not isinstance(family, LinearFamily):
            raise AmbientSolveError(
                "Soft.bridge needs a corruption with a spectrum: a LinearFamily, as GaussianBlur()."
            )
        if level_next == 0:
            return z0
        s, s_next = self.deviations(level, level_next)
        gains, gains_next = (family.gains(z, self.strength(t)) for t in (level, level_next))
        r = torch.where(gains_next > 0, gains / gains_next, 0.0) * (s_next / s)
        parts = gains_next * family.analyze(z0) + r * (s_next / s) * (family.analyze(z) - gains * family.analyze(z0))
        return family.synthesize(parts + s_next * (1 - r**2).clamp_min(0).sqrt() * family.analyze(n))

    def deviations(self, level: float, level_next: float) -> tuple[float, float]:
        """See `Process.deviations`."""
        return self.noise(level), self.noise(level_next)

    def levels(self, steps: int, lowest: float, highest: float) -> list[float]:
        """See `Process.levels`; those of `grid`."""
        return self.grid(steps, lowest, highest)
