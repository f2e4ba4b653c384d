"""A JPEG file is measured in its own frame: turned, of odd sizes, in printing colors, of every subsampling."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ambient_solve import AmbientSolveError
from ambient_solve.operators.jpeg import quantisation_tables
from ambient_solve.restore.jpeg_files import jpeg_coding
from ambient_solve.restore.pictures import read_measurement
from ambient_solve.restore.tasks import JpegBlocks
from helpers import one_sentence, rand

HEIGHT, WIDTH = 45, 59
LAID = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""How Pillow lays an upright picture (`Image.Transpose`) that EXIF's number turns upright again."""


def scene() -> Image.Image:
    """A smooth color picture with some texture, of odd sides."""
    coarse = torch.nn.functional.interpolate(rand(1, 3, 7, 9, seed=4), (HEIGHT, WIDTH), mode="bicubic")
    x = (0.15 + 0.6 * coarse + 0.15 * rand(1, 3, HEIGHT, WIDTH, seed=5)).clamp(0, 1)
    return Image.fromarray((255 * x[0]).round().byte().permute(1, 2, 0).numpy())


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def misfit(path: Path, x: Tensor) -> tuple[float, float]:
    """Of the true picture, sent through the operator of the file, to the file; and what the file has lost."""
    picture = read_measurement(path)
    y = JpegBlocks().operator(picture).A(x)
    return 255 * float((y - picture.y).abs().mean()), 255 * float((x - picture.y).abs().mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_a_turned_file_is_measured_in_its_own_frame(tmp_path, orientation, subsampling):
    image, exif = scene(), Image.Exif()
    exif[0x0112] = orientation
    laid = image if orientation == 1 else image.transpose(LAID[orientation])
    laid.save(tmp_path / "a.jpg", quality=12, subsampling=subsampling, exif=exif)
    assert jpeg_coding(tmp_path / "a.jpg").orientation == orientation
    assert read_measurement(tmp_path / "a.jpg").y.shape[-2:] == (HEIGHT, WIDTH)
    found, lost = misfit(tmp_path / "a.jpg", tensor(image))
    assert found < 0.15 * lost


def test_the_frame_and_the_subsampling_count(tmp_path):
    """The control: the operator of another file, upright or with other chroma, does not give these pixels."""
    image, exif = scene(), Image.Exif()
    exif[0x0112] = 6
    image.transpose(LAID[6]).save(tmp_path / "turned.jpg", quality=12, subsampling="4:2:0", exif=exif)
    image.save(tmp_path / "upright.jpg", quality=12, subsampling="4:2:0")
    image.save(tmp_path / "half.jpg", quality=12, subsampling="4:2:2")
    x = tensor(image)
    for file, other in (("turned", "upright"), ("half", "upright")):
        y = read_measurement(tmp_path / f"{file}.jpg").y
        wrong = JpegBlocks().operator(read_measurement(tmp_path / f"{other}.jpg")).A(x)
        right, _ = misfit(tmp_path / f"{file}.jpg", x)
        assert 255 * float((wrong - y).abs().mean()) > 3 * right


@pytest.mark.parametrize("black", [0, 90])
def test_printing_colors_are_coded_as_they_are(tmp_path, black):
    """Cyan, magenta and yellow are coded one by one; black ink is known."""
    inks = np.array(scene().convert("CMYK"))
    inks[10:30, 20:40, 3] = black
    image = Image.fromarray(inks, "CMYK")
    image.save(tmp_path / "a.jpg", quality=12)
    found, lost = misfit(tmp_path / "a.jpg", tensor(image))
    assert found < 0.2 * lost and jpeg_coding(tmp_path / "a.jpg").space == "CMYK"
    assert "CMYK" in read_measurement(tmp_path / "a.jpg").notes[0]


def test_red_green_and_blue_are_coded_as_they_are(tmp_path):
    scene().save(tmp_path / "a.jpg", quality=12, keep_rgb=True)
    found, lost = misfit(tmp_path / "a.jpg", tensor(scene()))
    assert found < 0.15 * lost and jpeg_coding(tmp_path / "a.jpg").space == "RGB"


def test_the_steps_of_another_program_are_read_from_the_file(tmp_path):
    steps = [
        [int(v) for v in quantisation_tables(15)[i].flip(0, 1).flatten()] for i in (0, 1)
    ]  # coarse where it is fine
    scene().save(tmp_path / "a.jpg", qtables=steps, subsampling="4:2:0")
    coding = jpeg_coding(tmp_path / "a.jpg")
    assert coding.tables[0].flatten().tolist() == steps[0] and "not libjpeg's" in coding.notes[0]
    found, lost = misfit(tmp_path / "a.jpg", tensor(scene()))
    nearest = JpegBlocks(quality=coding.quality).operator(read_measurement(tmp_path / "a.jpg")).A(tensor(scene()))
    wrong = 255 * float((nearest - read_measurement(tmp_path / "a.jpg").y).abs().mean())
    assert found < 0.15 * lost and wrong > 2 * found
    scene().save(tmp_path / "b.jpg", quality=30)
    assert jpeg_coding(tmp_path / "b.jpg").tables is None and jpeg_coding(tmp_path / "b.jpg").quality == 30


def test_what_cannot_be_told_is_refused(tmp_path):
    file = io.BytesIO()
    scene().convert("CMYK").save(file, "JPEG", icc_profile=b"\0" * 16 + b"CMYK" + bytes(108))
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    with pytest.raises(AmbientSolveError, match="printing colors.*save it as PNG") as error:
        JpegBlocks().operator(read_measurement(tmp_path / "a.jpg"))
    assert one_sentence(error)
    scene().save(tmp_path / "b.jpg", subsampling="4:2:0")
    content = bytearray((tmp_path / "b.jpg").read_bytes())
    start = content.find(b"\xff\xc0")
    content[start + 11] = 0x31  # three columns of luminance to one of chroma
    (tmp_path / "b.jpg").write_bytes(content)
    with pytest.raises(AmbientSolveError, match="chroma subsampling that is not known") as error:
        jpeg_coding(tmp_path / "b.jpg")
    assert one_sentence(error)
