"""Camera shake: the path is found in the picture, saved beside the result, and taken from a picture where given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ambient_solve import AmbientSolveError
from ambient_solve.blind import kernel as blind_kernel
from ambient_solve.restore import make_task, restore_file
from ambient_solve.restore.shake import CameraShake
from helpers import rand
from test_restore import FAST, as_picture, rgb, tiny

PATH = torch.zeros(5, 5).index_put_((torch.tensor([1, 2, 3, 3]), torch.tensor([1, 1, 2, 3])), torch.full((4,), 0.25))


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """In place of the estimate, which tests/blind measures; what it was asked for."""
    asked: list[tuple[int, float]] = []

    def estimate(y: Tensor, size: int, sigma: float) -> blind_kernel.KernelEstimate:
        asked.append((size, sigma))
        return blind_kernel.KernelEstimate(PATH, 0.01 * torch.ones_like(PATH))

    monkeypatch.setattr("ambient_solve.blind.estimate_kernel", estimate)
    return asked


def test_the_path_and_the_noise_are_found_in_the_picture(known: list[tuple[int, float]]) -> None:
    picture = as_picture(rand(1, 3, 32, 30))
    task = make_task("camera-shake", size=5, sigma=0.03)
    with pytest.raises(AmbientSolveError, match="not been estimated yet"):
        task.operator(picture)
    found, notes = task.prepared(picture)
    assert known == [(5, 0.03)] and "kernel.png" in notes[0]
    op = found.operator(picture)
    assert torch.allclose(op.filter[0, 0], PATH) and op.A(torch.ones(1, 3, 36, 34)).shape[-2:] == (32, 30)
    assert float(op.noise_model.sigma) == pytest.approx(0.09)
    assert torch.equal(found.masks(picture)["kernel"], 4 * PATH)
    assert found.sources(Path("any")) != replace(found, kernel=PATH.T.contiguous()).sources(Path("any"))


def test_a_picture_of_the_path_is_taken_in_place_of_an_estimate(known: list[tuple[int, float]], tmp_path: Path) -> None:
    rgb(tmp_path / "shaken.png", 24, 28)
    first = restore_file(tmp_path / "shaken.png", tiny(), CameraShake(size=5), out=tmp_path / "out", **FAST)
    saved = tmp_path / "out" / "kernel.png"
    assert saved.is_file() and "kernel.png" in " ".join(first.notes)
    known.clear()
    again = CameraShake(size=5, kernel=saved, sigma=0.02)
    restore_file(tmp_path / "shaken.png", tiny(), again, out=tmp_path / "again", **FAST)
    assert known == [] and not (tmp_path / "again" / "kernel.png").exists()
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["request"]["task"] == "camera-shake"


def test_it_stands_alone() -> None:
    with pytest.raises(AmbientSolveError, match="camera-shake stands alone and is not combined with denoise"):
        make_task("camera-shake+denoise")
