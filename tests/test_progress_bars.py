"""Progress bars: seen in a terminal and in a notebook, and nowhere else unless asked for; one for each run."""

from __future__ import annotations

import ast
import io
import sys
from types import SimpleNamespace

import pytest
import torch

from ambient_solve import DPS, GaussianPrior, Solver, generate, operators, tune
from ambient_solve.progress import progress_bar, someone_looks
from tree import LIBRARY, SOURCES

SHAPE = (1, 6, 6)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def kernel(monkeypatch):
    """As IPython looks in a notebook."""
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def run(monkeypatch, stream, call) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    prior = GaussianPrior(torch.zeros(SHAPE), torch.eye(36))
    call(prior, operators.denoise(SHAPE, sigma=0.1), torch.zeros(1, *SHAPE))
    return stream.getvalue()


CALLS = {
    "proximal": lambda p, op, y, **k: Solver(p, "proximal", steps=3).solve(y, op, **k),
    "mmps": lambda p, op, y, **k: Solver(p, "mmps", steps=3).summarize(y, op, n_samples=2, **k),
    "sample": lambda p, op, y, **k: generate(p, 2, steps=3, **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bar_in_a_terminal_and_none_in_a_file(monkeypatch, name):
    assert f"{name}: 100%" in run(monkeypatch, Terminal(), CALLS[name])
    assert run(monkeypatch, io.StringIO(), CALLS[name]) == ""


@pytest.mark.parametrize("name", CALLS)
def test_what_is_asked_for_counts(monkeypatch, name):
    quiet, loud = (lambda *a, p=p: CALLS[name](*a, progress=p) for p in (False, True))
    assert run(monkeypatch, Terminal(), quiet) == "" and f"{name}: 100%" in run(monkeypatch, io.StringIO(), loud)


def test_a_notebook_is_watched_and_other_processes_are_not(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not someone_looks()
    kernel(monkeypatch)
    assert someone_looks()
    monkeypatch.setenv("RANK", "1")
    assert not someone_looks()
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delitem(sys.modules, "IPython")
    assert not someone_looks()


def test_a_run_within_a_run_has_no_bar_of_its_own(monkeypatch):
    assert run(monkeypatch, Terminal(), lambda p, op, y: tune(DPS(steps=2), p, op, y)) == ""
    assert run(monkeypatch, Terminal(), lambda p, op, y: Solver(p, "proximal", steps=2)(y, op)) == ""


def test_a_bar_counts_what_it_goes_over(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar([1, 2, 3], "files", unit="file")) == [1, 2, 3] and "3/3" in stream.getvalue()


def silent(source: str) -> list[str]:
    """Calls of a solver or of `generate` that leave it open whether a bar is shown."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, words = ast.unparse(node.func).split(".")[-1], [k.arg for k in node.keywords]
        if (name in ("solve", "summarize") and "n_samples" in words) or name == "generate":
            found += [] if "progress" in words else [ast.unparse(node.func)]
    return found


def test_the_library_says_of_each_run_within_it_whether_a_bar_is_shown():
    assert {name: found for name in LIBRARY if (found := silent(SOURCES[name]))} == {}
    assert silent("s.solve(y, op, n_samples=3)\ngenerate(p, 4)\ns.solve(y, op, n_samples=3, progress=p)") == [
        "s.solve",
        "generate",
    ]
