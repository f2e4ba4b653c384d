"""The benchmark of a prior as a denoiser: its noise, its padding, its ranges and its table."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import Tensor

import denoise
from ambient_solve.priors.base import Prior
from helpers import rand


class Scaled(Prior):
    """Returns `gain` times its input; `x = z / 4 + 1/2`. Keeps what it was given."""

    sigma_min, sigma_max, shape, affine = 0.01, 80.0, (3, -1, -1), (0.25, 0.5)

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain, self.calls = gain, []

    def denoise(self, z: Tensor, sigma: object, cond: object = None) -> Tensor:
        self.calls.append((z, sigma))
        return self.gain * z


X = 0.3 + 0.4 * rand(3, 21, 34)


def test_noise_has_its_level_and_the_result_is_that_of_the_whole_padded_picture():
    prior = Scaled(1.0)
    found = denoise.psnr(prior, X, 25.0, seed=3)
    # One call on sides of multiples of 16, at the level in the prior's units: a quarter of a unit is one of a picture.
    ((z, sigma),) = prior.calls
    assert z.shape == (1, 3, 32, 48) and sigma == pytest.approx(4 * 25 / 255)
    noise = prior.decode(z)[0, :, :21, :34] - X
    # 2142 numbers: their deviation has a relative standard error of 1.5 %.
    assert float(noise.std()) == pytest.approx(25 / 255, rel=0.07)
    error = (X + noise).clamp(0, 1) - X
    assert found == pytest.approx(float(-10 * error.square().mean().log10()), abs=1e-3)
    assert torch.equal(z[..., :21, 34:], z[..., :21, 19:33].flip(-1))  # by reflection


def test_a_denoiser_that_gives_grey_has_the_error_of_grey():
    wanted = float(-10 * (X - 0.5).square().mean().log10())
    assert denoise.psnr(Scaled(0.0), X, 50.0, seed=0) == pytest.approx(wanted, abs=1e-4)


def test_the_input_is_not_clipped_and_the_result_is():
    prior = Scaled(1.0)
    found = denoise.psnr(prior, torch.ones(3, 64, 64), 50.0, seed=0)
    x = prior.decode(prior.calls[0][0])
    assert float((x > 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    # Half of the noise is cut off: 3 dB.
    assert found == pytest.approx(-20 * math.log10(50 / 255) + 10 * math.log10(2), abs=0.2)


def test_noise_is_fixed_and_differs_between_pictures():
    one, two, other = (Scaled(1.0) for _ in range(3))
    for prior, seed in ((one, 0), (two, 0), (other, 1)):
        denoise.psnr(prior, X, 15.0, seed)
    assert torch.equal(one.calls[0][0], two.calls[0][0]) and not torch.equal(one.calls[0][0], other.calls[0][0])
    levels = denoise.averages(Scaled(1.0), [(255 * X).byte()] * 2, (15.0, 30.0))
    # The same noise at each level, larger: nothing is clipped in this picture at either level.
    assert levels[0] - levels[1] == pytest.approx(20 * math.log10(2), abs=0.15)


def test_the_command_prints_a_row_for_each_prior(tmp_path, monkeypatch, capsys):
    for i in range(3):
        Image.fromarray((255 * rand(20, 30, 3, seed=i)).byte().numpy()).save(tmp_path / f"{i}.png")
    seen = []
    monkeypatch.setattr(denoise, "load_prior", lambda name: Scaled(float(name)))
    measured = denoise.averages
    monkeypatch.setattr(denoise, "averages", lambda p, x, levels: measured(p, seen.append(x := list(x)) or x, levels))
    denoise.main([str(tmp_path), "--priors", "0", "1", "--levels", "15", "50", "--last", "2"])
    assert [len(x) for x in seen] == [2, 2]
    head, _, first, second = capsys.readouterr().out.strip().splitlines()
    assert head == "| PSNR in dB, 2 pictures | 15 / 255 | 50 / 255 |"
    assert first.startswith("| 0 | ") and second.startswith("| 1 | ") and first.count("|") == 4
