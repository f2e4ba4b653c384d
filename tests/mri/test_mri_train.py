"""`ambient-solve mri-train` as a user runs it: data prepared, held out, prepared once, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from ambient_solve import NetworkPrior, training
from ambient_solve.cli.dispatch import main
from ambient_solve.cli.mri import RECIPES
from ambient_solve.data.corruption import read_corrupted
from ambient_solve.data.loader import Levels, Loader
from ambient_solve.errors import AmbientSolveError
from ambient_solve.objectives import OBJECTIVES
from ambient_solve.training.config import Config, check, read_config
from ambient_solve.training.sources import read_data
from helpers import one_sentence
from test_mri import made, tiny

SMALL = "--size 16 --iterations 5 --coils 3 --acs 8 --acceleration 3".split()


@pytest.fixture
def scans(tmp_path) -> Path:
    (tmp_path / "scans").mkdir()
    for name in "abc":
        np.save(tmp_path / f"scans/{name}.npy", made(ord(name))[0].kspace.numpy())
    return tmp_path / "scans"


def test_scans_are_prepared_and_the_command_that_trains_is_printed(scans, tmp_path, capsys):
    words = ["mri-train", str(scans), "--out", str(tmp_path / "run"), "--held-out", "b", *SMALL]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 slices" in said
    samples = list(read_corrupted(tmp_path / "run/data", 2))
    assert [s.name for s in samples] == ["a.npy/0", "c.npy/0"]
    for s in samples:
        assert s.z.shape == (2, 16, 16) and s.maps.shape == (3, 16, 16) and s.sigma_noise > 0
        assert 0.2 < float(s.mask.float().mean()) < 1 and s.damage == "kspace"
    command = shlex.split(next(line for line in said.splitlines() if line.startswith("To train")).split(": ", 1)[1])
    assert command[:5] == ["accelerate", "launch", "-m", "ambient_solve", "train"]
    assert command[command.index("--out") + 1] == str(tmp_path / "run")
    assert main(words) == 0 and "prepared already" in capsys.readouterr().out
    assert main(["mri-train", str(scans), "--out", str(tmp_path / "other"), "--held-out", "bb", *SMALL]) == 2
    assert one_sentence(capsys.readouterr().err.strip())


def printed(said: str) -> list[str]:
    """The command of the line that says how to train."""
    return shlex.split(next(line for line in said.splitlines() if line.startswith("To train")).split(": ", 1)[1])


def loaded(config: Config) -> Loader:
    """What the training draws its batches from."""
    samples = read_data(config, True).samples
    settings = {"crop": config.crop, "buffer": 1.16, "batch": 2, "seed": 0}
    return Loader(samples, np.ones(len(samples)), Levels(-0.9, 1.4, 0.03, 20.0), **settings)


@pytest.mark.parametrize(("target", "kind"), [("ambient", "kspace"), ("clean", "denoise"), ("l1", "denoise")])
def test_the_command_that_is_printed_runs(scans, tmp_path, capsys, target, kind):
    """Slices of 16 pixels, none of which has the 128 of the recipe; pictures without masks, which k-space needs."""
    pytest.importorskip("accelerate", reason="needs accelerate")
    words = ["mri-train", str(scans), "--out", str(tmp_path / "run"), *SMALL, "--target", target]
    assert main(words) == 0
    command = printed(capsys.readouterr().out)
    config = read_config(command[5:])
    check(config, 1)
    assert config.crop == 16 and OBJECTIVES[kind] is type(config.objective)
    batch, streams = loaded(config)(0)
    prior = tiny(mask_channels=int(kind == "kspace")).requires_grad_(True)
    assert bool(config.objective.loss(prior, batch, streams).isfinite().all())
    # Prepared before: what the data are counts, not what is asked for now.
    assert main([*words[:-1], "l1" if target == "ambient" else "ambient", "--size", "32"]) == 0
    assert printed(capsys.readouterr().out) == command
    # The control: the recipe as it stands does not fit.
    recipe = ["--config", str(RECIPES / "scans.yaml"), "--data-root", str(tmp_path / "run"), "--out", "o"]
    with pytest.raises(AmbientSolveError, match="crop"):
        loaded(read_config(recipe))


def test_settings_that_cannot_train_are_refused_before_anything_is_prepared(scans, tmp_path, capsys):
    pytest.importorskip("accelerate", reason="needs accelerate")
    recipe = yaml.safe_load((RECIPES / "scans.yaml").read_text()) | {"batch": 0}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    words = ["mri-train", str(scans), "--out", str(tmp_path / "run"), *SMALL, "--config", str(tmp_path / "wrong.yaml")]
    assert main(words) == 2 and "batch" in capsys.readouterr().err
    assert not (tmp_path / "run/data").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_trains_a_prior_that_reconstructs(scans, tmp_path, capfd):
    """In a folder without a clone, with the recipe of the package made short."""
    recipe = yaml.safe_load((Path(training.__file__).parent / "recipes/scans.yaml").read_text())
    recipe |= {"crop": 16, "images": 16, "batch": 2, "checkpoint_every": 50, "warmup": 4}
    recipe["network"] |= {"widths": [8, 16], "groups": 4, "embedding": 16}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(recipe))
    words = ["mri-train", str(scans), "--out", str(tmp_path / "run"), "--config", str(tmp_path / "short.yaml"), *SMALL]
    assert main([*words, "--train"]) == 0, capfd.readouterr().err
    prior = NetworkPrior.load(tmp_path / "run/prior")
    assert prior.shape[0] == 2 and (tmp_path / "run/prior/README.md").is_file()
    scan = str(scans / "a.npy")
    done = main(["mri", scan, "--prior", str(tmp_path / "run/prior"), "--steps", "2", "--out", str(tmp_path / "out")])
    assert done == 0 and list((tmp_path / "out").rglob("reconstruction.npz"))
    assert main([*words[:4], "--config", "absent.yaml"]) == 2 and "no absent.yaml" in capfd.readouterr().err
