"""Conjugate gradients against dense solves in float64: carried products, rows, warm starts, no divergence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve.linalg.conjugate_gradient import WarmStart, carrying_conjugate_gradient, conjugate_gradient
from helpers import dense, flat64, problem, randn, relative


def covariance(n: int) -> Tensor:
    root = randn(n, n, seed=9, dtype=torch.float64)
    return root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64)


@pytest.mark.parametrize("name", ["mask", "super-resolution", "multi-coil"])
def test_solve_with_a_matrix_free_covariance(name):
    likelihood, shape = problem(name)
    matrix, n = dense(likelihood, shape), torch.Size(shape).numel()
    cov, calls = covariance(n), []

    def product(z: Tensor) -> Tensor:
        calls.append(len(z))
        return (z.flatten(1) @ cov.float()).reshape(z.shape)

    r = likelihood.residual(torch.zeros(4, *shape))
    wanted = torch.stack(
        [
            torch.linalg.solve(s**2 * torch.eye(len(matrix)).double() + matrix @ cov @ matrix.T, ri)
            for s, ri in zip(likelihood.sigma.double(), flat64(r), strict=True)
        ]
    )
    assert relative(likelihood.solve(product, r), wanted) < 1e-4
    for iterations in (1, 2, 3):
        calls.clear()
        u, carried = likelihood.solve_carrying(product, r, iterations)
        assert len(calls) == iterations  # k products for k iterations: the last one is carried, not computed
        assert relative(carried, product(likelihood.At(u))) < 1e-5


def test_conjugate_gradient_rows_are_independent_and_stay_once_converged():
    matrix = covariance(12).float()
    b = torch.stack([torch.zeros(12), 1e-20 * torch.ones(12), 1e4 * randn(12)])
    x = conjugate_gradient(lambda p: p @ matrix, b, 60)
    assert bool((x[0] == 0).all()) and bool(torch.isfinite(x).all())
    assert relative(x[2:], torch.linalg.solve(matrix.double(), b[2].double())[None]) < 1e-4
    torch.testing.assert_close(conjugate_gradient(lambda p: p @ matrix, b[2:], 5), conjugate_gradient(
        lambda p: p @ matrix, b, 5)[2:], rtol=1e-5, atol=0)  # fmt: skip
    again = conjugate_gradient(lambda p: p @ matrix, b[2:], 1, x0=x[2:])
    assert relative(again, x[2:]) < 1e-4


def test_conjugate_gradient_does_not_diverge_long_after_convergence():
    """Without a guard the first of these rows is at 1e17 after 500 steps: 0.05^2 + 0.01 AA' is solved in about 20."""
    likelihood, shape = problem("multi-coil")
    r = randn(*likelihood.residual(torch.zeros(4, *shape)).shape, seed=8)
    q = torch.tensor([0.1, 0.3, 1.0, 2.0])
    few, many = likelihood.solve(q**2, r, iterations=100), likelihood.solve(q**2, r, iterations=600)
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-3)


def test_curvature_floor_bounds_the_step():
    b = randn(2, 5)
    wrong = lambda p: (-3 * p, p)  # noqa: E731  a "covariance" with negative curvature
    x, carried = carrying_conjugate_gradient(wrong, b, 1, curvature_floor=torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(x, b / torch.tensor([[0.25], [0.5]]))
    torch.testing.assert_close(carried, x)


def test_warm_start_helps_and_leaves_other_solves_alone():
    likelihood, shape = problem("multi-coil", cg_iterations=4)
    exact, _ = problem("multi-coil")
    v, q = randn(4, *shape), 1.0
    cold, wanted = likelihood.prox(v, q), exact.prox(v, q)
    warm = WarmStart()
    torch.testing.assert_close(likelihood.prox(v, q, warm), cold)
    for _ in range(3):
        better = likelihood.prox(v, q, warm)
    assert relative(better, wanted) < 0.5 * relative(cold, wanted)
    assert torch.equal(likelihood.prox(v, q), cold)


def diagonal(rows: int, n: int = 40) -> tuple[Tensor, Tensor, list[int]]:
    """A spectrum for each row, right-hand sides, and a list that holds the rows of every product."""
    spectra = 1 + torch.logspace(-2, 3, n) * (torch.arange(rows) > 0)[:, None]
    return spectra, randn(rows, n, seed=11), []


def counted(spectra: Tensor, calls: list[int]):
    def matvec(p: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(p))
        return spectra * p, 2 * p

    return matvec


def test_enough_stops_rows_at_their_own_residual():
    """Row 0 is solved by one step, the others need many; without the rule all would get all of them."""
    spectra, b, calls = diagonal(3)
    atol = torch.tensor([0.5, 0.5, 0.05])
    x, carried = carrying_conjugate_gradient(counted(spectra, calls), b, 200, atol=atol)
    residual = (b - spectra * x).norm(dim=1)
    assert (residual <= 1.01 * atol).all() and 1 < len(calls) < 200
    torch.testing.assert_close(carried, 2 * x)
    fully = carrying_conjugate_gradient(counted(spectra, []), b, 200)[0]
    assert ((x - fully).norm(dim=1) <= 1.01 * atol + 1e-4).all()  # the spectrum is at least 1
    assert (x[1] - fully[1]).norm() > 1e-3, "the loose row went on after it had converged"
    short = carrying_conjugate_gradient(counted(spectra, []), b, len(calls) // 2)[0]
    assert ((b - spectra * short).norm(dim=1) > atol).any(), "half the steps would have done"


def test_enough_does_not_look_at_the_batch():
    spectra, b, calls = diagonal(4)
    atol = torch.tensor([0.5, 1.0, 0.1, 0.02])
    together, carried = carrying_conjugate_gradient(counted(spectra, calls), b, 100, atol=atol)
    alone_calls = []
    for i in range(4):
        calls = []
        one = slice(i, i + 1)
        alone = carrying_conjugate_gradient(counted(spectra[one], calls), b[one], 100, atol=atol[one])
        assert torch.equal(alone[0], together[one]) and torch.equal(alone[1], carried[one])
        alone_calls.append(len(calls))
    assert alone_calls[0] == 1 and len(set(alone_calls)) > 2  # a rule for the whole batch would give one number


def test_a_row_that_has_enough_at_the_start_does_not_move():
    spectra, b, calls = diagonal(2)
    atol = torch.tensor([100.0, 0.5])
    x, carried = carrying_conjugate_gradient(counted(spectra, calls), b, 50, atol=atol)
    assert (x[0] == 0).all() and (carried[0] == 0).all() and (x[1] != 0).any()
