"""Several damages at once: their operator, their numbers, what does not go together; old photographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import LinearPhysics
from PIL import Image, ImageDraw

from ambient_solve import AmbientSolveError, operators
from ambient_solve.knobs import knobs
from ambient_solve.restore import OldPhotograph, make_task, read_measurement, restore_file
from ambient_solve.restore.holes import depth, mirrored
from ambient_solve.restore.scratches import find_scratches
from ambient_solve.restore.several import task_class
from ambient_solve.restore.unknown import with_estimates
from helpers import one_sentence, rand, relative
from test_restore import FAST, as_picture, mask, rgb, tiny


def photograph(side: int = 128) -> np.ndarray:
    """A photograph (side, side, 3), 0 to 255."""
    from skimage import data

    return np.asarray(Image.fromarray(data.coffee()).reduce(2).crop((60, 20, 60 + side, 20 + side)))


def test_the_order_of_the_names_does_not_matter():
    first, second = (task_class(name) for name in ("jpeg+inpaint+denoise", "inpaint + denoise+jpeg"))
    assert first.name == second.name == "inpaint+denoise+jpeg"
    assert [k.name for k in knobs(first)] == [k.name for k in knobs(second)] == ["sigma", "mask", "quality"]
    task = make_task("denoise+inpaint", sigma=0.1, mask=torch.ones(4, 4))
    assert task.name == "inpaint+denoise" and dataclasses.replace(task, sigma=0.2).sigma == 0.2


@pytest.mark.parametrize("name", ["inpaint+denoise", "inpaint+gaussian-blur+super-resolution", "denoise+motion-blur"])
def test_the_operator_is_the_composition_of_those_of_its_parts(name):
    seen = (rand(24, 20, seed=2) > 0.3).float()
    options = {"sigma": 0.03, **({"mask": seen} if "inpaint" in name else {})}
    task = make_task(name, **options, **({"width": 0.8} if "gaussian" in name else {}))
    picture = as_picture(rand(1, 3, 24, 20))
    measured = task.measure(picture)
    assert isinstance(measured.op, LinearPhysics) and measured.sigma_y == pytest.approx(0.03)
    x = rand(1, *measured.op.img_size, seed=4)
    wanted = x
    if "super" in name:
        wanted = operators.Reduction(x.shape[1:], 2).A(wanted)
    for part in ("gaussian-blur", "motion-blur"):
        if part in name:
            single = make_task(part, **({"width": 0.8} if "gaussian" in part else {}))
            wanted = single.operator(picture).A(wanted)
    if "inpaint" in name:
        wanted = wanted * seen
    assert wanted.shape == picture.y.shape and relative(measured.op.A(x), wanted) < 1e-5
    samples = torch.zeros(1, 2, *measured.op.img_size)
    factor = 2 if "super" in name else 1
    assert task.to_output(samples, picture).shape[-2:] == (24 * factor, 20 * factor)


def test_with_a_file_the_measurement_are_its_coefficients(tmp_path):
    x = photograph(64)
    noisy = np.clip(x + 8 * np.random.default_rng(0).normal(size=x.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "a.jpg", quality=90)
    picture = read_measurement(tmp_path / "a.jpg")
    measured = make_task("denoise+jpeg", sigma=8 / 255).measure(picture)
    clean = torch.from_numpy(x.copy()).permute(2, 0, 1)[None].float() / 255
    z = (measured.y - measured.op.A(clean)) / measured.op.noise_model.sigma
    assert measured.sigma_y is None and 0.3 < float(z.square().mean()) < 1.1
    quiet = make_task("denoise+jpeg", sigma=0.001).measure(picture)  # the control: no noise is stated
    assert float(((quiet.y - quiet.op.A(clean)) / quiet.op.noise_model.sigma).square().mean()) > 1.5


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("inpaint+denoize", {}, "Did you mean 'denoise'"),
        ("denoise+denoise", {}, "names denoise twice"),
        ("old-photograph+jpeg", {}, "not combined with jpeg"),
        ("gaussian-blur+motion-blur", {"kernel": "k.png"}, "a kernel describes one blur"),
        ("gaussian-blur+motion-blur", {"width": "auto"}, "of two blurs at once"),
        ("inpaint+denoise", {"width": 2.0}, "belongs to gaussian-blur"),
        ("denoise+jpeg", {"quality": 101}, "outside"),
    ],
)
def test_what_does_not_go_together_is_said(name, options, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        make_task(name, **options)
    assert one_sentence(error)


def test_the_noise_is_estimated_beside_holes_and_the_file(tmp_path):
    x, hidden = photograph(), np.zeros((128, 128), np.uint8)
    hidden[40:80, 30:90] = 255
    for i in range(0, 128, 8):
        hidden[:, i] = 255
    noisy = np.clip(x + 0.05 * 255 * np.random.default_rng(0).normal(size=x.shape), 0, 255).astype(np.uint8)
    noisy[hidden > 0] = 255
    Image.fromarray(hidden).save(tmp_path / "mask.png")
    Image.fromarray(noisy).save(tmp_path / "a.png")
    task = make_task("inpaint+denoise", mask=str(tmp_path / "mask.png"), sigma="auto")
    found, notes, record = with_estimates(task, read_measurement(tmp_path / "a.png"))
    assert not found.unknown and abs(found.sigma - 0.05) < 0.01 and record["estimated"]["sigma"]["value"] == found.sigma
    assert "noise level estimated" in notes[0]
    blurred = make_task("inpaint+gaussian-blur", mask=str(tmp_path / "mask.png"), width="auto")
    assert blurred.unknown == ("sigma", "width")
    found, _, record = with_estimates(blurred, read_measurement(tmp_path / "a.png"))
    assert not found.unknown and set(record["estimated"]) == {"sigma", "width"}


def test_a_hole_is_filled_with_mirror_images():
    y, seen = torch.arange(10.0).reshape(1, 1, 1, 10), torch.ones(1, 10)
    seen[:, 4:7] = 0
    assert mirrored(y, seen).flatten().tolist() == [0, 1, 2, 3, 2, 1, 8, 7, 8, 9]
    assert torch.equal(mirrored(y, torch.ones(1, 10)), y)
    hole = torch.ones(20, 30)
    hole[5:15, 5:25] = 0
    assert depth(hole) == 5 and depth(torch.ones(3, 3)) == 0


def scratched(side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A photograph with grain and three scratches, and where they are."""
    x = photograph(side) / 255 + 0.03 * np.random.default_rng(1).normal(size=(side, side, 3))
    drawing = Image.new("L", (side, side))
    pen = ImageDraw.Draw(drawing)
    for start, end in (((20, 5), (35, 100)), ((60, 110), (120, 90)), ((100, 10), (90, 60))):
        pen.line([start, end], fill=255, width=2)
    where = np.asarray(drawing) > 0
    x[where] = 0.97
    return (np.clip(x, 0, 1) * 255).astype(np.uint8), where


