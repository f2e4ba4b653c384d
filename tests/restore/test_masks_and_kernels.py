"""Masks and blur kernels as people make them: with soft edges, transparent, red, inverted, on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ambient_solve import AmbientSolveError, GaussianPrior
from ambient_solve.data.images import open_mask
from ambient_solve.restore.files import restore_file
from ambient_solve.restore.pictures import Picture, kernel_notes, mask_notes, read_kernel, read_mask
from ambient_solve.restore.tasks import GaussianBlur, Inpaint
from helpers import one_sentence, rand

SIDE = 64


def alpha() -> np.ndarray:
    """Scratches with smooth edges, 0 to 255, and whole pixels between them."""
    big = Image.new("L", (4 * SIDE, 4 * SIDE))
    draw = ImageDraw.Draw(big)
    for i in range(3):
        draw.line((20 + 80 * i, 0, 70 + 60 * i, 4 * SIDE - 1), fill=255, width=14)
    return np.asarray(big.resize((SIDE, SIDE), Image.Resampling.BOX))


ALPHA = alpha()
HARD = ALPHA > 0
WHITE = Image.fromarray(np.where(HARD, 255, 0).astype(np.uint8))


def layer(color: tuple[int, int, int], opaque: np.ndarray) -> Image.Image:
    """One color, opaque where it says so."""
    image = Image.new("RGBA", (SIDE, SIDE), (*color, 0))
    image.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return image


def photograph(holes: np.ndarray) -> Image.Image:
    image = Image.fromarray((255 * rand(SIDE, SIDE, 3, seed=2)).byte().numpy()).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(holes, 0, 255).astype(np.uint8)))
    return image


def red() -> Image.Image:
    return Image.merge("RGB", (WHITE, *[Image.new("L", WHITE.size)] * 2))


MASKS = {
    "as it is": (WHITE, ".png", ""),
    "with smooth edges": (Image.fromarray(ALPHA), ".png", "gray at the edges"),
    "a JPEG": (WHITE, ".jpg", ""),
    "of 0 and 1": (Image.fromarray(HARD.astype(np.uint8)), ".png", ""),
    "of 16 bits": (Image.fromarray(HARD.astype(np.uint16) * 65535), ".png", ""),
    "of one bit": (WHITE.convert("1"), ".png", ""),
    "with a palette": (WHITE.convert("P"), ".gif", ""),
    "red on black": (red(), ".png", ""),
    "black strokes on nothing": (layer((0, 0, 0), HARD), ".png", "its opaque part"),
    "white strokes on nothing": (layer((255, 255, 255), HARD), ".png", "its opaque part"),
    "a photograph with holes": (photograph(HARD), ".png", "photograph with holes"),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_pixels_that_were_painted_are_missing(tmp_path, name):
    image, suffix, note = MASKS[name]
    path = tmp_path / f"mask{suffix}"
    image.save(path, **({"quality": 80} if suffix == ".jpg" else {}))
    missing = read_mask(path, (SIDE, SIDE)).numpy() == 0
    assert not (HARD & ~missing).sum(), "each pixel that was touched"
    assert (missing & ~HARD).sum() <= (20 if suffix == ".jpg" else 0)
    assert note in " ".join(mask_notes(path, (SIDE, SIDE))) and bool(note) == bool(mask_notes(path, (SIDE, SIDE)))
    assert torch.equal(open_mask(path)[0], torch.from_numpy(~missing).to(torch.uint8)), "the door of data sets"


def test_a_mask_that_fades_is_cut_at_half_and_said(tmp_path):
    image = Image.new("L", (SIDE, SIDE))
    image.paste(255, (20, 20, 44, 44))
    image.filter(ImageFilter.GaussianBlur(5)).save(tmp_path / "mask.png")
    missing = read_mask(tmp_path / "mask.png", (SIDE, SIDE)) == 0
    assert 0.75 * 24 * 24 < int(missing.sum()) < 1.1 * 24 * 24
    assert "fades over many pixels" in mask_notes(tmp_path / "mask.png", (SIDE, SIDE))[0]


def test_most_of_a_picture_missing_is_said(tmp_path):
    Image.fromarray(np.where(HARD, 0, 255).astype(np.uint8)).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png", (SIDE, SIDE)) == 1, torch.from_numpy(HARD))
    assert "invert it if black was meant" in mask_notes(tmp_path / "mask.png", (SIDE, SIDE))[0]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (photograph(np.zeros_like(HARD)).convert("RGB"), "gray in most of its pixels"),
        (layer((255, 255, 255), ~HARD), "either may be what is missing"),
    ],
)
def test_what_may_mean_two_things_is_refused(tmp_path, image, words):
    image.save(tmp_path / "mask.png")
    with pytest.raises(AmbientSolveError, match=words) as error:
        read_mask(tmp_path / "mask.png", (SIDE, SIDE))
    assert one_sentence(error)


def smooth_prior() -> GaussianPrior:
    f2 = torch.fft.fftfreq(SIDE)[:, None] ** 2 + torch.fft.fftfreq(SIDE) ** 2
    spectrum = 1 / (f2 + 0.001) ** 2
    variance = (0.03 * spectrum / spectrum.mean()).expand(3, SIDE, SIDE)
    return GaussianPrior.stationary(torch.zeros(3, SIDE, SIDE), variance, scale=0.5, offset=0.5)


def test_scratches_with_smooth_edges_leave_no_rim(tmp_path):
    """The mask with smooth edges restores as well as one that holds each touched pixel; one cut at half does not."""
    prior = smooth_prior()
    truth = prior.decode(prior.sample(1, torch.Generator().manual_seed(0)))[0]
    a = torch.from_numpy(ALPHA / 255).float()
    save(truth * (1 - a) + a, tmp_path / "scratched.png")
    masks = {"smooth": ALPHA, "all": np.where(HARD, 255, 0), "half": np.where(ALPHA >= 128, 255, 0)}
    errors = {}
    for name, mask in masks.items():
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "mask.png")
        task = Inpaint(mask=tmp_path / "mask.png", sigma=0.01)
        done = restore_file(
            tmp_path / "scratched.png", prior, task, algorithm="proximal", options={"steps": 20}, n_samples=4
        )
        errors[name] = float((done.restoration.mean[0] - truth.clamp(0, 1)).square().mean())
        assert any("gray at the edges" in note for note in done.notes) is (name == "smooth")
    assert errors["smooth"] == pytest.approx(errors["all"], rel=0.05) and errors["half"] > 2 * errors["all"]


def save(x: Tensor, path: Path) -> None:
    Image.fromarray((x.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path)


def psf() -> np.ndarray:
    """An L, off the middle of 15 x 15 pixels, 0 to 255."""
    kernel = np.zeros((15, 15), np.uint8)
    kernel[3, 3:12] = kernel[3:9, 11] = 255
    return kernel


def gray(level: float) -> np.ndarray:
    return np.where(psf() > 0, 255, round(255 * level)).astype(np.uint8)


KERNELS = {
    "on a gray": (Image.fromarray(gray(0.06)), "gray of 6 %"),
    "on a darker gray": (Image.fromarray(gray(0.4)), "gray of 40 %"),
    "dark on white": (Image.fromarray(255 - psf()), "dark on white"),
    "on nothing": (Image.merge("LA", (Image.new("L", (15, 15), 255), Image.fromarray(psf()))), ""),
    "red": (Image.merge("RGB", (Image.fromarray(psf()), *[Image.new("L", (15, 15))] * 2)), ""),
    "of 32 bits": (Image.fromarray(1000 * psf().astype(np.int32)), ""),
    "of floats": (Image.fromarray(psf().astype(np.float32) * 3), ""),
}


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernel_is_what_stands_on_the_background(tmp_path, name):
    image, note = KERNELS[name]
    path = tmp_path / ("kernel.tif" if image.mode in ("I", "F") else "kernel.png")
    image.save(path)
    found, wanted = read_kernel(path), torch.from_numpy(psf()[3:12, 3:12] / np.float32(255))
    assert found.shape == (9, 9)
    torch.testing.assert_close(found / found.sum(), wanted / wanted.sum(), rtol=0, atol=1e-3)
    assert note in " ".join(kernel_notes(path)) and bool(note) == bool(kernel_notes(path))


def test_kernels_that_fill_their_picture_have_no_background(tmp_path):
    """A box, a wide Gaussian and a ring of light lose nothing."""
    rows, columns = np.mgrid[-7:8, -7:8]
    bell = np.exp(-(rows**2 + columns**2) / 50.0)
    ring = np.where(np.maximum(abs(rows), abs(columns)) < 6, 0, 255)
    for kernel in (np.full((15, 15), 200), 255 * bell, ring):
        Image.fromarray(kernel.round().astype(np.uint8)).save(tmp_path / "kernel.png")
        found = read_kernel(tmp_path / "kernel.png")
        wanted = torch.from_numpy(kernel.round() / kernel.round().sum()).float()
        torch.testing.assert_close(found / found.sum(), wanted, rtol=0, atol=1e-5)
        assert kernel_notes(tmp_path / "kernel.png") == ()


@pytest.mark.parametrize("side", [8, 9])
def test_the_middle_of_an_even_kernel_is_where_a_convolution_has_it(tmp_path, side):
    """Pixel (n // 2, n // 2) of its picture leaves what it blurs where it is."""
    kernel = np.zeros((side, side), np.uint8)
    kernel[side // 2, side // 2] = 255
    kernel[0, 0] = 100
    Image.fromarray(kernel).save(tmp_path / "kernel.png")
    picture = Picture(Path("y.png"), torch.zeros(1, 3, 24, 24), ())
    op = GaussianBlur(kernel=tmp_path / "kernel.png").operator(picture)
    x = torch.zeros(1, 3, *op.img_size[-2:])
    beyond = (x.shape[-1] - 24) // 2
    x[..., beyond + 12, beyond + 12] = 1
    y = op.A(x)[0, 0]
    assert y[12, 12] == pytest.approx(255 / 355, abs=1e-5)
    assert y[12 - side // 2, 12 - side // 2] == pytest.approx(100 / 355, abs=1e-5)


def test_a_kernel_below_zero_is_refused(tmp_path):
    Image.fromarray(psf().astype(np.float32) - 3).save(tmp_path / "kernel.tif")
    with pytest.raises(AmbientSolveError, match="values below 0") as error:
        read_kernel(tmp_path / "kernel.tif")
    assert one_sentence(error)
