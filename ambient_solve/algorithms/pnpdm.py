r"""PnP-DM, plug-and-play diffusion models by split Gibbs sampling (Wu et al., 2024, arXiv 2405.18782, algorithm 1).

An image `x` of the prior and a copy `z` that meets the measurement are kept `rho` apart:

    p(x, z | y)  proportional to  p(x) exp( -|y - A z|^2 / 2 sigma_y^2 - |x - z|^2 / 2 rho^2 )

    z ~ p(z | x, y)                           a Gaussian, drawn exactly in one solve: linear operators only
    x ~ p(x | z) = p(z0 | z0 + rho n = z)     the diffusion from `sigma = rho` to 0, here by the ancestral kernel K_1

At a fixed `rho` the law of `x` is the posterior of a blurred measurement, `y = A x + N(0, sigma_y^2 I + rho^2 A A')`,
up to a variance that `inner_steps` ancestral steps leave short by about 4 / inner_steps. It is the sharp posterior
where `rho` is well below `sigma_y`, but there the two move slowly: `rho` falls geometrically from `rho_max`. The paper
ends at .3 for images in [-1, 1]; with a Gaussian prior and noise of .1 that up to doubles the variance, .1 does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, reverse
from ambient_solve.process import ancestral_noise, karras, log_linear

SIGMA_DATA = 0.5
"""Deviation of the data for which the two distances are stated, that of the paper's images in [-1, 1]."""


@final
@dataclass(frozen=True, kw_only=True)
class PnPDM(Algorithm):
    """Split Gibbs sampling: `inner_steps` forward passes per level, no backward pass through the network."""

    name: ClassVar[str] = "pnpdm"
    paper: ClassVar[str] = "Wu et al., 2024, arXiv 2405.18782"

    steps: int = knob(100, 1, 10_000, "rounds of the Gibbs sampler, each a draw of the copy and one of the image")
    inner_steps: int = knob(20, 1, 1000, "forward passes for the draw of the image in each round")
    rho_max: float = knob(5.0, 1e-4, 1e3, "first distance of the copy, for data of deviation 0.5; scaled with them")
    rho_min: float = knob(0.1, 1e-4, 1e3, "last distance of the copy, as rho_max, by which it blurs the measurement")

    def levels(self, prior: Prior) -> list[float]:
        """The distances `rho`, then 0."""
        unit = prior.sigma_data / SIGMA_DATA
        low, high = unit * self.rho_min, unit * self.rho_max
        if not prior.sigma_min <= low <= high <= prior.sigma_max:
            raise AmbientSolveError(
                f"pnpdm takes rho from {high:.3g} down to {low:.3g} for this prior, whose levels are "
                f"{prior.sigma_max:.3g} to {prior.sigma_min:.3g}; choose rho_max and rho_min inside them."
            )
        return log_linear(self.steps, low, high)

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        x = (prior.sigma_data / sigmas[0]) * z  # any image will do, the first distances forget it
        for i, rho in enumerate(sigmas[:-1]):
            copy = likelihood.draw(x, rho, streams)
            x = self._denoise(prior, copy, rho, streams)
            yield State(i + 1, self.steps, rho, x, x)

    def _denoise(self, prior: Prior, z: Tensor, rho: float, streams: Streams) -> Tensor:
        """A draw of `z0` given `z0 + rho n = z`."""
        grid = karras(self.inner_steps, prior.sigma_min, rho)
        for sigma, lower in zip(grid, grid[1:], strict=False):
            z0, fresh = prior.denoise(z, sigma), ancestral_noise(sigma, lower, 1.0)
            z = reverse(prior, z, z0, sigma, lower, fresh, streams)
        return z
