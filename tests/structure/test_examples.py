"""Every script in examples/ runs as a user runs it, in an empty folder, and prints numbers that are no accident."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LONG = ("gallery.py",)
"""Not run here: docs/long_commands.txt says when it was."""
SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name not in LONG)
SECONDS = 900
"""Limit of each of its processes, in seconds of one core, that only a script without an end reaches."""
WAITING = 1800


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def run(script: Path, folder: Path, seconds: float = WAITING) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": paths}
    command, environment = [sys.executable, str(script)], {**os.environ, **own}
    return subprocess.run(
        command, cwd=folder, env=environment, preexec_fn=limit, timeout=seconds, capture_output=True, text=True
    )


def numbers(text: str) -> list[list[float]]:
    """The PSNRs of each line that tells some: that of the damaged picture first, that of the prior last."""
    found = [re.findall(r"(-?[\d.]+) dB", line) for line in text.splitlines()]
    return [[float(number) for number in row] for row in found if row]


def test_there_are_scripts():
    assert "quickstart.py" in [script.name for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_script(script, tmp_path):
    done = run(script, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"\d", done.stdout)
    if script.name.startswith(("train_", "quickstart")):
        assert list(tmp_path.rglob("mean.png"))
    if script.name.startswith("train_"):
        rows = numbers(done.stdout)
        assert len(rows) >= 2 and all(row[-1] > row[0] + 2 for row in rows), done.stdout
        # What the preconditioning does without a network is no learning.
        untrained = numbers("\n".join(line for line in done.stdout.splitlines() if "untrained" in line))
        assert all(row[2] > row[1] for row in untrained), done.stdout
        (weights,) = tmp_path.glob("out/*/run/prior/model.safetensors")
        assert weights.stat().st_size > 0


def test_a_script_that_fails_or_never_ends_is_reported(tmp_path):
    broken, endless = tmp_path / "broken.py", tmp_path / "endless.py"
    broken.write_text("print('1.00 dB, restored 2.50 dB')\nraise SystemExit(3)\n")
    done = run(broken, tmp_path)
    assert done.returncode == 3 and numbers(done.stdout) == [[1.0, 2.5]]
    endless.write_text("import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])\n")
    assert run(endless, tmp_path).stdout.strip() == str(SECONDS)
