"""Entries of different noise, by a map or by stacked operators: held against dense algebra and a mask."""

from __future__ import annotations

import pytest
import torch
from deepinv import physics as dp
from deepinv.utils import TensorList
from torch import Tensor

from ambient_solve import ALGORITHMS, AmbientSolveError, GaussianPrior, Solver
from ambient_solve.likelihood import Likelihood
from ambient_solve.likelihood.packed import pack, parts_of
from helpers import OPERATORS, AffinePrior, Draws, dense, flat64, one_sentence, rand, randn, relative

A, B = 0.5, 0.25
"""`x = A z + B`."""


def levels_of(y: Tensor | TensorList, rows: int) -> list[Tensor]:
    """Maps between 0.05 and 0.5, one for each part of `y`, one row for all images or one for each."""
    return [0.05 + 0.45 * rand(rows, *part.shape[1:], seed=7 + i) for i, part in enumerate(parts_of(y))]


def packed(levels: list[Tensor], y: Tensor | TensorList) -> Tensor:
    parts = [m + 1j * m if part.is_complex() else m for m, part in zip(levels, parts_of(y), strict=True)]
    return pack(TensorList(parts) if isinstance(y, TensorList) else parts[0]).flatten(1).double()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_primitive_of_a_map_is_that_of_dense_algebra(name, rows):
    torch.manual_seed(0)
    build, shape = OPERATORS[name]
    op = build()
    y = op.A(rand(2, *shape, seed=1))
    maps = levels_of(y, rows)
    given = maps if isinstance(y, TensorList) else maps[0]
    found = Likelihood(y, op, AffinePrior(A, B), sigma_y=given, n_samples=2, cg_iterations=400)
    plain = Likelihood(y, op, AffinePrior(A, B), sigma_y=0.1, n_samples=2)
    matrix = dense(
        Likelihood(
            y[:1] if isinstance(y, Tensor) else TensorList([p[:1] for p in y.x]), op, AffinePrior(), sigma_y=0.1
        ),
        shape,
    )
    noise = packed(maps, y).expand(2, -1).repeat_interleave(2, 0) / A
    r = plain.residual(torch.zeros(4, *shape)).flatten(1).double()  # y_z
    v, q = randn(4, *shape, seed=3), 0.3
    for i in range(4):
        weighted = matrix / noise[i][:, None]
        precision = weighted.T @ weighted + torch.eye(matrix.shape[1]) / q**2
        right = weighted.T @ (r[i] / noise[i]) + flat64(v)[i] / q**2
        wanted = torch.linalg.solve(precision, right)
        assert relative(found.prox(v, q)[i : i + 1], wanted[None]) < 1e-3
        score = weighted.T @ ((r[i] - matrix @ flat64(v)[i]) / noise[i])
        assert relative(found.score(v)[i : i + 1], score[None]) < 1e-3
    seen = matrix.abs().sum(1) > 1e-6
    chi2 = (((r - flat64(v) @ matrix.T) / noise)[:, seen] ** 2).mean(1)
    torch.testing.assert_close(found.chi2(v).double(), chi2, rtol=1e-3, atol=1e-4)
    assert relative(plain.prox(v, q), found.prox(v, q)) > 0.01  # the control: the map matters


def test_stacked_operators_have_the_noise_of_their_own():
    op = dp.Denoising(dp.GaussianNoise(0.1)).stack(dp.Denoising(dp.GaussianNoise(0.4)))
    x = rand(1, 1, 64, 64)
    torch.manual_seed(0)
    y = op(x)
    own = Likelihood(y, op, AffinePrior())
    assert float(own.chi2(x)) == pytest.approx(1, abs=0.1)
    precision = 1 / 0.1**2 + 1 / 0.4**2
    wanted = (y[0] / 0.1**2 + y[1] / 0.4**2) / precision
    torch.testing.assert_close(own.prox(x, 1e3), wanted, rtol=1e-4, atol=1e-4)
    given = [0.1, torch.full((1, 1, 64, 64), 0.4)]
    for sigma_y in (given, TensorList([torch.tensor(0.1), given[1]])):
        torch.testing.assert_close(Likelihood(y, op, AffinePrior(), sigma_y=sigma_y).prox(x, 1e3), wanted)
    one = Likelihood(y, op, AffinePrior(), sigma_y=0.1)  # the control
    assert float(one.chi2(x)) > 5


def test_a_draw_has_the_covariance_of_the_map():
    n, q, noise = 20_000, 0.5, torch.tensor([0.1, 0.5, 2.0])
    op = dp.Denoising(dp.GaussianNoise(0.1))
    law = Likelihood(torch.zeros(1, 1, 1, 3), op, AffinePrior(), sigma_y=noise.reshape(1, 1, 1, 3), n_samples=n)
    drawn = law.draw(torch.zeros(n, 1, 1, 3), q, Draws(0)).reshape(n, 3)
    wanted = 1 / (1 / noise**2 + 1 / q**2)
    torch.testing.assert_close(drawn.var(0), wanted, rtol=0.05, atol=0)


def test_an_entry_of_infinite_noise_was_not_measured():
    mask, x = (rand(1, 1, 8, 8) > 0.4).float(), rand(2, 1, 8, 8)
    torch.manual_seed(0)
    y = x + 0.1 * torch.randn(2, 1, 8, 8)
    noise = torch.where(mask > 0, 0.1, torch.inf)
    op, masked = dp.Denoising(dp.GaussianNoise(0.1)), dp.Inpainting((1, 8, 8), mask=mask[0])
    found = Likelihood(y, op, AffinePrior(), sigma_y=noise)
    wanted = Likelihood(mask * y, masked, AffinePrior(), sigma_y=0.1)
    z = rand(2, 1, 8, 8, seed=4)
    torch.testing.assert_close(found.prox(z, 0.3), wanted.prox(z, 0.3))
    torch.testing.assert_close(found.chi2(z), wanted.chi2(z))
    assert torch.equal(found.count, wanted.count)


