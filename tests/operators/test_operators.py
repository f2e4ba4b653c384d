"""The named builders: what they measure, that they repeat, what they refuse; JPEG against a real encoder."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.operators import (
    BUILDERS,
    Jpeg,
    denoise,
    gaussian_blur,
    inpaint,
    inpaint_box,
    inpaint_random,
    jpeg,
    motion_blur,
    super_resolution,
)

ODD = (3, 67, 101)


def picture(channels: int, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A smooth colour picture with a little texture, on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 8, 10, generator=generator)
    x = F.interpolate(coarse, size=(rows, columns), mode="bicubic") + 0.03 * torch.randn(
        1, channels, rows, columns, generator=generator
    )
    return x.clamp(0, 1).mul(255).round() / 255


@pytest.mark.parametrize("task", [t for t in BUILDERS if t not in ("inpaint", "super-resolution")])
@pytest.mark.parametrize("size", [ODD, (1, 64, 48)])
def test_tasks_take_odd_sizes_and_repeat(task, size):
    x = picture(*size)
    one, other = BUILDERS[task](size), BUILDERS[task](size)
    assert torch.equal(one.A(x), other.A(x)) and one.A(x).shape == x.shape
    assert tuple(one.img_size) == size and float(one.noise_model.sigma) > 0
    assert not torch.equal(one(x), one.A(x))


def test_random_builders_depend_on_the_seed_alone():
    torch.manual_seed(0)
    masks = [inpaint_random(ODD, seed=s).mask for s in (0, 0, 1)]
    paths = [motion_blur(ODD, seed=s).filter for s in (0, 0, 1)]
    for first, second, third in (masks, paths):
        assert torch.equal(first, second) and not torch.equal(first, third)


def test_masks():
    mask = inpaint_random(ODD, missing=0.7).mask
    assert mask.shape == (1, *ODD) and torch.equal(mask, mask[:, :1].expand_as(mask))
    assert float(mask.mean()) == pytest.approx(0.3, abs=1e-3)
    hole = torch.zeros(67, 101)
    hole[10:30, 20:60] = 1
    assert torch.equal(inpaint_box(ODD, (10, 20, 20, 40)).mask[0, 0], 1 - hole)
    assert inpaint_box(ODD).mask[0, 0].sum() == 67 * 101 - 33 * 50
    assert inpaint_box(ODD, 8).mask[0, 0].sum() == 67 * 101 - 64
    for given in (hole, hole[None], hole.expand(3, -1, -1), hole.bool(), hole.numpy()):
        assert torch.equal(inpaint(given).mask, hole.expand(1, 3, -1, -1))
    assert inpaint(hole, channels=1).mask.shape == (1, 1, 67, 101)
    assert inpaint(torch.stack([hole, 1 - hole])[:, None]).mask.shape == (2, 3, 67, 101)


@pytest.mark.parametrize("build", [gaussian_blur, motion_blur])
def test_blurs_keep_brightness_and_forms_agree(build):
    circular, valid = build(ODD), build(ODD, boundary="valid")
    ones = torch.ones(1, *ODD)
    torch.testing.assert_close(circular.A(ones), ones, rtol=1e-4, atol=1e-4)
    x = picture(*ODD)
    inner = valid.A(x)
    margin = (67 - inner.shape[-2]) // 2
    assert inner.shape[-2:] == (67 - 2 * margin, 101 - 2 * margin)
    torch.testing.assert_close(inner, circular.A(x)[..., margin:-margin, margin:-margin], rtol=1e-4, atol=1e-5)


def test_gaussian_blur_width():
    k = gaussian_blur(ODD, width=2.0).filter[0, 0]
    offset = torch.arange(len(k)) - len(k) // 2
    assert float((k.sum(0) * offset**2).sum()) == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "gaussian", "sinc", None])
def test_super_resolution(filter):
    op = super_resolution((3, 66, 100), 2, filter)
    assert op.A(torch.ones(1, 3, 66, 100)).shape == (1, 3, 33, 50)
    torch.testing.assert_close(op.A(torch.ones(1, 3, 66, 100)), torch.ones(1, 3, 33, 50), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: inpaint(torch.ones(2, 8, 8)), r"shape \(2, 8, 8\)"),
        (lambda: inpaint(torch.ones(8)), "shape"),
        (lambda: inpaint(torch.zeros(8, 8)), "no pixel"),
        (lambda: inpaint(torch.ones(8, 8)), "no missing pixel"),
        (lambda: inpaint(torch.full((8, 8), 0.5)), "besides 0"),
        (lambda: inpaint(torch.full((8, 8), float("nan"))), "besides 0"),
        (lambda: inpaint_box(ODD, 68), "no part"),
        (lambda: inpaint_box(ODD, 0), "no part"),
        (lambda: inpaint_box(ODD, (60, 0, 10, 10)), "no part"),
        (lambda: inpaint_box(ODD, (-1, 0, 10, 10)), "no part"),
        (lambda: inpaint_box(ODD, (67, 101)), "no part"),
        (lambda: inpaint_box(ODD, (1, 2, 3)), "no part"),
        (lambda: inpaint_random(ODD, missing=0), "between 0 and 1"),
        (lambda: inpaint_random(ODD, missing=1.0), "between 0 and 1"),
        (lambda: inpaint_random(ODD, missing=float("nan")), "between 0 and 1"),
        (lambda: gaussian_blur(ODD, width=0), "above 0"),
        (lambda: gaussian_blur(ODD, width=float("inf")), "above 0"),
        (lambda: gaussian_blur(ODD, width=40), "spans"),
        (lambda: gaussian_blur(ODD, boundary="cyclic"), "circular"),
        (lambda: motion_blur(ODD, length=0), "length"),
        (lambda: motion_blur(ODD, length=99), "spans"),
        (lambda: super_resolution(ODD, 2), "66x100"),
        (lambda: super_resolution((3, 64, 64), 1), "factor"),
        (lambda: super_resolution((3, 64, 64), 1.5), "factor"),
        (lambda: super_resolution((3, 64, 64), 32), "spans"),
        (lambda: super_resolution((3, 64, 64), 2, "bicubik"), "bicubic"),
        (lambda: denoise(ODD, sigma=-0.1), "sigma"),
        (lambda: denoise(ODD, sigma=float("nan")), "sigma"),
        (lambda: denoise((64, 64)), r"\(C, H, W\)"),
        (lambda: denoise((3, 64, 0)), r"\(C, H, W\)"),
        (lambda: denoise(64), r"\(C, H, W\)"),
        (lambda: jpeg(ODD, quality=0), "1 to 100"),
        (lambda: jpeg(ODD, quality=101), "1 to 100"),
        (lambda: jpeg(ODD, quality=7.5), "1 to 100"),
        (lambda: jpeg(ODD, subsampling="4:2:1"), "4:2:0"),
        (lambda: jpeg((2, 64, 64)), "1 or 3 channels"),
        (lambda: Jpeg(50).A(torch.ones(1, 2, 8, 8)), "JPEG takes"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(AmbientSolveError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


# JPEG -----------------------------------------------------------------------------------------------------------------


def real_jpeg(x: Tensor, quality: int, subsampling: str) -> Tensor:
    image = pytest.importorskip("PIL.Image")
    pixels = (255 * x[0]).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    grey = pixels.shape[2] == 1
    settings = {} if grey else {"subsampling": {"4:4:4": 0, "4:2:0": 2}[subsampling]}
    image.fromarray(pixels[..., 0] if grey else pixels).save(file, "JPEG", quality=quality, **settings)
    decoded = torch.from_numpy(np.array(image.open(file))) / 255
    return decoded[None, None] if grey else decoded.permute(2, 0, 1)[None]


@pytest.mark.parametrize("quality", [5, 10, 30, 49, 50, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("size", [ODD, (1, 41, 64)])
def test_jpeg_agrees_with_a_real_encoder(size, quality, subsampling):
    x = picture(*size)
    y, file = Jpeg(quality, subsampling).A(x), real_jpeg(x, quality, subsampling)
    assert y.shape == file.shape and float(y.min()) >= 0 and float(y.max()) <= 1
    error, loss = 255 * float((y - file).abs().mean()), 255 * float((x - file).abs().mean())
    assert error < 1.5
    assert error < max(0.3 * loss, 1.0)  # and it is the encoder's loss that is reproduced, not just the picture


def test_jpeg_loses_less_at_higher_quality():
    x = picture(*ODD)
    losses = [float((Jpeg(q).A(x) - x).square().mean()) for q in (2, 5, 10, 20, 40, 60, 80, 95)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_jpeg_gradient_is_the_adjoint_of_its_linear_steps(subsampling):
    """Straight-through: forward mode's J v and backward mode's J'u belong together, and J ignores the quality."""
    x = 0.3 + 0.4 * picture(3, 19, 22)  # away from the clamps
    v, u = torch.randn(2, 1, 3, 19, 22, generator=torch.Generator().manual_seed(1)).unbind(0)
    moved = []
    for quality in (40, 95):
        op = Jpeg(quality, subsampling)
        _, jv = torch.func.jvp(op.A, (x,), (v,))
        _, pull = torch.func.vjp(op.A, x)
        torch.testing.assert_close((jv * u).sum(), (v * pull(u)[0]).sum(), rtol=1e-4, atol=1e-3)
        moved.append(jv)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=1e-4)
    if subsampling == "4:4:4":
        torch.testing.assert_close(moved[0], v, rtol=1e-3, atol=1e-3)


def test_jpeg_gradient_is_the_slope_of_the_function_over_many_steps():
    """Rounding makes A a staircase; over a step much longer than a stair its slope is the straight-through one."""
    op = Jpeg(90, "4:4:4")
    x, step = 0.3 + 0.3 * picture(3, 32, 32), 0.2 * picture(3, 32, 32, seed=3)
    _, slope = torch.func.jvp(op.A, (x,), (step,))
    assert float((op.A(x + step) - op.A(x) - slope).norm() / slope.norm()) < 0.15


def test_jpeg_of_a_batch_is_the_jpeg_of_each():
    x = torch.cat([picture(3, 20, 30, seed=s) for s in range(3)])
    op = Jpeg(20)
    torch.testing.assert_close(op.A(x), torch.cat([op.A(row[None]) for row in x]), rtol=0, atol=1 / 255)
