"""A closed form of AA' is only taken where it is one: an operator that is nearly of a kind is not of that kind."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import GaussianNoise, LinearPhysics

from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.convolution import find_convolution
from ambient_solve.linalg.gram import CirculantGram, DenseGram, DiagonalGram, find_gram, find_normal
from helpers import AffinePrior, flat64, kernel, rand, randn, relative

OFF = 3e-4
"""A relative error that changes a solve at little noise by far more than float32 does."""


def matrix(name: str, side: int, off: float) -> torch.Tensor:
    """A symmetric matrix (side^2, side^2) of a kind, and a perturbation of relative size `off` on top."""
    n = side**2
    if name == "diagonal":
        own = torch.diag(0.5 + rand(n)).double()
    else:
        row = torch.zeros(1, 1, side, side)
        row[..., :3, :3] = kernel()[0, 0]
        transform = torch.fft.fft2(row.roll((-1, -1), (-2, -1)).double())
        eye = torch.eye(n, dtype=torch.float64).reshape(n, side, side)
        own = torch.fft.ifft2(transform[0, 0] * torch.fft.fft2(eye)).real.reshape(n, n).T
    other = randn(n, n, seed=5, dtype=torch.float64)
    return own + off * other * own.norm() / other.norm()


def operator(A: torch.Tensor, side: int, noise: float = 0.1):
    A32 = A.float()
    return LinearPhysics(
        A=lambda x, **_: (x.flatten(1) @ A32.T).reshape(-1, 1, side, side),
        A_adjoint=lambda u, **_: (u.flatten(1) @ A32).reshape(-1, 1, side, side),
        img_size=(1, side, side),
        noise_model=GaussianNoise(noise),
    )


@pytest.mark.parametrize(("name", "form"), [("diagonal", DiagonalGram), ("circulant", CirculantGram)])
def test_what_is_nearly_of_a_kind_is_not_taken_for_it(name, form):
    """A small one is taken for the dense matrix that it is, a large one is left to conjugate gradients."""
    for side, otherwise in ((8, DenseGram), (17, type(None))):
        y = torch.zeros(1, 1, side, side)
        for off, wanted in ((0.0, form), (OFF, otherwise)):
            op = operator(matrix(name, side, off), side)
            assert type(find_gram(op.A, op.A_adjoint, y, op)) is wanted, (side, off)


@pytest.mark.parametrize("name", ["diagonal", "circulant"])
def test_a_solve_with_such_an_operator_is_that_of_its_own_matrix(name):
    """At little noise, where the small eigenvalues decide."""
    side, sigma, variance = 17, 2e-3, 1.0
    A = matrix(name, side, 10 * OFF)
    op = operator(A, side, sigma)
    law = Likelihood(op.A(rand(1, 1, side, side)), op, AffinePrior(), cg_iterations=600)
    r = op.A(randn(1, 1, side, side, seed=3))
    A = A.float().double()
    wanted = torch.linalg.solve(sigma**2 * torch.eye(side**2) + variance * A @ A.T, flat64(r)[0])
    found = law.A(law.At(law.solve(variance, r)))
    ideal = matrix(name, side, 0.0)
    wrong = torch.linalg.solve(sigma**2 * torch.eye(side**2) + variance * ideal @ ideal.T, flat64(r)[0])
    right = (A @ A.T @ wanted)[None]
    assert relative(found, right) < 1e-3 < relative((A @ A.T @ wrong)[None], right)


def test_a_convolution_is_only_taken_where_it_is_one():
    side, y = 17, torch.zeros(1, 1, 17, 17)
    for off, found in ((0.0, True), (OFF, False)):
        op = operator(matrix("circulant", side, off), side)
        assert (find_convolution(op.A, op.A_adjoint, y, (1, side, side)) is not None) == found


class Shortcut(LinearPhysics):
    """The identity, with a normal operator of its own that is off by `off`."""

    def __init__(self, off: float) -> None:
        super().__init__(A=lambda x, **_: x, A_adjoint=lambda y, **_: y)
        self.off = off

    def A_adjoint_A(self, x, **_):
        return x + self.off * x.flip(-1)


@pytest.mark.parametrize(("off", "taken"), [(1e-7, True), (OFF, False)])
def test_a_shortcut_of_the_normal_operator_is_only_taken_where_it_is_the_same(off, taken):
    op, x = Shortcut(off), randn(1, 1, 6, 6)
    normal = find_normal(op.A, op.A_adjoint, x, op, lambda function, rows: function(rows))
    assert torch.equal(normal(x), op.A_adjoint_A(x) if taken else x)
