"""The package is typed: the marker is in the wheel, and a user's mypy sees the types. `python -m mypy` looks inside."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tree import LIBRARY, ROOT, SOURCES

USER = """
import torch
from ambient_solve import DPS, GaussianPrior, Prior, Restoration, Solver, Summary, load_prior, operators

prior: Prior = load_prior("photos")
op = operators.denoise((3, 8, 8), sigma=0.1)
solver = Solver(prior, DPS(steps=3))
result = solver.solve(torch.zeros(1, 3, 8, 8), op, n_samples=2)
summary = solver.summarize(torch.zeros(1, 3, 8, 8), op, n_samples=2)
reveal_type(result)
reveal_type(result.mean)
reveal_type(summary.chi2)
"""
WRONG = {
    "a word for a number": ('DPS(steps="many")', "arg-type"),
    "no such knob": ("DPS(stpes=3)", "call-arg"),
    "no such result": ("result.maen", "attr-defined"),
    "a result for a tensor": ("x: torch.Tensor = result", "assignment"),
}


def mypy(*words: str, cwd: Path = ROOT) -> str:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900).stdout


@pytest.mark.slow
def test_a_user_sees_the_types_and_their_own_mistakes(tmp_path):
    lines = [USER, *(line for line, _ in WRONG.values())]
    (tmp_path / "user.py").write_text("\n".join(lines))
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nmypy_path = {ROOT}\nfollow_imports = silent\n")
    said = mypy("user.py", cwd=tmp_path)
    for kind in ("ambient_solve.results.Restoration", "torch._tensor.Tensor"):
        assert f'Revealed type is "{kind}"' in said, said
    assert sorted(line.rsplit("[", 1)[1].rstrip("]") for line in said.splitlines() if ": error:" in line) == sorted(
        code for _, code in WRONG.values()
    ), said


def test_the_marker_and_the_stub_are_in_the_wheel(tmp_path):
    build = "from setuptools import build_meta as b; import sys; print(b.build_wheel(sys.argv[1]))"
    copy = tmp_path / "tree"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        (copy / name).write_text((ROOT / name).read_text())
    for name in ("__init__.py", "__init__.pyi", "version.py", "py.typed"):
        (copy / "ambient_solve").mkdir(exist_ok=True)
        (copy / "ambient_solve" / name).write_text((ROOT / "ambient_solve" / name).read_text())
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"ambient_solve/py.typed", "ambient_solve/__init__.pyi"} <= set(names), names


def test_mypy_is_part_of_what_a_change_has_to_pass():
    assert "python -m mypy" in (ROOT / ".ci" / "run").read_text().splitlines()
    assert '"mypy' in (ROOT / "pyproject.toml").read_text()


def unexplained(source: str) -> list[str]:
    """Lines that silence mypy for everything, or without a reason."""
    found = [line for line in source.splitlines() if "type: ignore" in line or "mypy:" in line]
    return [line for line in found if "type: ignore[" not in line or " # " not in line.split("type: ignore[")[1]]


def test_nothing_is_silenced_but_one_complaint_with_its_reason():
    assert {name: lines for name in LIBRARY if (lines := unexplained(SOURCES[name]))} == {}
    assert unexplained("# mypy: ignore-errors") and unexplained("x = 1  # type: ignore")
    assert unexplained("x = 1  # type: ignore[misc]") and not unexplained("x = 1  # type: ignore[misc] # why")
