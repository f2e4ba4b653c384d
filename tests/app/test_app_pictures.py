"""Pictures, masks and zips as visitors bring them: what was made of them is said, colors are kept."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ambient_solve.app.photographs import many
from ambient_solve.app.photographs.job import prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.session import save
from ambient_solve.app.uploads import open_upload
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence
from test_app import HEIGHT, STEPS, WIDTH, last, tiny
from test_app_events import merged, values


@pytest.fixture
def picture(tmp_path) -> Path:
    array = np.random.default_rng(0).integers(40, 216, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "old.png")
    return tmp_path / "old.png"


def test_a_mask_with_smooth_edges_is_grown_and_said(picture, tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:12, 8:16], mask[6:11, 9:15] = 60, 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    request = RestoreRequest("inpaint", {"sigma": 0.01}, mask=tmp_path / "mask.png", samples=1)
    problem = prepare_request(request, tiny(), open_upload(picture))
    assert np.array_equal(~problem.mask, mask > 0)
    assert any("gray at the edges" in note for note in problem.notes)


def test_a_kernel_on_gray_is_said(picture, tmp_path):
    kernel = np.full((9, 9), 30, np.uint8)
    kernel[4, 2:7] = 255
    Image.fromarray(kernel).save(tmp_path / "kernel.png")
    request = RestoreRequest("motion-blur", {"sigma": 0.02}, kernel=tmp_path / "kernel.png", samples=1)
    assert any("gray of 12 %" in note for note in prepare_request(request, tiny(), open_upload(picture)).notes)


def test_a_picture_that_is_handed_back_keeps_its_colors(picture, tmp_path):
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.find(b"rXYZ"), profile.find(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    Image.open(picture).save(tmp_path / "wide.png", icc_profile=bytes(profile))
    for file, kept in ((tmp_path / "wide.png", bytes(profile)), (picture, None)):
        request = RestoreRequest("denoise", {"sigma": 0.1}, algorithm="proximal", knobs=STEPS, samples=1)
        best, _ = save(last(prepare_request(request, tiny(), open_upload(file))), tmp_path / "out")
        assert Image.open(best).info.get("icc_profile") == kept


def test_what_a_zip_holds_and_is_not_read_is_said(picture, prior_folder, tmp_path):
    pytest.importorskip("gradio")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        archive.write(picture, "a.png")
        archive.writestr("deep/IMG_1.HEIC", b"\0\0\0\x18ftypheic")
        archive.writestr("._IMG_1.HEIC", b"\0")
        archive.writestr("notes.txt", "no picture")
    given = values(None, prior_folder, many=[str(tmp_path / "many.zip")], samples=1)
    done = merged(many.restore_many(given))
    assert [(row[0], bool(row[1])) for row in done["table"]] == [("IMG_1.HEIC", False), ("a.png", True)]
    assert done["table"][0][2] == "left out: HEIC is not read: export it as JPEG or PNG"
    done["session"].close()


def test_a_kind_that_is_not_read_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    with pytest.raises(AmbientSolveError, match="^IMG_1.HEIC is not a picture that can be read: HEIC is not read") as e:
        open_upload(tmp_path / "IMG_1.HEIC")
    assert one_sentence(e)
