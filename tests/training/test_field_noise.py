"""A prior trained with field noise: what the objective is given, what the folder says, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")

from ambient_solve import AmbientSolveError, load_prior
from ambient_solve.noise import Streams
from ambient_solve.objectives import OBJECTIVES
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.priors.field import Field, FieldPrior, FieldStreams
from ambient_solve.priors.network import NetworkConfig, NetworkPrior
from ambient_solve.training.config import Config, DiffusionNoise, check, settings_of

pytestmark = pytest.mark.timeout(500)
ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "name": "tiny",
    "sources": [{"path": "pictures", "held_out": 4, "terms": "made by the test"}],
    "network": {"widths": [8, 16], "groups": 4, "embedding": 32},
    "corruption": {"clean_share": 1.0},
    "noise": {"kind": "field", "length": 1.5, "features": 50},
    "crop": 16,
    "batch": 4,
    "images": 40,
    "warmup": 8,
    "precision": "no",
    "stats_every": 5,
    "checkpoint_every": 5,
    "validate_every": 5,
}


def test_the_objective_is_given_the_field_and_nothing_else_changes():
    law, asked = Field(length=1.5, features=200), []

    def denoise(z, sigma, cond=None):
        asked.append(z)
        return z

    zero = torch.zeros(400)
    batch = Batch(z=torch.zeros(400, 1, 8, 8), sigma=zero + 2, sigma_noise=zero, sigma_min=zero, sigma_max=zero)
    Denoise().loss(denoise, batch, FieldStreams(Streams(range(400), 1), law))
    Denoise().loss(denoise, batch, Streams(range(400), 1))
    expected = float(law.covariance(torch.tensor([0.0, 1.0])))
    for z, correlation in zip(asked, (expected, 0.0), strict=True):
        found = float((z[..., 1:] * z[..., :-1]).mean()) / 4
        assert float(z.var()) / 4 == pytest.approx(1, abs=0.1) and found == pytest.approx(correlation, abs=0.1)
    assert expected > 0.7


def test_a_prior_remembers_its_noise(tmp_path):
    torch.manual_seed(0)
    network = NetworkConfig(widths=(8, 16), groups=4, embedding=32)
    NetworkPrior(dataclasses.replace(network, noise_length=1.5)).save(tmp_path / "field")
    NetworkPrior(network).save(tmp_path / "white")
    found = load_prior(tmp_path / "field")
    assert isinstance(found, FieldPrior) and found.field.length == 1.5
    assert isinstance(load_prior(tmp_path / "white"), NetworkPrior)
    record = json.loads((tmp_path / "field" / "config.json").read_text())
    (tmp_path / "field" / "config.json").write_text(json.dumps({**record, "noise_length": -1}))
    with pytest.raises(AmbientSolveError, match="noise_length"):
        load_prior(tmp_path / "field")


def test_runs_of_before_have_the_same_settings():
    """What is not set adds nothing to the network's settings, with which a run is compared that began before."""
    assert "noise_length" not in settings_of(NetworkConfig())
    assert settings_of(NetworkConfig(noise_length=1.0))["noise_length"] == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": OBJECTIVES["masked"]()}, "denoise"),
        ({"noise": DiffusionNoise(kind="field", length=0.0)}, "length"),
        ({"network": NetworkConfig(noise_length=1.0)}, "leave it out"),
    ],
)
def test_what_does_not_go_together_is_refused(change, words):
    given = {"out": "x", "sources": (), "noise": DiffusionNoise(kind="field"), "network": NetworkConfig()} | change
    with pytest.raises(AmbientSolveError, match=words):
        check(Config(**given), 1)


def train(root: Path, settings: dict) -> subprocess.CompletedProcess:
    (root / "tiny.yaml").write_text(yaml.safe_dump(settings))
    own = {
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(root / "hf"),
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, "trainers/train.py", "--config", str(root / "tiny.yaml"), "--data-root", str(root)]
    command += ["--out", str(root / "run")]
    return subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)


def test_a_short_training_with_a_field(tmp_path):
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for k in range(12):
        coarse = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((30, 24), Image.Resampling.BICUBIC).save(tmp_path / "pictures" / f"{k:02d}.png")
    done = train(tmp_path, SETTINGS)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load_prior(tmp_path / "run" / "prior")
    assert isinstance(found, FieldPrior) and found.field.length == 1.5
    assert json.loads((tmp_path / "run" / "run.json").read_text())["noise"]["kind"] == "field"
    noisy = {**SETTINGS, "images": 80, "corruption": {"seed": 3, "damages": [{"kind": "noise", "sigma": 0.2}]}}
    (tmp_path / "other").mkdir()
    source = {**SETTINGS["sources"][0], "path": str(tmp_path / "pictures")}
    refused = train(tmp_path / "other", noisy | {"sources": [source]})
    assert refused.returncode != 0 and "correlated" in refused.stderr
