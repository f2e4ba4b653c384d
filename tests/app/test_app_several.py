"""Several damages on the page: what is ticked on top of another, an old photograph, a camera that shook."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from ambient_solve.app.photographs import choices, controls, run, uploaded
from ambient_solve.app.photographs.job import prepare_request
from ambient_solve.app.photographs.request import RestoreRequest
from ambient_solve.app.photographs.session import how_to_repeat, recipe_of, save
from ambient_solve.app.photographs.values import Controls
from ambient_solve.app.rules import Rules
from ambient_solve.app.uploads import open_upload
from ambient_solve.errors import AmbientSolveError
from test_app import tiny

SMALL = {"algorithm": "proximal", "knobs": {"steps": 3}, "samples": 1}


@pytest.fixture
def old(tmp_path):
    """An old photograph, 128 pixels a side: two white scratches, grain, JPEG."""
    x = data.astronaut()[0:256:2, 100:356:2].astype(float)
    x += 10 * np.random.default_rng(0).standard_normal(x.shape)
    for row in range(4, 124):
        x[row, 20 + row // 2 : 22 + row // 2] = x[row, 100 - row // 4 : 102 - row // 4] = 255
    Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(tmp_path / "old.jpg", quality=85)
    return tmp_path / "old.jpg"


def test_damages_are_joined_in_one_order_and_separated_again():
    assert controls.joined_tasks("jpeg", ["denoise", "inpaint"]) == "inpaint+denoise+jpeg"
    assert controls.joined_tasks("denoise", []) == "denoise"
    assert controls.joined_tasks("old-photograph", ["denoise"]) == "old-photograph", "it stands alone"
    assert controls.separated("inpaint+denoise+jpeg") == ("inpaint", ["denoise", "jpeg"])
    assert controls.task_words("inpaint+jpeg") == "parts are missing + JPEG blocks"


def test_ticking_a_damage_shows_its_controls_and_offers_no_other_of_its_kind():
    alone, both = choices.choose_task("denoise"), choices.choose_task("denoise", also=["jpeg"])
    assert not alone["quality"]["visible"] and both["quality"]["visible"]
    assert both["also"]["value"] == ["jpeg"] and not both["keep"]["visible"]
    assert [name for _, name in choices.choose_task("motion-blur")["also"]["choices"]] == [
        "inpaint",
        "denoise",
        "super-resolution",
        "jpeg",
    ]
    # Control: what stands alone offers nothing, and drops what was ticked.
    whole = choices.choose_task("old-photograph", also=["jpeg"])
    assert not whole["also"]["visible"] and whole["also"]["value"] == [] and whole["find"]["visible"]
    assert not whole["sigma"]["visible"] and whole["scratches"]["visible"]


def test_what_is_ticked_is_in_the_request(old):
    knobs = {
        name: controls.start_value("denoise", "sigma") if name == "sigma" else k.default
        for name, k in controls.damage_knobs().items()
    }
    values = Controls(task="denoise", also=["jpeg"], damage=knobs, keep=True)
    request = choices.request_of(values)
    assert request.task == "denoise+jpeg" and set(request.options) == {"sigma", "quality"} and not request.keep
    assert choices.request_of(replace(values, also=[])).task == "denoise"


def test_a_file_is_measured_by_its_coefficients_and_restored(old):
    request = RestoreRequest("denoise+jpeg", {"sigma": 0.04}, **SMALL)
    problem = prepare_request(request, tiny(), open_upload(old))
    assert problem.measured.y.shape != problem.piece.picture.y.shape
    made = [m.result for m in run.run(problem) if m.result is not None][-1]
    assert made.samples.shape == (1, 128, 128, 3) and np.isfinite(made.samples).all() and made.residual is None
    # Control: noise alone measures the pixels.
    plain = prepare_request(RestoreRequest("denoise", {"sigma": 0.04}, **SMALL), tiny(), open_upload(old))
    assert plain.measured.y.shape == plain.piece.picture.y.shape


def test_the_scratches_of_an_old_photograph_are_found_and_its_noise_estimated(old, tmp_path):
    request = RestoreRequest("old-photograph", {"scratches": 0.5}, keep=False, **SMALL)
    problem = prepare_request(request, tiny(), open_upload(old))
    missing, rows = ~problem.mask, np.arange(4, 124)
    drawn = np.concatenate([missing[rows, 20 + rows // 2], missing[rows, 100 - rows // 4]])
    assert drawn.mean() > 0.6 and missing.mean() < 0.15
    assert 0.02 < problem.damage.sigma < 0.08
    notes = " ".join(problem.notes)
    assert "scratches were found" in notes and "--" not in notes, "flags are those of the command line"
    made = [m.result for m in run.run(problem) if m.result is not None][-1]
    save(made, tmp_path)
    assert (tmp_path / "results" / "old" / "old-mask.png").is_file()
    assert "mask" not in recipe_of(made).damage and all("old-photograph" in words for words in how_to_repeat(made))


def test_what_is_painted_on_an_old_photograph_takes_the_place_of_what_is_found(old):
    painted = np.zeros((128, 128), bool)
    painted[10:20, 10:20] = True
    request = RestoreRequest("old-photograph", {"scratches": 0.5}, painted=painted, keep=False, **SMALL)
    problem = prepare_request(request, tiny(), open_upload(old))
    assert (problem.mask == ~painted).all()


def test_found_scratches_are_painted_on_the_picture(old, prior_folder):
    from ambient_solve.app.photographs.session import Session

    session = Session()
    session.take(old, 3)
    values = Controls(
        session=session,
        task="old-photograph",
        damage={"scratches": 0.5},
        prior=prior_folder,
        rules=Rules((prior_folder,)),
    )
    seen = uploaded.draw_scratches(values)
    assert "Scratches were found" in seen["status"] and "editor" in seen
    none = uploaded.draw_scratches(replace(values, damage={"scratches": 0.0}))
    assert "No scratches" in none["status"] and "editor" not in none


def test_a_picture_is_damaged_for_play_in_one_way_at_a_time(old):
    for task in ("denoise+jpeg", "old-photograph"):
        with pytest.raises(AmbientSolveError, match="one way at a time"):
            prepare_request(RestoreRequest(task, play=True, **SMALL), tiny(), open_upload(old))


def test_a_shaken_picture_is_sharpened_by_a_kernel_that_is_found(tmp_path):
    from scipy.ndimage import convolve

    x = data.astronaut()[0:288:2, 100:388:2].astype(float)
    kernel = np.zeros((9, 9))
    kernel[np.arange(9), np.arange(9)] = 1 / 9
    shaken = np.stack([convolve(x[..., c], kernel, mode="reflect") for c in range(3)], -1)[8:-8, 8:-8]
    Image.fromarray(shaken.clip(0, 255).astype(np.uint8)).save(tmp_path / "shaken.png")
    problem = prepare_request(RestoreRequest("camera-shake", **SMALL), tiny(), open_upload(tmp_path / "shaken.png"))
    found = problem.damage.kernel
    rows, columns = (found > 0.3 * found.max()).nonzero().T.float()
    assert float(torch.corrcoef(torch.stack([rows, columns]))[0, 1]) > 0.6, "along the diagonal"
    made = [m.result for m in run.run(problem) if m.result is not None][-1]
    save(made, tmp_path)
    assert (tmp_path / "results" / "shaken" / "shaken-kernel.png").is_file()


def test_a_mask_and_a_picture_of_the_blur_are_both_used(old, tmp_path):
    kernel = np.zeros((5, 5), np.uint8)
    kernel[2] = 255
    Image.fromarray(kernel).save(tmp_path / "kernel.png")
    painted = np.zeros((128, 128), bool)
    painted[10:14, 10:14] = True
    options = {"sigma": 0.02, "width": 1.0, "boundary": "valid"}
    given = {"painted": painted, "kernel": tmp_path / "kernel.png", "keep": False}
    problem = prepare_request(
        RestoreRequest("inpaint+gaussian-blur", options, **given, **SMALL), tiny(), open_upload(old)
    )
    assert (problem.mask == ~painted).all() and str(problem.damage.kernel) == str(tmp_path / "kernel.png")
