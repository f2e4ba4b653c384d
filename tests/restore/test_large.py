"""Large pictures and wide holes: what is said before the run, working sizes, stopping in tiles, coarse to fine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ambient_solve import AmbientSolveError, GaussianPrior, Solver
from ambient_solve.restore import coarse, files, memory, restore_file
from ambient_solve.restore.coarse import needs_coarse, observed_of, with_coarse
from ambient_solve.restore.files import restore_files
from ambient_solve.restore.tasks import Denoise, GaussianBlur, Inpaint, make_task
from helpers import one_sentence
from test_restore import FAST, as_picture, rgb, tiny


def hole(path, height: int, width: int, box: tuple[int, int, int, int]):
    array = np.zeros((height, width), np.uint8)
    array[box[0] : box[1], box[2] : box[3]] = 255
    Image.fromarray(array).save(path)
    return str(path)


def test_what_a_large_picture_costs_is_said_before_the_run(tmp_path, monkeypatch):
    said, order = [], []

    def run(*_: object) -> None:
        order.append("run")
        raise KeyboardInterrupt

    def tell(sentence: str) -> None:
        order.append("said")
        said.append(sentence)

    monkeypatch.setattr(files.Drawing, "__call__", run)
    rgb(tmp_path / "a.png", 300, 640)
    with pytest.raises(KeyboardInterrupt):
        restore_file(
            tmp_path / "a.png",
            tiny(),
            Denoise(sigma=0.1),
            tell=tell,
            **FAST,
        )
    assert order == ["said", "run"] and said[0].startswith("a.png: 640x300 pixels") and "--size 512 takes" in said[0]
    rgb(tmp_path / "b.png")
    with pytest.raises(KeyboardInterrupt):
        restore_file(tmp_path / "b.png", tiny(), Denoise(sigma=0.1), tell=said.append, **FAST)
    assert len(said) == 1  # a small picture needs no words


def test_a_picture_in_tiles_is_stopped_within_one_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "TILE", 32)
    monkeypatch.setattr(memory, "OVERLAP", 8)
    monkeypatch.setattr(memory, "STATE", 20)
    monkeypatch.setattr(memory, "_free_memory", lambda _: 1_000_000)
    shares = []

    def watch(share: float) -> None:
        shares.append(share)
        if len(shares) == 5:
            raise KeyboardInterrupt

    path = rgb(tmp_path / "a.png", 96, 96)
    with pytest.raises(KeyboardInterrupt):
        restore_file(path, tiny(), Denoise(sigma=0.1), watch=watch, **FAST)
    assert len(shares) == 5 and shares[0] == 0 and 0 < shares[-1] < 0.9 and shares == sorted(shares)
    whole = []
    restore_file(path, tiny(), Denoise(sigma=0.1), watch=whole.append, **FAST)  # the control
    assert len(whole) > 5 and whole[-1] < 1


def test_at_a_working_size_what_changed_is_put_back_at_full_size(tmp_path):
    path = rgb(tmp_path / "a.png", 64, 96)
    outcome = restore_file(path, tiny(), Denoise(sigma=0.1), size=48, **FAST)
    assert outcome.restoration.samples.shape == (1, 2, 3, 64, 96)
    y = files.read_measurement(path).y
    low = torch.nn.functional.avg_pool2d(outcome.restoration.samples[0] - y, 2)
    assert 0 < float((outcome.restoration.samples[0] - y).abs().mean()) and low.shape[-1] == 48
    task = Inpaint(mask=hole(tmp_path / "m.png", 64, 96, (20, 40, 30, 60)), sigma=0.05)
    filled = restore_file(path, tiny(), task, size=48, **FAST).restoration.samples
    seen = task.operator(files.read_measurement(path)).mask.expand(2, -1, -1, -1) > 0
    assert torch.equal(filled[0][seen], y.expand(2, -1, -1, -1)[seen])
    with pytest.raises(AmbientSolveError, match="no longer damaged by gaussian-blur") as error:
        restore_file(path, tiny(), GaussianBlur(), size=48, **FAST)
    assert one_sentence(error)


def test_a_wide_hole_is_said_before_the_run_and_filled_coarse_to_fine(tmp_path):
    path = rgb(tmp_path / "a.png", 64, 64)
    wide = make_task("inpaint+denoise", mask=hole(tmp_path / "w.png", 64, 64, (10, 40, 12, 48)), sigma=0.05)
    thin = Inpaint(mask=hole(tmp_path / "t.png", 64, 64, (10, 20, 12, 48)), sigma=0.05)
    said: list[str] = []
    settings = {"out": tmp_path / "out", "tell": said.append, **FAST}
    (outcome,) = restore_files([path], tiny(), wide, **settings)
    assert "30 pixels wide" in said[0] and "invented" in said[0] and "30 pixels wide" in " ".join(outcome.notes)
    assert outcome.restoration.samples.shape == (1, 2, 3, 64, 64) and 0 < outcome.chi2 < 1e4
    said.clear()
    (outcome,) = restore_files([path], tiny(), thin, **{**settings, "out": tmp_path / "thin"})
    assert said == [] and not any("wide" in note for note in outcome.notes)
    picture = files.read_measurement(path)
    assert observed_of(GaussianBlur(), picture) is None and needs_coarse(observed_of(wide, picture))


def test_what_is_found_at_a_quarter_of_the_size_helps_in_the_middle_of_the_hole(monkeypatch):
    """A prior that is blind beyond a few pixels fills a wide hole with its mean; with coarse content it does not."""
    side, axis = 64, torch.arange(64, dtype=torch.float64)
    smooth = 0.5 + 0.3 * torch.sin(axis / 9)[:, None] * torch.cos(axis / 11)[None]
    x = smooth.float().expand(1, 1, side, side)
    near = torch.minimum(axis, side - axis)
    covariance = 0.05 * torch.exp(-(near[:, None] ** 2 + near[None] ** 2) / (2 * 4.0**2))
    spectrum = torch.fft.fft2(covariance).real.clamp_min(1e-6)
    prior = GaussianPrior.stationary(torch.full((1, side, side), 0.5), spectrum)
    seen = torch.ones(side, side)
    seen[16:48, 16:48] = 0
    picture, task = as_picture(x * seen), Inpaint(mask=seen, sigma=0.02)
    monkeypatch.setattr(
        coarse, "_filled", lambda *_: (torch.nn.functional.avg_pool2d(x, 4), torch.full((1, 1, 16, 16), 0.03))
    )
    plain, helped = task.measure(picture), with_coarse(prior, picture, seen, 0.02, 0)
    middle = (slice(None), slice(None), slice(24, 40), slice(24, 40))
    errors = []
    for measured in (plain, helped):
        found = Solver(prior, "proximal", steps=20).solve(
            measured.y, measured.op, sigma_y=measured.sigma_y, n_samples=4, progress=False
        )
        errors.append(float((found.mean - x)[middle].square().mean()))
    assert errors[1] < 0.2 * errors[0]
