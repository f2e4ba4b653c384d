"""`ambient-solve mri-train` as a user runs it: data prepared, held out, prepared once, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from ambient_solve import NetworkPrior, training
from ambient_solve.cli.dispatch import main
from ambient_solve.data.corruption import read_corrupted
from helpers import one_sentence
from test_mri import made

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