def test_an_operator_that_is_not_linear_has_a_map_too():
    op, x = dp.Physics(A=lambda x: x**2), 0.5 + rand(2, 1, 4, 4)
    y, noise = op.A(x) + 0.1, 0.1 + rand(1, 1, 4, 4, seed=2)
    law, z = Likelihood(y, op, AffinePrior(), sigma_y=noise), x.clone().requires_grad_()
    torch.testing.assert_close(law.chi2(x), (0.1 / noise).square().mean().expand(2))
    wanted = torch.autograd.grad(-((y - z**2) / noise).square().sum() / 2, z)[0]
    torch.testing.assert_close(law.score(x), wanted, rtol=1e-4, atol=1e-4)


SAMPLERS = [name for name in ALGORITHMS if name not in ("aos", "soft", "tds")]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_algorithm_takes_a_map_as_it_takes_weighted_measurements(name):
    """The same samples as of an operator whose rows are divided by their noise by hand."""
    shape = (1, 6, 5)
    prior = GaussianPrior(torch.zeros(shape), 0.25 * torch.eye(30))
    noise = 0.1 + 0.4 * rand(1, *shape)
    y, op = rand(1, *shape, seed=2), dp.Denoising(dp.GaussianNoise(0.1))
    sigma = float(noise.square().mean().sqrt())
    w = sigma / noise
    by_hand = dp.LinearPhysics(A=lambda x, **_: w * x, A_adjoint=lambda u, **_: w * u, img_size=shape)
    found = Solver(prior, name, steps=4).solve(y, op, sigma_y=noise, n_samples=2)
    wanted = Solver(prior, name, steps=4).solve(w * y, by_hand, sigma_y=sigma, n_samples=2)
    torch.testing.assert_close(found.samples, wanted.samples, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.chi2, wanted.chi2, rtol=1e-3, atol=1e-3)
    assert found.settings["sigma_y"] == pytest.approx([sigma])


def test_every_image_has_a_map_of_its_own():
    shape = (1, 6, 5)
    prior, op = GaussianPrior(torch.zeros(shape), 0.25 * torch.eye(30)), dp.Denoising(dp.GaussianNoise(0.1))
    y, noise = rand(2, *shape), 0.1 + rand(2, *shape, seed=3)
    solver = Solver(prior, "mmps", steps=5)
    both = solver.solve(y, op, sigma_y=noise, n_samples=2).samples
    for b in range(2):
        alone = solver.solve(y[b : b + 1], op, sigma_y=noise[b : b + 1], n_samples=2).samples
        torch.testing.assert_close(both[b : b + 1], alone, rtol=1e-4, atol=1e-5)


def test_pansharpening_of_two_noises_and_the_noise_model_that_is_a_map():
    torch.manual_seed(0)
    op = dp.Pansharpen((3, 16, 16), factor=4, noise_color=dp.GaussianNoise(0.01), noise_gray=dp.GaussianNoise(0.05))
    x = rand(1, 3, 16, 16)
    law = Likelihood(op(x), op, AffinePrior())
    assert 0.7 < float(law.chi2(x)) < 1.3
    noise = 0.1 + rand(1, 1, 8, 8)
    mapped = Likelihood(rand(1, 3, 8, 8), dp.Denoising(dp.GaussianNoise(noise)), AffinePrior())
    given = Likelihood(rand(1, 3, 8, 8), dp.Denoising(), AffinePrior(), sigma_y=noise)
    z = rand(1, 3, 8, 8, seed=5)
    assert torch.equal(mapped.prox(z, 0.2), given.prox(z, 0.2))


Y = rand(2, 3, 6, 5)
POISSON = dp.Denoising(dp.PoissonNoise(0.1)).stack(dp.Denoising(dp.GaussianNoise(0.1)))


@pytest.mark.parametrize(
    ("sigma_y", "words"),
    [
        (torch.full((1, 1, 7, 5), 0.1), "broadcasts to y"),
        (torch.full((3, 3, 6, 5), 0.1), "broadcasts to y"),
        (torch.zeros(1, 1, 6, 5), "above 0"),
        (torch.full((1, 1, 6, 5), torch.nan), "above 0"),
        (torch.full((1, 1, 6, 5), torch.inf), "above 0"),
        (torch.full((3,), 0.1), "3 noise levels"),
    ],
)
def test_a_map_that_is_none_is_a_sentence(sigma_y, words):
    with pytest.raises(AmbientSolveError, match=words) as error:
        Likelihood(Y, dp.Denoising(), AffinePrior(), sigma_y=sigma_y)
    assert one_sentence(error)


def test_stacked_laws_that_differ_and_lists_of_another_length_are_sentences():
    y = POISSON(Y)
    with pytest.raises(AmbientSolveError, match="sigma_y=.0.01") as error:
        Likelihood(y, POISSON, AffinePrior())
    assert one_sentence(error)
    Likelihood(y, POISSON, AffinePrior(), sigma_y=[0.2, 0.1])
    with pytest.raises(AmbientSolveError, match="3 levels for 2 stacked") as error:
        Likelihood(y, POISSON, AffinePrior(), sigma_y=[0.1, 0.1, 0.1])
    assert one_sentence(error)
