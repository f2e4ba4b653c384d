"""Measured pixels and the means of blocks in holes: a diagonal AA', its adjoint, and what is measured of what."""

from __future__ import annotations

import pytest
import torch

from ambient_solve import AmbientSolveError
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.gram import DiagonalGram
from ambient_solve.operators.means import PixelsAndMeans
from helpers import AffinePrior, flat64, one_sentence, rand, randn, relative


def holes() -> torch.Tensor:
    mask = torch.ones(18, 22)
    mask[3:13, 5:17] = 0
    mask[15, 20] = 0
    return mask


def test_pixels_are_kept_and_blocks_without_any_are_averaged():
    op, x = PixelsAndMeans(holes(), 4), rand(2, 3, 18, 22)
    y = op.A(x)
    pixels, means = y[:, : 3 * 18 * 22].reshape(2, 3, 18, 22), y[:, 3 * 18 * 22 :].reshape(2, 3, 4, 5)
    assert torch.equal(pixels, x * holes())
    assert op.hidden.sum() == 4 and op.hidden[1, 2] == 1
    assert (
        torch.allclose(means[..., 1, 2], x[..., 4:8, 8:12].mean((-2, -1))) and float(means[..., 0, 0].abs().max()) == 0
    )
    assert torch.equal(op.measured(x, torch.nn.functional.avg_pool2d(x, 4)), y)


def test_the_adjoint_is_the_transpose_and_the_gram_is_diagonal_with_levels_of_its_own():
    op, x = PixelsAndMeans(holes(), 4), randn(2, 3, 18, 22)
    u = randn(*op.A(x).shape, seed=2)
    assert float((flat64(op.A(x)) * flat64(u)).sum()) == pytest.approx(
        float((flat64(x) * flat64(op.A_adjoint(u))).sum())
    )
    level = op.levels(0.02, torch.full((1, 3, 4, 5), 0.05))
    likelihood = Likelihood(op.A(x[:1]), op, AffinePrior(), sigma_y=level)
    assert isinstance(likelihood.gram, DiagonalGram) and int(likelihood.count[0]) == 3 * (int(holes().sum()) + 4)
    v = likelihood.prox(rand(1, 3, 18, 22, seed=3), 0.3)
    weights = torch.where(level.isfinite(), level, torch.inf).square().reciprocal()
    normal = op.A_adjoint(weights * op.A(v)) + v / 0.3**2
    right = op.A_adjoint(weights * op.A(x[:1])) + rand(1, 3, 18, 22, seed=3) / 0.3**2
    assert relative(normal, right) < 1e-4


@pytest.mark.parametrize(("mask", "factor"), [(holes(), 1), (holes(), 19), (holes()[None], 4)])
def test_what_does_not_fit_is_said(mask, factor):
    with pytest.raises(AmbientSolveError, match="shorter side") as error:
        PixelsAndMeans(mask, factor)
    assert one_sentence(error)
