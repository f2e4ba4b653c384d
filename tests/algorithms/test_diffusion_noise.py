"""All diffusion noise is the prior's: no algorithm draws white noise of its own, but for what is listed here."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import ambient_solve
from ambient_solve import ALGORITHMS, Algorithm, AmbientPrior, Prior, Solver, State, generate, operators
from ambient_solve.evaluate.exactness import matrix_operator
from ambient_solve.noise import Streams
from ambient_solve.priors.base import reverse
from helpers import randn

SOURCE = Path(ambient_solve.__file__).parent
WHITE = {
    "DAPS.iterate": "probe of the curvature",
    "DAPS._langevin": "Langevin noise of a draw around an estimate, not of the forward process",
    "FPS.iterate": "noise of the measurement",
    "MMPS._guide": "probe of the Jacobian",
    "MMPS._denoised": "probe of the Jacobian, and a draw around an estimate, of priors with white noise alone",
}
"""The functions of algorithms, of the solver and of `generate` that may draw white noise, and what of."""
OF_THE_LIKELIHOOD = ("Likelihood.draw", "Likelihood.fluctuation", "Likelihood._draw_counted")
"""They draw from a Gaussian around an estimate, whose width is one number for all directions."""
VARIANCE = 0.3
MASK = torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]])


def filtered(n: Tensor) -> Tensor:
    """A fixed invertible filter: the eigenvalues `1 + e^(iw) / 2` are not 0."""
    return n + 0.5 * n.roll(1, -1)


class Coloured(Prior):
    """`z0 ~ N(0, VARIANCE I)` entry by entry, with coloured noise; counts how often it was asked for it."""

    sigma_min, sigma_max = 0.02, 10.0

    def __init__(self, *shape: int, colour: bool = True) -> None:
        super().__init__()
        self.shape, self.colour, self.drawn = shape, colour, 0

    def denoise(self, z, sigma, cond=None):
        return VARIANCE / (VARIANCE + sigma**2) * z if isinstance(sigma, float) else z / 2

    def noise(self, shape, streams):
        self.drawn += 1
        unit = super().noise(shape, streams)
        return filtered(unit) if self.colour else unit


def white_draws(source: str) -> Iterator[str]:
    """`Class.function` of each call of a method `normal` in `source`."""

    def visit(node: ast.AST, where: tuple[str, ...]) -> Iterator[str]:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            where = (*where, node.name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "normal":
            yield ".".join(where)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, where)

    return visit(ast.parse(source), ())


def test_the_only_white_draws_are_those_of_the_list():
    files = [
        *(SOURCE / "algorithms").glob("*.py"),
        *(SOURCE / f"{name}.py" for name in ("solver", "sampling", "budget")),
    ]
    assert {name for file in files for name in white_draws(file.read_text())} == set(WHITE)
    control = "class New:\n    def iterate(self):\n        for i in x:\n            z = z0 + t * streams.normal(z0)"
    assert [*white_draws(control)] == ["New.iterate"]


@pytest.fixture
def drawers(monkeypatch) -> list[tuple[str, tuple[int, ...]]]:
    """Who called `Streams.normal`, and for what shape."""
    found, normal = [], Streams.normal

    def spy(self: Streams, like: Tensor) -> Tensor:
        found.append((sys._getframe(1).f_code.co_qualname, tuple(like.shape)))
        return normal(self, like)

    monkeypatch.setattr(Streams, "normal", spy)
    return found


def unlisted(drawers: list[tuple[str, tuple[int, ...]]], state: tuple[int, ...]) -> set[str]:
    """Who drew white noise of the shape of the states besides the prior, a probe and the likelihood."""
    probes = {name for name in WHITE if name != "FPS.iterate"}  # measurements have another shape here
    return {name for name, shape in drawers if shape == state} - {"Prior.noise", *probes, *OF_THE_LIKELIHOOD}


def solve(
    prior: Prior, algorithm: Algorithm | str, mask: bool = False, **settings: Any
) -> tuple[Tensor, tuple[int, ...]]:
    """Two samples (one of aos), and the shape of the states."""
    if mask:
        op, y = operators.inpaint(MASK, 0.1), randn(1, 3, 3, 4) * MASK
    else:
        op, y = matrix_operator(randn(2, 6), 0.1, (6,)), randn(1, 2)
    n = 1 if algorithm == "aos" else 2
    found = Solver(prior, algorithm, **settings).solve(y, op, n_samples=n).samples
    return found, (n, 3, 3, 4) if mask else (n, 6)


VARIANTS = [
    *((name, {}) for name in sorted(ALGORITHMS) if name != "soft"),  # which takes no such measurement
    ("mmps", {"time_travel": 1}),
    ("langevin", {"precondition": False}),
    ("proximal", {"kernel": "ancestral"}),
    ("proximal", {"draw": True}),
    ("adps", {"eta": 1.0}),
]


@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=[f"{n}{len(s)}-{k}" for k, (n, s) in enumerate(VARIANTS)])
def test_every_algorithm_draws_diffusion_noise_from_the_prior_alone(name, settings, drawers):
    mask = name in ("aos", "repaint")
    prior = coloured = Coloured(3, 3, 4) if mask else Coloured(6)
    if name == "aos":
        prior = AmbientPrior(coloured, policy="measurement", mask=MASK)
    steps = 1 if name == "aos" else 3
    _, state = solve(prior, name, mask, steps=steps, **settings)
    assert unlisted(drawers, state) == set()
    quiet = name in ("aos", "langevin", "adps") and not settings
    assert coloured.drawn == 1 if quiet else coloured.drawn > 1


@dataclass(frozen=True, kw_only=True)
class Own(Algorithm):
    """The reverse process with noise from the prior, or with white noise of its own."""

    name: ClassVar[str] = "own"
    paper: ClassVar[str] = "none"
    own: bool = True

    def iterate(self, prior, likelihood, z, sigmas, streams):
        for i, (s, t) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
            z0 = prior.denoise(z, s)
            z = z0 + t * streams.normal(z0) if self.own else reverse(prior, z, z0, s, t, t, streams)
            yield State(i + 1, self.steps, s, z, z0)


@pytest.mark.parametrize("own", [True, False])
def test_control_an_algorithm_with_noise_of_its_own_is_found(own, drawers):
    _, state = solve(Coloured(6), Own(steps=3, own=own))
    assert unlisted(drawers, state) == ({"Own.iterate"} if own else set())


@pytest.mark.parametrize("settings", [{"order": 1, "eta": 1.0}, {"order": 1, "eta": 0.5}, {"order": 2}])
def test_samples_of_a_linear_denoiser_are_the_filter_of_those_with_white_noise(settings):
    """Every step of `generate` commutes with the filter, so it passes from the noise to the samples."""
    white, coloured = (generate(Coloured(6, colour=c), 4, steps=5, **settings) for c in (False, True))
    torch.testing.assert_close(coloured, filtered(white))
    assert (coloured - white).norm() > 0.1 * white.norm()
    # The control: where the start alone is coloured, the samples are not.
    if settings.get("eta"):

        class Start(Coloured):
            def noise(self, shape, streams):
                self.colour = self.drawn == 0
                return super().noise(shape, streams)

        found = generate(Start(6), 4, steps=5, **settings)
        assert (found - filtered(white)).norm() > 0.1 * white.norm()


def test_a_sampler_commutes_with_the_filter_where_nothing_is_measured():
    """DPS without its gradient step is ancestral sampling."""
    white, coloured = (solve(Coloured(6, colour=c), "dps", zeta=0.0, steps=5)[0] for c in (False, True))
    torch.testing.assert_close(coloured, filtered(white))
    own = solve(Coloured(6), Own(steps=5))[0]
    assert (own - filtered(solve(Coloured(6, colour=False), Own(steps=5))[0])).norm() > 0.1 * own.norm()
