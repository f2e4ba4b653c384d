"""One table of presets for Python, command line and page: what each takes for which problem, and what overrides it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from deepinv.physics import Denoising, GaussianNoise, PoissonNoise

from ambient_solve import ALGORITHMS, AmbientSolveError, Solver, operators
from ambient_solve.app import presets as page
from ambient_solve.evaluate.exactness import gaussian_prior
from ambient_solve.knobs import build
from ambient_solve.presets import DEFAULT, LINEAR, MISSING, NOISE, OTHER, PRESETS, measured_by
from ambient_solve.restore.files import chosen_method, restore_file
from ambient_solve.restore.tasks import TASKS, Denoise
from helpers import one_sentence, rand
from test_restore import rgb, tiny

SIZE = (1, 6, 6)
PROBLEMS = {
    NOISE: operators.denoise(SIZE, 0.1),
    MISSING: operators.inpaint((rand(6, 6) > 0.4).float(), 0.1, 1),
    LINEAR: operators.gaussian_blur(SIZE, 0.5, 0.1),
    OTHER: operators.quantize(SIZE, 3, 0.1),
}
"""One for each kind of measurement."""


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_solver_takes_what_the_table_says(kind, name):
    op, prior = PROBLEMS[kind], gaussian_prior()
    algorithm, knobs = PRESETS[name].choices[kind]
    found = Solver(prior, preset=name, steps=2).solve(op.A(rand(1, *SIZE)), op, progress=False)
    assert found.samples.shape[1] == PRESETS[name].samples and found.settings["why"].startswith(f"preset {name}")
    taken = build(ALGORITHMS[found.settings["algorithm"]])
    if algorithm != "auto":
        wanted = dataclasses.replace(build(ALGORITHMS[algorithm], **knobs), steps=2)
        assert {k: found.settings[k] for k in knobs if k != "steps"} == {k: v for k, v in knobs.items() if k != "steps"}
        assert found.settings["algorithm"] == wanted.name and found.settings["steps"] == 2
    else:
        assert taken.name == ("daps" if kind == OTHER else "mmps")


@pytest.mark.parametrize("task", [*TASKS, "old-photograph", "inpaint+denoise", "denoise+jpeg"])
def test_a_task_is_the_kind_of_measurement_that_its_operator_is(task):
    """So that the command line and the page, which know the task alone, take what a solver would."""
    kinds = {"denoise": NOISE, "inpaint": MISSING, "inpaint+denoise": MISSING, "jpeg": OTHER}
    assert measured_by(task) == kinds.get(task, LINEAR)


def test_photons_are_of_the_other_kind():
    op = Denoising(PoissonNoise(0.1))
    found = Solver(gaussian_prior(), preset="fast", steps=2).solve(op.A(rand(1, *SIZE)), op, progress=False)
    assert found.settings["algorithm"] == "daps"


def test_the_page_reads_the_same_table():
    assert [name.lower() for name in page.PRESETS] == list(PRESETS)
    for name, preset in page.PRESETS.items():
        assert preset is PRESETS[name.lower()]


def test_what_is_given_replaces_what_the_preset_has():
    name, knobs, samples = chosen_method("gaussian-blur", options={"steps": 7})
    assert (name, knobs, samples) == ("proximal", {"steps": 7}, PRESETS[DEFAULT].samples)
    assert chosen_method("gaussian-blur", algorithm="auto", options={"steps": 7}) == ("auto", {"steps": 7}, 8)
    solver = Solver(gaussian_prior(), preset="balanced", n_samples=1, steps=3)
    op = Denoising(GaussianNoise(0.1))
    assert solver.solve(rand(1, *SIZE), op, progress=False).samples.shape[1] == 1
    assert "preset balanced, steps=3" in repr(solver)


def test_the_default_of_a_restoration_is_balanced(tmp_path):
    path = rgb(tmp_path / "a.png")
    found = restore_file(path, tiny(), Denoise(sigma=0.1)).restoration
    same = restore_file(path, tiny(), Denoise(sigma=0.1), preset=DEFAULT).restoration
    other = restore_file(path, tiny(), Denoise(sigma=0.1), preset="fast").restoration
    assert torch.equal(found.samples, same.samples) and found.samples.shape[1] == PRESETS[DEFAULT].samples
    assert found.settings["request"]["algorithm"] == "mmps" and found.settings["request"]["options"]["steps"] == 8
    assert other.samples.shape[1] == PRESETS["fast"].samples


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Solver(gaussian_prior(), preset="quick"), "There is no preset 'quick'"),
        (lambda: Solver(gaussian_prior(), "mmps", preset="fast"), "chooses the algorithm"),
        (lambda: chosen_method("denoise", "fast", "mmps"), "chooses the algorithm"),
        (lambda: chosen_method("denoise", "slow"), "There is no preset 'slow'"),
    ],
)
def test_what_cannot_be_meant_is_said(make, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        make()
    assert one_sentence(error)
