r"""LATINO, latent posterior sampling without a gradient (Spagnoletti et al., 2025, arXiv 2503.12615, algorithm 1).

At each level, one pass through the network, one decoding and one encoding; nothing is differentiated:

    x = Dec(D(z; sigma))                                          what the prior expects, as a picture
    u ~ p(y | u) exp(-|u - x|^2 / 2 q^2)                          the measurement, in pixels: a draw, or the maximum
    z0 = D + Enc(u) - Enc(x),     z <- z0 + sigma_next n          back to a latent, and new noise

with `q = width s sigma / sqrt(sigma^2 + v)`, v the variance of the latents and s how far a picture moves when its
latent moves by its own deviation, per dimension of the latent: measured once with a decoding.

The paper takes `z0 = Enc(u)` and the maximum, and loses at each level what the autoencoder loses. The difference of two
encodings loses it once, in `Dec` at the end; of a linear autoencoder both are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from ambient_solve.algorithms.base import Algorithm, State
from ambient_solve.knobs import knob
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, noise_like, reverse


@final
@dataclass(frozen=True, kw_only=True)
class LATINO(Algorithm):
    """A proximal step in pixels between a decoding and an encoding: one forward pass per level, no backward pass."""

    name: ClassVar[str] = "latino"
    paper: ClassVar[str] = "Spagnoletti et al., 2025, arXiv 2503.12615"
    affine: ClassVar[bool] = False

    steps: int = knob(50, 1, 10_000, "noise levels; the paper uses 8 with a distilled network")
    width: float = knob(1.0, 0.01, 10.0, "how far the picture may move, in deviations of what is left open at a level")
    draw: bool = knob(False, help="draw the picture from its law in place of the maximum, the proximal point")
    difference: bool = knob(True, help="add a difference of encodings to the latent; the paper replaces it")
    renoise: float = knob(1.0, 0.0, 1.0, "share of the noise of the next level that is new; the paper renews all")

    def iterate(
        self, prior: Prior, likelihood: Likelihood, z: Tensor, sigmas: list[float], streams: Streams
    ) -> Iterator[State]:
        """See `Algorithm.iterate`."""
        picture, v = likelihood.of_picture, prior.sigma_data**2
        swing = prior.decode(v**0.5 * noise_like(prior, z, streams)) - prior.decode(0 * z)
        unit = (swing.square().flatten(1).sum(1) / z[0].numel()).sqrt()
        for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, sigma)
            x = prior.decode(z0)
            q = self.width * sigma / (sigma**2 + v) ** 0.5 * unit
            u = picture.draw(x, q, streams) if self.draw else picture.prox(x, q)
            z0 = z0 + prior.encode(u) - prior.encode(x) if self.difference else prior.encode(u)
            z = reverse(prior, z, z0, sigma, sigma_next, self.renoise * sigma_next, streams)
            yield State(i + 1, self.steps, sigma, z, z0)
