r"""FPS-SMC, filtering posterior sampling (Dou and Song, ICLR 2024): particles, no gradient through the network.

Noise the measurement along with the state: if `z_s = z0 + w_s`, then `y_s = y + A w_s = A z_s + sigma_y e` needs no
denoiser. A particle cannot know its own `w_s`, which is integrated over: `y ~ N(A z_s, S_s)`, `S_s = sigma_y^2 I + s^2
A A'`. The S samples of an image approach the laws `p_s(z) N(y; A z, S_s)`, the last of which is the posterior. From
level `s` to `t`, with the ancestral step `K_1 = N(m, b^2 I)` of the unconditional sampler:

    weight   N(y; A m, S_t + b^2 A A') / N(y; A z, S_s)
    move     z' ~ K_1(z') N(y; A z', S_t)
             = m + b n + b^2 A' (S_t + b^2 A A')^-1 (y + e - A (m + b n)),      e ~ N(0, S_t)

The weight is what the move is normalized by, over what was counted before: it does not depend on `z'`, so that the
particles are resampled before they move. Without the denominator, a filter of independent measurements `y_t`, the one
measurement would count at each level anew. The particles are right in the limit of many, and of many levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.algorithms.resampling import resample
from ambient_solve.errors import AmbientSolveError
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams, per_sample
from ambient_solve.priors.base import Prior, noise_like
from ambient_solve.process import ancestral_noise


@final
@dataclass(frozen=True, kw_only=True)
class FPS(Algorithm):
    """Filtering by particles: one forward pass per level."""

    name: ClassVar[str] = "fps"
    paper: ClassVar[str] = "Dou and Song, ICLR 2024"
    samples: ClassVar[int] = 1
    interacting: ClassVar[bool] = True

    steps: int = knob(100, 1, 10_000, "noise levels; more is slower and usually better")

    def check(self, likelihood: Likelihood) -> None:
        """See `Algorithm.check`."""
        super().check(likelihood)
        if likelihood.n_samples < 2:
            raise AmbientSolveError("fps corrects its samples by their number; give n_samples=64 or more.")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        log_w, counted = z.new_zeros(len(z)), z.new_zeros(len(z))
        for i, (s, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0, b = prior.denoise(z, s), ancestral_noise(s, t, 1.0)
            mean = z0 + (t / s) ** 2 * (z - z0)
            log_w = log_w + _log_normal(likelihood, mean, t**2 + b**2) - counted
            keep, log_w = resample(log_w, streams.uniform_per_image(), always=t == 0)
            z, z0 = mean[keep], z0[keep]
            if t > 0:
                z = z + b * noise_like(prior, z, streams)
                e = per_sample(likelihood.sigma, likelihood.residual(z)) * streams.normal(likelihood.residual(z))
                r = likelihood.residual(z) + e + t * likelihood.A(noise_like(prior, z, streams))
                z = z + b**2 * likelihood.At(likelihood.solve(t**2 + b**2, r))
                counted = _log_normal(likelihood, z, t**2)
            yield State(i + 1, self.steps, s, z, z0)


def _log_normal(likelihood: Likelihood, z: Tensor, variance: float) -> Tensor:
    """`log N(y; A z, sigma_y^2 I + variance AA')` but for a constant of the image, (N,)."""
    r = likelihood.residual(z)
    return -0.5 * (r * likelihood.solve(variance, r)).flatten(1).sum(1)
