"""Which operators are periodic convolutions, and that their FFT form computes what they do."""

from __future__ import annotations

import deepinv.physics as dp
import pytest
import torch

from ambient_solve import operators
from ambient_solve.likelihood import Likelihood
from ambient_solve.linalg.convolution import find_convolution
from helpers import AffinePrior, rand, randn, relative

SHAPE = (3, 12, 18)
SKEW = torch.arange(1.0, 16.0).reshape(1, 1, 3, 5) / 120  # no symmetry: a kernel turned round is noticed
FOUND = {
    "periodic": lambda: dp.BlurFFT(img_size=SHAPE, filter=SKEW),
    "corner": lambda: dp.Blur(filter=SKEW, padding="valid", img_size=SHAPE),
    "decimated": lambda: operators.super_resolution(SHAPE, factor=2, sigma=0.1),
    "one kernel each": lambda: dp.BlurFFT(img_size=SHAPE, filter=torch.cat([SKEW, SKEW.flip(-1)])),
}
NOT_FOUND = {
    "mask": lambda: dp.Inpainting(SHAPE, mask=(rand(*SHAPE) > 0.5).float()),
    "reflecting": lambda: dp.Blur(filter=SKEW, padding="reflect"),
    "dense": lambda: dp.CompressedSensing(m=20, img_size=SHAPE),
}


def products(op: dp.LinearPhysics) -> tuple:
    return op.A, op.A_adjoint, op.A(rand(2, *SHAPE))


@pytest.mark.parametrize("name", FOUND)
def test_products_of_a_convolution(name):
    A, At, y = products(FOUND[name]())
    found = find_convolution(A, At, y, SHAPE)
    x, u = randn(2, *SHAPE, seed=1), randn(*y.shape, seed=2)
    assert relative(found.A(x), A(x)) < 1e-6 and relative(found.At(u), At(u)) < 1e-6
    repeated = found.repeat(2)
    assert relative(repeated.A(x.repeat_interleave(2, 0)), A(x).repeat_interleave(2, 0)) < 1e-6


@pytest.mark.parametrize("name", NOT_FOUND)
def test_other_operators_keep_their_own_products(name):
    assert find_convolution(*products(NOT_FOUND[name]()), SHAPE) is None


@pytest.mark.parametrize("name", ["periodic", "decimated", "one kernel each"])
def test_pull_is_the_woodbury_step(name):
    op = FOUND[name]()
    likelihood = Likelihood(op(rand(2, *SHAPE)), op, AffinePrior(), sigma_y=0.1)
    v, q, f = randn(2, *SHAPE, seed=3), 0.7, lambda t: 1 / (likelihood.sigma.view(-1, 1, 1, 1) ** 2 + 0.49 * t)
    assert likelihood._convolution is not None
    slow = v + q**2 * likelihood.At(likelihood.gram.function(f, likelihood.residual(v)))
    assert relative(likelihood.prox(v, q), slow) < 1e-5
    assert relative(likelihood.prox(v, 1.02 * q), slow) > 1e-3  # the comparison sees a width that is 2 % off
