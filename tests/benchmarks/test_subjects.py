"""The table of subjects: what is learned from, what is damaged, what is averaged, and that a stopped run goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("accelerate", reason="training needs accelerate: pip install 'ambient-solve[train]'")
pytest.importorskip("diffusers", reason="needs diffusers: pip install 'ambient-solve[train]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ambient-solve[latent]'")

import concepts
import subjects
from ambient_solve import AmbientSolveError
from ambient_solve.training.inversion import Inversion
from helpers import one_sentence
from pipelines import stable_diffusion

SIDE = 16


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A random pipeline, and two subjects of three pictures."""
    root = tmp_path_factory.mktemp("subjects")
    stable_diffusion(root / "pipeline")
    draw = np.random.default_rng(0)
    for name in ("fish", "fish.2"):
        (root / "subjects" / name).mkdir(parents=True)
        for i in range(3):
            pixels = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "subjects" / name / f"{i}.png")
    return root


def small(root: Path, **changes) -> subjects.Plan:
    given = {"pictures": 2, "inversion": Inversion(steps=2, bands=2, batch=2), "steps": 2, "samples": 2}
    return subjects.Plan(str(root / "pipeline"), **(given | changes))


def run(root: Path, out: Path, minutes: float = 10.0, **changes) -> str:
    seen = lambda x, truth: {"lpips": float((x - truth).abs().mean())}  # noqa: E731 - the features are not at hand
    return subjects.restore_subjects(root / "subjects", small(root, **changes), out, minutes, seen)


def test_every_subject_is_restored_with_each_prompt_and_a_stopped_run_goes_on(root, tmp_path, monkeypatch):
    assert run(root, tmp_path / "out", minutes=-1.0) == "0 of 2 subjects are done"
    asked, plain = [], subjects.Solver.solve

    def solve(self, *args, **settings):
        asked.append(settings["cond"])
        return plain(self, *args, **settings)

    monkeypatch.setattr(subjects.Solver, "solve", solve)
    text = run(root, tmp_path / "out")
    assert [cond.text for cond in asked] == 2 * ["a photo of <s>", "a photo of a fish", "", "a photo of <other>"]
    lines = text.splitlines()
    assert lines[0] == "| stated | PSNR, dB | LPIPS | chi2 | V/B |" and len(lines) == 10
    rows = [json.loads((tmp_path / "out" / name / "result.json").read_text()) for name in ("fish", "fish.2")]
    psnr = [row["the concept"]["psnr"] for row in rows]
    assert f"{np.mean(psnr):.2f} ± {np.std(psnr, ddof=1) / 2**0.5:.2f}" in lines[2]
    shown = {path.name for path in (tmp_path / "out" / "fish" / "pictures").iterdir()}
    assert shown == {"0.png", "1.png"} and [p.name for p in (tmp_path / "out" / "fish" / "held").iterdir()] == ["2.png"]
    count = len(asked)
    assert run(root, tmp_path / "out") == text and len(asked) == count, "what is there is not done again"
    with pytest.raises(AmbientSolveError, match="another plan") as error:
        run(root, tmp_path / "out", samples=3)
    assert one_sentence(error)


def test_what_the_concept_gains_is_compared_in_pairs():
    row = {stated: {"psnr": 20.0 + i, "chi2": 1.0, "ratio": 1.0} for i, stated in enumerate(subjects.STATED)}
    other = {stated: {k: v + 5 for k, v in found.items()} for stated, found in row.items()}
    text = subjects.table([row, other])
    # The pictures differ by 5 dB, the pairs by nothing: no error of a gain.
    assert "The concept less the name of its class, over 2 subjects: PSNR, dB -1.00 ± 0.00." in text
    assert "The concept less another's concept, over 2 subjects: PSNR, dB -3.00 ± 0.00." in text
    assert "The concept less no words, over 2 subjects: PSNR, dB -2.00 ± 0.00." in text and "LPIPS" not in text
    assert "| the concept | 22.50 ± 2.50 |" in text


def test_the_part_of_the_command_and_what_is_missing_are_said(root, tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(subjects, "restore_subjects", lambda *given: asked.update(given=given) or "the table")
    given = ["--out", str(tmp_path), "--restore", "pipe", "--subjects", str(root), "--steps", "7", "--task", "sr4"]
    monkeypatch.setattr(sys, "argv", ["concepts.py", *given])
    concepts.main()
    plan = asked["given"][1]
    assert capsys.readouterr().out == "the table\n" and (plan.pipeline, plan.task, plan.inversion.steps) == (
        "pipe",
        "sr4",
        7,
    )
    monkeypatch.setattr(sys, "argv", ["concepts.py", "--out", str(tmp_path), "--restore", "pipe"])
    with pytest.raises(SystemExit):
        concepts.main()
    assert "--subjects" in capsys.readouterr().err
    with pytest.raises(AmbientSolveError, match="has 3 pictures; 3 to learn from") as error:
        subjects.pictures_of(root / "subjects" / "fish", 3)
    assert one_sentence(error)
