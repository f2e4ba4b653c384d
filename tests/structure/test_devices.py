"""The device is chosen in one place."""

from __future__ import annotations

import ast

import pytest
import torch

from ambient_solve.distributed import choose_device
from ambient_solve.errors import AmbientSolveError
from tree import SOURCES


def chooses(source: str) -> bool:
    """Whether a value depends on whether there is a graphics card: `"cuda" if torch.cuda.is_available() else ...`."""
    tests = [node.test for node in ast.walk(ast.parse(source)) if isinstance(node, ast.IfExp)]
    return any("cuda.is_available" in ast.unparse(test) for test in tests)


def test_only_one_function_chooses():
    assert [
        name for name in SOURCES if name.startswith(("ambient_solve/", "trainers/")) and chooses(SOURCES[name])
    ] == []
    assert chooses("device = 'cuda' if torch.cuda.is_available() else 'cpu'"), "control"


@pytest.mark.parametrize(
    ("there", "name", "chosen"),
    [(True, "auto", "cuda"), (True, "cpu", "cpu"), (True, "cuda", "cuda"), (False, "auto", "cpu")],
)
def test_the_choice(there, name, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device(name) == chosen


@pytest.mark.parametrize(("there", "name"), [(False, "cuda"), (True, "gpu"), (False, "cuda:0")])
def test_a_device_that_is_not_there_is_a_sentence(there, name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    with pytest.raises(AmbientSolveError, match=f"The device '{name}' is not there. Choose auto or cpu."):
        choose_device(name)
