"""What the command line prints of an outcome: the verdict, its cause, and the options to try."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ambient_solve.cli.console import tell_outcome
from ambient_solve.restore.files import Outcome
from ambient_solve.verdict.judge import concluded

RANGES = {"misfit": (0.5, 1.0, 2.0), "kernel": (-8.0, 1.0, 10.0)}
NUMBERS = {"misfit": 1.0, "kernel": 60.0, "better length": 14.2, "better angle": 28.6, "narrower": 0.0}
STATED = {"stated length": 15.0, "stated angle": 0.0}


def outcome(**numbers: float) -> Outcome:
    verdict = concluded(NUMBERS | STATED | numbers, RANGES, "directed blur")
    return Outcome(Path("shaken.png"), Path("out"), chi2=1.0, algorithm="mmps", verdict=verdict)


def printed(capsys: pytest.CaptureFixture[str], one: Outcome, as_json: bool = False) -> str:
    tell_outcome(one, as_json)
    return capsys.readouterr().out


def test_a_wrong_direction_is_said_with_the_options_that_mend_it(capsys):
    said = printed(capsys, outcome())
    assert "Verdict: wrong." in said and "another direction" in said
    assert "--length 14 --angle 29 or --length auto --angle auto" in said
    right = printed(capsys, outcome(kernel=0.0))
    assert "Verdict: right." in right and "Try" not in right and "--" not in right


def test_a_program_reads_the_verdict(capsys):
    row = json.loads(printed(capsys, outcome(), as_json=True))["verdict"]
    assert row["level"] == "wrong" and row["keys"] == ["direction"] and row["suggested"] == {"length": 14, "angle": 29}
    assert row["flags"].startswith("--length 14 --angle 29")
