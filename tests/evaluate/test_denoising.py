"""Denoising, whose posterior mean is one call: the check itself, what it catches, and the embedded prior."""

from __future__ import annotations

import pytest
import torch
from skimage.data import astronaut, chelsea, coffee, rocket
from skimage.transform import resize

from ambient_solve import DPS, MMPS, AmbientSolveError, Proximal, Solver, load_prior
from ambient_solve.evaluate.denoising import check_denoising
from ambient_solve.evaluate.exactness import gaussian_prior
from helpers import one_sentence


@pytest.fixture(scope="module")
def gaussian():
    prior = gaussian_prior()
    return prior, prior.decode(prior.sample(40, torch.Generator().manual_seed(3)))


def test_exact_samples_surround_the_posterior_mean(gaussian):
    prior, x = gaussian
    found = check_denoising(Solver(prior, MMPS(steps=50, iterations=8)), prior, x)
    assert abs(found.z) < 4.4 and abs(found.excess - 1) < 0.3
    variance = float(prior.posterior(torch.eye(36).double(), x[0].flatten(), found.sigma).covariance.diagonal().mean())
    assert float(found.variance.mean()) == pytest.approx(variance * prior.scale**2, rel=0.15)
    assert found.error.mean() == pytest.approx(variance * prior.scale**2, rel=0.15), "one call is the posterior mean"


@pytest.mark.parametrize("algorithm", [DPS(steps=100), Proximal(steps=5)])
def test_samples_of_something_else_do_not(gaussian, algorithm):
    prior, x = gaussian
    found = check_denoising(Solver(prior, algorithm), prior, x)
    assert found.z > 4.4 and found.bias > 0.1


class Misled(Solver):
    """A solver that believes the noise to be twice what it is."""

    def solve(self, y, op, **how):
        return super().solve(y, op, sigma_y=0.2, **how)


def test_another_noise_than_the_true_one_is_seen(gaussian):
    prior, x = gaussian
    found = check_denoising(Misled(prior, MMPS(steps=50, iterations=8)), prior, x)
    assert found.z > 4.4 and found.ratio > 1.5


def test_too_few_are_refused(gaussian):
    prior, x = gaussian
    for how in ({"images": x[:1]}, {"images": x, "n_samples": 1}, {"images": x, "sigma": 0.0}):
        with pytest.raises(AmbientSolveError) as error:
            check_denoising(Solver(prior), prior, **how)
        assert one_sentence(error)


def photographs(side: int = 32) -> torch.Tensor:
    """Middles of four photographs that no prior was trained on."""
    found = []
    for picture in (astronaut(), coffee(), chelsea(), rocket()):
        edge = min(picture.shape[:2])
        top, left = ((n - edge) // 2 for n in picture.shape[:2])
        small = resize(picture[top : top + edge, left : left + edge] / 255, (64, 64), anti_aliasing=True)
        found.append(torch.tensor(small.transpose(2, 0, 1), dtype=torch.float32))
    low = (64 - side) // 2
    return torch.stack(found)[..., low : low + side, low : low + side]


@pytest.mark.slow
def test_the_default_is_nearly_right_with_a_network():
    """What is left is the error of moment matching for a prior that is not Gaussian; `proximal` is the control."""
    prior, x = load_prior("photos"), photographs()
    found = check_denoising(Solver(prior), prior, x)
    print(f"\ndefault: {found.record()}")
    assert found.excess < 2.5 and 0.7 < found.ratio < 1.3
    control = check_denoising(Solver(prior, Proximal(steps=20)), prior, x)
    print(f"proximal: {control.record()}")
    assert control.excess > 2.5 and control.ratio < 0.7
