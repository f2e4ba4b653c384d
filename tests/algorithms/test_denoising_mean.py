"""Where there is nothing but noise: the posterior mean in one call, exact samples without a Krylov space."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, Inpainting, LinearPhysics
from torch import Tensor

from ambient_solve import MMPS, Solver
from ambient_solve.evaluate.exactness import SIGMA_Y, gaussian_prior
from ambient_solve.likelihood import Likelihood
from ambient_solve.likelihood.noise_levels import Given
from ambient_solve.priors.gaussian import GaussianPrior
from ambient_solve.priors.wrapped import WrappedPrior
from helpers import AffinePrior, rand

SIZE = (1, 6, 6)


class Smooth(WrappedPrior):
    """Its diffusion noise is the same in all pixels of a row."""

    def noise(self, shape, streams):
        return super().noise((*shape[:-1], 1), streams).expand(shape)


def problem(images: int = 1) -> tuple[GaussianPrior, Denoising, Tensor]:
    prior, op = gaussian_prior(), Denoising(GaussianNoise(SIGMA_Y))
    clean = prior.decode(prior.sample(images, torch.Generator().manual_seed(3)))
    return prior, op, clean + SIGMA_Y * torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))


def test_one_level_is_the_posterior_mean_for_one_call():
    prior, op, y = problem(2)
    found = Solver(prior, MMPS(steps=1, covariance_noise=False)).solve(
        y, op, n_samples=1, sigma_y=torch.tensor([0.05, 0.2])
    )
    assert (found.network_calls, found.vjps) == (1, 0)
    for image, sigma in ((0, 0.05), (1, 0.2)):
        exact = prior.posterior(torch.eye(36), y[image].flatten(), sigma).mean
        assert torch.allclose(
            prior.encode(found.mean[image]).flatten(), exact.flatten().float(), atol=0.012
        )  # the noise of the start says a little
        other = prior.posterior(torch.eye(36), y[image].flatten(), 0.25 - sigma).mean  # the control
        assert not torch.allclose(prior.encode(found.mean[image]).flatten(), other.flatten().float(), atol=0.05)


@pytest.mark.parametrize("noise", [True, False])
def test_samples_have_the_law_of_the_posterior(noise):
    prior, op, y = problem()
    exact = prior.posterior(torch.eye(36), y.flatten(), SIGMA_Y)
    reference = exact.sample(4000, torch.Generator().manual_seed(0)).flatten(1)
    found = Solver(prior, MMPS(steps=60, covariance_noise=noise)).solve(y, op, n_samples=2000, progress=False)
    z = prior.encode(found.samples[0]).flatten(1)
    std = reference.std(0)
    assert float(((z.mean(0) - exact.mean.flatten()) / std).square().mean()) < 0.01
    ratio = float((z.var(0) / std.square()).mean())
    assert abs(ratio - 1) < 0.06 if noise else 0.7 < ratio < 1.03
    few = Solver(prior, MMPS(steps=3, covariance_noise=False)).solve(y, op, n_samples=500, progress=False)
    assert float((prior.encode(few.samples[0]).flatten(1).var(0) / std.square()).mean()) < 0.7  # the control


@pytest.mark.parametrize(
    ("op", "sigma_y", "expected"),
    [
        (Denoising(GaussianNoise(0.1)), None, True),
        (Denoising(GaussianNoise(0.1)), 0.1 + rand(1, *SIZE), False),
        (Inpainting(SIZE, mask=(rand(*SIZE) > 0.3).float(), noise_model=GaussianNoise(0.1)), None, False),
        (LinearPhysics(A=lambda x, **_: x.flip(-1), A_adjoint=lambda y, **_: y.flip(-1)), 0.1, False),
    ],
)
def test_only_white_noise_alone_is_taken_for_it(op: LinearPhysics, sigma_y: Given | None, expected: bool):
    assert Likelihood(op.A(rand(1, *SIZE)), op, AffinePrior(0.5, 0.5), sigma_y=sigma_y).identity == expected


def test_diffusion_noise_that_is_not_white_is_not_combined_with_that_of_the_measurement():
    prior, op, y = problem()
    field = Smooth(prior)
    assert prior.white and not field.white
    calls = Solver(field, MMPS(steps=2)).solve(y, op, n_samples=1, progress=False)
    assert calls.vjps > Solver(prior, MMPS(steps=2)).solve(y, op, n_samples=1, progress=False).vjps
