"""PiGDM against the score of the paper, in its own variables and by autograd, and where it is the exact posterior."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve import GaussianPrior
from ambient_solve.algorithms.pigdm import PiGDM
from ambient_solve.evaluate.exactness import GAUSSIAN, SIGMA_Y, gaussian_operator, gaussian_prior
from ambient_solve.likelihood import Likelihood
from ambient_solve.priors.gaussian import dense
from helpers import randn, relative

NOISE2 = (2 * SIGMA_Y) ** 2
"""Of the measurement in z units, where images are z / 2 + 1 / 2."""


def state(prior, op, sigma: float, images: int = 3):
    """A likelihood and a noisy state of each of its pictures."""
    x = prior.decode(prior.sample(images, torch.Generator().manual_seed(0)))
    y = op.A(x)
    y = y + SIGMA_Y * randn(*y.shape, seed=1) * (y != 0)
    return Likelihood(y, op, prior), prior.encode(x) + sigma * randn(*x.shape, seed=2)


def by_score(prior, op, likelihood: Likelihood, z: Tensor, sigma: float, r2: float) -> Tensor:
    """`E[x0 | x_t, y]` of a variance-preserving state, from its score and that of `N(H xh, r2 HH' + s2)`.

    The derivative is taken by autograd through a denoiser written in dense algebra.
    """
    A, C, alpha = dense(op, prior.shape), prior.covariance, 1 / (1 + sigma**2)
    x = (alpha**0.5 * z.flatten(1).double()).requires_grad_()
    # The posterior mean of `x_t = sqrt(alpha) x0 + sqrt(1 - alpha) n`, x0 ~ N(0, C).
    estimate = x @ torch.linalg.inv(alpha * C + (1 - alpha) * torch.eye(len(C))) @ (alpha**0.5 * C)
    y = likelihood.residual(torch.zeros_like(z)).flatten(1).double()
    law = r2 * A @ A.T + NOISE2 * torch.eye(len(A))
    r = y - estimate @ A.T
    (score,) = torch.autograd.grad(-0.5 * (r @ torch.linalg.inv(law) * r).sum(), x)
    return (estimate + (1 - alpha) / alpha**0.5 * score).detach().reshape(z.shape)


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("sigma", [20.0, 0.5, 0.05])
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_the_estimate_is_the_score_of_the_paper(operator, sigma, width):
    """The paper has data of variance 1, `r^2 = sigma^2 / (sigma^2 + 1)`: that is width 2 where sigma_data is 1/2."""
    prior, op = gaussian_prior(), gaussian_operator(operator)
    likelihood, z = state(prior, op, sigma)
    v = (width * 0.5) ** 2
    right = by_score(prior, op, likelihood, z, sigma, sigma**2 * v / (sigma**2 + v))
    found, shift = PiGDM(width=width).guide(prior, likelihood, z, sigma), (right - prior.denoise(z, sigma)).norm()
    assert (found - right).norm() < 2e-3 * shift
    if width == 2:
        paper = by_score(prior, op, likelihood, z, sigma, sigma**2 / (sigma**2 + 1))
        assert (found - paper).norm() < 2e-3 * shift
    # The control: data of three times the variance. At the lowest level the noise alone decides.
    wrong = by_score(prior, op, likelihood, z, sigma, sigma**2 * 3 * v / (sigma**2 + 3 * v))
    assert sigma < 0.1 or (found - wrong).norm() > 0.02 * shift


@pytest.mark.parametrize("sigma", [20.0, 0.5, 0.05])
@pytest.mark.parametrize("operator", GAUSSIAN)
def test_for_white_data_it_is_the_exact_posterior_mean(operator, sigma):
    """Three Gaussians multiplied: the prior, the state and the measurement. Of another width it is not."""
    white = GaussianPrior(torch.zeros(1, 6, 6), 0.25 * torch.eye(36), scale=0.5, offset=0.5, sigma_data=0.5)
    op = gaussian_operator(operator)
    likelihood, z = state(white, op, sigma)
    A, y = dense(op, white.shape), likelihood.residual(torch.zeros_like(z)).flatten(1).double()
    precision = (1 / 0.25 + 1 / sigma**2) * torch.eye(36) + A.T @ A / NOISE2
    right = torch.linalg.solve(precision, (z.flatten(1).double() / sigma**2 + y @ A / NOISE2).T).T
    assert relative(PiGDM().guide(white, likelihood, z, sigma), right) < 1e-3
    assert sigma < 0.1 or relative(PiGDM(width=2.0).guide(white, likelihood, z, sigma), right) > 1e-2