def test_scratches_are_found_and_little_else():
    y, where = scratched()
    picture = torch.from_numpy(y).permute(2, 0, 1)[None].float() / 255
    found = find_scratches(picture).numpy() < 0.5
    assert (found & where).sum() > 0.8 * where.sum() and found.mean() < 8 * where.mean()
    whole = torch.from_numpy(photograph().copy()).permute(2, 0, 1)[None].float() / 255
    grain = 0.03 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
    assert 1 - float(find_scratches(whole + grain).mean()) < 0.5 * found.mean()  # the control: none are there
    assert 1 - float(find_scratches(picture, 0.05).mean()) < found.mean()
    with pytest.raises(AmbientSolveError, match="up to 1"):
        find_scratches(picture, 2.0)


def test_an_old_photograph_is_restored_with_what_was_found(tmp_path):
    Image.fromarray(scratched()[0]).save(tmp_path / "old.jpg", quality=85)
    outcome = restore_file(tmp_path / "old.jpg", tiny(), OldPhotograph(), out=tmp_path / "out", **FAST)
    words = " ".join(outcome.notes)
    assert "scratches were found" in words and "noise level estimated" in words
    assert outcome.restoration.samples.shape == (1, 2, 3, 128, 128)
    assert 0.015 < outcome.restoration.settings["request"]["damage"]["sigma"] < 0.05
    white = np.asarray(Image.open(tmp_path / "out" / "mask.png").convert("L")) > 127
    corrected = OldPhotograph(mask=str(tmp_path / "out" / "mask.png"))
    again = restore_file(tmp_path / "old.jpg", tiny(), corrected, **FAST)
    assert 0.005 < white.mean() < 0.2 and "scratches" not in " ".join(again.notes)
    assert torch.equal(again.restoration.samples, outcome.restoration.samples)
    y = read_measurement(tmp_path / "old.jpg").y
    kept = (outcome.restoration.mean - y)[..., torch.from_numpy(~white)]
    assert float(kept.abs().mean()) > 1e-3, "the measured pixels are not kept as they are"


def test_an_old_photograph_without_any_scratch_or_file_is_only_grainy(tmp_path):
    path = rgb(tmp_path / "a.png")
    task = OldPhotograph(sigma=0.05, scratches=0.0, width=1.0)
    measured = task.measure(read_measurement(path))
    assert isinstance(measured.op, LinearPhysics) and measured.y.shape == (1, 3, 24, 32)
    assert measured.op.img_size[-1] > 32 and task.prepared(read_measurement(path)) == (task, ())


def test_masks_in_a_folder_belong_to_their_pictures(tmp_path):
    (tmp_path / "masks").mkdir()
    mask(tmp_path / "masks" / "a.png")
    task = make_task("inpaint+denoise", sigma=0.1, mask=str(tmp_path / "masks"))
    outcome = restore_file(rgb(tmp_path / "a.png"), tiny(), task, **FAST)
    assert outcome.restoration.settings["request"]["task"] == "inpaint+denoise"
    assert len(outcome.restoration.settings["request"]["sources"]) == 2
    with pytest.raises(AmbientSolveError, match="has no mask for b.png"):
        restore_file(rgb(Path(tmp_path / "b.png")), tiny(), task, **FAST)
