"""`help(DPS)`: what a method is, its paper, what it needs, and every knob with its range and default."""

from __future__ import annotations

import pydoc
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest

from ambient_solve.algorithms import ALGORITHMS
from ambient_solve.algorithms.base import Algorithm, documented
from ambient_solve.knobs import knob, knobs


def shown(cls: type) -> str:
    return pydoc.render_doc(cls, renderer=pydoc.plaintext).split("Method resolution order")[0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_help_lists_the_knobs_with_their_ranges_and_the_paper(name):
    cls = ALGORITHMS[name]
    text = shown(cls)
    assert cls.paper in text and f"Solver(prior, {name!r})" in text
    words = " ".join(line.strip(" |") for line in text.splitlines())
    for k in knobs(cls):
        span = " | ".join(k.choices) if k.choices else "" if k.type is bool else f"{k.lo:g} to {k.hi:g}"
        assert not re.search(r"\w_(\W|$)", k.help), "a word that ends in _ is a link in the documentation"
        assert f"{k.name} ({span}{', ' * bool(span)}default {k.default}): {k.help}." in words, k.name
    assert max(map(len, cls.__doc__.splitlines())) <= 120


def test_help_says_what_a_method_needs():
    needs = {name: shown(cls).split("Needs ")[1].split(".\n")[0] for name, cls in ALGORITHMS.items()}
    for name, cls in ALGORITHMS.items():
        assert ("a linear operator" in needs[name]) == cls.linear
        assert ("Gaussian noise" in needs[name]) == cls.gaussian
        assert ("closed form" in needs[name]) == cls.spectral
        assert ("backward passes" in needs[name]) == cls.gradient


def test_a_method_of_your_own_is_documented_once():
    @documented
    @documented
    @dataclass(frozen=True, kw_only=True)
    class Mine(Algorithm):
        """Mine."""

        name: ClassVar[str] = "mine"
        paper: ClassVar[str] = "Author et al., 2026"
        width: float = knob(1.0, 0.5, 2.0, "how wide")

        def iterate(self, *_):
            yield from ()

    text = shown(Mine)
    assert text.count("how wide") == 1 and "0.5 to 2, default 1.0" in text and "Mine." in text
    assert "default" not in shown(Algorithm) and not hasattr(documented(type("Bare", (), {})), "paper")
