"""A skip that is on no list fails a run of CI, with and without pytest-xdist; elsewhere skips are only reported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from skips import LIST, allowed

TESTS = Path(__file__).parents[1]
CASE = """
import pytest

def test_runs():
    pass

def test_known():
    pytest.skip("there is no chromium")

@pytest.mark.skipif({other}, reason="the weather is bad")
def test_other():
    pass
"""


def run(folder: Path, other: bool, *options: str, **variables: str) -> tuple[int, str]:
    (folder / "test_case.py").write_text(CASE.format(other=other))
    (folder / "list.txt").write_text("# a comment\n\nthere is no chromium\n")
    own = {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])}
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")} | own
    command = [sys.executable, "-m", "pytest", "-q", "-p", "skips", "-p", "no:cacheprovider", *options, str(folder)]
    environment |= {"ALLOWED_SKIPS": str(folder / "list.txt"), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("processes", [0, 2])
def test_a_skip_that_is_not_on_the_list_fails_a_run_of_ci(tmp_path, processes):
    if processes and importlib.util.find_spec("xdist") is None:
        processes = 0  # not needed to run the tests: then the reports are judged where they are made
    options = ("-n", str(processes)) if processes else ()
    code, said = run(tmp_path, True, *options, CI="1")
    assert code == 1 and "skips that are not allowed" in said and "the weather is bad" in said
    assert "there is no chromium" not in said.split("skips that are not allowed")[1]
    code, said = run(tmp_path, False, *options, CI="1")
    assert code == 0 and "not allowed" not in said  # the control: what is on the list is
    assert run(tmp_path, True, *options)[0] == 0


@pytest.mark.timeout(300)
def test_a_file_that_is_skipped_as_a_whole_counts_and_a_failure_stays_one(tmp_path):
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('absent_package', reason='no such')\n")
    code, said = run(tmp_path, False, CI="1")
    assert code == 1 and "test_whole.py:2: no such" in said
    (tmp_path / "test_whole.py").write_text("def test_wrong():\n    assert False\n")
    code, said = run(tmp_path, False, CI="1")
    assert code == 1 and "1 failed" in said and "not allowed" not in said


def test_every_line_of_the_list_is_a_reason_that_a_test_gives():
    written = "".join(p.read_text() for p in TESTS.rglob("*.py"))
    reasons = allowed(LIST.read_text())
    assert reasons and [reason for reason in reasons if f'"{reason}"' not in written] == []
