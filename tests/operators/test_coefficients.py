"""The coefficients of a JPEG: against the files of an encoder, the adjoint, the noise of each, blocks with holes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ambient_solve import AmbientSolveError
from ambient_solve.operators.coefficients import JpegCoefficients
from ambient_solve.operators.jpeg import SUBSAMPLING, quantisation_tables
from helpers import one_sentence, rand, randn, relative
from test_operators import picture


def stored(x: Tensor, quality: int, subsampling: str = "4:4:4") -> Tensor:
    """A picture (1, C, H, W) through a file."""
    array = (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    back = np.asarray(Image.open(buffer)).reshape(array.shape).copy()
    return torch.from_numpy(back).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("orientation", [1, 6, 3])
@pytest.mark.parametrize("subsampling", SUBSAMPLING)
def test_the_adjoint_is_the_transpose(subsampling, orientation, mask):
    size = (3, 21, 38)
    hidden = (rand(*size[1:], seed=2) > 0.01).float() if mask else None
    op = JpegCoefficients(size, 50, 0.02, subsampling, orientation=orientation, mask=hidden)
    x = randn(2, *size, seed=1).double()
    found = op.A(x)
    u = randn(*found.shape, seed=3).double()
    assert torch.allclose((found * u).sum(), (x * op.A_adjoint(u)).sum(), rtol=1e-9)
    assert op.noise_model.sigma.shape == (1, found.shape[1])


def test_the_coefficients_of_a_file_lie_on_its_steps():
    """Of a gray file, up to the rounding of its pixels; the control are steps of another quality."""
    y = stored(picture(1, 64, 80), 40)
    op = JpegCoefficients((1, 64, 80), 40)
    found = 255 * op.measure(y - 128 / 255).reshape(-1, 8, 8)

    def off(quality: int) -> float:
        steps = quantisation_tables(quality)[0]
        distance = ((found / steps - (found / steps).round()) * steps).abs()
        return float(distance[found.abs() > steps].median())

    assert off(40) < 0.5 < 2 < off(30)


def test_the_levels_are_those_of_noise_and_rounding():
    """Fine texture, in which every coefficient moves by whole steps: the error is that of a uniform number."""
    size = (3, 64, 64)
    x = (0.5 + 0.12 * randn(1, *size)).clamp(0.05, 0.95)
    for quality, sigma in ((85, 0.0), (85, 0.03)):
        op = JpegCoefficients(size, quality, sigma, "4:4:4")
        y = stored(x + sigma * randn(1, *size, seed=4), quality)
        luminance = slice(0, 64 * 64)
        z = ((op.measure(y) - op.A(x)) / op.noise_model.sigma)[:, luminance]
        assert abs(float(z.square().mean()) - 1) < 0.1
        quiet = JpegCoefficients(size, quality, 0.0, "4:4:4").noise_model.sigma[:, luminance]
        assert sigma == 0 or float((z * op.noise_model.sigma[:, luminance] / quiet).square().mean()) > 1.5


def test_a_gray_picture_in_three_channels_is_measured_once():
    """Its luminance has the noise of one channel, its chroma none."""
    op = JpegCoefficients((3, 16, 16), 100, 0.1, "4:4:4", gray=True)
    levels = op.noise_model.sigma.reshape(3, -1)
    assert float(levels[0].min()) == pytest.approx(0.1, rel=0.01) and float(levels[1:].max()) < 0.01


def test_blocks_with_missing_pixels_are_measured_by_the_pixels_that_are_left():
    size, mask = (3, 48, 48), torch.ones(48, 48)
    mask[20, 18:22] = 0
    op, full = JpegCoefficients(size, 50, mask=mask), JpegCoefficients(size, 50)
    levels = op.noise_model.sigma
    pixels = levels[:, full.noise_model.sigma.shape[1] :].reshape(size)
    used = pixels.isfinite()
    wanted = torch.zeros(48, 48, dtype=torch.bool)
    wanted[16:32, 16:32] = True  # the units of 16 x 16 pixels that chroma of half the size makes
    assert torch.equal(used[0], wanted & (mask > 0)) and torch.equal(used[0], used[2])
    lost = ~levels[:, : full.noise_model.sigma.shape[1]].isfinite()
    assert int(lost.sum()) == 256 + 64 + 64
    x = rand(1, *size)
    changed = torch.where(mask > 0, x, 1 - x)
    seen = levels.isfinite()
    assert torch.equal(op.A(x)[seen], op.A(changed)[seen]) and not torch.equal(full.A(x), full.A(changed))


def test_odd_sides_are_continued_by_their_edge():
    op, x = JpegCoefficients((1, 13, 9), 50), rand(1, 1, 13, 9)
    whole = torch.nn.functional.pad(x, (0, 7, 0, 3), mode="replicate")
    assert relative(op.A(x), JpegCoefficients((1, 16, 16), 50).A(whole)) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"quality": 0}, "1 to 100"), ({"subsampling": "4:1:0"}, "4:2:0"), ({"sigma": -1.0}, "at least 0")],
)
def test_what_is_out_of_range_is_said(wrong, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        JpegCoefficients((3, 16, 16), **wrong)
    assert one_sentence(error)
