r"""A measurement that is a state of the prior's process starts the reverse process at its own level.

For a process z_t = C_t z0 + s_t n, such as a blur and noise together (Daras et al., 2022, arXiv 2209.05442), a blurred,
a low-resolution or a masked picture is one of its states, or becomes one with some noise (`states`). From there the
prior alone leads back, one pass a level, along the exact reverse kernel of the process (`Soft.bridge`),

    z' = g' D + k (z - g D) + b n,      k = r s'^2 / s^2,      b^2 = s'^2 (1 - r^2 s'^2 / s^2),      r = g / g'

in each part of the spectrum: a draw from p(z0 | z_t = y) in the limit of many levels, with no weight and no gradient.
What `reverse` does with one k for all parts has the right marginals and another law of z0 given y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.states import nearest, start_of
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, noise_like
from ambient_solve.process import Additive, Identity, LinearFamily, Soft

INSTEAD = "Take 'mmps' with a prior of additive noise."


@final
@dataclass(frozen=True, kw_only=True)
class SoftRestoration(Algorithm):
    """For priors of soft processes, and measurements that are states of theirs; of additive noise a noisy picture."""

    name: ClassVar[str] = "soft"
    paper: ClassVar[str] = "Daras et al., 2022, arXiv 2209.05442"
    additive: ClassVar[bool] = False

    steps: int = knob(50, 1, 10_000, "noise levels, from that of the measurement on; more is slower and better")
    mismatch: float = knob(
        0.25, 0.0, 100.0, "how far the operator may be from one of the process, in units of the noise at its level"
    )

    def check_prior(self, prior: Prior) -> None:
        """See `Algorithm.check_prior`: the process must be a linear corruption with a spectrum, or none, and noise."""
        _spectral(prior, self.name)

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`; of `z` and `sigmas`, which start from noise alone, the range counts."""
        (process, family), lowest, highest = _spectral(prior, self.name), prior.sigma_min, prior.sigma_max
        match = nearest(process, family, likelihood, highest, prior.sigma_data)
        kind = type(family).__name__
        found = start_of(process, family, match, likelihood, lowest, highest)
        if found is None:
            raise AmbientSolveError(
                f"soft: the noise of this measurement, {float(likelihood.sigma.max()):.3g} in units of z, is above "
                f"that of all levels of this prior at which its {kind} of strength {match.strength:.3g} is a state; "
                f"{process.noise(highest):.3g} is the highest. {INSTEAD}"
            )
        noise = float(process.noise(found.level))
        if match.away > self.mismatch * noise:
            raise AmbientSolveError(
                f"soft starts from a measurement that is a state of the prior's process, here of {kind}. The nearest "
                f"has strength {match.strength:.3g} at the level {found.level:.3g}, and what the operator makes of a "
                f"photograph is {match.away / noise:.2g} times the noise there away from it (mismatch allows "
                f"{self.mismatch:g}). {INSTEAD}"
            )
        n = noise_like(prior, z, streams)
        z = found.z + family.synthesize(found.missing * family.analyze(n))
        levels = [found.level, 0.0]
        if found.level > lowest * (1 + 1e-6):
            levels = process.levels(self.steps, lowest, found.level)
        for i, (level, level_next) in enumerate(zip(levels, levels[1:], strict=False)):
            z0 = prior.denoise(z, level)
            z = process.bridge(z, z0, level, level_next, noise_like(prior, z, streams)) if level_next else z0
            yield State(i + 1, len(levels) - 1, level, z, z0)


def _spectral(prior: Prior, who: str) -> tuple[Soft, LinearFamily]:
    """The process of a prior and its corruption, which has a spectrum; that of additive noise is none."""
    process = prior.process
    if isinstance(process, Additive):
        return Soft(none := Identity(), lambda level: 0 * level, grid=process.levels), none
    if isinstance(process, Soft) and isinstance(process.corruption, LinearFamily):
        return process, process.corruption
    raise AmbientSolveError(
        f"{who} needs a process of a linear corruption with a spectrum, as Soft(GaussianBlur(), ...), or additive "
        f"noise, and the process of this {type(prior).__name__} is {type(process).__name__}; give a prior of such a "
        "process."
    )
