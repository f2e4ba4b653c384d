"""Conjugate gradients against dense solves in float64: rows, warm starts, no divergence."""

from __future__ import annotations

import torch

from ambient_solve.linalg.conjugate_gradient import WarmStart, conjugate_gradient
from helpers import covariance, problem, randn, relative


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
