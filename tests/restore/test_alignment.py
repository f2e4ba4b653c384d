"""A reduced picture comes back where it was, whoever has reduced it; a convention that shows is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import Downsampling
from PIL import Image
from torch import Tensor

from ambient_solve import GaussianPrior
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.pictures import Picture
from ambient_solve.restore.tasks import SuperResolution
from ambient_solve.restore.wrapping import wraps

FACTORS = (3, 4, 8)


def prior(side: int) -> GaussianPrior:
    f2 = torch.fft.fftfreq(side)[:, None] ** 2 + torch.fft.fftfreq(side) ** 2
    spectrum = 1 / (f2 + 0.001) ** 2
    variance = (0.03 * spectrum / spectrum.mean()).expand(3, side, side)
    return GaussianPrior.stationary(torch.zeros(3, side, side), variance, scale=0.5, offset=0.5)


def truth(side: int) -> Tensor:
    """A part of a larger scene, so that its edges do not fit each other, in whole gray levels."""
    large = prior(2 * side)
    x = large.decode(large.sample(1, torch.Generator().manual_seed(1)))[..., :side, :side]
    return (255 * x.clamp(0, 1)).round() / 255


def image(x: Tensor) -> Image.Image:
    return Image.fromarray((x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def by_pillow(x: Tensor, factor: int, path: Path) -> None:
    picture = image(x)
    picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.BICUBIC).save(path)


def by_deepinv(x: Tensor, factor: int, path: Path, filter: str = "bicubic") -> None:
    image(Downsampling(img_size=x.shape[1:], factor=factor, filter=filter, padding="circular").A(x)).save(path)


def error(x: Tensor, y: Tensor) -> float:
    return float((x - y)[..., 16:-16, 16:-16].square().mean())


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize(
    ("reduce", "alignment", "wrong"), [(by_pillow, "centers", "corner"), (by_deepinv, "corner", "centers")]
)
def test_a_reduced_picture_comes_back_where_it_was(tmp_path, factor, reduce, alignment, wrong):
    """Nearer to the truth than when it is moved by a pixel, than its bicubic enlargement, and than the other way."""
    x = truth(96)
    reduce(x, factor, tmp_path / "small.png")
    found = {}
    for way in (alignment, wrong):
        task = SuperResolution(factor=factor, sigma=0.01, alignment=way)
        run = restore_file(
            tmp_path / "small.png", prior(96), task, algorithm="proximal", options={"steps": 20}, n_samples=4
        )
        found[way] = run.restoration.mean
    own = error(found[alignment], x)
    large = Image.open(tmp_path / "small.png").resize((96, 96), Image.Resampling.BICUBIC)
    enlarged = torch.from_numpy(np.asarray(large).copy()).permute(2, 0, 1)[None] / 255
    assert own < error(enlarged, x) and own < error(found[wrong], x)
    moved = [found[alignment].roll((i, j), (-2, -1)) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    assert own < min(error(other, x) for other in moved)
    if reduce is by_pillow:
        best = min((error(found[wrong].roll((i, i), (-2, -1)), x), i) for i in range(-4, 5))[1]
        assert best == (factor - 2) // 2 or factor == 3, "control: the other convention is off by this much"


def test_rows_that_were_mixed_are_noticed(tmp_path):
    x = truth(192)
    by_pillow(x, 4, tmp_path / "pillow.png")
    by_deepinv(x, 4, tmp_path / "deepinv.png", "gaussian")
    said = {}
    for name in ("pillow", "deepinv"):
        y = torch.from_numpy(np.asarray(Image.open(tmp_path / f"{name}.png")).copy()).permute(2, 0, 1)[None] / 255
        picture = Picture(tmp_path / f"{name}.png", y, ())
        said[name] = SuperResolution(factor=4).notes(picture)
        assert SuperResolution(factor=4, alignment="corner").notes(picture) == ()
    assert said["pillow"] == () and "give --alignment corner" in said["deepinv"][0]
    assert not wraps(torch.zeros(1, 3, 20, 20)) and not wraps(torch.rand(1, 1, 3, 3))
