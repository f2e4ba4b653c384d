"""Enlarged pictures: factor and interpolation are found, the small picture comes back; others are not taken so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data
from torch import Tensor

from ambient_solve import AmbientSolveError
from ambient_solve.data.images import to_tensor
from ambient_solve.restore import make_task, read_measurement, restore_file
from ambient_solve.restore.enlarged import FILTERS, enlargement, enlargement_weights, small_picture
from helpers import rand
from test_restore import FAST, tiny

PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.NEAREST,
}


def tensor(image: Image.Image) -> Tensor:
    return to_tensor(image.convert("RGB"))[None].float() / 255


def photograph(factor: int = 1) -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((100, 0, 340, 240)).reduce(factor)


def enlarged(factor: int, filter: str) -> Image.Image:
    small = photograph(factor)
    return small.resize((factor * small.width, factor * small.height), PILLOW[filter])


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("factor", [2, 3])
def test_enlarging_is_that_of_pillow_and_is_taken_back(factor, filter):
    x = rand(1, 1, 20, 26).double()
    down, across = (enlargement_weights(factor * n, factor, filter) for n in (20, 26))
    y = down @ x @ across.T
    image = Image.fromarray(x[0, 0].float().numpy(), mode="F").resize((26 * factor, 20 * factor), PILLOW[filter])
    assert torch.allclose(y[0, 0].float(), torch.from_numpy(np.asarray(image).copy()), atol=1e-5)
    assert torch.allclose(small_picture(y, factor, filter), x, atol=1e-9)
    if filter != "box":
        assert not torch.allclose(small_picture(y, factor, "box"), x, atol=0.05), (
            "control: another way is not the inverse"
        )


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_factor_and_interpolation_are_found(factor, filter):
    found = enlargement(tensor(enlarged(factor, filter)))
    assert found is not None and found.factor == factor
    small = small_picture(tensor(enlarged(factor, filter)), factor, found.filter)
    assert float((small - tensor(photograph(factor))).abs().mean()) < 0.02


def test_what_was_not_enlarged_is_not_taken_so():
    sharp = photograph()
    for image in (sharp, sharp.filter(ImageFilter.GaussianBlur(1)), sharp.filter(ImageFilter.GaussianBlur(3))):
        assert enlargement(tensor(image)) is None
    moved = tensor(enlarged(2, "bicubic"))[..., 1:, 1:]
    assert enlargement(moved) is None, "its grid does not begin at the first pixel"
    assert enlargement(rand(1, 3, 24, 24)) is None, "too small to tell"


def test_a_file_is_restored_at_its_size(tmp_path):
    enlarged(3, "bicubic").crop((0, 0, 96, 85)).save(tmp_path / "large.png")
    outcome = restore_file(tmp_path / "large.png", tiny(), make_task("enlarged"), out=tmp_path / "out", **FAST)
    assert outcome.restoration.samples.shape[-2:] == (84, 96)
    said = " ".join(outcome.notes)
    assert "enlarged 3 times (bicubic)" in said and "noise level of the small picture" in said
    assert "the last 1 rows or columns make no whole pixel" in said
    stated = make_task("enlarged", factor=3, interpolation="bicubic", sigma=0.01)
    picture = read_measurement(tmp_path / "large.png")
    measured = stated.measure(picture)
    assert measured.y.shape[-2:] == (28, 32) and measured.op.A(rand(1, 3, 84, 96)).shape == measured.y.shape
    assert stated.prepared(picture) == (stated, ())


def test_what_cannot_be_found_is_said(tmp_path):
    photograph().save(tmp_path / "sharp.png")
    enlarged(2, "bicubic").save(tmp_path / "coarse.jpg", quality=8)
    for name in ("sharp.png", "coarse.jpg"):
        with pytest.raises(AmbientSolveError, match=f"{name} does not look enlarged by a whole factor up to 8"):
            make_task("enlarged").prepared(read_measurement(tmp_path / name))
    picture = read_measurement(tmp_path / "sharp.png")
    found, _ = make_task("enlarged", factor=2, sigma=0.01).prepared(picture)
    assert (found.factor, found.interpolation) == (2, "bicubic")
    with pytest.raises(AmbientSolveError, match="have not been found yet"):
        make_task("enlarged").operator(picture)
    with pytest.raises(AmbientSolveError, match="another damage"):
        make_task("enlarged", factor=1).prepared(picture)
    with pytest.raises(AmbientSolveError, match="smaller than the factor 16"):
        make_task("enlarged", factor=16, interpolation="box", sigma=0.01).measure(
            replace(picture, y=picture.y[..., :12, :12])
        )
