"""Non-uniform Fourier sampling against sums, its adjoint, the Toeplitz normal operator, and a solve with it."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from ambient_solve.errors import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.conjugate_gradient import conjugate_gradient
from ambient_solve.operators.coils import birdcage
from ambient_solve.operators.mri import MultiCoil
from ambient_solve.operators.noncartesian import NonCartesian, radial, spiral
from helpers import AffinePrior, dense, flat64, one_sentence, randn, relative

pytest.importorskip("mrinufft", reason="mri-nufft is not installed: pip install 'mri-nufft[finufft]'")
pytest.importorskip("finufft", reason="finufft is not installed: pip install 'mri-nufft[finufft]'")

TRAJECTORIES = {"radial": radial(9, 40), "spiral": spiral(3, 90, 5.0)}


def complexes(*shape: int, seed: int = 0) -> Tensor:
    return randn(*shape, seed=seed, dtype=torch.complex64)


def by_sums(x: Tensor, maps: Tensor, points: Tensor) -> Tensor:
    """(2, H, W), (coils, H, W) and (n, 2) to (coils, n) complex128: the definition, term by term."""
    rows, columns = (torch.arange(n).double() - n // 2 for n in x.shape[-2:])
    turns = points[:, :1, None] * rows[:, None] + points[:, 1:, None] * columns
    waves = torch.polar(torch.full_like(turns, turns[0].numel() ** -0.5), -2 * torch.pi * turns)
    return torch.einsum("khw,chw->ck", waves, (maps * torch.complex(x[0], x[1])).to(waves))


@pytest.mark.parametrize("size", [(20, 18), (15, 16)])
@pytest.mark.parametrize("shrink", [1.0, 0.1])
@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_definition(name, shrink, size):
    """Also of a trajectory that stays near the middle, whose unit mri-nufft would have to guess."""
    maps, points, x = complexes(3, *size), shrink * TRAJECTORIES[name], randn(1, 2, *size, seed=2)
    y = NonCartesian(maps, points).A(x)
    wanted = torch.view_as_real(by_sums(x[0], maps, points.reshape(-1, 2))).movedim(-1, 0)[None].float()
    assert y.shape == wanted.shape and relative(y, wanted) < 1e-5
    # Control: rows and columns exchanged.
    assert relative(NonCartesian(maps, points.flip(-1)).A(x), wanted) > 0.1


def test_a_frequency_of_a_quarter_turns_the_phase_by_a_quarter_from_pixel_to_pixel():
    """The unit of a trajectory, written out: cycles per pixel, rows first. In radians it would be 2 pi times that."""
    x, maps = torch.zeros(1, 2, 8, 6), torch.ones(1, 8, 6, dtype=torch.complex64)
    x[0, 0, 4 + 1, 3] = 1  # one row below the middle
    for k, wanted in (
        ((0.25, 0.0), (0, -1)),
        ((0.0, 0.25), (1, 0)),
        ((-0.5, 0.1), (-1, 0)),
        ((0.125, 0.4), (0.5**0.5, -(0.5**0.5))),
    ):
        y = NonCartesian(maps, torch.tensor([k])).A(x)[0, :, 0, 0] * 48**0.5
        torch.testing.assert_close(y, torch.tensor(wanted, dtype=torch.float32), atol=1e-4, rtol=1e-4)
    # A slow one, whose radians would pass for cycles, tells the two apart as well.
    y = NonCartesian(maps, torch.tensor([[0.05, 0.0]])).A(x)[0, :, 0, 0] * 48**0.5
    torch.testing.assert_close(torch.atan2(y[1], y[0]), torch.tensor(-0.1 * torch.pi), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_a_trajectory_in_radians_is_refused_and_in_cycles_reaches_the_edge(name):
    points = TRAJECTORIES[name]
    assert 0.48 < float(points.norm(dim=-1).max()) <= 0.5
    NonCartesian(complexes(2, 8, 7), points)
    with pytest.raises(AmbientSolveError, match="cycles per pixel"):
        NonCartesian(complexes(2, 8, 7), 2 * torch.pi * points)


def test_on_the_grid_it_is_the_cartesian_operator():
    size, mask = (12, 10), (torch.rand(12, 10, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    at = torch.cartesian_prod(*((torch.arange(n).double() - n // 2) / n for n in size)).reshape(*size, 2)
    maps, x = complexes(2, 3, *size), randn(4, 2, *size)
    ours, grid = NonCartesian(maps, at[mask > 0]), MultiCoil(maps, mask)
    assert relative(ours.A(x), grid.A(x)[..., mask > 0]) < 1e-5
    assert relative(ours.A_adjoint_A(x), grid.A_adjoint_A(x)) < 1e-5
    assert relative(ours.precondition(x, 5.0), grid.precondition(x, 5.0)) < 1e-4


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("name", TRAJECTORIES)
def test_adjointness_and_toeplitz(name, coils):
    maps = complexes(2, coils, 20, 17)
    op, x = NonCartesian(maps, TRAJECTORIES[name]), randn(2, 2, 20, 17, seed=2)
    y = op.A(x)
    u = randn(*y.shape, seed=3)
    gap = float(((y * u).sum() - (x * op.A_adjoint(u)).sum()).abs() / (y.norm() * u.norm()))
    toeplitz = relative(op.A_adjoint_A(x), op.A_adjoint(y))
    print(f"\n{name}, {coils} coils: adjointness {gap:.1e}, Toeplitz {toeplitz:.1e}")
    assert gap < 1e-5 and toeplitz < 1e-4
    # Controls: maps that were not conjugated; a convolution that wraps round a grid of the same size.
    wrong = NonCartesian(maps.conj(), TRAJECTORIES[name])
    assert float(((y * u).sum() - (x * wrong.A_adjoint(u)).sum()).abs() / (y.norm() * u.norm())) > 1e-3
    wrapped = torch.fft.fft2(torch.fft.ifft2(op._spectrum)[..., [*range(10), *range(-10, 0)], :][..., [
        *range(9), *range(-8, 0)]]) * torch.fft.fft2(maps * torch.complex(x[:, 0], x[:, 1])[:, None])  # fmt: skip
    wrapped = (maps.conj() * torch.fft.ifft2(wrapped)).sum(1)
    assert relative(torch.stack([wrapped.real, wrapped.imag], 1), op.A_adjoint(y)) > 1e-2
    (gradient,) = torch.autograd.grad(op.A(x.requires_grad_()), x, u)
    assert relative(gradient, op.A_adjoint(u)) < 1e-5  # several threads add up in another order each time


def test_a_batch_is_its_slices():
    maps, x = complexes(2, 3, 12, 10), randn(4, 2, 12, 10)
    op = NonCartesian(maps, TRAJECTORIES["radial"])
    for row in range(4):
        alone, one = NonCartesian(maps[row // 2], TRAJECTORIES["radial"]), slice(row, row + 1)
        for name in ("A", "A_adjoint_A"):
            torch.testing.assert_close(getattr(op, name)(x)[one], getattr(alone, name)(x[one]), rtol=1e-5, atol=1e-5)


def test_prox_is_that_of_the_dense_matrix_and_the_preconditioner_helps(monkeypatch):
    monkeypatch.setattr("ambient_solve.likelihood.likelihood.RTOL", 1e-8)
    size, sigma, q = (12, 10), 0.1, 1.0
    op, v = NonCartesian(birdcage(3, size), radial(14, 24)), randn(1, 2, *size, seed=2)
    y = op.A(randn(1, 2, *size))
    likelihood = Likelihood(y, op, AffinePrior(), sigma_y=sigma, cg_iterations=400)
    A = dense(likelihood, (2, *size))
    wanted = torch.linalg.solve(
        A.T @ A / sigma**2 + torch.eye(A.shape[1]).double() / q**2, A.T @ flat64(y)[0] / sigma**2 + flat64(v)[0] / q**2
    )
    assert relative(likelihood.prox(v, q), wanted[None]) < 1e-3
    steps = []
    for precondition in (None, lambda r: op.precondition(r, 100.0)):
        products = []
        conjugate_gradient(
            lambda p: products.append(1) or p + 100 * op.A_adjoint_A(p),  # noqa: B023
            *(op.A_adjoint(y), 300, None, 1e-4, precondition),
        )
        steps.append(len(products))
    print(f"\n{steps[0]} steps, {steps[1]} preconditioned")
    assert steps[1] < 0.85 * steps[0]


def test_bad_input_is_one_sentence(monkeypatch):
    maps = complexes(2, 8, 7)
    for wrong in (32 * radial(3, 8), torch.zeros(5, 3), torch.full((4, 2), float("nan")), torch.zeros(0, 2)):
        with pytest.raises(AmbientSolveError, match="trajectory") as error:
            NonCartesian(maps, wrong)
        assert one_sentence(error)
    monkeypatch.setitem(sys.modules, "mrinufft", None)
    with pytest.raises(AmbientSolveError, match="pip install") as error:
        NonCartesian(maps, radial(3, 8))
    assert one_sentence(error)
