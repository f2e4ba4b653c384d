"""The noise of pictures that were stored as JPEG afterwards: found, or said to be hidden."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError
from ambient_solve.operators.jpeg import quantisation_tables
from ambient_solve.restore.estimate import noise_level
from ambient_solve.restore.jpeg_noise import FileNoise, hidden_level, jpeg_noise
from ambient_solve.restore.noise import ROUNDED, picture_noise
from ambient_solve.restore.pictures import read_measurement
from helpers import one_sentence

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "camera")


@cache
def photo(name: str) -> np.ndarray:
    from skimage import data

    return np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB").reduce(2)) / 255


def stored(name: str, sigma: float, quality: int, mode: str = "RGB") -> torch.Tensor:
    """A photograph with noise, as JPEG and back, (C, H, W)."""
    x = photo(name)
    x = x.mean(2) if mode == "L" else x
    noisy = (255 * (x + sigma * np.random.default_rng(1).normal(size=x.shape)).clip(0, 1)).round()
    file = io.BytesIO()
    Image.fromarray(noisy.astype(np.uint8), mode).save(file, "JPEG", quality=quality)
    values = torch.from_numpy(np.asarray(Image.open(file)).copy()).float() / 255
    return values[None] if mode == "L" else values.permute(2, 0, 1)


@pytest.mark.parametrize("quality", [90, 80])
def test_noise_under_jpeg_is_found_within_a_quarter(quality):
    """The estimate for pictures that were never compressed, which takes rounded noise for none, is the control."""
    steps, plain = quantisation_tables(quality)[0], []
    for name in PHOTOS:
        for sigma in (0.03, 0.05, 0.1):
            y = stored(name, sigma, quality)
            found = jpeg_noise(y, steps)
            plain.append(abs(float(noise_level(y[None])[0]) / sigma - 1))
            print(name, quality, sigma, found.words, f"(plain off by {plain[-1]:.0%})")
            assert found.level is not None and abs(found.level / sigma - 1) < 0.25, (name, sigma, found)
    assert min(plain) > 0.15 and max(plain) > 0.9


@pytest.mark.parametrize("quality", [90, 60, 30])
def test_what_is_hidden_is_said(quality):
    """Clean pictures, and noise of half of what hides: no level beyond their grain, a bound above the noise."""
    steps = quantisation_tables(quality)[0]
    for name in PHOTOS[:3]:
        for sigma in (0.0, 0.5 * hidden_level(steps) / 255):
            found = jpeg_noise(stored(name, sigma, quality), steps)
            print(name, quality, f"{sigma:.4f}", found.words)
            assert found.level is None or found.level >= found.hidden
            assert found.hidden >= sigma
            assert (found.level or 0.0) < 1.5 / 255 + sigma, name  # grain of a gray level or so is in the photographs
            assert ("cannot be known" in found.words) is (found.level is None)


def test_a_gray_file_has_the_noise_of_its_one_channel():
    y, steps = stored("camera", 0.05, 80, "L"), quantisation_tables(80)[0]
    one, three = jpeg_noise(y, steps), jpeg_noise(y.expand(3, -1, -1), steps)
    print(one, three)
    assert one == three and abs(one.level / 0.05 - 1) < 0.25


def test_hidden_is_less_where_the_steps_are_smaller():
    levels = [hidden_level(quantisation_tables(q)[0]) for q in (95, 80, 50, 20)]
    assert levels == sorted(levels) and levels[0] > 0.1


def test_too_few_blocks_are_refused():
    with pytest.raises(AmbientSolveError, match="at least 16") as error:
        jpeg_noise(torch.full((3, 16, 24), 0.5), quantisation_tables(80)[0])
    with pytest.raises(AmbientSolveError, match="0 blocks"):
        jpeg_noise(torch.ones(3, 64, 64), quantisation_tables(80)[0])
    assert one_sentence(error)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "turned.jpg", "never.png"])
def test_a_file_is_taken_for_what_it_is(tmp_path, name):
    """A JPEG, a PNG that once was one, a JPEG that lies on its side, and one that was never compressed."""
    x = photo("astronaut")
    noisy = (255 * (x + 0.05 * np.random.default_rng(2).normal(size=x.shape)).clip(0, 1)).round().astype(np.uint8)
    image, exif = Image.fromarray(noisy), Image.Exif()
    if name == "turned.jpg":
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    if name != "never.png":
        image.save(tmp_path / "b.jpg", quality=80, exif=exif)
    if name == "a.png":
        image = Image.open(tmp_path / "b.jpg")
    image.save(tmp_path / name, **({"quality": 80, "exif": exif} if name.endswith("jpg") else {}))
    found = picture_noise(read_measurement(tmp_path / name))
    print(name, found)
    assert abs(found.level / 0.05 - 1) < 0.15
    assert found.hidden_by == ("rounding" if name == "never.png" else "JPEG compression")


def test_a_clean_picture_and_one_of_few_blocks(tmp_path):
    flat = Image.new("RGB", (64, 64), (90, 120, 40))
    flat.save(tmp_path / "flat.png")
    found = picture_noise(read_measurement(tmp_path / "flat.png"))
    assert found == FileNoise(None, ROUNDED, "rounding") and "below 0.002 cannot be known" in found.words
    flat.crop((0, 0, 20, 20)).save(tmp_path / "small.jpg")
    assert picture_noise(read_measurement(tmp_path / "small.jpg")).level is None
