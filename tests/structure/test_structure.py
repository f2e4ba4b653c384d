"""The size of files, what every algorithm says of itself, and the skeletons of the page on the design."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

from ambient_solve.algorithms import ALGORITHMS, Algorithm
from ambient_solve.evaluate.exactness import on_gaussian
from ambient_solve.knobs import knobs
from ambient_solve.likelihood import Likelihood
from ambient_solve.noise import Streams
from ambient_solve.objectives.base import Batch
from ambient_solve.objectives.denoise import Denoise
from ambient_solve.priors.gaussian import MixturePrior
from helpers import AffinePrior, rand
from test_imports import wrong_imports
from test_safety import unpickling
from tree import LIBRARY, ROOT, SOURCES

LONGEST = 600
"""Lines of a file; 400 is a warning to whoever writes it."""


def test_no_file_is_long():
    assert {name: n for name, source in SOURCES.items() if (n := source.count("\n")) > LONGEST} == {}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_says_what_it_is(name):
    algorithm = ALGORITHMS[name]
    assert issubclass(algorithm, Algorithm) and not algorithm.__subclasses__() and algorithm.name == name
    assert re.search(r"\D(19|20)\d\d\b", algorithm.paper), "author, year and where"
    assert "steps" in [k.name for k in knobs(algorithm)]
    for k in knobs(algorithm):
        assert k.help, f"{k.name} has no help"
        assert k.type is bool or k.choices or (k.lo is not None and k.hi is not None), f"{k.name} has no range"
        assert k.type is bool or (k.default in k.choices if k.choices else k.lo <= k.default <= k.hi)
    assert algorithm()  # the defaults pass their own checks


def test_every_algorithm_is_registered_and_has_a_file_of_its_own():
    files = {Path(name).stem for name in LIBRARY if name.startswith("ambient_solve/algorithms/")}
    shared = {"__init__", "base", "auto", "descent", "resampling", "states"}
    assert sorted(files - shared) == sorted(a.__module__.split(".")[-1] for a in ALGORITHMS.values())


def skeletons() -> dict[str, str]:
    """The Python of docs/design.md by its heading."""
    sections = (ROOT / "docs" / "design.md").read_text().split("\n## ")[1:]
    found = {s.splitlines()[0]: re.findall(r"```python\n(.*?)```", s, re.DOTALL) for s in sections}
    return {heading: blocks[0] for heading, blocks in found.items() if blocks}


def test_the_skeletons_of_the_design_page_are_true(tmp_path, monkeypatch):
    assert list(skeletons()) == ["An algorithm", "An objective", "An operator"]
    monkeypatch.syspath_prepend(tmp_path)
    made = {}
    for heading, source in skeletons().items():
        assert not unpickling(heading, source)
        name = "skeleton_of_" + heading.split()[1]
        (tmp_path / f"{name}.py").write_text(source)
        made[heading] = importlib.import_module(name)
    guided, blind = (on_gaussian(made["An algorithm"].Mine(steps=20, width=w), "mask", problems=4) for w in (1.0, 0.01))
    assert guided.bias < 0.5 * blind.bias
    assert not wrong_imports("ambient_solve/algorithms/mine.py", skeletons()["An algorithm"])
    assert not wrong_imports("ambient_solve/objectives/clean.py", skeletons()["An objective"])

    prior, zero = MixturePrior.ring(), torch.zeros(8)
    z = prior.sample(8, torch.Generator().manual_seed(0))
    batch = Batch(z=z, sigma=torch.linspace(0.1, 2, 8), sigma_noise=zero, sigma_min=zero, sigma_max=zero)
    clean, denoise = (
        o.loss(prior.denoise, batch, Streams(range(8), 1)) for o in (made["An objective"].Clean(), Denoise())
    )
    assert torch.equal(clean, denoise)

    op, x = made["An operator"].column_means((3, 6, 5), sigma=0.1), rand(2, 3, 6, 5)
    likelihood = Likelihood(op(x), op, AffinePrior())  # which checks the adjoint
    assert likelihood.linear and torch.equal(likelihood.A(x), x.mean(-2, keepdim=True))
