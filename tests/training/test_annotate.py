"""trainers/annotate.py as a user runs it: every method, interrupted and resumed, given bad settings."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import expit

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve.data.annotators import confusion_switch, tolerance
from ambient_solve.data.sample import Sample
from ambient_solve.data.table import Annotation, read_table, write_table
from ambient_solve.errors import AmbientSolveError
from helpers import one_sentence

TRAINERS = Path(__file__).resolve().parents[2] / "trainers"


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(TRAINERS))
    return importlib.import_module


@pytest.mark.parametrize("epsilon", [0.05, "auto"])
def test_noise_of_stated_level_is_found_at_its_level(trainers, epsilon):
    """Grey pictures of 8 x 8 pixels: what the annotator shows a classifier, and the best classifier of it."""
    annotator = trainers("ambient_solve.training.classifiers").NoiseClassifier(lowest=0.01, highest=1.0, levels=40)
    sigmas, every = annotator.sigmas, np.arange(40)
    rng, ratios, hidden = np.random.default_rng(3), {}, {}

    def mean_annotation(sigma_noise: float, stated: float) -> float:
        total = np.hypot(sigmas, sigma_noise) if not stated else np.maximum(sigmas, sigma_noise)
        found = []
        for _ in range(40):
            z = rng.uniform(-0.5, 0.5) + torch.from_numpy(sigma_noise * rng.standard_normal((1, 8, 8)))
            views = torch.stack([annotator.look(Sample("", z, stated), every, 8, rng) for _ in range(8)]).double()
            energy = (views - views.mean((-2, -1), keepdim=True)).square().sum((2, 3, 4)).numpy()
            odds = -63 * np.log(total / sigmas) + energy / 2 * (1 / sigmas**2 - 1 / total**2)
            found.append(confusion_switch(sigmas, expit(odds).mean(0), tolerance(epsilon, 100)))
        return float(np.mean(found))

    for sigma_noise in (0.05, 0.1, 0.2):
        ratios[sigma_noise] = mean_annotation(sigma_noise, sigma_noise) / sigma_noise
        hidden[sigma_noise] = mean_annotation(sigma_noise, 0.0) / sigma_noise
    print(f"\nannotation over the level, stated {ratios}, not stated {hidden}")
    assert all(abs(ratio - 1) < 0.25 for ratio in ratios.values())
    # Control: added to in full, as if the picture held no noise, it is recognised far above its level.
    assert all(ratio > 1.25 for ratio in hidden.values())


@pytest.fixture
def folder(tmp_path):
    """Smooth waves: ten clean, ten as clean but called damaged, ten with half of their columns turned over."""
    (tmp_path / "set").mkdir()
    rng, axis, lines = np.random.default_rng(5), np.arange(12) / 12, []
    for i in range(30):
        a, b, phase = rng.uniform(-1, 1, 3)
        z = torch.from_numpy(0.7 * np.sin(4 * a * axis[:, None] + 4 * b * axis + 3 * phase))[None].float()
        damage = ("clean", "nothing", "turned")[i % 3]
        z[:, :, ::2] *= -1 if damage == "turned" else 1
        save_file({"z": z}, tmp_path / "set" / f"{i}.safetensors")
        lines.append(json.dumps({"file": f"{i}.safetensors", "name": f"{i}", "sigma_noise": 0, "damage": damage}))
    (tmp_path / "set" / "manifest.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def command(folder, trainers, monkeypatch, capsys):
    from ambient_solve.cli.train import annotate_command

    def call(*options: str) -> tuple[int, str, str]:
        arguments = ["annotate.py", "--data", f"corrupted:{folder / 'set'}", "--out", str(folder / "t.jsonl"), *options]
        try:
            annotate_command(arguments[1:])
        except SystemExit as stop:
            return stop.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


SMALL = "--width 8 --batch 8 --levels 6 --draws 2".split()


def test_fixed_levels_go_to_the_damaged_alone(command, folder):
    code, said, error = command("--method", "fixed", "--sigma-min", "inf", "--sigma-max", "0.2")
    assert code == 0, error
    found = {row.damage: (row.sigma_min, row.sigma_max) for row in read_table(folder / "t.jsonl")}
    assert found == {"clean": (0, 0), "nothing": (math.inf, 0.2), "turned": (math.inf, 0.2)}
    assert "turned: 10 pictures, used above sigma = inf or below 0.2" in said and (folder / "t.png").is_file()


def test_interrupted_held_out_run_resumes_to_the_same_table(command, folder, trainers, monkeypatch):
    fitting, module = trainers("ambient_solve.training.fitting"), trainers("ambient_solve.training.annotate")
    options = [*SMALL, "--steps", "5"]
    assert command(*options)[0] == 0
    whole = (folder / "t.jsonl").read_bytes(), (folder / "t.run" / "curves.json").read_bytes()
    (folder / "t.run").rename(folder / "whole")
    monkeypatch.setattr(fitting, "CHECKPOINT_EVERY", 2)
    calls, plain = [], module.Loader.__call__

    def breaks(self, step, *rest):
        calls.append(step)
        if len(calls) == 9:  # in the second denoiser, a step after its first checkpoint
            raise KeyboardInterrupt
        return plain(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module.Loader, "__call__", breaks)
        assert "resumes" in str(command(*options)[0])
    again = []
    monkeypatch.setattr(module.Loader, "__call__", lambda *a: again.append(a[1]) or plain(*a))
    assert command(*options)[0] == 0 and again == [2, 3, 4, 0, 1, 2, 3, 4]
    assert ((folder / "t.jsonl").read_bytes(), (folder / "t.run" / "curves.json").read_bytes()) == whole
    # Another rule asks the same networks; other networks are another run.
    again.clear()
    assert command(*options, "--confidence", "0.6")[0] == 0 and not again
    code, _, error = command(*options, "--seed", "1")
    assert code == 2 and "another configuration (seed" in error and one_sentence(error)


@pytest.mark.parametrize("method", ["classifier", "crops"])
def test_classifiers_annotate_each_damaged_picture(command, folder, method):
    write_table([Annotation("x", 50.0, 0.0, "turned", "heldout")], folder / "held.jsonl")
    sizes = ["--sizes", "3", "8"] if method == "crops" else []
    code, _, error = command(
        "--method", method, *SMALL, *sizes, "--steps", "6", "--against", str(folder / "held.jsonl")
    )
    assert code == 0, error
    table = read_table(folder / "t.jsonl")
    assert [row.name for row in table] == [str(i) for i in range(30)]
    assert all((row.score is None) == (row.damage == "clean") for row in table)
    assert all(
        row.sigma_max == 0 if method == "classifier" else row.sigma_min == math.inf for row in table if row.score
    )
    assert ("warning: turned" in error) == (method == "classifier")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "fixed", "--epsilon", "0.1"], "Fixed has no knob 'epsilon'"),
        (["--method", "classifier", "--epsilon", "0.7"], "between 0 and 0.5"),
        (["--method", "crops", "--sizes", "8", "4"], "must rise"),
        (["--method", "crops"], "sizes up to 24 need more"),
        (["--width", "12"], "multiple of 8"),
        (["--crop", "13"], "less than crop = 13"),
        (["--data", "pictures"], "corrupted:FOLDER was expected"),
        (["--data", "corrupted:absent"], "no manifest"),
        (["--against", "absent.jsonl"], "no table"),
        (["--steps", "0"], "steps=0 is outside"),
    ],
)
def test_bad_command_is_one_sentence_and_code_2(command, folder, options, expected):
    code, _, error = command(*options)
    assert code == 2 and expected in error and one_sentence(error), error
    assert not (folder / "t.jsonl").exists() and not (folder / "t.run").exists()


def test_data_that_cannot_be_annotated_are_refused(trainers):
    fitting, few = (
        trainers("ambient_solve.training.fitting"),
        [Sample(str(i), torch.zeros(1, 4, 4).half()) for i in range(8)],
    )
    with pytest.raises(AmbientSolveError, match="nothing to annotate"):
        fitting.by_damage(few)
    hidden, blurred = replace(few[0], damage="random-mask"), replace(few[0], damage="blur")
    hidden = replace(hidden, mask=torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(AmbientSolveError, match="nothing to annotate"):
        fitting.by_damage([*few, hidden])
    with pytest.raises(AmbientSolveError, match="1 pictures of damage 'blur'"):
        fitting.by_damage([*few, blurred], least=2)
    assert fitting.by_damage([*few, hidden, replace(few[0], sigma_noise=0.1)])["noise"].tolist() == [9]
