"""Numbers that are "auto": estimated from the file, said, recorded, and the same run again where they are stated."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError
from ambient_solve.cli.dispatch import main
from ambient_solve.priors.base import Prior
from ambient_solve.restore import make_task, read_measurement, restore_file
from ambient_solve.restore.unknown import with_estimates
from helpers import one_sentence, randn

SIDE = 128


class Shrinking(Prior):
    """A denoiser without a network: independent pixels of variance .05 about .5, of any size."""

    shape, sigma_min, sigma_max = (3, -1, -1), 0.01, 10.0

    def denoise(self, z: torch.Tensor, sigma: object, cond: object = None) -> torch.Tensor:
        """See `Prior.denoise`."""
        level = torch.as_tensor(sigma, dtype=z.dtype).reshape(-1, 1, 1, 1) ** 2
        return (0.05 * z + 0.5 * level) / (0.05 + level)


def blurred(tmp_path, task: str, mode: str = "RGB", **numbers):
    """A photograph with this blur and noise .01, as a PNG of 128 pixels."""
    from skimage import data

    x = Image.fromarray(data.astronaut()).reduce(2).convert(mode).convert("RGB")
    x = torch.from_numpy(np.asarray(x).copy()).permute(2, 0, 1)[:, 20:190, 60:230].float() / 255
    kernel = make_task(task, **numbers).describe()
    kernel = (kernel / kernel.sum()).flip(0, 1)[None, None]
    y = torch.nn.functional.conv2d(x[:, None], kernel)[:, 0, :SIDE, :SIDE]
    noise = randn(*y.shape, seed=3) if mode == "RGB" else randn(1, *y.shape[1:], seed=3)
    values = (255 * (y + 0.01 * noise)).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).convert(mode).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_width_is_estimated_recorded_and_repeated(tmp_path, mode):
    path = blurred(tmp_path, "gaussian-blur", mode, width=1.8)
    auto = make_task("gaussian-blur", width="auto", sigma=0.01)
    run = {"algorithm": "proximal", "options": {"steps": 3}, "n_samples": 1}
    found = restore_file(path, Shrinking(), auto, out=tmp_path / "auto", **run)
    record = json.loads((tmp_path / "auto" / "settings.json").read_text())
    width = record["request"]["damage"]["width"]
    low, high = record["estimated"]["width"]["interval"]
    print(found.notes)
    assert record["estimated"]["width"]["value"] == width and low < width < high
    assert abs(width / 1.8 - 1) < 0.1 and low <= 1.8 <= high
    assert any(f"width {width:.3g} ({low:.3g} to {high:.3g})" in note for note in found.notes)
    with Image.open(tmp_path / "auto" / "mean.png") as image:
        assert json.loads(image.text["ambient_solve"])["request"]["damage"]["width"] == width
    stated = make_task("gaussian-blur", width=width, sigma=0.01)
    again = restore_file(path, Shrinking(), stated, out=tmp_path / "stated", **run)
    assert torch.equal(found.restoration.samples, again.restoration.samples)
    assert "estimated" not in again.restoration.settings
    assert restore_file(path, Shrinking(), auto, out=tmp_path / "auto", **run).skipped
    assert restore_file(path, Shrinking(), stated, out=tmp_path / "auto", **run).skipped


def test_length_direction_and_noise_are_estimated_together(tmp_path):
    picture = read_measurement(blurred(tmp_path, "motion-blur", length=11.0, angle=150.0))
    task, notes, record = with_estimates(make_task("motion-blur", length="auto", angle="auto", sigma="auto"), picture)
    print(notes)
    assert abs((task.angle - 150 + 90) % 180 - 90) < 5 and abs(task.length / 11 - 1) < 0.1
    assert abs(task.sigma / 0.01 - 1) < 0.25 and set(record["estimated"]) == {"length", "angle", "sigma"}
    assert not task.unknown and with_estimates(task, picture) == (task, (), {})


def test_the_noise_level_is_unknown_too_unless_it_is_given():
    assert make_task("gaussian-blur", width="auto").unknown == ("sigma", "width")
    assert make_task("gaussian-blur", width="auto", sigma=0.03).unknown == ("width",)
    assert make_task("gaussian-blur", width=2.0).unknown == ()
    assert make_task("inpaint", mask=torch.ones(3, 3)).unknown == ()


def test_the_noise_of_other_tasks_is_estimated(tmp_path):
    y = 0.5 + 0.05 * randn(3, 96, 96)
    Image.fromarray((255 * y.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    picture = read_measurement(tmp_path / "a.png")
    task, (note,), record = with_estimates(make_task("denoise", sigma="auto"), picture)
    print(note)
    assert abs(task.sigma / 0.05 - 1) < 0.05 and record["estimated"]["sigma"]["value"] == task.sigma
    Image.new("RGB", (64, 64), (90, 120, 40)).save(tmp_path / "b.png")
    task, (note,), _ = with_estimates(make_task("denoise", sigma="auto"), read_measurement(tmp_path / "b.png"))
    assert task.sigma == 0.002 and "cannot be known" in note and "0.002 was taken" in note


def test_what_cannot_be_estimated_is_refused(tmp_path):
    picture = read_measurement(blurred(tmp_path, "gaussian-blur", width=1.0))
    cases = [
        (lambda: make_task("gaussian-blur", width="auto").operator(picture), "no number yet"),
        (lambda: make_task("inpaint", sigma="auto"), "not a number"),
        (lambda: make_task("gaussian-blur", width="automatic"), "not a number"),
        (
            lambda: with_estimates(make_task("gaussian-blur", width="auto", kernel="k.png"), picture),
            "given as a picture",
        ),
    ]
    small = Image.open(picture.path).crop((0, 0, 7, 9))
    small.save(tmp_path / "small.png")
    tiny = read_measurement(tmp_path / "small.png")
    cases.append((lambda: with_estimates(make_task("motion-blur", length="auto"), tiny), "too few"))
    for make, words in cases:
        with pytest.raises(AmbientSolveError, match=words) as error:
            make()
        assert one_sentence(error)


def test_the_command_takes_auto(tmp_path, capsys):
    path = blurred(tmp_path, "motion-blur", length=9.0, angle=30.0)
    words = [str(path), "--task", "motion-blur", "--length", "auto", "--direction", "auto", "--sigma", "0.01"]
    words += ["--algorithm", "proximal", "--steps", "2", "--samples", "1", "--out", str(tmp_path / "out")]
    assert main(["restore", *words]) == 0
    said = capsys.readouterr().out
    print(said)
    damage = json.loads((tmp_path / "out" / "photo" / "settings.json").read_text())["request"]["damage"]
    assert f"length {damage['length']:.3g} (" in said and f"angle {damage['angle']:.3g} (" in said
    assert math.isclose(damage["length"], 9, rel_tol=0.1) and abs(damage["angle"] - 30) < 5
    words[2], words[3:7], words[-1] = "gaussian-blur", ["--width", "auto"], str(tmp_path / "other")
    assert main(["restore", *words]) == 0 and "width" in capsys.readouterr().out
    assert main(["restore", str(path), "--task", "inpaint", "--sigma", "auto"]) == 2
    assert main(["restore", str(path), "--task", "motion-blur", "--length", "long"]) == 2
