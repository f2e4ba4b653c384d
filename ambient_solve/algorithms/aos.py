r"""A-OS, ambient one-step restoration (Aali et al., 2025, ICLR, arXiv 2403.08728): one network call.

A network `h` that is given the mask of what it sees was trained on just this: fill in what a measurement leaves out,

    z0 = h(A'y, M; sigma) = E[z0 | M z_sigma],      M of the measurement, sigma of its noise

It is the best estimate in squared error, no sample, and what the samplers with such a prior have to beat. The prior
must be shown what the operator measures, `prior.with_mask(mask)`, in k-space with the coil maps: `D` shows the network
`A'A z`, so `z = A^+ y` shows it `A'y`. For masks and one coil this is exact. For several coils the noise of `A'y` is
`sigma^2 A'A` where the network knows `sigma^2 (A'A)^2`, less in directions that the coils hardly see.

The paper takes a level near 0 (.003 for data of deviation .5) whatever the noise: `level="lowest"`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior

WIDE = 1e3
"""Width of the proximal step, in units of the noise, that is as good as infinite: `A^+ y` to a part in 10^6."""


@final
@dataclass(frozen=True, kw_only=True)
class AOS(Algorithm):
    """One network call for a mask-conditioned prior that sees what was measured: the conditional mean, no samples."""

    name: ClassVar[str] = "aos"
    paper: ClassVar[str] = "Aali et al., 2025, ICLR, arXiv 2403.08728"
    samples: ClassVar[int] = 1

    steps: int = knob(1, 1, 1, "one network call")
    level: str = knob(
        "noise",
        choices=("noise", "lowest"),
        help="the noise level given: that of the measurement, or the lowest (the paper)",
    )

    def levels(self, prior: Prior) -> list[float]:
        """The lowest level, then 0."""
        return [prior.sigma_min, 0.0]

    def check(self, likelihood: Likelihood) -> None:
        """See `Algorithm.check`."""
        super().check(likelihood)
        if likelihood.n_samples > 1:
            raise AmbientSolveError(
                f"aos gives one conditional mean, not samples, and n_samples={likelihood.n_samples} was given; "
                "use n_samples=1, or 'mmps', which samples."
            )

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`. The noise `z` only tells what the prior is shown."""
        seen = likelihood.At(likelihood.A(z))
        if not bool((prior.shown(z) - seen).norm() <= 1e-3 * seen.norm()):
            raise AmbientSolveError(
                "aos needs a mask-conditioned prior that sees what was measured; this one is shown something else than "
                "A'A z: give AmbientPrior's with_mask the mask of the operator (and its coil maps)."
            )
        z = likelihood.prox(torch.zeros_like(z), WIDE * likelihood.sigma)
        noise = likelihood.sigma.clamp(prior.sigma_min, prior.sigma_max)
        z0 = prior.denoise(z, sigmas[0] if self.level == "lowest" else noise)
        yield State(1, self.steps, sigmas[0], z0, z0)
