"""The noise level and the JPEG quality, each on pictures that were made with a known one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError
from ambient_solve.restore.estimate import jpeg_quality, noise_level
from helpers import one_sentence, rand, randn

SIGMAS = (0.01, 0.02, 0.05, 0.1, 0.2)
SIDE, PHOTOS = 192, ("astronaut", "chelsea", "coffee", "rocket", "camera")


@cache
def photo(name: str) -> np.ndarray:
    """Averaged down by two: what noise and blocks the file had are gone."""
    from skimage import data

    return np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB").reduce(2))


def tensor(name: str) -> torch.Tensor:
    return torch.from_numpy(photo(name).copy()).permute(2, 0, 1)[None, :, :SIDE, :SIDE].float() / 255


def as_file(y: torch.Tensor) -> torch.Tensor:
    """Clipped and rounded, as a picture file is."""
    return (255 * y.clamp(0, 1)).round() / 255


@pytest.mark.parametrize("name", PHOTOS)
def test_the_noise_of_photographs_is_found(name):
    x = tensor(name)[:, 1:2]
    noisy = [as_file(x + sigma * randn(*x.shape, seed=1)) for sigma in SIGMAS]
    found = noise_level(torch.cat(noisy))
    assert found.shape == (len(SIGMAS),) and found.dtype == torch.float32
    print(name, found.tolist())
    for sigma, answer in zip(SIGMAS, found.tolist(), strict=True):
        assert abs(answer - sigma) < 0.003 + 0.06 * sigma, (sigma, answer)
    clean = float(noise_level(x))
    assert clean < 0.005, clean


def test_texture_is_not_taken_for_noise():
    """The wavelet median takes it: a control for the bound above, which must not be so wide that anything passes."""
    from skimage.restoration import estimate_sigma

    pictures = [as_file(tensor(name) + 0.01 * randn(*tensor(name).shape, seed=2)) for name in PHOTOS]
    wavelet = [float(np.mean([estimate_sigma(channel.numpy()) for channel in y[0]])) for y in pictures]
    errors = [np.abs(np.array(levels) - 0.01).max() for levels in ([float(noise_level(y)) for y in pictures], wavelet)]
    print("largest error at .01, ours and wavelet:", errors)
    assert errors[0] < 0.002 and errors[1] > 0.005


def test_noise_alone_constant_pictures_and_ramps():
    for sigma in (0.02, 0.1):
        flat = 0.5 + sigma * randn(2, 1, 96, 96, seed=3)
        torch.testing.assert_close(noise_level(flat), torch.full((2,), sigma), rtol=0.04, atol=0)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    for clean in (torch.zeros(1, 1, 20, 20), torch.ones(1, 3, 64, 64), ramp, ramp.mT, ramp * ramp.mT):
        assert float(noise_level(clean)) < 1e-3
    half = torch.cat([torch.zeros(1, 1, 96, 48), 0.5 + 0.05 * randn(1, 1, 96, 48)], 3)  # a black bar beside it
    assert abs(float(noise_level(half)) - 0.05) < 0.005


def test_large_pictures_are_sampled():
    y = 0.5 + 0.05 * randn(1, 1, 900, 1200)
    assert abs(float(noise_level(y)) - 0.05) < 0.002


def test_pictures_too_small_are_said():
    with pytest.raises(AmbientSolveError, match="at least 14") as error:
        noise_level(rand(1, 1, 13, 50))
    assert one_sentence(error)


@pytest.mark.parametrize("quality", [10, 20, 40, 60, 80])
def test_the_quality_of_a_picture_that_once_was_a_jpeg(tmp_path, quality):
    for i, name in enumerate(PHOTOS):
        Image.fromarray(photo(name)).save(tmp_path / "a.jpg", quality=quality, subsampling=2 * (i % 2))
        assert jpeg_quality(tmp_path / "a.jpg") == quality
        Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
        assert jpeg_quality(tmp_path / "a.png") == quality, name
        Image.open(tmp_path / "a.jpg").convert("L").save(tmp_path / "grey.bmp")
        assert jpeg_quality(tmp_path / "grey.bmp") == quality, name


def test_a_picture_of_a_telephone_and_what_is_no_picture(tmp_path):
    first, second = Image.fromarray(photo("coffee")), Image.fromarray(photo("camera"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=35)
    assert Image.open(tmp_path / "a.jpg").format == "MPO" and jpeg_quality(tmp_path / "a.jpg") == 35
    (tmp_path / "letter.png").write_text("This is a letter.")
    for name, words in (("letter.png", "not a picture"), ("absent.png", "no file")):
        with pytest.raises(AmbientSolveError, match=words) as error:
            jpeg_quality(tmp_path / name)
        assert one_sentence(error)


def never_compressed() -> dict[str, Image.Image]:
    found = {name: Image.fromarray(photo(name)) for name in PHOTOS}
    coffee = Image.fromarray(photo("coffee"))
    rows, columns = np.mgrid[:120, :120]
    found["constant"] = Image.new("RGB", (64, 64), (90, 120, 40))
    found["ramp"] = Image.fromarray((rows + columns).astype(np.uint8))
    found["stripes"] = Image.fromarray((40 + 160 * (rows // 4 % 2)).astype(np.uint8))
    found["blocks"] = Image.fromarray((40 + 20 * (rows // 8 % 8)).astype(np.uint8))
    found["small"] = coffee.crop((0, 0, 20, 20))
    found["smaller than a block"] = coffee.crop((0, 0, 7, 20))
    found["16 bit"] = Image.fromarray((rows * 500).astype(np.uint16))
    return found


def no_longer_on_the_grid(image: Image.Image, path: Path) -> dict[str, Image.Image]:
    image.save(path, quality=40)
    decoded = Image.open(path).convert("RGB")
    noise = np.random.default_rng(0).normal(0, 8, (*decoded.size[::-1], 3))
    return {
        "cropped": decoded.crop((3, 5, *decoded.size)),
        "resized": decoded.resize((decoded.width * 9 // 10, decoded.height * 9 // 10), Image.Resampling.LANCZOS),
        "noisy": Image.fromarray((np.asarray(decoded) + noise).clip(0, 255).astype(np.uint8)),
    }


def test_no_trace_no_quality(tmp_path):
    pictures = never_compressed() | no_longer_on_the_grid(Image.fromarray(photo("chelsea")), tmp_path / "a.jpg")
    for name, image in pictures.items():
        image.save(tmp_path / "a.png")
        assert jpeg_quality(tmp_path / "a.png") is None, name
