"""Galerkin's solution against dense solves in float64: what is carried, rows, floors, and Jacobians of networks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.linalg.galerkin import galerkin
from helpers import covariance, dense, flat64, problem, randn, relative


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
        assert len(calls) == iterations  # k products for k vectors: what is carried is not computed
        assert relative(carried, product(likelihood.At(u))) < 1e-5


def nearly_symmetric(error: float, n: int = 40) -> Tensor:
    """A covariance of eigenvalues from 1e-3 to 1, and a perturbation of it that is not symmetric."""
    basis = torch.linalg.qr(randn(n, n, seed=3, dtype=torch.float64))[0]
    exact = (basis * torch.logspace(-3, 0, n, dtype=torch.float64)) @ basis.T
    return (exact + error * randn(n, n, seed=4, dtype=torch.float64) / n**0.5).float()


def times(matrix: Tensor):
    return lambda p: (p @ matrix, 2 * p)


@pytest.mark.parametrize("iterations", [1, 2, 4, 8])
def test_with_a_symmetric_matrix_it_is_conjugate_gradients(iterations):
    matrix, b = nearly_symmetric(0.0), randn(3, 40, seed=5)
    matrix = (matrix + matrix.T) / 2
    x, carried = galerkin(times(matrix), b, iterations)
    torch.testing.assert_close(x, conjugate_gradient(lambda p: p @ matrix, b, iterations), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(carried, 2 * x)


def test_a_matrix_that_is_not_quite_symmetric_costs_no_more_than_its_error():
    """Measured against the solution with the exact covariance; conjugate gradients end far off."""
    exact, wrong, b = nearly_symmetric(0.0).double(), nearly_symmetric(0.05), randn(8, 40, seed=5)
    truth = torch.linalg.solve(exact.T, b.double().T).T

    def loss(x: Tensor) -> float:
        """The quadratic form that the solution minimizes, as a share of what it can be lowered by."""
        error = x.double() - truth
        return float(((error @ exact) * error).sum() / ((truth @ exact) * truth).sum())

    ours = [loss(galerkin(times(wrong), b, k)[0]) for k in (3, 6, 12, 24)]
    theirs = [loss(conjugate_gradient(lambda p: p @ wrong, b, k)) for k in (3, 6, 12, 24)]
    assert max(ours) < 1, "never worse than not to move"
    assert ours[3] < 1.1 * min(ours), "more vectors do no harm"
    assert theirs[3] > 10 * ours[3], "control: they do to conjugate gradients"


def test_the_floor_bounds_the_step():
    b = randn(2, 5)
    wrong = lambda p: (-3 * p, p)  # noqa: E731  a "covariance" with negative curvature
    x, carried = galerkin(wrong, b, 1, floor=torch.tensor([0.25, 0.5]))
    torch.testing.assert_close(x, b / torch.tensor([[0.25], [0.5]]))
    torch.testing.assert_close(carried, x)


def test_a_space_that_is_exhausted_is_solved_and_zero_stays_zero():
    """The second row needs two vectors, the first none: the others must add nothing, not noise of rounding."""
    matrix = torch.diag(torch.tensor([1.0, 1.0, 4.0, 4.0]))
    b = torch.stack([torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0])])
    x, _ = galerkin(times(matrix), b, 6)
    assert (x[0] == 0).all()
    torch.testing.assert_close(x[1], torch.tensor([1.0, 2.0, 0.75, 1.0]))


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
    x, carried = galerkin(counted(spectra, calls), b, 200, atol=atol)
    residual = (b - spectra * x).norm(dim=1)
    assert (residual <= 1.01 * atol).all() and 1 < len(calls) < 200
    torch.testing.assert_close(carried, 2 * x)
    fully = galerkin(counted(spectra, []), b, 200)[0]
    assert ((x - fully).norm(dim=1) <= 1.01 * atol + 1e-4).all()  # the spectrum is at least 1
    assert (x[1] - fully[1]).norm() > 1e-3, "the loose row went on after it had converged"
    short = galerkin(counted(spectra, []), b, len(calls) // 2)[0]
    assert ((b - spectra * short).norm(dim=1) > atol).any(), "half the steps would have done"


def test_enough_does_not_look_at_the_batch():
    spectra, b, calls = diagonal(4)
    atol = torch.tensor([0.5, 1.0, 0.1, 0.02])
    together, carried = galerkin(counted(spectra, calls), b, 100, atol=atol)
    alone_calls = []
    for i in range(4):
        calls = []
        one = slice(i, i + 1)
        alone = galerkin(counted(spectra[one], calls), b[one], 100, atol=atol[one])
        assert torch.equal(alone[0], together[one]) and torch.equal(alone[1], carried[one])
        alone_calls.append(len(calls))
    assert alone_calls[0] == 1 and len(set(alone_calls)) > 2  # a rule for the whole batch would give one number


def test_a_row_that_has_enough_at_the_start_does_not_move():
    spectra, b, calls = diagonal(2)
    atol = torch.tensor([100.0, 0.5])
    x, carried = galerkin(counted(spectra, calls), b, 50, atol=atol)
    assert (x[0] == 0).all() and (carried[0] == 0).all() and (x[1] != 0).any()
