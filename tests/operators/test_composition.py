"""Operators one after another: the product of their matrices, its transpose, what fits no closed form, and JPEG."""

from __future__ import annotations

import pytest
import torch
from deepinv.physics import GaussianNoise, LinearPhysics
from torch import Tensor

from ambient_solve import DAPS, AmbientSolveError, GaussianPrior, Solver, operators
from ambient_solve.likelihood import Likelihood
from ambient_solve.operators import compose
from helpers import AffinePrior, flat64, one_sentence, rand, randn, relative

LARGE, SMALL = (3, 16, 20), (3, 8, 10)


def holes(size: tuple[int, int, int]) -> Tensor:
    return (rand(*size[1:], seed=5) > 0.3).float()


def chains() -> dict[str, tuple[LinearPhysics, ...]]:
    """Down-scaling, blur, noise, missing pixels: in part and all together, in the order in which they happened."""
    down, blur = operators.Reduction(LARGE, 2), operators.gaussian_blur(SMALL, 0.8)
    valid = operators.gaussian_blur((3, 14, 16), 0.8, boundary="valid")
    return {
        "missing o noise": (operators.denoise(SMALL), operators.inpaint(holes(SMALL))),
        "missing o blur": (blur, operators.inpaint(holes(SMALL))),
        "missing o valid blur": (valid, operators.inpaint(holes((3, 8, 10)))),
        "noise o blur o down-scaling": (down, blur, operators.denoise(SMALL)),
        "missing o noise o blur o down-scaling": (
            down,
            blur,
            operators.denoise(SMALL),
            operators.inpaint(holes(SMALL)),
        ),
    }


def matrix(op: LinearPhysics, size: tuple[int, ...]) -> Tensor:
    """An operator as a matrix of float64, column by column."""
    unit = torch.eye(torch.Size(size).numel()).reshape(-1, *size)
    return flat64(op.A(unit)).T


@pytest.mark.parametrize("name", chains())
def test_it_is_the_product_of_the_matrices_and_its_adjoint_the_transpose(name):
    parts = chains()[name]
    op, wanted = compose(*parts, sigma=0.1), torch.eye(torch.Size(parts[0].img_size).numel(), dtype=torch.float64)
    for part in parts:
        wanted = matrix(part, tuple(part.img_size)) @ wanted
    size = tuple(parts[0].img_size)
    assert (
        isinstance(op, LinearPhysics)
        and tuple(op.img_size) == size
        and float(op.noise_model.sigma) == pytest.approx(0.1)
    )
    assert relative(matrix(op, size), wanted) < 1e-5
    u = op.A(torch.zeros(1, *size))
    u = randn(4, *u.shape[1:])
    found = flat64(op.A_adjoint(u))
    assert relative(found, flat64(u) @ wanted) < 1e-5
    if name.count(" o ") > 1 or "blur" in name:  # the control: the adjoints in the order of the operators
        wrong = u
        try:
            for part in parts:
                wrong = part.A_adjoint(wrong)
        except RuntimeError:
            return
        assert wrong.shape != op.A_adjoint(u).shape or relative(flat64(wrong), found) > 1e-2


@pytest.mark.parametrize("name", chains())
def test_the_proximal_point_is_that_of_the_matrix(name):
    """What no closed form fits is solved iteratively, for the same answer."""
    parts = chains()[name]
    op = compose(*parts, sigma=0.1)
    size = tuple(op.img_size)
    y = op.A(rand(2, *size, seed=1)) + 0.1 * randn(*op.A(torch.zeros(2, *size)).shape, seed=2)
    likelihood, A = Likelihood(y, op, AffinePrior(), cg_iterations=300), matrix(op, size)
    v = rand(2, *size, seed=3)
    for q in (0.05, 1.0):
        normal = A.T @ A / 0.1**2 + torch.eye(A.shape[1], dtype=torch.float64) / q**2
        seen = A.abs().sum(1) > 0
        right = flat64(y) * seen @ A / 0.1**2 + flat64(v) / q**2
        wanted = torch.linalg.solve(normal, right.T).T
        assert relative(likelihood.prox(v, q).flatten(1), wanted) < 1e-4
        assert relative(v, wanted) > (1e-3 if q < 0.1 else 1e-1)  # the control


def test_missing_pixels_behind_noise_alone_keep_their_closed_form():
    op = compose(*chains()["missing o noise"], sigma=0.1)
    assert Likelihood(op.A(rand(1, *SMALL)), op, AffinePrior()).gram is not None


def test_the_noise_is_that_of_the_last_operator_and_the_operators_stay_as_they_are():
    down, blur = operators.Reduction(LARGE, 2), operators.gaussian_blur(SMALL, 0.8, sigma=0.3)
    assert float(compose(down, blur).noise_model.sigma) == pytest.approx(0.3)
    op = compose(down, blur, sigma=0.05)
    assert float(op.noise_model.sigma) == pytest.approx(0.05) and float(blur.noise_model.sigma) == pytest.approx(0.3)
    x = rand(1, *LARGE)
    assert float((op(x) - op.A(x)).std()) == pytest.approx(0.05, rel=0.2)


def test_jpeg_last_is_not_linear_and_its_noise_is_nominal():
    blur, coded = operators.gaussian_blur(LARGE, 0.8), operators.jpeg(LARGE, 50)
    op, x = compose(blur, coded), rand(1, *LARGE)
    assert not isinstance(op, LinearPhysics) and op.nominal_noise and not compose(blur).nominal_noise
    assert torch.equal(op.A(x), coded.A(blur.A(x)))
    low, high = Likelihood(op.A(x), op, AffinePrior()).chi2_range()
    assert float(low) == 0 and float(high) == float("inf")


def test_daps_restores_what_was_blurred_and_stored_as_jpeg():
    """Nearer to the truth than where the blur is not stated."""
    size, side = (1, 16, 16), torch.arange(16, dtype=torch.float64)
    place = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    covariance = 0.04 * torch.exp(-((torch.cdist(place, place) / 4) ** 2)) + 1e-4 * torch.eye(256, dtype=torch.float64)
    prior = GaussianPrior(torch.full(size, 0.5), covariance, sigma_min=0.01, sigma_max=10.0)
    x = prior.sample(4, torch.Generator().manual_seed(0)).clamp(0, 1)
    blur, coded = operators.gaussian_blur(size, 1.5, sigma=0.0), operators.jpeg(size, 90, sigma=0.02)
    y, errors = coded.A(blur.A(x)), []
    for op in (compose(blur, coded), coded):
        found = Solver(prior, DAPS(steps=10, ode_steps=2, langevin_steps=20)).solve(y, op, n_samples=4, progress=False)
        errors.append(float((found.mean - x).square().mean()))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ((), "no operator"),
        ((3,), "given a int"),
        ((operators.gaussian_blur(SMALL, 0.8), operators.Reduction(LARGE, 2)), "Operator 2 of 2, Reduction"),
        ((operators.Reduction(LARGE, 2), operators.inpaint(holes(LARGE))), r"of shape \(3, 8, 10\): it was built"),
    ],
)
def test_what_does_not_fit_is_said(parts, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        compose(*parts)
    assert one_sentence(error)


def test_the_noise_level_is_checked():
    with pytest.raises(AmbientSolveError, match="noise level of at least 0"):
        compose(operators.denoise(SMALL), sigma=-1.0)
    assert isinstance(compose(operators.denoise(SMALL)).noise_model, GaussianNoise)
