"""Which blur a spectrum shows, on pictures whose law is the one that is assumed; and what speaks against others."""

from __future__ import annotations

import math

import pytest
import torch

from ambient_solve import operators
from ambient_solve.blind import PHOTOGRAPHS
from ambient_solve.blind.spectrum import terms
from ambient_solve.verdict import blur
from ambient_solve.verdict.blur import Shape, Spectra, candidates, spectra_of
from ambient_solve.verdict.words import TURNED, angle_between
from helpers import randn

SIDE, SIGMA = 128, 0.01
AGAINST = 10.0
"""Evidence, as a natural logarithm, that no right statement has here and every wrong one has."""


def picture(seed: int) -> torch.Tensor:
    """A stationary Gaussian field with the mean spectrum of photographs, (3, SIDE, SIDE)."""
    along = torch.fft.fftfreq(SIDE, dtype=torch.float64)
    radius = torch.hypot(along[:, None], along)
    radius[0, 0] = 1.0
    power = (terms(radius.flatten(), torch.atan2(along[:, None], along).flatten()) @ PHOTOGRAPHS.mean).exp()
    power[0] = 0.0
    white = torch.fft.fft2(randn(SIDE, SIDE, seed=seed).double())
    field = 0.5 + torch.fft.ifft2(white * power.reshape(SIDE, SIDE).sqrt()).real
    return field.float().expand(3, -1, -1)


def striped(seed: int) -> torch.Tensor:
    """`picture` and lines across it that all run along 155 degrees, as sharp as a photograph is."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    across = torch.deg2rad(torch.tensor(25.0))
    at = columns * across.sin() + rows * across.cos()
    profile = randn(2 * SIDE, seed=seed + 7).cumsum(0)
    profile = 0.2 * (profile - profile.mean()) / profile.std()
    low = at.floor().long()
    lines = torch.lerp(profile[low], profile[low + 1], at - low)
    return 0.5 + 0.1 * (picture(seed) - 0.5) + lines


def shown(true, stated, seed=0, sigma=SIGMA, noise=1.0) -> blur.Compared:
    """What speaks against `stated` where `true` was done to a picture; `noise` times the stated variance."""
    x = picture(seed)[None]
    y = (x if true is None else true.A(x)) + noise**0.5 * sigma * randn(1, 3, SIDE, SIDE, seed=seed + 100)
    return spectra_of(y, stated.filter[:, 0], torch.tensor([sigma**2])).compared(0)


def wide(width: float):
    return operators.gaussian_blur((3, SIDE, SIDE), width, SIGMA)


def line(length: float, angle: float):
    return operators.line_blur((3, SIDE, SIDE), length, angle, SIGMA)


@pytest.mark.parametrize("stated", [wide(1.5), wide(3.0), line(9, 30), line(15, 0)])
def test_nothing_speaks_against_a_right_statement_and_the_noise_is_the_stated_one(stated):
    found = [shown(stated, stated, seed) for seed in range(4)]
    assert all(one.against < AGAINST for one in found)
    assert all(one.noise == pytest.approx(1, rel=0.2) for one in found)
    assert shown(stated, stated, noise=4.0).noise == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("stated", [wide(1.5), line(9, 30)])
def test_lines_that_all_run_one_way_are_no_movement(stated, monkeypatch):
    y = stated.A(striped(0)[None]) + SIGMA * randn(1, 3, SIDE, SIDE, seed=100)

    def compared() -> blur.Compared:
        return spectra_of(y, stated.filter[:, 0], torch.tensor([SIGMA**2])).compared(0)

    assert compared().against < AGAINST
    monkeypatch.setattr(blur, "LONGEST", math.inf)
    with_all = compared()
    assert with_all.against > AGAINST and with_all.better.line


@pytest.mark.parametrize(("true", "width"), [(1.5, 3.0), (1.5, 0.8), (3.0, 1.5)])
def test_a_wrong_width_is_noticed_and_the_right_one_found(true, width):
    found = shown(wide(true), wide(width))
    assert found.against > AGAINST and found.narrower == (true < width)
    assert found.better.width == pytest.approx(true, rel=0.15) and not found.better.line
    assert found.stated.width == pytest.approx(width, rel=0.15)


@pytest.mark.parametrize(("true", "stated"), [((15, 30), (15, 0)), ((9, 0), (15, 0)), ((15, 0), (9, 0))])
def test_a_wrong_movement_is_noticed_and_the_right_one_found(true, stated):
    found = shown(line(*true), line(*stated))
    assert found.against > AGAINST and found.alike
    assert found.better.length == pytest.approx(true[0], rel=0.25)
    assert angle_between(found.better.angle, true[1]) < TURNED / 2
    assert angle_between(found.stated.angle, stated[1]) < TURNED


def test_a_movement_is_no_round_blur_and_the_other_way_round():
    found = shown(line(9, 30), wide(2.0))
    assert found.against > AGAINST and found.better.line and angle_between(found.better.angle, 30) < TURNED
    found = shown(wide(1.5), line(15, 0))
    assert found.against > AGAINST and not found.better.line and found.better.width == pytest.approx(1.5, rel=0.15)
    found = shown(None, wide(1.5))
    assert found.against > AGAINST and found.narrower
    assert found.better.none or found.better.width < 0.6 or found.better.length < 4


def test_a_kernel_that_few_numbers_do_not_describe_is_like_none():
    kernel = torch.zeros(9, 9)
    kernel[0, 0] = kernel[8, 8] = kernel[0, 8] = 1 / 3
    y = picture(0)[None]
    found = spectra_of(y, kernel[None], torch.tensor([SIGMA**2])).compared(0)
    assert not found.alike and not any(name.startswith("stated") for name in found.numbers)


def test_what_is_small_or_flat_or_not_blurred_is_not_judged():
    op = wide(1.5)
    assert spectra_of(picture(0)[None], torch.ones(1, 1, 1), torch.tensor([SIGMA**2])) is None
    assert spectra_of(picture(0)[None, :, :24], op.filter[:, 0], torch.tensor([SIGMA**2])) is None
    flat = 0.5 + 0.1 * (picture(0)[None] - 0.5) + SIGMA * randn(1, 3, SIDE, SIDE)
    found = spectra_of(torch.cat([flat, picture(0)[None]]), op.filter[:, 0].expand(2, -1, -1), torch.full((2,), 1e-4))
    assert found.compared(0) is None and found.compared(1) is not None
    again = Spectra.from_lists(found.record())
    assert again.compared(0) is None and again.compared(1) == found.compared(1)


def test_a_comparison_is_worked_out_once(monkeypatch):
    found = spectra_of(picture(0)[None], wide(1.5).filter[:, 0], torch.tensor([SIGMA**2]))
    first = found.compared(0)
    monkeypatch.setattr(blur, "_compare", None)
    assert found.compared(0) is first


def test_candidates_fit_into_a_window_and_none_is_the_first():
    shapes, responses = candidates(64, 64)
    assert (
        shapes[0].none
        and responses.shape == (len(shapes), 64, 64)
        and torch.allclose(responses[0], torch.ones(()).double())
    )
    assert all(max(s.kernel().shape) <= 33 for s in candidates(33, 40)[0])
    assert Shape(length=9.0, angle=30.0).values == {"length": 9.0, "angle": 30.0}
