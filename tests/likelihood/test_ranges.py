"""Measurements of pictures from 0 to 255, or from -1 to 1, are refused with the call that scales them."""

from __future__ import annotations

import deepinv.physics as dp
import pytest
import torch

from ambient_solve import AmbientSolveError, GaussianPrior, Solver, operators
from helpers import one_sentence, rand

SIZE = (3, 24, 24)
NOISE = dp.GaussianNoise(0.02)
OPERATORS = {
    "denoise": lambda: operators.denoise(SIZE, 0.02),
    "random": lambda: operators.inpaint_random(SIZE, sigma=0.02),
    "blur": lambda: operators.gaussian_blur(SIZE, 1.0, 0.02),
    "small": lambda: operators.super_resolution(SIZE, 4, sigma=0.02),
    "jpeg": lambda: operators.jpeg(SIZE, 20),
    "tomography": lambda: dp.Tomography(angles=12, img_width=24, circle=False, noise_model=NOISE),
    "compressed": lambda: dp.CompressedSensing(m=100, img_size=SIZE, channelwise=True, noise_model=NOISE),
}
AVERAGES = ("denoise", "random", "blur", "small", "jpeg")


def prior(scale: float = 0.5) -> GaussianPrior:
    return GaussianPrior.stationary(torch.zeros(SIZE), 0.2 * torch.ones(SIZE), scale=scale, offset=scale)


def scene() -> torch.Tensor:
    """Dark and bright, 0 to 1."""
    return torch.nn.functional.interpolate(rand(1, 3, 6, 6, seed=1), SIZE[1:], mode="bicubic").clamp(0, 1)


def solve(y, op, prior=None, **settings):
    algorithm = "proximal" if isinstance(op, dp.LinearPhysics) else "daps"
    return Solver(prior or globals()["prior"](), algorithm, steps=2).solve(y, op, **settings)


@pytest.mark.parametrize("name", OPERATORS)
def test_pictures_from_0_to_255_are_refused_with_what_scales_them(name):
    op = OPERATORS[name]()
    y = op(scene())
    solve(y, op)
    with pytest.raises(AmbientSolveError, match="as large as pictures from 0 to 1.*pass y / 255") as error:
        solve(255 * y, op)
    assert one_sentence(error)
    with pytest.raises(AmbientSolveError, match="pass y / 255"):
        solve(255 * y, op, sigma_y=25.0)  # the noise level is in the same units


@pytest.mark.parametrize("name", AVERAGES)
def test_pictures_from_minus_1_to_1_are_refused_with_what_scales_them(name):
    op = OPERATORS[name]()
    y = op(scene())
    with pytest.raises(AmbientSolveError, match="pictures from -1 to 1 pass .y . 1. / 2") as error:
        solve(2 * y - 1, op)
    assert one_sentence(error)


def test_noise_dark_pictures_and_other_scales_are_not_refused():
    op = operators.denoise(SIZE, 0.02)
    solve(op(0.02 * scene()), op)
    loud = operators.denoise(SIZE, 5.0)
    solve(loud(scene()), loud)
    solve(op(1.5 * scene() - 0.1), op)  # some ringing, as of a sharpened picture
    photons = operators.denoise(SIZE, 0.02)
    photons.set_noise_model(dp.PoissonNoise(0.5))
    Solver(prior(), "dps", steps=2).solve(photons(scene()), photons)
    solve(255 * op(scene()), op, prior(127.5))  # a prior whose pictures go from 0 to 255
    solve(op(2 * scene() - 1), op, GaussianPrior.stationary(torch.zeros(SIZE), torch.ones(SIZE)))


def test_what_a_mask_hides_is_on_no_scale():
    op = operators.inpaint_random(SIZE, sigma=0.02)
    y = op(scene())
    solve(torch.where(op.mask > 0, y, 1e4), op)
