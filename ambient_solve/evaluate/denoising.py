"""The one task whose posterior mean is known under every prior: denoising, where it is one call of the denoiser.

For `y = x + sigma n` the posterior mean is `D(y, sigma)`, whatever the prior and whatever its Jacobian is worth. The
mean of S samples must be no farther from it than their number explains, and their variance must be the squared error
of `D`. Exact tables use priors with exact Jacobians; this also sees what an algorithm makes of a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from deepinv.physics import Denoising, GaussianNoise
from torch import Tensor

from ambient_solve.errors import AmbientSolveError, own_words_for_misfit
from ambient_solve.noise import Streams
from ambient_solve.priors.base import Prior, require_additive
from ambient_solve.solver import Solver


@dataclass(frozen=True)
class DenoisingCheck:
    """Samples of a denoising problem beside its posterior mean; squares are means over entries, images in [0, 1].

    Attributes:
        sigma: Noise of the measurement, in image units.
        problems: How many images.
        n_samples: S of each.
        distance: Squared distance of the mean of the samples from the posterior mean, (problems,).
        variance: Of the samples, (problems,).
        error: Squared error of the posterior mean, (problems,).
    """

    sigma: float
    problems: int
    n_samples: int
    distance: Tensor
    variance: Tensor
    error: Tensor

    @property
    def excess(self) -> float:
        """The squared distance over what S independent samples explain, `variance / S`; 1 is right."""
        return float(self.distance.mean() / (self.variance.mean() / self.n_samples))

    @property
    def bias(self) -> float:
        """Error of the mean of infinitely many samples, in posterior standard deviations; 0 is right."""
        return math.sqrt(max(0.0, float((self._systematic() / self.error.mean()).mean())))

    @property
    def z(self) -> float:
        """That error as a z-score, its standard error being that over the problems."""
        systematic = self._systematic()
        return float(systematic.mean() / (systematic.std() / math.sqrt(self.problems)).clamp_min(1e-30))

    @property
    def ratio(self) -> float:
        """V / B, the variance of the samples over the squared error of the posterior mean; 1 is calibrated."""
        return float(self.variance.mean() / self.error.mean())

    def _systematic(self) -> Tensor:
        return self.distance - self.variance / self.n_samples

    def record(self) -> dict[str, float]:
        """The numbers, as JSON takes them."""
        numbers = {name: float(getattr(self, name).mean()) for name in ("distance", "variance", "error")}
        shown = {name: getattr(self, name) for name in ("excess", "bias", "z", "ratio")}
        return {"sigma": self.sigma, "problems": self.problems, "n_samples": self.n_samples, **numbers, **shown}


def check_denoising(
    solver: Solver, prior: Prior, images: Tensor, *, sigma: float = 0.1, n_samples: int = 8, seed: int = 0
) -> DenoisingCheck:
    """Denoise images by sampling, and hold the samples to the posterior mean that one call of the denoiser gives.

    Args:
        solver: Draws the samples.
        prior: Its prior: of additive noise, with an affine decode.
        images: The truths, (problems, C, *spatial), in [0, 1]; two or more.
        sigma: Noise that is added to them, in image units, > 0.
        n_samples: S of each, two or more.
        seed: Decides the noise and the samples.

    Returns:
        What was found.

    Raises:
        AmbientSolveError: too few images or samples, or a prior whose posterior mean is not one call.
    """
    if len(images) < 2 or n_samples < 2 or not sigma > 0:
        raise AmbientSolveError(
            f"{len(images)} images, n_samples={n_samples} and sigma={sigma} were given; at least 2 images, "
            "2 samples and a noise above 0 were expected."
        )
    require_additive(prior, "the check of denoising")
    if prior.affine is None:
        raise AmbientSolveError("The posterior mean is one call of the denoiser only where its decode is affine.")
    images = images.to(prior.device)
    y = images + sigma * Streams(range(seed, seed + len(images)), 1, images.device).normal(images)
    with torch.no_grad():
        mean = prior.decode(prior.denoise(prior.encode(y), sigma / abs(prior.affine[0])))
    seeds = [seed + len(images) + i for i in range(len(images))]
    with own_words_for_misfit():
        samples = solver.solve(
            y, Denoising(GaussianNoise(sigma)), n_samples=n_samples, seed=seeds, progress=False
        ).samples

    def square(x: Tensor) -> Tensor:
        return x.double().square().flatten(1).mean(1).cpu()

    return DenoisingCheck(
        sigma=sigma,
        problems=len(images),
        n_samples=n_samples,
        distance=square(samples.mean(1) - mean),
        variance=samples.double().var(1).flatten(1).mean(1).cpu(),
        error=square(mean - images),
    )
