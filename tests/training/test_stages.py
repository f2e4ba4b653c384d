"""Sources that take turns: a rise of the held-out loss at one level ends a stage, and a resumed run is in its stage."""

from __future__ import annotations

import pytest

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

import numpy as np
from PIL import Image

from ambient_solve.errors import AmbientSolveError
from ambient_solve.training import stages
from ambient_solve.training.checkpoints import Checkpoints
from ambient_solve.training.config import Config, make
from ambient_solve.training.loop import train
from ambient_solve.training.stages import current_stage, past_validations

SETTINGS = {
    "corruption": {"clean_share": 1.0},
    "network": {"widths": [8, 16], "embedding": 32},
    "crop": 16,
    "batch": 8,
    "images": 320,
    "precision": "fp32",
    "stats_every": 5,
    "checkpoint_every": 10,
    "validate_every": 5,
    "duplicates": False,
    "tracker": "none",
}
SOURCES = [{"path": "first", "held_out": 4}, {"path": "second", "held_out": 0}]


def test_a_rise_at_one_level_ends_a_stage():
    falling = [{"0.1": 1.0, "1": 2.0}, {"0.1": 0.9, "1": 1.5}, {"0.1": 0.905, "1": 1.4}]
    assert current_stage(falling, 3) == 0, "a rise within the tolerance is none"
    risen = [*falling, {"0.1": 0.95, "1": 0.2}]
    assert current_stage(risen, 3) == 1, "the mean has fallen, one level has not"
    assert current_stage([*risen, {"0.1": 1.2, "1": 0.1}, {"0.1": 2.0, "1": 0.1}], 3) == 2, "there are but three"
    assert current_stage([], 3) == current_stage(risen, 1) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two folders of smooth random pictures."""
    root, rng = tmp_path_factory.mktemp("stages"), np.random.default_rng(0)
    for name in ("first", "second"):
        (root / name).mkdir()
        for k in range(12):
            coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            coarse.resize((16, 16), Image.Resampling.BICUBIC).save(root / name / f"{k:02d}.png")
    return root


def run(root, out, **changed) -> bytes:
    settings = {**SETTINGS, "sources": SOURCES, "stages": [0, 1], "data_root": str(root), "out": str(out), **changed}
    return (train(make(Config, settings, "the test")) / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_the_second_source_takes_over_after_a_rise_and_not_before(root, tmp_path, monkeypatch):
    alone = run(root, tmp_path / "alone", sources=SOURCES[:1], stages=[])
    monkeypatch.setattr(stages, "WORSE", 1e9)
    assert run(root, tmp_path / "never") == alone, "without a rise only the first source is drawn from"
    monkeypatch.setattr(stages, "WORSE", -1.0)
    assert run(root, tmp_path / "each") != alone


def test_a_resumed_run_is_in_its_stage(root, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "WORSE", -1.0)  # every validation counts as a rise: the second one ends the stage
    whole = run(root, tmp_path / "whole")
    real = Checkpoints.save

    def stops(self, step, *rest):
        real(self, step, *rest)
        if step == 20:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Checkpoints, "save", stops)
    with pytest.raises(RuntimeError, match="power cut"):
        run(root, tmp_path / "resumed")
    monkeypatch.setattr(Checkpoints, "save", real)
    assert len(past_validations(tmp_path / "resumed" / "stats.jsonl")) == 4
    assert run(root, tmp_path / "resumed") == whole
    monkeypatch.setattr("ambient_solve.training.loop.past_validations", lambda _: [])
    monkeypatch.setattr(Checkpoints, "save", stops)
    with pytest.raises(RuntimeError, match="power cut"):
        run(root, tmp_path / "forgot")
    monkeypatch.setattr(Checkpoints, "save", real)
    assert run(root, tmp_path / "forgot") != whole, "the control: a run that forgets its validations begins again"


@pytest.mark.parametrize("given", [[0], [0, 2], [1, 1], [0, 1, 1]])
def test_stages_that_do_not_fit_the_sources_are_a_sentence(root, tmp_path, given):
    with pytest.raises(AmbientSolveError, match="must name one stage for each of the 2 sources"):
        run(root, tmp_path / "run", stages=given)
