"""`ambient-solve mri-train` as a user runs it: data prepared, held out, prepared once, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

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
    assert command[:2] == ["accelerate", "launch"] and command[command.index("--out") + 1] == str(tmp_path / "run")
    assert main(words) == 0 and "prepared already" in capsys.readouterr().out
    assert main(["mri-train", str(scans), "--out", str(tmp_path / "other"), "--held-out", "bb", *SMALL]) == 2
    assert one_sentence(capsys.readouterr().err.strip())
